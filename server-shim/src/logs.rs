//! The log: lines on standard error, as text or JSON, through `tracing`.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Settings;

/// Starts the log, once.
pub(crate) fn start(settings: &Settings) {
    let targets: Targets = settings.text("log.level").parse().expect("the filter was checked when it was set");
    let registry = tracing_subscriber::registry().with(targets);
    let layer = fmt::layer().with_writer(std::io::stderr);
    match settings.text("log.format") {
        "json" => registry.with(layer.json().flatten_event(true)).init(),
        _ => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
    }
}
