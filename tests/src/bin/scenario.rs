//! `cargo run --release -p commonhold-tests --bin scenario -- NAME --json`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use commonhold_tests::scenario::{Result, Sizes, run, serve_child};

/// Measures one scenario with real processes over loopback.
#[derive(Parser)]
struct Args {
    /// cold-big, cold-many, reconnect, fanout, idle, ingest, swarm, blobs, http, gateway or many.
    name: String,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Documents.
    #[arg(long)]
    docs: Option<usize>,
    /// Documents changed on each side (reconnect).
    #[arg(long, default_value_t = 10)]
    changed: usize,
    /// Subscribers (fanout).
    #[arg(long, default_value_t = 200)]
    subscribers: usize,
    /// Connections (idle).
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Peers that find one another (swarm).
    #[arg(long, default_value_t = 200)]
    peers: usize,
    /// Edits a second (swarm).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// Size of the blob (blobs); the swarm's has an eighth of it.
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// A recorded session, gzipped JSON (cold-big); one is made up without it.
    #[arg(long)]
    trace: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("child") {
        return finish(serve_child().await);
    }
    let args = Args::parse();
    let sizes = Sizes {
        docs: args.docs,
        changed: args.changed,
        subscribers: args.subscribers,
        connections: args.connections,
        peers: args.peers,
        rate: args.rate,
        mib: args.mib,
        trace: args.trace,
    };
    finish(measure(&args.name, &sizes, args.json).await)
}

async fn measure(name: &str, sizes: &Sizes, json: bool) -> Result<()> {
    let report = serde_json::to_value(run(name, sizes).await?)?;
    if json {
        println!("{report}");
        return Ok(());
    }
    for (key, value) in report.as_object().into_iter().flatten() {
        println!("{key:>22}  {value}");
    }
    Ok(())
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scenario: {error}");
            ExitCode::FAILURE
        }
    }
}
