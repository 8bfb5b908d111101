//! What the programs say of themselves: to stderr, and in dev to a file as well.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::app::Error;

/// For the edge, whose stderr is a log of the shim's.
pub fn to_stderr() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
}

/// For the manager. The file is appended to; one format serves both, so neither has colours.
pub fn to_stderr_and(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    let file = file.map_err(|source| Error::Log { path: path.to_owned(), source })?;
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr.and(Arc::new(file)))
        .init();
    Ok(())
}
