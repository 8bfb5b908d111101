//! How often one source may try to enrol: signatures are cheap to send and cost us an elliptic curve each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::core::Error;

/// Per minute and network of a source. Loopback is not counted: a reverse proxy is there, and all hosts come through it.
const PER_SOURCE: u32 = 30;
/// Per minute, of all.
const OF_ALL: u32 = 3_000;
const WINDOW: Duration = Duration::from_secs(60);
/// Networks remembered at once; beyond it the limit of all is the only one.
const SOURCES_MAX: usize = 10_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Enrolments(Arc<Mutex<Windows>>);

#[derive(Debug, Default)]
struct Windows {
    all: Option<Window>,
    by_source: HashMap<IpAddr, Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    count: u32,
}

impl Window {
    /// The seconds to wait where there were too many.
    fn add(window: Option<Self>, max: u32, now: Instant) -> (Self, Option<u64>) {
        let mut window = window.filter(|window| now - window.began < WINDOW).unwrap_or(Self { began: now, count: 0 });
        window.count = window.count.saturating_add(1);
        let rest = WINDOW.saturating_sub(now - window.began).as_secs() + 1;
        (window, (window.count > max).then_some(rest))
    }
}

impl Enrolments {
    pub(super) fn check(&self, source: Option<IpAddr>, now: Instant) -> Result<(), Error> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // First its own: who is over it takes nothing from the others.
        let of_source = source.filter(|source| !source.is_loopback()).and_then(|source| {
            let source = network(source);
            if windows.by_source.len() >= SOURCES_MAX {
                windows.by_source.retain(|_, window| now - window.began < WINDOW);
            }
            let before = windows.by_source.get(&source).copied();
            if before.is_none() && windows.by_source.len() >= SOURCES_MAX {
                return None;
            }
            let (window, wait) = Window::add(before, PER_SOURCE, now);
            windows.by_source.insert(source, window);
            wait
        });
        let wait = of_source.or_else(|| {
            let (all, wait) = Window::add(windows.all, OF_ALL, now);
            windows.all = Some(all);
            wait
        });
        wait.map_or(Ok(()), |retry_s| Err(Error::RateLimited { retry_s }))
    }
}

/// /24 and /56: what one customer of a network has.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[7..].fill(0);
            octets.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_slowed_and_others_are_not() {
        let (limits, start) = (Enrolments::default(), Instant::now());
        let check = |text: &str, after: u64| limits.check(text.parse().ok(), start + Duration::from_secs(after));
        for host in 0..PER_SOURCE {
            assert!(check(&format!("203.0.113.{host}"), 0).is_ok());
        }
        assert!(matches!(check("203.0.113.200", 10), Err(Error::RateLimited { retry_s: 51 })));
        assert!(check("198.51.100.1", 10).is_ok() && check("127.0.0.1", 10).is_ok());
        assert!(check("203.0.113.200", 61).is_ok());
    }
}
