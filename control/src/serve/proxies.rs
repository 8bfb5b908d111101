//! Who is behind a proxy. A header is a stranger's text until a proxy of ours has written the end of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use ipnet::IpNet;

/// The one header that is believed: nginx, HAProxy, Caddy and Cloudflare's edge (and so cloudflared) each append to it
/// the address that called them. `CF-Connecting-IP` and `X-Real-IP` are passed on as they came by every proxy that does
/// not know them, so believing them would let a stranger choose his address.
const FORWARDED_FOR: &str = "x-forwarded-for";

#[derive(Debug, Clone, Default)]
pub(super) struct Proxies {
    trusted: Arc<[IpNet]>,
    /// The operator was told that one is not named.
    told: Arc<AtomicBool>,
}

impl Proxies {
    pub(super) fn new(trusted: &[IpNet]) -> Self {
        Self { trusted: trusted.into(), told: Arc::default() }
    }

    pub(super) fn are_behind(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&peer.to_canonical()))
    }

    /// Whom limits and the audit mean.
    pub(super) fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if self.are_behind(peer.ip()) {
            return SocketAddr::new(self.forwarded(peer.ip(), headers), peer.port());
        }
        if headers.contains_key(FORWARDED_FOR) && peer.ip().is_loopback() && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %peer,
                "a proxy on this machine is not named in trusted_proxies of controld.toml: all who come by it share one limit"
            );
        }
        peer
    }

    /// From the right, the first that is no proxy of ours; where a proxy has written what is no address, that proxy.
    fn forwarded(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("")).collect();
        let mut nearest = peer;
        for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = address(entry.trim()) else { break };
            nearest = address;
            if !self.are_behind(address) {
                break;
            }
        }
        nearest
    }
}

/// With or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        headers.insert("cf-connecting-ip", "192.0.2.66".parse().unwrap());
        headers.insert("x-real-ip", "192.0.2.66".parse().unwrap());
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        Proxies::new(&trusted).caller(peer, &headers).ip().to_string()
    }

    #[test]
    fn a_stranger_does_not_choose_his_address() {
        const OURS: &[&str] = &["127.0.0.1/32", "10.0.0.0/8"];
        for (trusted, peer, lines, expected) in [
            (OURS, "127.0.0.1", &["203.0.113.7"][..], "203.0.113.7"),
            (OURS, "::ffff:127.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            (OURS, "127.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (OURS, "127.0.0.1", &["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
            (OURS, "127.0.0.1", &["203.0.113.7, 10.1.2.3"], "203.0.113.7"),
            (OURS, "127.0.0.1", &["203.0.113.7:4711"], "203.0.113.7"),
            (OURS, "127.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            (OURS, "127.0.0.1", &["10.9.9.9"], "10.9.9.9"),
            (OURS, "127.0.0.1", &["203.0.113.7, unknown"], "127.0.0.1"),
            (OURS, "127.0.0.1", &[""], "127.0.0.1"),
            (OURS, "127.0.0.1", &[], "127.0.0.1"),
            (OURS, "192.0.2.1", &["203.0.113.7"], "192.0.2.1"),
            (&[], "127.0.0.1", &["203.0.113.7"], "127.0.0.1"),
        ] {
            assert_eq!(caller(trusted, peer, lines), expected, "{trusted:?} {peer} {lines:?}");
        }
    }
}
