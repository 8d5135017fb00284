//! Who may do what: tokens, those of a provider, and pages in a browser.

use super::*;

#[test]
fn tokens_give_rights_until_they_are_revoked() {
    let site = Site::new("");
    let path = format!("/docs/{}", site.home.run(&["doc", "new", "--name", "x"]).text());
    site.get(&path).is(401, "no-token");
    let token = |name: &str, right: &str| {
        site.home.run(&["token", "new", name, "--space", &site.space, "--right", right]).text().to_owned()
    };
    let (read, write) = (token("reader", "read"), token("writer", "write"));
    let ask =
        |method, token: &str| Ask::new(method, site.url(&path)).header("authorization", format!("Bearer {token}"));
    until("the tokens to be noticed", || (ask("GET", &read).send().status == 200).then_some(()));
    let patch = json!({"a": 1}).to_string();
    ask("PATCH", &read).body(MERGE, patch.clone()).send().is(403, "not-allowed");
    assert_eq!(ask("PATCH", &write).body(MERGE, patch).send().json(), json!({"a": 1}));
    let cookie = Ask::new("GET", site.url(&path)).header("cookie", format!("other=1; commonhold={read}")).send();
    assert_eq!(cookie.status, 200);
    ask("GET", "cht_nonsense").send().is(401, "no-token");
    // Another space is as absent for it as one that does not exist.
    let elsewhere = format!("{}/v1/spaces/{}/docs", site.host(), "0".repeat(64));
    Ask::new("GET", elsewhere).header("authorization", format!("Bearer {read}")).send().is(404, "not-found");

    let ticket = Ask::new("POST", format!("{}/v1/tickets", site.host()));
    let ticket = ticket.header("authorization", format!("Bearer {read}")).send().json();
    let once = format!("{path}?ticket={}", ticket["ticket"].as_str().unwrap());
    assert_eq!(site.get(&once).status, 200);
    site.get(&once).is(401, "no-token");

    site.home.run(&["token", "new", "reader", "--all-spaces"]).fails(2, &["already", "token revoke reader"]);
    site.home.run(&["token", "revoke", "reader"]).text();
    until("the revocation to be noticed", || (ask("GET", &read).send().status == 401).then_some(()));
    assert_eq!(ask("GET", &write).send().status, 200);
    assert!(site.home.run(&["token", "ls"]).text().contains("writer"));
    site.home.run(&["token", "revoke", "reader"]).fails(5, &["no token named"]);
}

#[test]
fn tokens_of_a_provider_give_the_rights_in_them_for_their_time() {
    let home = Home::new();
    let space = home.run(&["space", "new", "--writers", "anyone"]).text().to_owned();
    // What RFC 8410 puts before an Ed25519 secret.
    let secret = [&[48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32][..], &[9; 32]].concat();
    let key = EncodingKey::from_ed_der(&secret);
    let keys = home.path("jwks.json");
    let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
    fs::write(&keys, json!({ "keys": [jwk] }).to_string()).unwrap();
    let settings = [
        ("COMMONHOLD_HTTP_JWT_KEYS", keys.to_str().unwrap()),
        ("COMMONHOLD_HTTP_JWT_ISSUER", "https://login.example.org/"),
    ];
    let mut unsure = home.command();
    unsure.args(["serve"]).env("COMMONHOLD_HTTP_LISTEN", "127.0.0.1:0").envs(settings);
    finish(&mut unsure).fails(2, &["http.jwt_audience"]);
    let settings = [settings[0], settings[1], ("COMMONHOLD_HTTP_JWT_AUDIENCE", "commonhold")];
    let site = Site::served(home, space, "", &settings);
    let token = |sub: &str, may: Json| {
        let claims = json!({
            "iss": "https://login.example.org/", "aud": "commonhold", "sub": sub, "exp": 4_000_000_000u64, "commonhold": may,
        });
        encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
    };
    let ask = |method, path: &str, token: &str| {
        Ask::new(method, site.url(path)).header("authorization", format!("Bearer {token}"))
    };
    let write = token("alice", json!([format!("{}:write", site.space)]));
    let created = ask("POST", "/docs", &write).json(&json!({ "content": { "n": 1 } })).send();
    assert_eq!(created.status, 201, "{}", created.text);
    let id = created.header("location").rsplit('/').next().unwrap().to_owned();
    let path = format!("/docs/{id}");
    assert_eq!(ask("GET", &path, &token("bob", json!(["*:read"]))).send().json(), json!({ "n": 1 }));
    let patch = json!({ "n": 2 }).to_string();
    ask("PATCH", &path, &token("bob", json!(["*:read"]))).body(MERGE, patch).send().is(403, "not-allowed");
    ask("GET", &path, &token("carol", json!([]))).send().is(404, "not-found");
    ask("GET", &path, &format!("{write}x")).send().is(401, "no-token");
    let cookie = Ask::new("GET", site.url(&path)).header("cookie", format!("commonhold={write}")).send();
    assert_eq!(cookie.status, 200);
    // A provider changes its keys: what the old one signed is good no longer.
    let other = EncodingKey::from_ed_der(&[&secret[..16], &[8; 32]].concat());
    fs::write(&keys, json!({ "keys": [Jwk::from_encoding_key(&other, Algorithm::EdDSA).unwrap()] }).to_string())
        .unwrap();
    until("the new keys to be noticed", || (ask("GET", &path, &write).send().status == 401).then_some(()));
}

#[test]
fn a_strangers_page_in_a_browser_reaches_nothing() {
    let site = Site::with("*:write", &[("COMMONHOLD_HTTP_ORIGINS", "https://app.example.org")]);
    let address = site.served.facts["http"][0].as_str().unwrap().to_owned();
    let blobs = format!("/v1/spaces/{}/blobs", site.space);
    let status = |line: &str, headers: &[&str]| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head =
            format!("{line} HTTP/1.1\r\n{}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", headers.join("\r\n"));
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    // A name that was made to lead here.
    for host in ["127.0.0.1:1", "localhost:7342", "app.example.org"] {
        assert_eq!(status("GET /v1/spaces", &[&format!("host: {host}")]), "200", "{host}");
    }
    assert_eq!(status("GET /v1/spaces", &["host: evil.example"]), "403");
    assert_eq!(status("GET /livez", &["host: evil.example"]), "204");
    // A form of another page.
    let here = format!("host: {address}");
    for (origin, expected) in [("http://evil.example", "403"), ("null", "403"), ("https://app.example.org", "201")] {
        assert_eq!(status(&format!("POST {blobs}"), &[&here, &format!("origin: {origin}")]), expected, "{origin}");
    }
    assert_eq!(status(&format!("POST {blobs}"), &[&here, &format!("origin: http://{address}")]), "201");
    assert_eq!(status(&format!("POST {blobs}"), &[&here]), "201");
}
