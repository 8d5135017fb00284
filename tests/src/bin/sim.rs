//! Runs seeds of the simulator: one with a trace of what happens, or many in a row.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use commonhold_engine::sim::{Options, run};

/// Deterministic simulation of several peers.
#[derive(Parser)]
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Some members lie.
    #[arg(long)]
    liars: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let (start, count, mut failed) = (Instant::now(), seeds.end - seeds.start, 0);
    for (done, seed) in seeds.enumerate() {
        match run(seed, Options { trace: args.trace, canary: None, liars: args.liars }) {
            Ok(report) if args.seed.is_some() => println!("{report:#?}"),
            Ok(_) => {}
            Err(failure) => {
                println!("{failure}");
                failed += 1;
                if !args.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
        if (done + 1) % 50 == 0 {
            println!("{} of {count} seeds, {failed} failed, {:.1} s", done + 1, start.elapsed().as_secs_f64());
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
