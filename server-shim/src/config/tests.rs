use super::*;

fn parse(text: &str) -> Result<Settings, Failure> {
    let folders = Folders { data: Some("/d".into()), config: Some("/c".into()) };
    let mut settings = Settings { values: defaults(&folders), file: None };
    settings.merge(file::parse(Path::new("c.toml"), text)?)?;
    Ok(settings)
}

fn vars(pairs: &[(&str, &str)]) -> Result<Settings, Failure> {
    let mut settings = parse("").unwrap();
    settings.merge(variables(pairs.iter().map(|(name, value)| (name.into(), value.into())))?)?;
    Ok(settings)
}

#[test]
fn every_default_is_a_value_of_its_key() {
    for key in KEYS {
        for text in key.default_texts() {
            assert_eq!(key.check(&text), Ok(()), "{}", key.name);
        }
    }
}

#[test]
fn a_typo_is_refused_with_its_line_and_the_likely_name() {
    let failure = parse("[peer]\n\nlisen = []\n").unwrap_err();
    assert_eq!(failure.to_string(), "error: c.toml:3: unknown key peer.lisen\n  try: did you mean peer.listen?");
    let failure = parse("# x\n[stroe]\ndata = 'x'\n").unwrap_err();
    assert_eq!(failure.to_string(), "error: c.toml:2: unknown section stroe\n  try: did you mean [store]?");
    let failure = parse("listen = []\n").unwrap_err();
    assert_eq!(failure.to_string(), "error: c.toml:1: unknown section listen\n  try: did you mean [peer]?");
    assert!(parse("[peer]\nwhatever = 1\n").unwrap_err().remedy.contains("config print"));
    assert!(parse("[peer\n").unwrap_err().what.starts_with("c.toml:1: "));
}

#[test]
fn a_value_of_the_wrong_sort_is_refused_with_its_line() {
    for (text, line) in [
        ("[store]\nflush_ms = '50'", 2),
        ("[store]\nflush_ms = 0", 2),
        ("[store]\n\nflush_ms = -1", 3),
        ("[peer]\nlisten = 'ws://h/'", 2),
        ("[peer]\nlisten = ['http://h/']", 2),
        ("[peer]\nlisten = ['mem:x']", 2),
        ("[peer]\nconnect = ['ws://h/#12']", 2),
        ("[log]\nformat = 'xml'", 2),
        ("peer = 3", 1),
    ] {
        let failure = parse(text).unwrap_err();
        assert!(failure.what.starts_with(&format!("c.toml:{line}: ")), "{text}: {failure}");
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
    }
}

#[test]
fn every_key_has_a_variable_and_unknown_ones_are_refused() {
    let settings =
        vars(&[("COMMONHOLD_STORE_FLUSH_MS", "7"), ("COMMONHOLD_PEER_CONNECT", "ws://a/, ws://b:1/x")]).unwrap();
    assert_eq!(settings.number("store.flush_ms"), 7);
    assert_eq!(settings.connect().len(), 2);
    let failure = vars(&[("COMMONHOLD_STORE_FLUSHMS", "7")]).unwrap_err();
    assert_eq!(failure.remedy, "did you mean COMMONHOLD_STORE_FLUSH_MS?");
    assert!(vars(&[("COMMONHOLD_STORE_NOTHINGLIKEIT", "7")]).is_err());
    assert!(vars(&[("COMMONHOLD_LOG_FORMAT", "xml")]).unwrap_err().what.starts_with("$COMMONHOLD_LOG_FORMAT: "));
    // What Kubernetes sets for a service named commonhold.
    assert!(vars(&[("COMMONHOLD_SERVICE_HOST", "10.0.0.1"), ("COMMONHOLD_PORT_7340_TCP_PORT", "7340")]).is_ok());
}

#[test]
fn the_later_source_wins_and_is_named() {
    let mut settings = parse("[log]\nlevel = 'info'\nformat = 'json'").unwrap();
    let global = Global { log_level: Some("debug".into()), ..Global::default() };
    settings.merge(flags(&global, &Serving::default())).unwrap();
    let origin = |name: &str| settings.all().find(|(key, _)| key.name == name).unwrap().1.origin.to_string();
    assert_eq!((origin("log.level").as_str(), origin("log.format").as_str()), ("--log-level", "c.toml:3"));
    assert_eq!(origin("peer.listen"), "default");
}

#[test]
fn a_peer_may_be_pinned_to_its_id() {
    let id = "ab".repeat(32);
    let settings = parse(&format!("[peer]\nconnect = ['ws://h:1/#{id}']")).unwrap();
    let (address, device) = settings.connect().remove(0);
    assert_eq!((address.to_string(), device.unwrap().to_string()), ("ws://h:1/".to_owned(), id));
}

#[test]
fn folders_follow_the_desktop_specification() {
    let folders = Folders::of_user(|name| match name {
        "HOME" => Some("/home/a".into()),
        "XDG_DATA_HOME" => Some("relative".into()),
        "XDG_CONFIG_HOME" => Some("/etc/x".into()),
        _ => None,
    });
    assert_eq!(folders.data, Some("/home/a/.local/share/commonhold".into()));
    assert_eq!(folders.config, Some("/etc/x/commonhold".into()));
}

#[test]
fn distance_counts_edits() {
    assert_eq!((distance("", "abc"), distance("lisen", "listen"), distance("kitten", "sitting")), (3, 1, 3));
}

/// The table in the operator's guide is this table.
#[test]
fn the_guide_lists_every_key_with_its_default() {
    let guide = include_str!("../../../docs/operating.md");
    for key in KEYS {
        let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
        let row = format!("| `{}` | `{}` | {default} | {} |", key.name, key.variable(), key.explained());
        assert!(guide.contains(&row), "docs/operating.md lacks this row:\n{row}");
    }
    let rows = guide.lines().filter(|line| line.contains("| `COMMONHOLD_")).count();
    assert_eq!(rows, KEYS.len(), "docs/operating.md lists a key that there is not");
}

#[test]
fn what_differs_is_found_and_what_is_live_is_a_key() {
    let before = parse("[peer]\nconnect = ['ws://a/']\n[log]\nlevel = 'info'").unwrap();
    let after = parse("[peer]\nconnect = ['ws://b/']\n[store]\nflush_ms = 7\n[log]\nlevel = 'info'").unwrap();
    let differing: Vec<_> = before.differing(&after).iter().map(|key| (key.name, key.is_live())).collect();
    assert_eq!(differing, [("store.flush_ms", false), ("peer.connect", true)]);
    assert!(keys::LIVE.iter().all(|name| KEYS.iter().any(|key| key.name == *name)));
}
