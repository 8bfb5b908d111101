//! What the programs say of themselves: to stderr, and in dev to a file as well.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::app::Error;

/// What is said at all. hickory says two lines for every query it answers.
fn said() -> Targets {
    let quiet = ["hickory_server", "hickory_net", "hickory_proto"].map(|target| (target, LevelFilter::WARN));
    Targets::new().with_default(LevelFilter::INFO).with_targets(quiet)
}

/// For the edge, whose stderr is a log of the shim's.
pub fn to_stderr() {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(said()).init();
}

/// Of the lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Own,
    /// It notes them itself.
    Journal,
}

/// For the manager. The file is appended to; neither has colours.
pub fn to_stderr_and(path: &Path, times: Times) -> Result<(), Error> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    let file = file.map_err(|source| Error::Log { path: path.to_owned(), source })?;
    let file = Arc::new(file);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false);
    if times == Times::Journal {
        let journal = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).without_time();
        let journal = journal.with_writer(std::io::stderr);
        tracing_subscriber::registry().with(lines.with_writer(file)).with(journal).with(said()).init();
    } else {
        tracing_subscriber::registry().with(lines.with_writer(std::io::stderr.and(file))).with(said()).init();
    }
    Ok(())
}
