//! How a verb fails: an exit code, one line that says what was wrong, one that says what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit codes. Their numbers are promised in `docs/operating.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// The operation was refused or did not work out.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The store is damaged, newer, read-only or full.
    Store = 3,
    /// Another process has the store or the port.
    InUse = 4,
    /// No such store, space, document or place.
    NotFound = 5,
    /// A peer did not answer in time.
    Unreachable = 6,
    /// Whoever read standard output hung up. What a shell shows for SIGPIPE, which Rust programs do not die of: 128 + 13.
    Pipe = 141,
}

impl Exit {
    /// Every code and what it means, in order.
    #[cfg(test)]
    pub(crate) const ALL: [(Exit, &'static str); 7] = [
        (Exit::Failed, "the operation failed or was refused"),
        (Exit::Usage, "the command line or the configuration is wrong; nothing was done"),
        (Exit::Store, "the store is damaged, of a newer format, read-only, or the disk is full"),
        (Exit::InUse, "another process has the store, or the port"),
        (Exit::NotFound, "there is no such store, space, document or place in a document"),
        (Exit::Unreachable, "a peer was not reachable, or not level in time"),
        (Exit::Pipe, "whoever read the output of `export -`, `watch` or `blob get` hung up; nothing is printed"),
    ];
}

/// A failure as the person sees it, or as one process tells another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// For the program that called.
    pub(crate) exit: Exit,
    /// A name of the failure that stays the same in all versions.
    pub(crate) code: String,
    /// What was wrong; one line.
    pub(crate) what: String,
    /// What to do; one line.
    pub(crate) remedy: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        let line = |text: String| text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        Failure { exit, code: code.to_owned(), what: line(what.to_string()), remedy: line(remedy.to_string()) }
    }

    pub(crate) fn failed(code: &str, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, code, what, remedy)
    }

    pub(crate) fn usage(code: &str, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, code, what, remedy)
    }

    pub(crate) fn not_found(code: &str, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Exit::NotFound, code, what, remedy)
    }

    /// Whoever read standard output hung up.
    pub(crate) fn hung_up() -> Self {
        Failure::new(Exit::Pipe, "pipe", "nobody reads the output any more", "nothing")
    }

    /// Prints it to standard error, as two lines or as one JSON object. Who hung up is not told.
    pub(crate) fn print(&self, json: bool) {
        match json {
            _ if self.exit == Exit::Pipe => {}
            true => {
                let mut object = serde_json::json!({"error": self});
                object["error"]["exit"] = (self.exit as u8).into();
                eprintln!("{object}");
            }
            false => eprintln!("{self}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  try: {}", self.what, self.remedy)
    }
}

impl std::error::Error for Failure {}

/// An error and everything under it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Many messages already end with their source's.
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_two_lines_whatever_its_parts_are() {
        let failure = Failure::failed("x", "two\n  lines", "do\nthis");
        assert_eq!(failure.to_string(), "error: two lines\n  try: do this");
    }

    #[test]
    fn the_guide_lists_every_exit_code() {
        let guide = include_str!("../../docs/operating.md");
        for (exit, meaning) in Exit::ALL {
            assert!(guide.contains(&format!("| {} | {meaning} |", exit as u8)), "docs/operating.md lacks {exit:?}");
        }
    }

    #[test]
    fn a_chain_does_not_repeat_itself() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }
}
