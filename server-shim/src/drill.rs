//! The drill: real processes on a network with delay and loss go through what a network of peers must outlive. The origin dies for good, a
//! newcomer joins without it, the network parts and heals, half of the peers die, and a new, empty origin refills. It ends with a report
//! and a verdict.

mod crew;
mod ledger;
mod links;
mod network;
mod play;
mod plot;
mod report;

use std::path::Path;
use std::time::Duration;

use crate::args::DrillArgs;
use crate::failure::{Exit, Failure};
use crate::print;
use crate::serve::Stop;
use crate::stage::{Play, Stage};
use crew::Crew;
use ledger::Ledger;
use network::{Network, Weather};
use play::Drill;
use report::Report;

/// All of it must be done in this time.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// For one condition. A link that lost the other end without a word is given up after 60 s, and dialled again within 60 s more.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often each process is asked what it holds.
const EVERY: Duration = Duration::from_millis(250);
/// One way. Between two houses of a city, and two continents' coasts.
const DELAY_MS: (u64, u64) = (5, 40);
/// A mobile network on a bad day.
const LOST_OF_1000: u64 = 10;

const DRILL: Play = Play {
    name: "drill",
    patience: PATIENCE,
    remedy: "look at the report and the logs beside it; if it fails again with the same --seed, please report it",
};

/// Plays the drill. Processes, namespaces and folders are gone when this returns, however it ends.
pub(crate) async fn run(arguments: &DrillArgs, json: bool) -> Result<(), Failure> {
    let mut stop = Stop::listen(false)?;
    name_left_overs();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let weather = Weather { seed, delay_ms: DELAY_MS, lost_of_1000: LOST_OF_1000 };
    let peers = usize::from(arguments.peers);
    let laid = Network::lay(Drill::places(peers), weather, arguments.loopback).await;
    let (network, made) = laid.map_err(|error| DRILL.failed(format!("cannot lay a network: {error}")))?;
    print::progress(&format!("         seed {seed}; {}", made.by));
    if let Some(because) = &made.because {
        print::progress(&format!("         {because}"));
    }
    let stage = Stage::set(DRILL, arguments.keep)?;
    let crew = Crew { play: DRILL, stage, network, ledger: Ledger::open(), every: EVERY, members: Vec::new() };
    let mut drill = Drill::new(crew, peers, fastrand::Rng::with_seed(seed));
    let played = stop.or(tokio::time::timeout(DEADLINE, drill.play())).await;
    let failure = match played {
        None => return Err(Failure::failed("interrupted", "the drill was interrupted", "run it again")),
        Some(Ok(played)) => played.err(),
        Some(Err(_)) => Some(DRILL.failed(format!("it was not done after {} minutes", DEADLINE.as_secs() / 60))),
    };
    drill.done(failure.is_none());
    drill.crew.count();
    let report = Report::of(&drill, made, seed, failure.map(|failure| failure.what));
    let folder = arguments.report.as_path();
    let written = report.write(folder).and_then(|()| if report.passed { Ok(()) } else { keep_logs(&drill, folder) });
    drill.crew.stage.clear();
    written.map_err(|error| {
        let what = format!("cannot write the report to {}: {error}", folder.display());
        Failure::new(Exit::Failed, "report", what, "name a folder that you can write to with --report")
    })?;
    print::progress(&format!("         the report is in {}", folder.display()));
    match report.passed {
        true if json => print::out(&format!("{}\n", serde_json::json!(report))),
        true => print::out(&format!("{}\n", report.verdict())),
        false => Err(DRILL.failed(report.verdict())),
    }
}

/// Puts the logs of all processes beside the report.
fn keep_logs(drill: &Drill, folder: &Path) -> std::io::Result<()> {
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs)?;
    for member in &drill.crew.members {
        let log = drill.crew.stage.log(&member.name);
        std::fs::copy(&log, logs.join(log.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Names the folders of drills that were killed. Nothing else stays: their processes end with the pipe from them, and their namespaces with the
/// processes.
fn name_left_overs() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if let Some(pid) = left_over(&path) {
            print::note(&format!("a drill that was killed (process {pid}) left a folder: rm -r {}", path.display()));
        }
    }
}

/// The process that made this folder for a drill, if it is gone.
fn left_over(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?.strip_prefix("commonhold-drill-")?;
    let pid = name.split_once('-')?.0.parse::<u32>().ok()?;
    let raw = rustix::process::Pid::from_raw(pid.cast_signed())?;
    let gone = rustix::process::test_kill_process(raw) == Err(rustix::io::Errno::SRCH);
    gone.then_some(pid)
}
