//! What docs/http.md and the OpenAPI document say.

use super::*;

#[test]
fn the_lines_of_the_guide_run() {
    let site = Site::new("*:write");
    let guide = include_str!("../../../docs/http.md");
    let (_, rest) = guide.split_once("<!-- These lines are run by a test. -->\n```sh\n").unwrap();
    let (script, _) = rest.split_once("```").unwrap();
    let script = script.replace("http://127.0.0.1:7342", &site.host());
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: no curl");
        return;
    }
    let said = finish(Command::new("sh").arg("-c").arg(&script).env("SPACE", &site.space));
    assert!(said.out.contains(r#"{"items":["oat milk","eggs"],"note":"tomorrow"}"#), "{}{}", said.out, said.err);
    assert!(said.out.contains("event: snapshot"), "{}", said.out);
}

#[test]
fn the_openapi_document_has_every_route_and_its_examples_work() {
    let webhooks = [("COMMONHOLD_WEBHOOKS_ENABLED", "true"), ("COMMONHOLD_WEBHOOKS_ALLOW_NETWORKS", "127.0.0.1/32")];
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    let token = home.run(&["token", "new", "a", "--all-spaces", "--right", "write"]).text().to_owned();
    let site = Site::served(home, space, "*:write", &webhooks);
    let ask = |method, url| Ask::new(method, url).header("authorization", format!("Bearer {token}"));
    // Examples lead to places that are none of a test's business.
    let nowhere = json!("http://127.0.0.1:9/");
    let api = Ask::new("GET", format!("{}/openapi.json", site.host())).send().json();
    assert_eq!(api["openapi"], "3.1.0");
    let doc = site.document(json!({"items": ["milk"], "note": "today"}));
    let doc = doc.strip_prefix("/docs/").unwrap();
    let hook = ask("POST", site.url("/webhooks")).json(&json!({ "url": nowhere })).send().json();
    let hook = hook["id"].as_str().unwrap();
    let filled = |path: &str, pointer: &str| {
        let path = path.replace("{space}", &site.space).replace("{doc}", doc).replace("{pointer}", pointer);
        let path = path.replace("{hook}", hook).replace("{event}", &format!("evt_{}", "0".repeat(32)));
        format!("{}{}", site.host(), path.replace("{digest}", &"0".repeat(64)))
    };
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        assert!(!path.contains('*'), "{path}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let operation = item.get(method.to_lowercase());
            if let Some(operation) = operation {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 8), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
                assert!(responses.values().all(|response| !response["description"].as_str().unwrap().is_empty()));
            }
            // What can be done comes last: one of the methods deletes the document, or the webhook.
            let url = filled(path, "nothing").replace(doc, &"0".repeat(64)).replace(hook, &"0".repeat(32));
            let status = ask(method, url).status();
            assert_eq!(status != 405, operation.is_some(), "{method} {path}: {status}");
        }
        for (method, operation) in item.as_object().unwrap() {
            let Some(forms) = operation["requestBody"]["content"].as_object() else { continue };
            for (kind, form) in forms {
                let example = form.get("example").cloned();
                let example = example.or_else(|| {
                    let schema = form["schema"]["$ref"].as_str()?.strip_prefix("#")?;
                    api.pointer(schema)?.get("example").cloned()
                });
                let Some(mut example) = example else {
                    let binary = ["application/octet-stream", "application/vnd.automerge"].contains(&kind.as_str());
                    assert!(binary, "{method} {path}: {kind} has no example");
                    continue;
                };
                if let Some(url) = example.get_mut("url") {
                    *url = nowhere.clone();
                }
                let method =
                    ["POST", "PUT", "PATCH"].into_iter().find(|name| name.eq_ignore_ascii_case(method)).unwrap();
                let base = site.get(&format!("/docs/{doc}")).header("version").to_owned();
                let asked = ask(method, filled(path, "items/0")).header("parents", base);
                let answer = asked.body(kind, example.to_string()).send();
                assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text);
            }
        }
    }
    // The guide says the same.
    let guide = include_str!("../../../docs/http.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `/")).filter_map(|row| row.split_once("` | "));
    let mut told = std::collections::BTreeSet::new();
    for (route, rest) in rows {
        let route = route.split('?').next().unwrap().replace("{id}", "{doc}");
        let methods: Vec<&str> = rest.split(" |").next().unwrap().split(", ").collect();
        let path = format!("/v1/spaces/{{space}}/{route}");
        let item = api["paths"][&path].as_object().unwrap_or_else(|| panic!("no {path} in the document"));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(item.contains_key(&method.to_lowercase()), methods.contains(&method), "{method} {route}");
        }
        told.insert(path);
    }
    for path in api["paths"].as_object().unwrap().keys() {
        assert!(told.contains(path) || guide.contains(&format!("{path}`")), "docs/http.md lacks {path}");
    }
}
