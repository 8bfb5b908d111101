//! Every task has a name, and the few whose end would leave a daemon half alive end the process instead.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Exit code when an essential task ended unasked: sysexits.h EX_SOFTWARE; the service manager starts us again.
const EXIT_ESSENTIAL_ENDED: i32 = 70;

/// Starts a task under a name.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::info_span!("task", name)))
}

/// Starts blocking work (files, SQLite, hashes of passwords) on the blocking pool.
#[expect(clippy::disallowed_methods, reason = "the one place that starts blocking work")]
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || tracing::info_span!("blocking", name).in_scope(work))
}

/// Starts a task the process cannot do without. When it ends, or panics, before `cancel` was called, the process exits:
/// a daemon of ours is crash-only, and what the agent supervises lives on.
pub fn spawn_essential<F>(name: &'static str, cancel: CancellationToken, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let inner = spawn(name, future);
    spawn(name, async move {
        let ended = inner.await;
        if !cancel.is_cancelled() {
            tracing::error!(
                task = name,
                panicked = ended.is_err(),
                "essential task ended; exiting to be started again"
            );
            std::process::exit(EXIT_ESSENTIAL_ENDED);
        }
    })
}
