//! What the service manager is told (sd_notify(3)); nothing where none started us.

use sd_notify::NotifyState;

/// Requests are answered. `text` is the line of `systemctl status`.
pub fn ready(text: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    say(&[NotifyState::Status(text)]);
}

/// To be said at least as often as [`sd_notify::watchdog_enabled`] demands.
pub fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// From here on the unit's stop timeout counts: to be said at the very end.
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
