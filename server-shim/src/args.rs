//! The command line. Parsing only: what a verb does is in the module of its name or in `operate`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::shim::access::May;

/// Documents that peers share: offline, directly, and with or without a server
#[derive(Debug, Parser)]
#[command(name = "commonhold", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Without a verb, commonhold serves the store of the default data folder and makes one on the first run.\n\
    Spaces and documents are named by id, by the first digits of an id (4 or more), or by name.\n\
    Exit codes: 0 done, 1 failed, 2 usage or config, 3 store, 4 in use, 5 not found, 6 not reachable in time."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(flatten)]
    pub(crate) serving: Serving,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Flags of every verb.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct Global {
    /// Config file [default: commonhold/config.toml in the user's config folder, if it exists]
    #[arg(long, global = true, env = "COMMONHOLD_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Data folder (store.data)
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the device's secret, apart from the data folder (store.keys)
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) keys: Option<PathBuf>,
    /// Form of the log on standard error (log.format)
    #[arg(long, global = true, value_name = "text|json")]
    pub(crate) log: Option<String>,
    /// off, error, warn, info, debug, trace, or a filter such as commonhold_engine=debug (log.level)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Machine-readable output
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Flags of a serving process.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct Serving {
    /// Address to listen at, port 0 for any; repeatable (peer.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Address to put into invites instead of the bound ones; repeatable (peer.advertise)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Vec<String>,
    /// Peer to stay connected to, ADDRESS or ADDRESS#PEERID; repeatable (peer.connect)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) connect: Vec<String>,
    /// Written, all at once, when this process is reachable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ready_file: Option<PathBuf>,
    /// Drain when standard input ends: a child that must not outlive its parent
    #[arg(long, hide = true)]
    pub(crate) while_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a peer: store, sync, answer the other verbs
    Serve(Serving),
    /// Join a space
    Join {
        /// What `commonhold space invite` printed: commonhold1…
        invite: String,
        /// Seconds to wait for the space to arrive; 0 only stores the invite
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        wait: u64,
    },
    /// Spaces: the units of sharing
    #[command(subcommand)]
    Space(SpaceVerb),
    /// Who may do what in a space
    Members {
        #[command(flatten)]
        space: SpaceRef,
        /// What was taken back as well
        #[arg(long)]
        all: bool,
    },
    /// Give a device a right in a space
    Grant {
        /// Peer id of the device, 64 hex digits
        device: String,
        /// What it may do
        #[arg(long, value_enum, default_value_t = RightArg::Write)]
        right: RightArg,
        /// Also let it vouch for what clients without keys write (docs/gateway.md); goes with the right to write
        #[arg(long)]
        gateway: bool,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Take back all that a device was given in a space, or an invite and all that came of it
    Revoke {
        /// Peer id of the device, or the record of an invite (`members --json`), or the first digits of one
        device: String,
        /// What stays of what it wrote: what is held here, or nothing but what others built upon
        #[arg(long, value_enum, default_value_t = KeepArg::Held)]
        keep: KeepArg,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// You, as one who has several devices: what is granted to your identity, each of them has
    #[command(subcommand)]
    Identity(IdentityVerb),
    /// The devices of your identity in a space
    #[command(subcommand)]
    Device(DeviceVerb),
    /// Documents of a space
    #[command(subcommand)]
    Doc(DocVerb),
    /// Print a document, or a part of it
    Get {
        #[command(flatten)]
        doc: DocRef,
        /// Keys and indexes joined by slashes, e.g. items/0/title
        #[arg(default_value = "")]
        path: String,
    },
    /// Put a value into a document
    Set {
        #[command(flatten)]
        doc: DocRef,
        /// Where: keys and indexes joined by slashes; - after a list appends
        path: String,
        /// JSON; what is not JSON is refused, so quote strings: '"milk"'
        #[arg(allow_negative_numbers = true)]
        value: String,
        #[command(flatten)]
        sync: Sync,
    },
    /// Edit a document as JSON in $VISUAL or $EDITOR
    Edit {
        #[command(flatten)]
        doc: DocRef,
        /// Apply this JSON merge patch (RFC 7396) instead; - reads it from standard input
        #[arg(long, value_name = "JSON")]
        patch: Option<String>,
        #[command(flatten)]
        sync: Sync,
    },
    /// Print changes of a document as they come, until interrupted
    Watch {
        #[command(flatten)]
        doc: DocRef,
        /// End after so many changes
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Who changed a document, and when
    History {
        #[command(flatten)]
        doc: DocRef,
        /// The newest so many
        #[arg(long, default_value_t = 50, value_name = "N")]
        last: usize,
    },
    /// Is it saved, and who has it? Of one document, or of the spaces
    Status {
        /// Document
        doc: Option<String>,
        #[command(flatten)]
        space: SpaceRef,
        /// Wait until every connected peer is level, at most so many seconds
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Who is connected, and who else is known: where, how good, from whom
    Peers,
    /// Write documents to a file that `import` reads: a USB stick is a transport
    Export {
        /// Where to; - is standard output
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only these documents
        docs: Vec<String>,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Read an export, an .automerge file as a new document, or a storage folder of automerge-repo or samod
    Import {
        /// Where from; - is standard input
        #[arg(value_hint = ValueHint::AnyPath)]
        file: PathBuf,
        /// Of a storage folder: say what is in it, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Blobs of a space: content-addressed attachments, that documents refer to by name
    #[command(subcommand)]
    Blob(BlobVerb),
    /// What is stored here of each space and each identity, and what each address had today
    Usage,
    /// Peers, addresses, spaces and documents that this peer has nothing to do with
    #[command(subcommand)]
    Block(BlockVerb),
    /// Tokens for programs that use HTTP
    #[command(subcommand)]
    Token(TokenVerb),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Write everything that this peer holds to one file, while it runs or not; not its keys
    Backup {
        /// Where to; - is standard output
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Leave blobs out: other peers have them
        #[arg(long)]
        without_blobs: bool,
    },
    /// Check a backup, or the store: every digest, id and signature
    Verify {
        /// The backup; - is standard input [default: the store, and its blobs]
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Of a backup, compare digests only: needs no room
        #[arg(long, requires = "file")]
        quick: bool,
        /// Folder in which the store of a backup is unpacked for the check [default: the system's temporary folder]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "file")]
        scratch: Option<PathBuf>,
    },
    /// Make the store of a backup; the peer must not run
    Restore {
        /// The backup; - is standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only check it, and say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Put it in the place of the store that is there, which is kept in a folder beside
        #[arg(long)]
        replace: bool,
        /// Folder in which a dry run unpacks the store [default: the system's temporary folder]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "dry_run")]
        scratch: Option<PathBuf>,
    },
    /// Check the data folder, the keys and every row of the store
    Doctor,
    /// Print a completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all verbs
    Man {
        /// Folder of the pages: commonhold.1 and one for each verb
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
    /// Watch three peers share documents, lose their server, and go on: under a minute
    Demo {
        /// Keep the folders for a look
        #[arg(long)]
        keep: bool,
    },
    /// See a network of peers outlive its origin, a partition and half of itself: minutes, with a report
    Drill(DrillArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DrillArgs {
    /// Peers beside the origin, the newcomer and the new origin
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=250))]
    pub(crate) peers: u16,
    /// Folder of the report: report.md, report.json, drill.svg
    #[arg(long, default_value = "drill-report", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) report: PathBuf,
    /// Draws the same delays, losses and deaths as the drill that had it
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// All on the loopback, even where each process could have a network namespace
    #[arg(long)]
    pub(crate) loopback: bool,
    /// Keep the stores for a look
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpaceVerb {
    /// Found a space
    New {
        /// anyone: whoever has the invite may write; granted: only devices with a grant
        #[arg(long, value_enum, default_value_t = WritersArg::Granted)]
        writers: WritersArg,
    },
    /// List spaces
    Ls,
    /// Say in a space where this peer can be dialled, so that all who hold it find the way by themselves
    Publish {
        /// Space [default: the only one]
        space: Option<String>,
        /// Say that it can be dialled nowhere any more
        #[arg(long)]
        withdraw: bool,
    },
    /// Print an invite to a space
    Invite {
        /// Space [default: the only one]
        space: Option<String>,
        /// Whoever has the invite gets this right: relay, read or write
        #[arg(long, value_enum)]
        right: Option<RightArg>,
        /// Devices that are expected to use that
        #[arg(long, default_value_t = 1, value_name = "N", requires = "right")]
        uses: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Make an identity, and print the 24 words from which it comes back
    New,
    /// Print its id
    Show,
    /// Make an identity again from its 24 words, read from standard input
    Recover,
    /// Replace its root key, which got into other hands: the 24 words are read from standard input
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceVerb {
    /// Let a device act for your identity
    Add {
        /// Peer id of the device, 64 hex digits
        device: String,
        /// A name for people
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// List the devices of your identity
    Ls {
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Take a device out of your identity: a lost one
    Rm {
        /// Peer id of the device, its first digits, or its name
        device: String,
        /// What stays of what it wrote: what is held here, or nothing but what others built upon
        #[arg(long, value_enum, default_value_t = KeepArg::Held)]
        keep: KeepArg,
        #[command(flatten)]
        space: SpaceRef,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DocVerb {
    /// Create a document
    New {
        /// What an app calls documents of this sort
        #[arg(long, default_value = "")]
        kind: String,
        /// A name for people
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// List documents
    Ls {
        /// Only of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Deleted ones as well
        #[arg(long)]
        deleted: bool,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Delete a document, at every peer
    Rm {
        #[command(flatten)]
        doc: DocRef,
    },
    /// Delete a document, and let every peer sign that it has erased what it held of it
    Erase {
        #[command(flatten)]
        doc: DocRef,
        /// Why, for people: everybody reads it, and it stays
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
    /// Show a document again that is in quarantine, whatever it costs from now on
    Release {
        #[command(flatten)]
        doc: DocRef,
    },
    /// Show signed receipts of the peers that have a document, as it is now, on their disks
    Receipts {
        #[command(flatten)]
        doc: DocRef,
        /// Wait for so many, this peer's included
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        peers: u16,
        /// At most so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        wait: u64,
    },
    /// List what was to be erased, and who has done so
    Erasures {
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Go on in a new document, that shows the same and has no history
    Succeed {
        #[command(flatten)]
        doc: DocRef,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlobVerb {
    /// Store a file as a blob, and print its name
    Put {
        /// Which
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Media type that the name says, such as image/png
        #[arg(long = "type", default_value = "", value_name = "TYPE")]
        media_type: String,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Write a blob out; what is not here is fetched from the peers that have it
    Get {
        /// Name of the blob, in quotes: 'blob:…?size=…'
        blob: String,
        /// Where to [default: standard output]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
        #[command(flatten)]
        space: SpaceRef,
    },
    /// List the blobs that are here
    List {
        #[command(flatten)]
        space: SpaceRef,
    },
    /// Remove blobs that no document refers to, a day after they were put or fetched
    Gc {
        #[command(flatten)]
        space: SpaceRef,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlockVerb {
    /// Block something, at once and over restarts
    Add {
        /// What it is
        #[arg(value_enum)]
        kind: BlockArg,
        /// Id of a device, an identity, a space or a document; or an address or network such as 192.0.2.0/24
        what: String,
    },
    /// Block it no more
    Rm {
        /// What it is
        #[arg(value_enum)]
        kind: BlockArg,
        /// As it was blocked
        what: String,
    },
    /// List what is blocked
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BlockArg {
    /// A device, or an identity with all its devices
    Peer,
    /// Addresses
    Network,
    /// A space
    Space,
    /// A document
    Doc,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token and print it, this once
    New {
        /// For whom; each name has one token
        name: String,
        /// For this space, 64 hex digits
        #[arg(long, value_name = "SPACE", required_unless_present = "all_spaces", conflicts_with = "all_spaces")]
        space: Option<String>,
        /// For every space that this peer holds
        #[arg(long)]
        all_spaces: bool,
        /// What it gives the right to do
        #[arg(long, value_enum, default_value_t = May::Read)]
        right: May,
        /// Days until it expires [default: never]
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// List the tokens, not their secrets
    Ls,
    /// Take a token back; a serving process notices within a second
    Revoke {
        /// Whose
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check the config file and the environment
    Check,
    /// Print every key, its value, and where that comes from
    Print,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SpaceRef {
    /// Space [default: the only one]
    #[arg(long, value_name = "SPACE")]
    pub(crate) space: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DocRef {
    /// Document
    pub(crate) doc: String,
    #[command(flatten)]
    pub(crate) space: SpaceRef,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Sync {
    /// Afterwards connect and wait until the peers are level, at most so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30")]
    pub(crate) sync: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WritersArg {
    Anyone,
    Granted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RightArg {
    Relay,
    Read,
    Write,
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeepArg {
    Held,
    Nothing,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_flags_work_with_and_without_the_verb() {
        let bare = Cli::try_parse_from(["commonhold", "--listen", "ws://127.0.0.1:0/", "--data", "d"]).unwrap();
        assert_eq!(bare.serving.listen.len(), 1);
        let serve = Cli::try_parse_from(["commonhold", "serve", "--connect", "ws://a#b", "--data", "d"]).unwrap();
        assert!(matches!(serve.verb, Some(Verb::Serve(serving)) if serving.connect == ["ws://a#b"]));
        assert_eq!(serve.global.data, Some("d".into()));
    }

    #[test]
    fn sync_takes_its_seconds_with_an_equals_sign_only() {
        let sync = |args: &[&str]| match Cli::try_parse_from(args).unwrap().verb {
            Some(Verb::Set { sync, .. }) => sync.sync,
            _ => panic!(),
        };
        assert_eq!(sync(&["commonhold", "set", "d", "p", "1", "--sync"]), Some(30));
        assert_eq!(sync(&["commonhold", "set", "--sync=5", "d", "p", "1"]), Some(5));
        assert_eq!(sync(&["commonhold", "set", "d", "p", "-1"]), None);
    }
}
