//! Replies as a person reads them. What a program reads is `Reply::json`.

use std::io::{self, Write};

use serde_json::Value as Json;

use crate::args::{KeepArg, WritersArg};
use crate::failure::{Exit, Failure};
use crate::request::{
    Blob, BlockChanged, BlockedRow, Change, Checked, Document, Erasure, ImportedFolder, Member, Network, Peer, Receipt,
    Receipts, Released, Reply, Skipped, Space, Status, Stored, Watched,
};

/// Digits of an id that are shown; they name it everywhere a unique prefix does.
const SHORT: usize = 10;

/// Prints a reply to standard output. A reader that hangs up early (`| head`) is no error.
pub(crate) fn reply(reply: &Reply, json: bool) -> Result<(), Failure> {
    unless_hung_up(next_reply(reply, json))
}

/// Prints one of many replies; that nobody reads them any more ends the command.
pub(crate) fn next_reply(reply: &Reply, json: bool) -> Result<(), Failure> {
    match json {
        true => write(&format!("{}\n", reply.json())),
        false => write(&human(reply)),
    }
}

/// Writes to standard output, whoever still reads it.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    unless_hung_up(write(text))
}

fn unless_hung_up(written: Result<(), Failure>) -> Result<(), Failure> {
    written.or_else(|failure| if failure.exit == Exit::Pipe { Ok(()) } else { Err(failure) })
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::hung_up(),
        _ => Failure::failed(
            "output",
            format!("cannot write the output: {error}"),
            "what was asked for was done; see to the file or device that the output goes to",
        ),
    })
}

/// How far a long run has come, on standard error.
pub(crate) fn progress(line: &str) {
    eprintln!("{line}");
}

/// A remark beside the output.
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}

