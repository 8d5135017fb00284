//! Many seeds in tests.

use std::collections::BTreeSet;

use super::{Canary, Failure, Options, Report, run};

/// A kind of run, and how many seeds of it make one full run.
///
/// The environment variables `{name}_SEEDS=n` and `{name}_SEED=x` have n seeds run, and x alone.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Begins the names of the variables.
    pub name: &'static str,
    /// Seeds, from 0 on.
    pub count: u64,
    /// Tests that share them, as tests run side by side.
    pub parts: u64,
    /// How each is run.
    pub options: Options,
}

impl Seeds {
    fn variable(&self, what: &str) -> Option<u64> {
        let name = format!("{}_{what}", self.name);
        std::env::var(&name)
            .ok()
            .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
    }

    /// Runs the seeds of one of the parts. Panics with the first five failures.
    pub fn part(&self, part: u64) {
        let seeds = match self.variable("SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..self.variable("SEEDS").unwrap_or(self.count),
        };
        let mine = seeds.filter(|seed| seed % self.parts == part);
        let failures: Vec<String> =
            mine.filter_map(|seed| run(seed, self.options).err()).take(5).map(|f: Failure| f.to_string()).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    /// Runs one seed, which must pass.
    pub fn passes(&self, seed: u64) -> Report {
        run(seed, self.options).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Of some seeds, so many must notice that a peer breaks a rule: a run may be over before that shows.
    pub fn catch(&self, canary: Canary, seeds: impl Iterator<Item = u64>, at_least: usize) {
        let options = Options { canary: Some(canary), ..self.options };
        let caught: BTreeSet<u64> = seeds.filter(|seed| run(*seed, options).is_err()).take(at_least).collect();
        assert!(caught.len() >= at_least, "{canary:?} was caught on seeds {caught:?} alone");
    }
}
