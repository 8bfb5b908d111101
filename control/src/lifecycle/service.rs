//! What the service manager is told (sd_notify(3)); nothing where none started us.

use sd_notify::NotifyState;

/// Requests are answered.
pub fn ready() {
    say(&[NotifyState::Ready, NotifyState::Status("serves")]);
}

pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Whether our stderr is the journal, which has the time of every line.
pub fn logs_to_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