fn human(reply: &Reply) -> String {
    match reply {
        Reply::Me(me) => {
            format!(
                "peer     {}\nstore    {}\nprocess  {}\nlistens  {}\nnetwork  {}\n",
                me.peer,
                me.store,
                me.pid,
                list(&me.addresses),
                network(&me.network),
            )
        }
        Reply::Space(space) => format!("{}\n", space.id),
        Reply::Spaces(spaces) => spaces_table(spaces),
        Reply::Invite(invite) => format!("{}\n", invite.invite),
        Reply::Published(published) => match &published.addresses[..] {
            [] => format!("space {} says that this peer can be dialled nowhere\n", short(&published.space)),
            addresses => {
                format!("whoever holds space {} finds this peer at {}\n", short(&published.space), list(addresses))
            }
        },
        Reply::Granted(granted) => {
            format!("{} may now {} in space {}\n", short(&granted.device), lower(&granted.right), short(&granted.space))
        }
        Reply::Members(members) => members_table(members),
        Reply::DeviceAdded(added) => format!(
            "{}{} acts for your identity in space {}\n",
            short(&added.device),
            if added.name.is_empty() { String::new() } else { format!(" ({})", plain(&added.name)) },
            short(&added.space)
        ),
        Reply::Revoked(revoked) => format!(
            "took back {} of {} in space {}; of what it wrote stays {}\n{}",
            count(revoked.records.len() as u64, "grant"),
            short(&revoked.device),
            short(&revoked.space),
            match revoked.keep {
                KeepArg::Held => "what is held here",
                KeepArg::Nothing => "what others built upon",
            },
            match revoked.anybody_writes {
                true =>
                    "in this space anybody may write all the same; in one made by `commonhold space new --writers granted`, you choose\n",
                false => "",
            }
        ),
        Reply::Rotated(rotated) => format!(
            "{} has a new root key, known in {}; devices that hold the old one recover the identity from its words\n",
            short(&rotated.identity),
            count(rotated.spaces.len() as u64, "space"),
        ),
        Reply::Joined(joined) if joined.level => {
            let right = if joined.redeemed { "; the invite's right is this device's now" } else { "" };
            format!("joined space {}: {}, level{right}\n", joined.space, count(joined.documents, "document"))
        }
        Reply::Joined(joined) => format!("joined space {}: not here yet\n", joined.space),
        Reply::Document(document) => format!("{}\n", document.id),
        Reply::Documents(documents) => documents_table(documents),
        Reply::Released(Released { doc, released: true }) => format!("released {doc}\n"),
        Reply::Released(Released { doc, released: false }) => format!("{doc} is not in quarantine\n"),
        Reply::Receipts(receipts) => receipts_table(receipts),
        Reply::Erasures(erasures) => erasures_table(erasures),
        Reply::Value(value) => pretty(&value.value),
        Reply::Changed(changed) if changed.changed => format!("saved, version {}\n", heads(&changed.heads)),
        Reply::Changed(changed) => format!("nothing to change, version {}\n", heads(&changed.heads)),
        Reply::Watched(watched) => watch_lines(watched),
        Reply::History(changes) => history_table(changes),
        Reply::Status(status) => status_lines(status),
        Reply::Peers(peers) => peers_table(peers),
        Reply::Level(level) => format!("level with {}\n", list(&level.level_with)),
        Reply::Checked(checked) => checked_lines(checked),
        Reply::Exported(exported) => {
            format!("exported {}, {}\n", count(exported.documents, "document"), bytes(exported.bytes))
        }
        Reply::CheckedBlobs(checked) => format!("{}, {}\n", count(checked.blobs, "blob"), bytes(checked.bytes)),
        Reply::BackupSize(about) => format!("about {}\n", bytes(*about)),
        Reply::BackedUp(backup) => format!(
            "backed up {} and {}, {}\n",
            count(backup.manifest.rows(), "row"),
            count(backup.manifest.blobs, "blob"),
            bytes(backup.bytes)
        ),
        Reply::Imported(imported) => format!(
            "imported {}, {}, into space {}\n",
            count(imported.documents.len() as u64, "document"),
            count(imported.entries, "change"),
            imported.space.as_deref().map_or("-", short),
        ),
        Reply::ImportedFolder(imported) => {
            let mut text = format!(
                "imported {} ({} new), {} that were not here, into space {}\n",
                count(imported.documents, "document"),
                imported.created,
                count(imported.changes, "change"),
                short(&imported.space),
            );
            text += &skipped(imported);
            text
        }
        Reply::Blob(blob) => format!("{}\n", blob.blob),
        Reply::Blobs(blobs) => {
            let row = |blob: &Blob| {
                let age = blob.seconds.map_or_else(String::new, |seconds| format!("{} s", seconds));
                vec![blob.blob.clone(), bytes(blob.bytes), age]
            };
            table(&["BLOB", "SIZE", "SINCE"], blobs.iter().map(row), "no blobs")
        }
        Reply::Usage(usage) => {
            let row = |of: &Stored| {
                let traffic = |count: Option<u64>| count.map(bytes).unwrap_or_default();
                vec![
                    short(&of.id).to_owned(),
                    bytes(of.bytes),
                    of.documents.to_string(),
                    traffic(of.given),
                    traffic(of.got),
                ]
            };
            let columns = |what| [what, "STORED", "DOCUMENTS", "SENT", "GOT"];
            table(&columns("SPACE"), usage.spaces.iter().map(row), "nothing is stored")
                + &table(&columns("IDENTITY"), usage.identities.iter().map(row), "")
                + &table(
                    &["ADDRESS", "SENT TODAY", "RECEIVED"],
                    usage
                        .addresses
                        .iter()
                        .map(|of| vec![of.network.clone(), bytes(of.sent_bytes), bytes(of.received_bytes)]),
                    "",
                )
        }
        Reply::Blocked(blocked) => {
            let row =
                |row: &BlockedRow| vec![row.kind.clone(), row.what.clone(), row.since.clone().unwrap_or_default()];
            table(&["KIND", "BLOCKED", "SINCE"], blocked.iter().map(row), "nothing is blocked")
        }
        Reply::BlockChanged(BlockChanged { kind, what, blocked, changed }) => {
            let already = if *changed { "" } else { " already" };
            let now = if *blocked { "blocked" } else { "not blocked" };
            format!("{kind} {what} is{already} {now}\n")
        }
        Reply::CollectedBlobs(gone) => format!(
            "removed {} of {}, {}; {} read{}\n",
            gone.removed.len(),
            count(gone.blobs, "blob"),
            bytes(gone.bytes),
            count(gone.documents, "document"),
            if gone.removed.len() as u64 == gone.blobs {
                ""
            } else {
                "; what a document refers to stays, and all for a day"
            },
        ),
        Reply::BlobProgress(_) | Reply::RootKeys(_) | Reply::Bytes(_) | Reply::Ready => String::new(),
    }
}

/// Indented JSON and a line end.
pub(crate) fn pretty(value: &Json) -> String {
    format!("{value:#}\n")
}

/// The first digits of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn spaces_table(spaces: &[Space]) -> String {
    let row = |space: &Space| {
        let writers = match space.writers {
            Some(WritersArg::Anyone) => "anyone with the invite",
            Some(WritersArg::Granted) => "granted devices",
            None => "not known yet",
        };
        let right = space.right.as_deref().unwrap_or("none");
        vec![short(&space.id).into(), space.documents.to_string(), writers.into(), right.into()]
    };
    table(&["SPACE", "DOCUMENTS", "WRITERS", "YOU MAY"], spaces.iter().map(row), "no spaces")
}

