//! The two ways in, which share everything but where they lead. Pure.

use std::net::SocketAddr;

use super::errors::Fault;

/// Which of our listeners a connection came in by; what may be reached depends on it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// By host and path to the services that are public.
    External,
    /// By the service's name in Host, whatever the path; for this host's own programs.
    Internal,
}

impl Entrance {
    /// The internal listener is bound to loopback; should it ever be not, nobody else is let in.
    pub(super) fn admits(self, peer: SocketAddr) -> bool {
        match self {
            Self::External => true,
            Self::Internal => peer.ip().to_canonical().is_loopback(),
        }
    }

    pub(super) fn unknown(self) -> Fault {
        match self {
            Self::External => Fault::NoRoute,
            Self::Internal => Fault::NoName,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_let_in_from_within() {
        for (peer, admitted) in [
            ("127.0.0.1:9", true),
            ("127.8.8.8:9", true),
            ("[::1]:9", true),
            ("[::ffff:127.0.0.1]:9", true),
            ("10.0.0.1:9", false),
            ("[fe80::1]:9", false),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            assert_eq!(Entrance::Internal.admits(peer), admitted, "{peer}");
            assert!(Entrance::External.admits(peer), "{peer}");
        }
    }
}
