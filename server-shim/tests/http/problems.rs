//! What does not work, and what is told of it.

use super::*;

#[test]
fn what_does_not_work_is_told_with_its_kind() {
    let site = Site::new("*:write");
    let path = site.document(json!({"n": 1, "list": []}));
    let patch = |kind: &str, body: &str| Ask::new("PATCH", site.url(&path)).body(kind, body).send();
    let unknown = "ab".repeat(32);
    let wrong = patch("text/plain", "{}");
    wrong.is(415, "media-type");
    assert!(wrong.header("accept-patch").contains(MERGE));
    patch(MERGE, "{").is(400, "bad-request");
    patch(MERGE, "[]").is(422, "unprocessable");
    patch(OPERATIONS, r#"[{"op": "test", "path": "/n", "value": 2}]"#).is(409, "conflict");
    patch(OPERATIONS, r#"[{"op": "remove", "path": "/m"}]"#).is(422, "unprocessable");
    patch(OPERATIONS, r#"[{"op": "explode"}]"#).is(400, "bad-request");
    patch(MERGE, &json!({"long": "x".repeat(9 << 20)}).to_string()).is(413, "too-large");
    patch(MERGE, &json!({"x".repeat(2_000): 1}).to_string()).is(413, "too-large");
    site.get(&format!("{path}?at={unknown}")).is(410, "gone");
    site.get(&format!("{path}?at=nonsense")).is(400, "bad-request");
    site.get(&format!("{path}?min={unknown}")).is(503, "not-yet");
    site.get("/docs?limit=many").is(400, "bad-request");
    site.get(&format!("/docs/{unknown}")).is(404, "not-found");
    site.get("/docs/short").is(404, "not-found");
    site.get("/nowhere").is(404, "not-found");
    site.get("/events").is(400, "bad-request");
    Ask::new("GET", format!("{}/v1/spaces/{unknown}/docs", site.host())).send().is(404, "not-found");
    Ask::new("POST", site.url(&path)).send().is(405, "method");
    Ask::new("GET", site.url(&path)).header("accept", "image/png").send().is(406, "not-acceptable");
    Ask::new("POST", site.url("/docs")).json(&json!({"unknown": 1})).send().is(400, "bad-request");
    let both = Ask::new("PUT", site.url(&path)).header("if-match", "*").header("parents", "").json(&json!({})).send();
    both.is(400, "bad-request");
    let stale = Ask::new("PUT", site.url(&path)).header("parents", unknown).json(&json!({})).send();
    stale.is(410, "gone");
    // Nothing of all that has changed anything, and the process lives.
    assert_eq!(site.get(&path).json(), json!({"n": 1, "list": []}));
}

#[test]
fn a_quota_that_is_used_up_is_told_and_documents_go_on() {
    let site = Site::with("*:write", &[("COMMONHOLD_BLOBS_SPACE_MIB", "1")]);
    let store = |bytes: usize| Ask::new("POST", site.url("/blobs")).body("text/plain", vec![7; bytes]).send();
    assert_eq!(store(600_000).status, 201);
    store(600_001).is(507, "quota");
    let path = site.document(json!({"n": 1}));
    assert_eq!(site.get(&path).json(), json!({"n": 1}));
}

/// Needs a file system that can be filled, which only root can make here.
#[test]
fn a_full_disk_is_told_until_there_is_room() {
    let home = Home::new();
    fs::create_dir_all(home.data()).unwrap();
    let Some(_mounted) = Mounted::small(home.data()) else {
        return println!("skipped: no file system can be mounted here");
    };
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let site = Site::of(home, space, "*:write");
    let path = site.document(json!({"n": 1}));
    let filler = site.home.data().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4 << 10]).is_ok() {}
    let mut kept = 0;
    let refused = (0..200).find_map(|n| {
        let answer = site.patch(&path, MERGE, &json!({ format!("big{n}"): "x".repeat(100_000) }));
        kept += usize::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.expect("the disk is full");
    match refused.status {
        507 => refused.is(507, "quota"),
        _ => refused.is(503, "unavailable"),
    }
    drop(file);
    fs::remove_file(&filler).unwrap();
    until("room", || (site.patch(&path, MERGE, &json!({"n": 2})).status == 200).then_some(()));
    assert_eq!(site.get(&path).json().as_object().unwrap().len(), kept + 1, "what was answered is there, and no more");
}

#[test]
fn a_wait_that_ends_is_no_fault_in_the_log() {
    let site = Site::new("*:write");
    let path = site.document(json!({}));
    site.get(&format!("{path}?min={}", "0".repeat(64))).is(503, "not-yet");
    let (_, _, err) = site.served.stop();
    assert!(!err.contains("answered with a problem"), "{err}");
}
