//! Sessions of a browser: how long one lasts (pure), and the cookie that carries it.

use super::secret::Secret;

/// Without a request.
pub(crate) const IDLE_MS: u64 = 12 * 3_600 * 1_000;
/// From login on, whatever happens.
pub(crate) const ABSOLUTE_MS: u64 = 14 * 86_400 * 1_000;
/// A request writes down that the session is in use, at most so often: reading pages is no load for the disk.
pub(crate) const TOUCH_MS: u64 = 60 * 1_000;
/// Of one account; the oldest one ends when another begins.
pub(crate) const SESSIONS_MAX: u32 = 20;
/// Of all cookies of a request, bytes: beyond it they are not ours.
const COOKIES_BYTES_MAX: usize = 8 * 1024;

/// By what the browser reaches us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tls,
    /// Plain HTTP, on loopback or where the operator said so: browsers take no `Secure` cookie there.
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) created_ms: u64,
    pub(crate) seen_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Live,
    /// Live, and it is time to write down that it is.
    Touch,
    Over,
}

pub(crate) fn judge(times: Times, now_ms: u64) -> Verdict {
    let idle = now_ms.saturating_sub(times.seen_ms);
    if idle >= IDLE_MS || now_ms.saturating_sub(times.created_ms) >= ABSOLUTE_MS {
        Verdict::Over
    } else if idle >= TOUCH_MS {
        Verdict::Touch
    } else {
        Verdict::Live
    }
}

impl Transport {
    /// `__Host-`: only over TLS, only from this very host, for every path (RFC 6265bis §4.1.3.2).
    pub(crate) fn cookie(self) -> &'static str {
        match self {
            Self::Tls => "__Host-agentd",
            Self::Plain => "agentd-plain",
        }
    }

    fn attributes(self) -> &'static str {
        match self {
            Self::Tls => "Path=/; HttpOnly; SameSite=Lax; Secure",
            Self::Plain => "Path=/; HttpOnly; SameSite=Lax",
        }
    }

    /// Value of `Set-Cookie`.
    pub(crate) fn begin(self, secret: &Secret) -> String {
        format!("{}={}; {}; Max-Age={}", self.cookie(), secret.text(), self.attributes(), ABSOLUTE_MS / 1_000)
    }

    pub(crate) fn end(self) -> String {
        format!("{}=; {}; Max-Age=0", self.cookie(), self.attributes())
    }

    /// From the value of `Cookie`. The same name twice is nobody's session: one of the two was planted.
    pub(crate) fn read(self, cookies: &str) -> Option<Secret> {
        if cookies.len() > COOKIES_BYTES_MAX {
            return None;
        }
        let named = |pair: &str| {
            pair.trim().split_once('=').filter(|(name, _)| *name == self.cookie()).map(|(_, v)| v.to_owned())
        };
        let mut values = cookies.split(';').filter_map(named);
        match (values.next(), values.next()) {
            (Some(value), None) => Secret::read(&value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_idle_or_old() {
        let begun = Times { created_ms: 1_000, seen_ms: 1_000 };
        for (now_ms, verdict) in [
            (1_000, Verdict::Live),
            (0, Verdict::Live),
            (1_000 + TOUCH_MS - 1, Verdict::Live),
            (1_000 + TOUCH_MS, Verdict::Touch),
            (1_000 + IDLE_MS - 1, Verdict::Touch),
            (1_000 + IDLE_MS, Verdict::Over),
        ] {
            assert_eq!(judge(begun, now_ms), verdict, "{now_ms}");
        }
        let used = Times { created_ms: 0, seen_ms: ABSOLUTE_MS - 1 };
        assert_eq!((judge(used, ABSOLUTE_MS - 1), judge(used, ABSOLUTE_MS)), (Verdict::Live, Verdict::Over));
    }

    #[test]
    fn cookies_are_written_and_read() {
        let secret = Secret::draw();
        let written = Transport::Tls.begin(&secret);
        assert!(written.starts_with("__Host-agentd=") && written.contains("; Secure") && written.contains("HttpOnly"));
        assert!(!Transport::Plain.begin(&secret).contains("Secure"));
        let sent = format!("a=b; __Host-agentd={}; c", secret.text());
        assert_eq!(Transport::Tls.read(&sent).unwrap().hash(), secret.hash());
        assert!(Transport::Plain.read(&sent).is_none(), "another transport, another cookie");
        assert!(Transport::Tls.read(&format!("{sent}; __Host-agentd=x")).is_none());
        assert!(Transport::Tls.read(&format!("{sent}; {}", "x".repeat(COOKIES_BYTES_MAX))).is_none());
        assert!(Transport::Tls.end().contains("Max-Age=0"));
    }
}
