//! Whether those on SSH could come back under a policy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agentd_protocol::security::Mode;
use ipnet::IpNet;

use super::super::{Facts, Policy};
use super::Peer;

/// A household's or a site's usual share of IPv6 (RFC 4291 §2.5.1): addresses within it change by themselves.
const IPV6_SITE_BITS: u8 = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    NobodyOnSsh,
    /// All of them could connect anew.
    StillAllowed(Vec<Peer>),
    /// These could not.
    WouldEnd {
        peers: Vec<Peer>,
        /// To be typed by whoever means it.
        phrase: String,
        /// Networks that would let them in, for `security.ssh` or `--ssh`; none where no network can.
        propose: Vec<IpNet>,
    },
}

pub fn judge(peers: &[Peer], policy: &Policy, facts: &Facts) -> Verdict {
    if peers.is_empty() {
        return Verdict::NobodyOnSsh;
    }
    let ended: Vec<Peer> = peers.iter().filter(|peer| !admits(policy, facts, peer)).cloned().collect();
    if ended.is_empty() {
        return Verdict::StillAllowed(peers.to_vec());
    }
    let addresses: BTreeSet<IpAddr> = ended.iter().map(|peer| peer.address).collect();
    let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let propose = match policy.mode {
        Mode::DaemonPort => {
            let named = ended.iter().filter(|peer| facts.ssh_ports.contains(&peer.port));
            let networks: BTreeSet<IpNet> = named.map(|peer| network_of(peer.address)).collect();
            networks.into_iter().collect()
        }
        Mode::Open | Mode::Tunnel => Vec::new(),
    };
    Verdict::WouldEnd { peers: ended, phrase: format!("block ssh from {}", names.join(", ")), propose }
}

/// Whether the rules would accept a new connection from there (A2, P9). SSH let in for a while (T2) does not count: it
/// ends by itself.
fn admits(policy: &Policy, facts: &Facts, peer: &Peer) -> bool {
    let on = |interfaces: &BTreeSet<String>| peer.interface.as_ref().is_some_and(|name| interfaces.contains(name));
    let ssh_port = facts.ssh_ports.contains(&peer.port);
    let named = || policy.ssh_networks().iter().any(|network| network.contains(&peer.address));
    match policy.mode {
        Mode::Open => true,
        Mode::DaemonPort => on(&policy.trusted_interfaces) || ssh_port && (on(&policy.ssh_interfaces) || named()),
        Mode::Tunnel => on(&policy.trusted_interfaces) || ssh_port && on(&policy.ssh_interfaces),
    }
}

fn network_of(address: IpAddr) -> IpNet {
    let bits = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => IPV6_SITE_BITS,
    };
    IpNet::new_assert(address, bits).trunc()
}
