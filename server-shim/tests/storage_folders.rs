//! Storage folders of automerge-repo and samod, imported: whole, damaged, again, and while the peer serves.

#![allow(clippy::unwrap_used, reason = "this is all test code")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ROOT};
use common::Home;
use common::clients::Clients;
use serde_json::{Value as Json, json};

/// A document as samod keeps it.
struct Kept {
    id: String,
    folder: PathBuf,
    doc: AutoCommit,
}

impl Kept {
    fn new(root: &Path, id: u8) -> Kept {
        let id = bs58::encode([id; 16]).with_check().into_string();
        let folder = root.join(&id[..2]).join(&id[2..]);
        for kind in ["snapshot", "incremental"] {
            fs::create_dir_all(folder.join(kind)).unwrap();
        }
        Kept { id, folder, doc: AutoCommit::new() }
    }

    fn put(&mut self, key: &str, value: &str) {
        self.doc.put(ROOT, key, value).unwrap();
        self.doc.commit();
    }

    /// All that it holds in one file.
    fn snapshot(&mut self) -> PathBuf {
        let file = self.folder.join("snapshot/0a");
        fs::write(&file, self.doc.save()).unwrap();
        file
    }

    /// Its newest change in a file of its own.
    fn incremental(&mut self) -> PathBuf {
        let mut change = self.doc.get_last_local_change().unwrap();
        let file = self.folder.join("incremental").join(change.hash().to_string());
        fs::write(&file, &*change.bytes()).unwrap();
        file
    }
}

fn import(home: &Home, folder: &Path) -> Json {
    home.run(&["import", folder.to_str().unwrap(), "--json"]).json()
}

#[test]
fn a_folder_of_the_stock_client_is_imported_and_found_at_its_old_urls() {
    let Some(mut js) = Clients::start() else { return };
    let home = Home::new();
    let storage = home.path("storage");
    home.run(&["space", "new", "--writers", "anyone"]).text();
    js.make("repo", json!({ "repo": "before", "storage": storage }));
    let value = json!({ "title": "shopping", "items": ["milk"], "text": "a few words, again and again. ".repeat(200) });
    let made = js.make("create", json!({ "repo": "before", "value": value }));
    let (url, id) = (&made["url"], made["id"].as_str().unwrap());
    js.make("append", json!({ "repo": "before", "url": url, "list": "items", "count": 40 }));
    let small = js.make("create", json!({ "repo": "before", "value": { "n": 1 } }));
    js.make("flush", json!({ "repo": "before" }));

    let found = home.run(&["import", storage.to_str().unwrap(), "--dry-run", "--json"]).json();
    assert_eq!((&found["documents"], &found["skipped"]), (&json!(2), &json!([])));
    assert_eq!(home.run(&["doc", "ls", "--json"]).json(), json!([]));
    let first = import(&home, &storage);
    assert_eq!((&first["documents"], &first["created"], &first["skipped"]), (&json!(2), &json!(2), &json!([])));
    assert!(first["changes"].as_u64().unwrap() >= 42, "{}", first["changes"]);
    let again = import(&home, &storage);
    assert_eq!((&again["documents"], &again["created"], &again["changes"]), (&json!(2), &json!(0), &json!(0)));
    assert_eq!(home.run(&["get", small["id"].as_str().unwrap()]).json(), json!({ "n": 1 }));

    // A client that never saw that storage finds them, and goes on.
    let mut command = home.command();
    command.arg("serve").env("COMMONHOLD_GATEWAY_LISTEN", "127.0.0.1:0");
    let served = home.serve_as(command);
    let address = format!("ws://{}/", served.facts["gateway"][0].as_str().unwrap());
    js.make("repo", json!({ "repo": "after", "address": address }));
    let shown = js.make("find", json!({ "repo": "after", "url": url }))["value"].clone();
    assert!(shown["text"] == value["text"] && shown["items"].as_array().unwrap().len() == 41);
    js.make("change", json!({ "repo": "after", "url": url, "code": "d.after = true" }));
    common::until("the client's change", || (home.run(&["get", id, "after"]).code == 0).then_some(()));

    // What the storage got since comes through the process that serves, and from there to the client.
    js.make("change", json!({ "repo": "before", "url": url, "code": "d.since = true" }));
    js.make("flush", json!({ "repo": "before" }));
    let since = import(&home, &storage);
    assert_eq!((&since["created"], &since["changes"], &since["skipped"]), (&json!(0), &json!(1), &json!([])));
    js.make("until", json!({ "repo": "after", "url": url, "code": "d.since && d.after" }));
}

