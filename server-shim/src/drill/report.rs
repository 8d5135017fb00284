//! What is told of a drill: every figure as JSON, the same for people as Markdown, and the plot.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::crew::{End, Member};
use super::ledger::Sample;
use super::network::{Made, Traffic};
use super::play::{Drill, Mark, Parted, Phase};
use super::plot;

/// Everything about a drill that has ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    /// Why not: what was missing where.
    pub(super) failure: Option<String>,
    pub(super) seed: u64,
    pub(super) version: &'static str,
    /// debug or release.
    pub(super) build: &'static str,
    pub(super) system: String,
    pub(super) network: Made,
    pub(super) seconds: f64,
    /// The origin, the peers, the newcomer and the new origin.
    pub(super) processes: usize,
    pub(super) peers: usize,
    pub(super) edits: usize,
    /// Edits that were acknowledged, and that a peer that lives does not hold.
    pub(super) edits_lost: usize,
    /// What the origin sent until it died.
    pub(super) origin_sent_bytes: u64,
    pub(super) sent_bytes_median: u64,
    pub(super) sample_ms: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) marks: Vec<Mark>,
    pub(super) parted: Option<Parted>,
    pub(super) members: Vec<Told>,
}

/// One process.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) began_s: f64,
    /// When it died; `null`: it lived to the end.
    pub(super) died_s: Option<f64>,
    /// power cut, or killed.
    pub(super) death: Option<&'static str>,
    /// Edits that it held when it was last asked.
    pub(super) held: usize,
    #[serde(flatten)]
    pub(super) traffic: Traffic,
    /// What it held when, where that differs from the sample before.
    pub(super) samples: Vec<Sample>,
}

impl Told {
    fn of(member: &Member) -> Told {
        let all = member.lane.samples();
        let differs = |n: usize| n == 0 || (all[n].held, all[n].made) != (all[n - 1].held, all[n - 1].made);
        Told {
            name: member.name.clone(),
            began_s: member.began_s,
            died_s: member.ended.map(|ended| ended.at_s),
            death: member.ended.map(|ended| match ended.how {
                End::Unplugged => "power cut",
                End::Killed => "killed",
            }),
            held: all.last().map_or(0, |sample| sample.held),
            traffic: member.traffic,
            samples: (0..all.len()).filter(|n| differs(*n)).map(|n| all[n]).collect(),
        }
    }
}

impl Report {
    pub(super) fn of(drill: &Drill, network: Made, seed: u64, failure: Option<String>) -> Report {
        let crew = &drill.crew;
        let members: Vec<_> = crew.members.iter().map(Told::of).collect();
        let living = || crew.members.iter().filter(|member| member.ended.is_none());
        let lost = crew.ledger.documents().into_iter().enumerate().map(|(number, (_, edits))| {
            let held = |edit: &usize| living().all(|member| member.lane.held(number).contains(edit));
            (0..edits).filter(|edit| !held(edit)).count()
        });
        let edits_lost = lost.sum();
        let mut sent: Vec<u64> = members.iter().map(|member| member.traffic.sent_bytes).collect();
        let origin_sent_bytes = sent.first().copied().unwrap_or(0);
        sent.sort_unstable();
        Report {
            passed: failure.is_none() && edits_lost == 0,
            failure,
            seed,
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            system: system(),
            network,
            seconds: crew.ledger.now_s(),
            processes: members.len(),
            peers: drill.peers,
            edits: crew.ledger.total(),
            edits_lost,
            origin_sent_bytes,
            sent_bytes_median: sent.get(sent.len() / 2).copied().unwrap_or(0),
            sample_ms: u64::try_from(crew.every.as_millis()).unwrap_or(u64::MAX),
            phases: drill.phases.clone(),
            marks: drill.marks.clone(),
            parted: drill.parted.clone(),
            members,
        }
    }

    /// Writes `report.md`, `report.json` and `drill.svg` into a folder.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("drill.svg"), plot::svg(self))?;
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        std::fs::write(folder.join("report.json"), json + "\n")?;
        std::fs::write(folder.join("report.md"), self.markdown())
    }

    /// One line.
    pub(super) fn verdict(&self) -> String {
        let Report { processes, edits, edits_lost, seconds, .. } = self;
        match (self.passed, &self.failure) {
            (true, _) => format!("PASS: {processes} processes, {edits} edits, none lost, {seconds:.1} s"),
            (false, Some(failure)) => format!("FAIL: {failure}"),
            (false, None) => format!("FAIL: {edits_lost} of {edits} edits are lost"),
        }
    }

    fn markdown(&self) -> String {
        let mut text = format!("# Drill\n\n**{}**\n\n![Who held what, when](drill.svg)\n\n", self.verdict());
        let mut row = |what: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "| {what} | {value} |");
        };
        row("figure", &"value");
        row("---", &"---");
        row("edits acknowledged", &self.edits);
        row("edits lost", &self.edits_lost);
        row("processes", &format!("{} (an origin, {} peers, a newcomer, a new origin)", self.processes, self.peers));
        row("bytes that the origin sent until it died", &bytes(self.origin_sent_bytes));
        row("bytes that a process sent, median", &bytes(self.sent_bytes_median));
        row("duration", &format!("{:.1} s", self.seconds));
        row("how the network was made", &self.network.by);
        if let Some(because) = &self.network.because {
            row("and why not otherwise", because);
        }
        row("delay", &self.network.delay);
        row("loss", &self.network.loss);
        row("bytes are", &self.network.bytes);
        row("seed", &self.seed);
        row("version", &format!("commonhold {} ({}), {}", self.version, self.build, self.system));
        row("each was asked what it held every", &format!("{} ms, which is how exact the times are", self.sample_ms));

        text += "\n## What happened\n\n| | from | to | living at its beginning | edits | measured | |\n|---|---|---|---|---|---|---|\n";
        for phase in &self.phases {
            let measured =
                phase.measured.iter().map(|measured| format!("{}: {:.2} s", measured.what, measured.seconds));
            let measured = measured.collect::<Vec<_>>().join("<br>");
            let Phase { what, begun_s, ended_s, living, edits, .. } = phase;
            let mark = if phase.passed { "✓" } else { "✗" };
            let _ = writeln!(
                text,
                "| {what} | {begun_s:.1} s | {ended_s:.1} s | {living} | {edits} | {measured} | {mark} |"
            );
        }

        text += "\n## Who was there\n\n| process | from | died | edits held | bytes sent | bytes received | packets lost on the way |\n|---|---|---|---|---|---|---|\n";
        for told in &self.members {
            let died = match (told.died_s, told.death) {
                (Some(at), Some(how)) => format!("{at:.1} s, {how}"),
                _ => String::new(),
            };
            let Traffic { sent_bytes, received_bytes, lost_packets } = told.traffic;
            let (name, held, from) = (&told.name, told.held, told.began_s);
            let _ = writeln!(
                text,
                "| {name} | {from:.1} s | {died} | {held} | {sent_bytes} | {received_bytes} | {lost_packets} |"
            );
        }
        text
    }
}

/// Bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} {} {}, {processors} processors", std::env::consts::OS, release.trim(), std::env::consts::ARCH)
}
