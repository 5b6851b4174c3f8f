//! Where log lines go.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// To standard error; `LIVEGATE_LOG`, or else `RUST_LOG`, says how much, or else `default`.
pub(super) fn start_logging(default: &str) -> anyhow::Result<()> {
    let filter = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(EnvFilter::try_new(text).with_context(|| format!("cannot understand {name}")))
    };
    let filter = filter("LIVEGATE_LOG").or_else(|| filter("RUST_LOG"));
    let filter = filter.unwrap_or_else(|| Ok(EnvFilter::new(default)))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
