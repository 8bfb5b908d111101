//! How the host stands with its control server, in a line or two (pure).

use agentd_protocol::api::{ControlLink, ControlStatus, Readoption};

use crate::screen::{Line, Style};
use crate::words::{ago, bytes, harmless, many, span};

/// Below this a difference of clocks changes nothing, ms.
const SKEW_TOLD_MS: u64 = 60_000;

pub(super) fn lines(control: &ControlStatus, now_unix_ms: u64) -> Vec<Line> {
    let held = span(now_unix_ms.saturating_sub(control.since_unix_ms));
    let last = control.last_answer_unix_ms.map_or_else(
        || ", which has not answered since agentd started".to_owned(),
        |at| format!(", last answer {}", ago(now_unix_ms, at)),
    );
    let (style, word, said) = match &control.link {
        ControlLink::Connecting => (Style::Busy, "connecting", String::new()),
        ControlLink::Connected => (Style::Good, "connected", format!(" for {held}{last}")),
        ControlLink::Offline { cause } => (Style::Bad, "offline", format!(" for {held}{last}: {}", harmless(cause))),
        ControlLink::Refused { cause } => (Style::Bad, "refused", format!(" for {held}{last}: {}", harmless(cause))),
    };
    let head = Line::new(Style::Strong, "control: ").with(style, word);
    let mut lines =
        vec![head.with(Style::Plain, format!("{said} ({} as {})", harmless(&control.url), harmless(&control.name)))];
    lines.extend(control.readoption.as_ref().map(readoption));
    lines.push(versions(control, now_unix_ms));
    if let Some(refused) = &control.refused {
        let version =
            refused.version.map_or_else(|| "what it hands out".to_owned(), |version| format!("version {version}"));
        let when = ago(now_unix_ms, refused.since_unix_ms);
        let said = format!("  {version} is not taken ({}, {when}); what was applied stays in force:", refused.kind);
        lines.push(Line::new(Style::Bad, said));
        lines.extend(refused.reasons.iter().map(|reason| Line::from(format!("    {}", harmless(reason)))));
    }
    if control.outbox.lost > 0 || control.link != ControlLink::Connected {
        let waiting = many(usize::try_from(control.outbox.records).unwrap_or(usize::MAX), "event");
        let lost = match control.outbox.lost {
            0 => String::new(),
            lost => format!("; {lost} lost for want of room or time"),
        };
        lines.push(Line::from(format!("  {waiting} ({}) wait to be sent{lost}", bytes(control.outbox.bytes))));
    }
    let skew_ms = control.clock_skew_ms.unsigned_abs();
    if skew_ms >= SKEW_TOLD_MS {
        let way = if control.clock_skew_ms > 0 { "behind" } else { "ahead of" };
        lines.push(Line::new(Style::Busy, format!("  this host's clock is {} {way} the server's", span(skew_ms))));
    }
    lines
}

fn readoption(readoption: &Readoption) -> Line {
    let said = match readoption {
        Readoption::Due => "  it does not know this host any more, and will be asked to take it back".to_owned(),
        Readoption::Pending { code } => format!(
            "  asked to take this host back: say yes there, where the code has to be {} (`controld host approve`)",
            harmless(code)
        ),
        Readoption::Denied { cause } => {
            format!("  it does not take this host back: {}; services run on", harmless(cause))
        }
    };
    Line::new(Style::Busy, said)
}

fn versions(control: &ControlStatus, now_unix_ms: u64) -> Line {
    let shown = |version: Option<_>| {
        version.map_or_else(|| "none".to_owned(), |version: agentd_protocol::ids::Version| version.to_string())
    };
    let said = format!("  newest version {}, applied {}", shown(control.newest), shown(control.applied));
    let line = Line::from(match control.held {
        Some(held) => format!("{said}; version {held} is held back by the server"),
        None => said,
    });
    match control.fresh_until_unix_ms {
        None => line,
        Some(until) if until > now_unix_ms => {
            line.with(Style::Dim, format!("; fresh for another {}", span(until - now_unix_ms)))
        }
        Some(until) => line.with(
            Style::Busy,
            format!("; stale for {}: nobody has said since that it is the newest", span(now_unix_ms - until)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::control::ids::{HostId, StackId};
    use agentd_protocol::control::report::{OutboxReport, Refusal};
    use agentd_protocol::ids::Version;

    use super::*;
    use crate::screen::Screen;

    fn connected() -> ControlStatus {
        ControlStatus {
            url: "https://control.example.com".into(),
            stack: StackId::of(&[1; 16]),
            stack_name: "shop".into(),
            host: HostId::of(&[1; 16]),
            name: "web-1".into(),
            link: ControlLink::Connected,
            since_unix_ms: 0,
            last_answer_unix_ms: Some(60_000),
            newest: Some(Version(7)),
            applied: Some(Version(6)),
            fresh_until_unix_ms: Some(7_265_000),
            refused: None,
            held: None,
            outbox: OutboxReport::default(),
            clock_skew_ms: 0,
            readoption: None,
        }
    }

    fn said(control: &ControlStatus) -> String {
        lines(control, 65_000).iter().map(|line| line.shown(Screen::Plain)).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn a_good_link_is_two_lines() {
        let expected = "control: connected for 1 min, last answer 5 s ago (https://control.example.com as web-1)|  newest version 7, applied 6; \
                        fresh for another 2 h";
        assert_eq!(said(&connected()), expected);
    }

    #[test]
    fn trouble_says_since_when_and_why() {
        let offline = ControlStatus {
            link: ControlLink::Offline { cause: "connection refused".into() },
            outbox: OutboxReport { records: 3, bytes: 2_048, lost: 31 },
            fresh_until_unix_ms: Some(5_000),
            clock_skew_ms: -120_000,
            ..connected()
        };
        let told = said(&offline);
        for part in [
            "offline for 1 min, last answer 5 s ago: connection refused",
            "stale for 1 min",
            "3 events (2.0K) wait to be sent; 31 lost",
            "clock is 2 min ahead of",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let refused = ControlStatus {
            refused: Some(Refusal {
                version: Some(Version(8)),
                kind: "config.rejected".into(),
                reasons: vec!["proxy.port 80: \u{1b}[31mno".into()],
                since_unix_ms: 64_500,
            }),
            held: Some(Version(9)),
            ..connected()
        };
        let told = said(&refused);
        assert!(
            told.contains("version 8 is not taken (config.rejected, just now)") && !told.contains('\u{1b}'),
            "{told}"
        );
        assert!(told.contains("version 9 is held back"), "{told}");
    }

    #[test]
    fn a_server_that_has_forgotten_the_host_is_told_with_what_to_do() {
        for (readoption, part) in [
            (Readoption::Due, "will be asked to take it back"),
            (Readoption::Pending { code: "WXQR-4821".into() }, "WXQR-4821 (`controld host approve`)"),
            (Readoption::Denied { cause: "no\u{1b}".into() }, "does not take this host back: no"),
        ] {
            let link = ControlLink::Refused { cause: "it answers 401".into() };
            let told = said(&ControlStatus { link, readoption: Some(readoption), ..connected() });
            assert!(told.contains(part) && !told.contains('\u{1b}'), "{told}");
        }
    }
}