fn members_table(members: &[Member]) -> String {
    let row = |member: &Member| {
        let or_none = |id: &Option<String>| id.as_deref().map_or("-", short).to_owned();
        let state = match (member.in_force, member.revoked) {
            (true, _) => "in force",
            (false, true) => "taken back",
            (false, false) => "without effect",
        };
        let right = member.right.as_deref().unwrap_or("as the identity");
        let right = if member.gateway { format!("{right}, gateway") } else { right.to_owned() };
        let who = match (&member.subject, member.uses.zip(member.used)) {
            (Some(subject), _) => short(subject).to_owned(),
            (None, Some((uses, used))) => format!("used {used} of {uses}"),
            (None, None) => "-".to_owned(),
        };
        let name = member.name.as_deref().map(|name| format!(" {}", plain(name))).unwrap_or_default();
        vec![format!("{who}{name}"), member.kind.clone(), right, or_none(&member.by), state.into()]
    };
    table(&["WHO", "HOW", "MAY", "BY", "STATE"], members.iter().map(row), "nobody")
}

fn documents_table(documents: &[Document]) -> String {
    let row = |document: &Document| {
        let mut name = match document.deleted {
            true => format!("{} (deleted)", document.name),
            false => document.name.clone(),
        };
        if let Some(excess) = &document.quarantined {
            name += &format!(" (in quarantine: {excess})");
        }
        for new in &document.successors {
            name += &format!(" (goes on in {})", short(new));
        }
        vec![short(&document.id).into(), plain(&document.kind), plain(&name), short(&document.creator).into()]
    };
    table(&["DOCUMENT", "KIND", "NAME", "CREATOR"], documents.iter().map(row), "no documents")
}

fn receipts_table(of: &Receipts) -> String {
    let row = |receipt: &Receipt| vec![short(&receipt.holder).into(), heads(&receipt.heads), receipt.signature.clone()];
    let none = "nobody has signed that they have it; a document without changes has no receipts";
    table(&["ON THE DISK OF", "VERSION", "SIGNATURE"], of.receipts.iter().map(row), none)
}

fn erasures_table(erasures: &[Erasure]) -> String {
    let row = |erasure: &Erasure| {
        let all = erasure.erased.len() + erasure.awaited.len();
        let awaited: Vec<&str> = erasure.awaited.iter().map(|device| short(device)).collect();
        vec![
            short(&erasure.doc).into(),
            plain(&erasure.name),
            short(&erasure.by).into(),
            format!("{} of {all}", erasure.erased.len()),
            if awaited.is_empty() { "nobody".to_owned() } else { awaited.join(", ") },
            plain(&erasure.note),
        ]
    };
    table(
        &["DOCUMENT", "NAME", "ASKED BY", "ERASED BY", "AWAITED", "NOTE"],
        erasures.iter().map(row),
        "nothing was to be erased",
    )
}

fn history_table(changes: &[Change]) -> String {
    let row = |change: &Change| {
        vec![
            short(&change.id).into(),
            if change.time == 0 { "-".into() } else { utc(change.time) },
            change.author.as_deref().map_or("-", short).into(),
            format!("{}:{}", short(&change.chain), change.number),
            change.operations.to_string(),
            plain(change.message.as_deref().unwrap_or("")),
        ]
    };
    table(&["CHANGE", "TIME", "AUTHOR", "CHAIN", "OPERATIONS", "MESSAGE"], changes.iter().map(row), "no changes")
}

/// What the network costs, in a line.
fn network(network: &Network) -> String {
    let of = |max: Option<u64>| max.map_or(String::new(), |max| format!(" of {}", bytes(max)));
    let mut parts = vec![format!("gave {}, got {}", bytes(network.given), bytes(network.got))];
    parts.extend(network.share_ratio.map(|ratio| format!("share ratio {ratio:.2}")));
    if network.metered {
        parts.push(format!("metered: {}{} today", bytes(network.metered_bytes), of(network.metered_max)));
    }
    if network.background_max.is_some() {
        parts.push(format!("for others: {}{} today", bytes(network.background_bytes), of(network.background_max)));
    }
    match (network.connects, network.serves) {
        (false, _) => parts.push("the budget is spent: no connections until tomorrow (UTC)".into()),
        (true, false) => parts.push("serves nobody".into()),
        (true, true) => {}
    }
    parts.join("; ")
}

fn peers_table(peers: &[Peer]) -> String {
    let row = |peer: &Peer| {
        let address = peer.address.as_deref().unwrap_or("-");
        let how = match (peer.connected, peer.dialled) {
            (true, true) => format!("dialled, {} s", peer.seconds),
            (true, false) => format!("accepted, {} s", peer.seconds),
            (false, _) => "not connected".to_owned(),
        };
        let (score, sources) = match &peer.known {
            Some(known) => (format!("{:.2}", known.score), known.sources.join(" ")),
            None => ("-".into(), "-".into()),
        };
        let agent = peer.agent.as_deref().unwrap_or("-");
        let exchanged = format!("{} / {}", bytes(peer.given), bytes(peer.got));
        vec![short(&peer.peer).into(), how, plain(address), score, exchanged, sources, plain(agent)]
    };
    table(
        &["PEER", "CONNECTION", "ADDRESS", "SCORE", "GAVE / GOT", "KNOWN FROM", "PROGRAM"],
        peers.iter().map(row),
        "no peer is known",
    )
}

