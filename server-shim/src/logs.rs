//! The log: lines on standard error, as text or JSON, through `tracing`.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::Settings;

/// The filter of the log that was started.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log, once.
pub(crate) fn start(settings: &Settings) {
    let (filter, handle) = reload::Layer::new(targets(settings));
    let _ = FILTER.set(handle);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    match settings.text("log.format") {
        "json" => registry.with(layer.json().flatten_event(true)).init(),
        _ => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
    }
}

/// Tells from now on what these settings want to be told.
pub(crate) fn set_level(settings: &Settings) {
    if let Some(filter) = FILTER.get() {
        // Fails only when the log is gone, and then there is nobody to tell.
        let _ = filter.reload(targets(settings));
    }
}

fn targets(settings: &Settings) -> Targets {
    settings.text("log.level").parse().expect("the filter was checked when it was set")
}
