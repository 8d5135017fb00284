//! Blobs.

use super::*;

#[test]
fn blobs_are_stored_and_read_in_parts() {
    let site = Site::new("*:write");
    let content: Vec<u8> = (0..600_000u32).flat_map(|n| n.to_be_bytes()).collect();
    let stored = Ask::new("POST", site.url("/blobs")).body("image/png", content.clone()).send();
    assert_eq!(stored.status, 201);
    let name = stored.json()["name"].as_str().unwrap().to_owned();
    assert!(name.ends_with("?size=2400000&type=image/png"), "{name}");
    let url = format!("{}{}", site.host(), stored.header("location"));
    let bytes = |range: Option<&str>| {
        let mut request = agent().get(&url);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().with_config().limit(10 << 20).read_to_vec().unwrap())
    };
    assert!(bytes(None) == (200, content.clone()));
    assert!(bytes(Some("bytes=262143-1048577")) == (206, content[262_143..1_048_578].to_vec()));
    assert!(bytes(Some("bytes=-5")) == (206, content[2_399_995..].to_vec()));
    assert_eq!(bytes(Some("bytes=2400000-")).0, 416);
    let head = Ask::new("HEAD", url.clone()).send();
    assert!(head.header("cache-control").contains("immutable") && head.header("content-length") == "2400000");
    let known = Ask::new("GET", url.clone()).header("if-none-match", head.header("etag")).send();
    assert_eq!(known.status, 304);
    let other = Ask::new("PUT", site.url(&format!("/blobs/{}", "ab".repeat(32)))).body("text/plain", "another").send();
    other.is(422, "unprocessable");
    let hash = blake3::hash(b"hello").to_hex();
    assert_eq!(Ask::new("PUT", site.url(&format!("/blobs/{hash}"))).body("text/plain", "hello").send().status, 201);
    assert_eq!(Ask::new("PUT", site.url(&format!("/blobs/{hash}"))).body("text/plain", "hello").send().status, 204);
    Ask::new("GET", site.url(&format!("/blobs/{}", "cd".repeat(32)))).send().is(404, "not-found");
    // A peer that has none of it asks the others.
    let peer = site.joined("*:read");
    let size = format!("/blobs/{hash}?size=5&type=text/plain");
    let fetched = Ask::new("GET", peer.url(&size)).header("prefer", "wait=60").send();
    assert_eq!((fetched.status, fetched.text.as_str(), fetched.header("content-type")), (200, "hello", "text/plain"));
}

#[test]
fn a_blob_is_answered_with_a_media_type_or_none() {
    let site = Site::new("*:write");
    let stored = Ask::new("POST", site.url("/blobs")).body("image/png", "not really").send();
    let path = format!("/blobs/{}", stored.json()["href"].as_str().unwrap().rsplit('/').next().unwrap());
    assert_eq!(site.get(&format!("{path}?type=image/png")).header("content-type"), "image/png");
    assert_eq!(site.get(&format!("{path}?type=")).header("content-type"), "application/octet-stream");
    for nonsense in ["a", "%0a", "image/", "8XO%29/x"] {
        assert_eq!(site.get(&format!("{path}?type={nonsense}")).status, 400, "{nonsense}");
    }
}