fn status_lines(status: &Status) -> String {
    let shorts = |ids: &[String]| match ids.is_empty() {
        true => "nobody".to_owned(),
        false => ids.iter().map(|id| short(id)).collect::<Vec<_>>().join(", "),
    };
    format!(
        "document        {}\nversion         {}\nsaved here      {}\nacknowledged by {}\nlevel with      {}\ncost            {}, {}, {}, {} in memory\n",
        status.doc,
        heads(&status.heads),
        if status.saved_here { "yes" } else { "not yet" },
        shorts(&status.acknowledged),
        shorts(&status.level_with),
        count(status.cost.changes, "change"),
        count(status.cost.operations, "operation"),
        count(status.cost.chains, "chain"),
        bytes(status.cost.memory_bytes),
    )
}

fn checked_lines(checked: &Checked) -> String {
    let mut text = format!(
        "read {}: {}, {}, {}\n",
        bytes(checked.store_bytes),
        count(checked.spaces, "space"),
        count(checked.documents, "document"),
        count(checked.entries, "change")
    );
    for fault in &checked.faults {
        text.push_str(&format!("  {fault}\n"));
    }
    text
}

fn watch_lines(watched: &Watched) -> String {
    let from = watched.peer.as_deref().map_or(String::new(), |peer| format!(" from {}", short(peer)));
    let mut text = format!("— {}{from}, version {}\n", watched.origin, heads(&watched.heads));
    for patch in &watched.patches {
        text.push_str(&format!("  {patch}\n"));
    }
    text
}

/// Columns as wide as their widest cell; what to say instead of an empty table.
pub(crate) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>, empty: &str) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let line: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", line.trim_end())
    };
    let body = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    std::iter::once(line(&mut head.iter().copied())).chain(body).collect()
}

/// Text of strangers, without what could steer a terminal.
fn plain(text: &str) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
    }
}

fn heads(heads: &[String]) -> String {
    match heads.is_empty() {
        true => "empty".to_owned(),
        false => heads.iter().map(|id| short(id)).collect::<Vec<_>>().join("+"),
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

/// What of a storage folder was left out, one in a line.
pub(crate) fn skipped(imported: &ImportedFolder) -> String {
    let line = |skipped: &Skipped| format!("skipped {}: {}\n", plain(&skipped.what), plain(&skipped.why));
    let mut text: String = imported.skipped.iter().map(line).collect();
    if imported.skipped_more > 0 {
        text += &format!("skipped {} more\n", imported.skipped_more);
    }
    text
}

pub(crate) fn count(n: u64, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}

fn lower(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// Bytes in the largest unit that leaves a number of at least 1.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (n.max(1).ilog2() / 10).min(4) as usize;
    match unit {
        0 => count(n, "byte"),
        _ => format!("{:.1} {}", n as f64 / f64::from(1u32 << 10).powi(unit as i32), units[unit]),
    }
}

/// Seconds since 1970 as a date, in the calendar that is now in use, also for the past.
fn utc(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March end with their leap day. Day 0 of this count is 1 March of year 0.
    let day = i128::from(day) + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (951_868_800, "2000-03-01 00:00:00Z"),
            (1_767_225_599, "2025-12-31 23:59:59Z"),
            (-1, "1969-12-31 23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        // An author may claim any time.
        assert!(utc(i64::MAX).len() > 10 && utc(i64::MIN).len() > 10);
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        assert_eq!((bytes(0), bytes(1), bytes(1_536)), ("0 bytes".into(), "1 byte".into(), "1.5 KiB".into()));
        assert_eq!((bytes(5 << 30), bytes(u64::MAX)), ("5.0 GiB".into(), "16777216.0 TiB".into()));
    }

    #[test]
    fn names_from_strangers_do_not_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        let mut imported = ImportedFolder::default();
        imported.skip("ab/\u{1b}[2J", "no\nsuch file");
        assert_eq!(skipped(&imported), "skipped ab/\u{fffd}[2J: no\u{fffd}such file\n");
    }

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [vec!["aaaa".to_owned(), "b".to_owned()]];
        assert_eq!(table(&["X", "YY"], rows.into_iter(), ""), "X     YY\naaaa  b\n");
        assert_eq!(table(&["X"], std::iter::empty(), "none"), "none\n");
    }
}
