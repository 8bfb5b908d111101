//! States as a page shows them: never by colour alone, always a glyph and a word. Pure.

use std::fmt;

use agentd_protocol::api::{ServiceState, Severity, TunnelState, Verdict};

use crate::model::{Health, Presence, Rollout, Standing, TokenState};

/// What a state means to a person; best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tone {
    Good,
    /// Neither good nor bad: off, revoked, not there yet.
    Quiet,
    /// On its way.
    Moving,
    /// Not known: nobody has said anything for a while.
    Silent,
    Warning,
    Bad,
}

impl Tone {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Quiet => "quiet",
            Self::Moving => "moving",
            Self::Silent => "silent",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }

    pub(crate) fn glyph(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Quiet => "–",
            Self::Moving => "↻",
            Self::Silent => "?",
            Self::Warning => "!",
            Self::Bad => "✗",
        }
    }
}

/// Writes HTML that holds our own words alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) tone: Tone,
    pub(crate) word: &'static str,
}

impl Status {
    pub(crate) const fn new(tone: Tone, word: &'static str) -> Self {
        Self { tone, word }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, glyph, word) = (self.tone.class(), self.tone.glyph(), self.word);
        write!(
            f,
            "<span class=\"status {class}\" data-testid=\"status\" data-status=\"{word}\"><span class=\"glyph\" aria-hidden=\"true\">{glyph}</span>{word}</span>"
        )
    }
}

impl askama::filters::HtmlSafe for Status {}

pub(crate) fn health(health: Health) -> Status {
    match health {
        Health::Unknown => Status::new(Tone::Quiet, "no reports"),
        Health::Good => Status::new(Tone::Good, "good"),
        Health::Moving => Status::new(Tone::Moving, "deploying"),
        Health::Warning => Status::new(Tone::Warning, "look"),
        Health::Broken => Status::new(Tone::Bad, "broken"),
    }
}

pub(crate) fn service(state: ServiceState) -> Status {
    match state {
        ServiceState::Pending => Status::new(Tone::Moving, "pending"),
        ServiceState::Fetching => Status::new(Tone::Moving, "fetching"),
        ServiceState::Building => Status::new(Tone::Moving, "building"),
        ServiceState::Starting => Status::new(Tone::Moving, "starting"),
        ServiceState::Ready => Status::new(Tone::Good, "ready"),
        ServiceState::Partial => Status::new(Tone::Warning, "partial"),
        ServiceState::Failing => Status::new(Tone::Bad, "failing"),
        ServiceState::CrashLoop => Status::new(Tone::Bad, "crash loop"),
        ServiceState::Stopped => Status::new(Tone::Quiet, "stopped"),
        ServiceState::Stopping => Status::new(Tone::Moving, "stopping"),
        ServiceState::Removed => Status::new(Tone::Quiet, "removed"),
    }
}

/// What is known of a service on a host that says nothing: that it is not known.
pub(crate) fn service_on(state: ServiceState, host_is_silent: bool) -> Status {
    if host_is_silent { Status::new(Tone::Silent, "silent") } else { service(state) }
}

pub(crate) fn host(standing: &Standing, presence: Presence) -> Status {
    match (standing, presence) {
        (Standing::Pending { .. }, _) => Status::new(Tone::Warning, "asks to join"),
        (Standing::Revoked { .. }, _) => Status::new(Tone::Quiet, "revoked"),
        (Standing::Active, Presence::NeverReported) => Status::new(Tone::Quiet, "never reported"),
        (Standing::Active, Presence::Reporting { .. }) => Status::new(Tone::Good, "connected"),
        (Standing::Active, Presence::Silent { .. }) => Status::new(Tone::Silent, "silent"),
    }
}

pub(crate) fn rollout(rollout: &Rollout) -> Status {
    match rollout {
        Rollout::NothingPublished => Status::new(Tone::Quiet, "nothing published"),
        Rollout::Applied => Status::new(Tone::Good, "on newest"),
        Rollout::Behind => Status::new(Tone::Moving, "behind"),
        Rollout::Held => Status::new(Tone::Quiet, "on hold"),
        Rollout::Ahead => Status::new(Tone::Warning, "ahead of server"),
        Rollout::Refused { .. } => Status::new(Tone::Bad, "refused"),
    }
}

pub(crate) fn verdict(verdict: Verdict) -> Status {
    match verdict {
        Verdict::Empty => Status::new(Tone::Quiet, "empty"),
        Verdict::Applying => Status::new(Tone::Moving, "applying"),
        Verdict::Applied => Status::new(Tone::Good, "applied"),
        Verdict::Degraded => Status::new(Tone::Bad, "degraded"),
    }
}

pub(crate) fn severity(severity: Severity) -> Status {
    match severity {
        Severity::Info => Status::new(Tone::Quiet, "info"),
        Severity::Warn => Status::new(Tone::Warning, "warn"),
        Severity::Error => Status::new(Tone::Bad, "error"),
    }
}

pub(crate) fn tunnel(state: TunnelState) -> Status {
    match state {
        TunnelState::Down => Status::new(Tone::Bad, "down"),
        TunnelState::Connecting => Status::new(Tone::Moving, "connecting"),
        TunnelState::Degraded => Status::new(Tone::Warning, "degraded"),
        TunnelState::Connected => Status::new(Tone::Good, "connected"),
    }
}

pub(crate) fn token(state: &TokenState) -> Status {
    match state {
        TokenState::Open => Status::new(Tone::Moving, "open"),
        TokenState::Used { .. } => Status::new(Tone::Good, "used"),
        TokenState::Expired => Status::new(Tone::Quiet, "expired"),
        TokenState::Revoked { .. } => Status::new(Tone::Quiet, "revoked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_host_never_shows_what_it_last_said_as_true() {
        for state in [ServiceState::Ready, ServiceState::Stopped, ServiceState::Failing] {
            assert_eq!(service_on(state, true).word, "silent");
        }
        assert_eq!(service_on(ServiceState::Stopped, false).word, "stopped");
        assert_eq!(host(&Standing::Active, Presence::Silent { since_unix_ms: 1 }).word, "silent");
    }

    #[test]
    fn a_state_is_a_glyph_and_a_word() {
        let shown = service(ServiceState::CrashLoop).to_string();
        assert!(shown.contains("✗") && shown.contains(">crash loop<"), "{shown}");
        assert!(Tone::Good < Tone::Bad);
    }
}
