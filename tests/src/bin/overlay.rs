//! `cargo run --release -p commonhold-tests --bin overlay -- --peers 200 --seeds 5 --json`

use std::process::ExitCode;

use clap::Parser;
use commonhold_tests::overlay_sim::{NAMES, Row, run};

/// Simulates the overlay of one space, and the baseline, in virtual time.
#[derive(Parser)]
struct Args {
    /// Which of no-fault, one-writer, killed, black-holes, leaves, undialable, bootstrap-dies, floods and idle; all if none is named.
    scenarios: Vec<String>,
    /// Peers.
    #[arg(long, default_value_t = 50)]
    peers: usize,
    /// Runs, with seeds from 0.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Items before those that are measured, if not the scenario's own number.
    #[arg(long)]
    warm: Option<usize>,
    /// Ours keeps the neighbours that chance gave it, as the baseline does.
    #[arg(long)]
    far: bool,
    /// One line of JSON for each scenario.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let all = NAMES.map(str::to_owned).to_vec();
    for name in if args.scenarios.is_empty() { all } else { args.scenarios } {
        let Some(report) = run(&name, args.peers, args.seeds, args.warm, !args.far) else {
            eprintln!("overlay: no scenario {name:?}");
            return ExitCode::FAILURE;
        };
        if args.json {
            match serde_json::to_string(&report) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("overlay: {error}"),
            }
            continue;
        }
        println!(
            "{:<18} {:>5} {:>4} {:<8} {:>6} {:>7} {:>6} {:>6} {:>6} {:>5} {:>7} {:>7} {:>8} {:>5} {:>4} {:>5}",
            name,
            "peers",
            "seed",
            "system",
            "copies",
            "mean",
            "median",
            "p95",
            "max",
            "lost",
            "repairs",
            "msgs",
            "recover",
            "parts",
            "lop",
            "first"
        );
        report.rows.iter().for_each(print);
    }
    ExitCode::SUCCESS
}

fn print(row: &Row) {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    println!(
        "{:<18} {:>5} {:>4} {:<8} {:>6.2} {:>7.1} {:>6} {:>6} {:>6} {:>5} {:>7} {:>7.2} {:>8} {:>5} {:>4} {:>5.2}",
        row.run,
        row.peers,
        row.seed,
        row.system,
        row.copies,
        row.last_mean_ms,
        row.last_median_ms,
        row.last_p95_ms,
        row.last_max_ms,
        row.incomplete,
        row.repairs,
        row.messages_per_delivery,
        or_dash(row.recovery_ms),
        or_dash(row.components.map(|parts| parts as u64)),
        or_dash(row.lopsided.map(|pairs| pairs as u64)),
        row.bootstrap_gave,
    );
    if let Some((first, later)) = row.idle_bytes {
        println!("  {first:.0} bytes a minute and neighbour in the first hour, {later:.0} after it");
    }
    if row.run.starts_with("floods") {
        println!("  at most {:?}", row.most);
    }
}
