//! The signals a daemon listens to.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT; says which.
///
/// # Panics
/// When the runtime has no signal driver.
pub async fn termination() -> &'static str {
    let mut term = signal(SignalKind::terminate()).expect("the runtime has its signal driver");
    let mut int = signal(SignalKind::interrupt()).expect("the runtime has its signal driver");
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// SIGHUP: files are to be read again.
///
/// # Panics
/// When the runtime has no signal driver.
pub fn hangup() -> Signal {
    signal(SignalKind::hangup()).expect("the runtime has its signal driver")
}
