//! The tunnel in a line (pure), and what is wrong with it in one more.

use agentd_protocol::api::{TunnelState, TunnelStatus};

use super::word;
use crate::screen::{Line, Style};
use crate::words::{harmless, many, span};

pub(super) fn lines(tunnel: &TunnelStatus, now_unix_ms: u64) -> Vec<Line> {
    let style = match tunnel.state {
        TunnelState::Connected => Style::Good,
        TunnelState::Connecting => Style::Busy,
        TunnelState::Degraded | TunnelState::Down => Style::Bad,
    };
    let connections = match tunnel.connections {
        0 => String::new(),
        count => format!(", {}", many(usize::try_from(count).unwrap_or(usize::MAX), "connection")),
    };
    let held = span(now_unix_ms.saturating_sub(tunnel.since_unix_ms));
    let whose = if tunnel.managed { "" } else { ", run by somebody else" };
    let cause = tunnel.cause.as_ref().map(|cause| format!(": {}", harmless(cause))).unwrap_or_default();
    let said = format!("{connections}, for {held}{whose}{cause}");
    let line = Line::new(Style::Strong, "tunnel: ").with(style, word(&tunnel.state)).with(Style::Plain, said);
    let drift = tunnel.config_drift.as_ref().map(|drift| Line::from(format!("  tunnel {}", harmless(drift))));
    std::iter::once(line).chain(drift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Screen;

    #[test]
    fn a_line_says_how_it_does_and_why() {
        let tunnel = TunnelStatus {
            state: TunnelState::Connected,
            since_unix_ms: 0,
            connections: 4,
            managed: true,
            metrics: "127.0.0.1:20241".parse().unwrap(),
            cause: None,
            config_drift: None,
        };
        let said = |tunnel: &TunnelStatus| {
            lines(tunnel, 65_000).iter().map(|line| line.shown(Screen::Plain)).collect::<Vec<_>>().join("|")
        };
        assert_eq!(said(&tunnel), "tunnel: connected, 4 connections, for 1 min");
        let lost = TunnelStatus {
            state: TunnelState::Down,
            connections: 0,
            managed: false,
            cause: Some("nothing answers".into()),
            config_drift: Some("leads to ssh://localhost:22".into()),
            ..tunnel
        };
        let expected =
            "tunnel: down, for 1 min, run by somebody else: nothing answers|  tunnel leads to ssh://localhost:22";
        assert_eq!(said(&lost), expected);
    }
}