#[test]
fn what_is_damaged_or_leads_elsewhere_is_named_and_the_rest_is_taken() {
    let home = Home::new();
    let root = home.path("storage");
    home.run(&["space", "new", "--writers", "anyone"]).text();

    // Whole, with changes behind it, of which one builds upon another.
    let mut good = Kept::new(&root, 1);
    (0..300).for_each(|n| good.put(&format!("key {n}"), &"x".repeat(40)));
    good.snapshot();
    for n in 0..3 {
        good.put("last", &n.to_string());
        good.incremental();
    }
    fs::create_dir_all(good.folder.join("sync-state")).unwrap();
    fs::write(good.folder.join("sync-state/somebody"), "nonsense").unwrap();
    fs::create_dir_all(root.join("st")).unwrap();
    fs::write(root.join("st/orage-adapter-id"), "an id").unwrap();
    fs::write(root.join("README"), "beside it").unwrap();

    // A bit is flipped in the whole; what came later builds upon it.
    let mut flipped = Kept::new(&root, 2);
    flipped.put("a", "b");
    let file = flipped.snapshot();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    flipped.put("a", "c");
    flipped.incremental();

    // A change is cut off, the others are good.
    let mut cut = Kept::new(&root, 3);
    cut.put("one", "1");
    cut.incremental();
    cut.put("two", "2");
    let file = cut.incremental();
    fs::write(&file, &fs::read(&file).unwrap()[..20]).unwrap();

    // Links, to a file and to a folder outside; an empty document; what is no document.
    let mut outside = Kept::new(&home.path("outside"), 4);
    outside.put("secret", "here");
    let secret = outside.snapshot();
    let linked = Kept::new(&root, 4);
    symlink(&secret, linked.folder.join("snapshot/0b")).unwrap();
    let (first, rest) = ("zz", "linked");
    fs::create_dir_all(root.join(first)).unwrap();
    symlink(&outside.folder, root.join(first).join(rest)).unwrap();
    let empty = Kept::new(&root, 5);
    fs::create_dir_all(root.join("ab/cdef")).unwrap();

    let imported = import(&home, &root);
    assert_eq!((&imported["documents"], &imported["created"]), (&json!(2), &json!(2)), "{imported}");
    assert_eq!(imported["changes"], 300 + 3 + 1);
    let expected = [
        (format!("{}/{}/snapshot/0a", &flipped.id[..2], &flipped.id[2..]), "checksum"),
        (flipped.id.clone(), "all that can be read of it builds upon changes that are not there"),
        (format!("{}/{}/incremental/", &cut.id[..2], &cut.id[2..]), "cut off"),
        (format!("{}/{}/snapshot/0b", &linked.id[..2], &linked.id[2..]), "a link"),
        (linked.id.clone(), "nothing in it"),
        ("zz/linked".to_owned(), "a link"),
        (empty.id.clone(), "nothing in it"),
        ("ab/cdef".to_owned(), "not the id of a document"),
    ];
    let skipped = imported["skipped"].as_array().unwrap();
    for (what, why) in &expected {
        let told = |skipped: &&Json| {
            skipped["what"].as_str().unwrap().starts_with(what.as_str())
                && skipped["why"].as_str().unwrap().contains(why)
        };
        assert!(skipped.iter().any(|skipped| told(&skipped)), "{what}: {why}: {imported}");
    }
    assert_eq!(skipped.len(), expected.len(), "{imported}");
    assert_eq!(home.run(&["get", &good.id, "last"]).json(), "2");
    assert_eq!(home.run(&["get", &cut.id]).json(), json!({ "one": "1" }));

    // Once the file is whole again, the rest comes.
    let mut bytes = fs::read(flipped.folder.join("snapshot/0a")).unwrap();
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    fs::write(flipped.folder.join("snapshot/0a"), bytes).unwrap();
    let again = home.run(&["import", root.to_str().unwrap()]);
    assert!(again.text().starts_with("imported 3 documents (1 new), 2 changes that were not here"), "{}", again.out);
    assert!(again.out.contains("\nskipped ab/cdef: "), "{}", again.out);
    assert_eq!(home.run(&["get", &flipped.id]).json(), json!({ "a": "c" }));

    // A document that this peer has nothing to do with does not end the import.
    let listed = home.run(&["doc", "ls", "--json"]).json();
    let doc = listed.as_array().unwrap().iter().find(|doc| doc["name"] == cut.id.as_str()).unwrap()["id"].clone();
    home.run(&["block", "add", "doc", doc.as_str().unwrap()]).text();
    let blocked = home.run(&["import", root.to_str().unwrap()]);
    assert!(blocked.text().starts_with("imported 2 documents (0 new)"), "{}", blocked.out);
    assert!(blocked.out.contains(&format!("\nskipped {}: the document is blocked", cut.id)), "{}", blocked.out);

    home.run(&["import", home.path("data").to_str().unwrap()]).fails(5, &["no documents of automerge-repo or samod"]);
    home.run(&["import", "--dry-run", secret.to_str().unwrap()]).fails(2, &["--dry-run is for storage folders"]);
}
