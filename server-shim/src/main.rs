//! The `commonhold` program: a peer with a good address, and the command line to it.
//!
//! `args` says what can be asked; `run` does it, through `reach`: the process that owns the store, or the store itself. What
//! is done to a store is in `operate`, the same for both. `serve` is the owner; `demo` shows it all.

mod admin;
mod args;
mod backup;
mod config;
mod demo;
mod doctor;
mod drill;
mod editor;
mod failure;
mod gateway;
mod http;
mod identity;
mod local;
mod logs;
mod names;
mod operate;
mod place;
mod policy;
mod print;
mod reach;
mod reload;
mod request;
mod run;
mod serve;
mod shim;
mod stage;
mod storage_folder;
mod supervised;
mod tls;
mod token;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use failure::{Exit, Failure};

fn main() -> ExitCode {
    // A panic that the engine turns into an error is told once, as that.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !commonhold_engine::panics_are_contained() {
            usual(panic);
        }
    }));
    let handed = supervised::handed();
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run::run(cli, handed));
            // A read from a terminal must not keep the process.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Failure::new(
            Exit::Failed,
            "runtime",
            format!("cannot start threads: {error}"),
            "raise the limits of this user",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.exit as u8)
        }
    }
}
