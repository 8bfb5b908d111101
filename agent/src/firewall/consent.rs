//! Whose SSH an order would end, what they must type to mean it, and whether a confirmation proves anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use agentd_protocol::security::Mode;

use super::{Facts, Policy, Session};

/// Ancestors of a caller that are looked at; no session is nested deeper.
const ANCESTORS_MAX: usize = 64;

/// Which interface an address of this host is on.
pub type Interfaces = BTreeMap<IpAddr, String>;

/// SSH sessions whose peers could not come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stranded(pub Vec<Session>);

impl Stranded {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn peers(&self) -> String {
        let peers: BTreeSet<IpAddr> = self.0.iter().map(|session| session.peer.ip().to_canonical()).collect();
        peers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
    }

    pub fn in_words(&self) -> String {
        format!("somebody is on SSH from {} and could not come back", self.peers())
    }
}

/// What a person types to end somebody's SSH; `None` where nobody's ends.
pub fn phrase(stranded: &Stranded) -> Option<String> {
    (!stranded.is_empty()).then(|| format!("block ssh from {}", stranded.peers()))
}

/// Everybody who is on SSH now, from outside.
pub fn on_ssh(facts: &Facts) -> impl Iterator<Item = &Session> {
    facts.survivors.iter().filter(|session| {
        facts.ssh_ports.contains(&session.local.port()) && !session.peer.ip().to_canonical().is_loopback()
    })
}

pub fn stranded(policy: &Policy, facts: &Facts, interfaces: &Interfaces) -> Stranded {
    Stranded(on_ssh(facts).filter(|session| !comes_back(policy, session, interfaces)).copied().collect())
}

/// Whether a new connection from the same peer would be let in.
pub fn comes_back(policy: &Policy, session: &Session, interfaces: &Interfaces) -> bool {
    let by_interface = || {
        let named = |name: &String| policy.ssh_interfaces.contains(name) || policy.trusted_interfaces.contains(name);
        interfaces.get(&session.local.ip().to_canonical()).is_some_and(named)
    };
    let peer = session.peer.ip().to_canonical();
    match policy.mode {
        Mode::Open => true,
        Mode::DaemonPort => policy.ssh.iter().any(|network| network.contains(&peer)) || by_interface(),
        Mode::Tunnel => by_interface(),
    }
}

/// The addresses of this host.
pub fn interfaces() -> Interfaces {
    let Ok(found) = nix::ifaddrs::getifaddrs() else { return Interfaces::new() };
    let address = |item: nix::ifaddrs::InterfaceAddress| {
        let storage = item.address?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        Some((ip, item.interface_name))
    };
    found.filter_map(address).collect()
}

/// The SSH session a process was started from: the nearest of it and its ancestors that knows of one. `sudo` and `su`
/// drop the variable, their parent has it.
pub fn session_of(pid: u32) -> Option<Session> {
    let mut pid = pid;
    for _ in 0..ANCESTORS_MAX {
        let found = std::fs::read(format!("/proc/{pid}/environ")).ok().and_then(|environ| connection(&environ));
        if found.is_some() {
            return found;
        }
        pid = agentd_sys::process::stat(pid).map(|stat| stat.parent).filter(|parent| *parent > 1)?;
    }
    None
}

/// `SSH_CONNECTION` as sshd(8) sets it: client's address and port, server's address and port.
fn connection(environ: &[u8]) -> Option<Session> {
    let entry = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    let text = std::str::from_utf8(entry).ok()?;
    let mut words = text.split(' ');
    let mut end = || {
        let ip: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(ip.to_canonical(), words.next()?.parse().ok()?))
    };
    let (peer, local) = (end()?, end()?);
    Some(Session { local, peer })
}

/// Whether a connection is one of those that were there before.
pub fn is_among(session: &Session, before: &[Session]) -> bool {
    let plain = |address: &SocketAddr| (address.ip().to_canonical(), address.port());
    before.iter().any(|old| plain(&old.peer) == plain(&session.peer) && plain(&old.local) == plain(&session.local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(peer: &str, local: &str) -> Session {
        Session { local: local.parse().unwrap(), peer: peer.parse().unwrap() }
    }

    fn facts(sessions: &[Session]) -> Facts {
        Facts { ssh_ports: [22].into(), survivors: sessions.iter().copied().collect(), ..Facts::default() }
    }

    #[test]
    fn those_who_could_not_come_back_are_named_once() {
        let inside = session("203.0.113.7:50000", "192.0.2.1:22");
        let outside = session("[::ffff:198.51.100.20]:50000", "[::ffff:192.0.2.1]:22");
        let twice = session("198.51.100.20:50001", "192.0.2.1:22");
        let web = session("198.51.100.21:50000", "192.0.2.1:80");
        let home = session("127.0.0.1:50000", "127.0.0.1:22");
        let facts = facts(&[inside, outside, twice, web, home]);
        let ssh = vec!["203.0.113.0/24".parse().unwrap()];
        let policy = Policy { mode: Mode::DaemonPort, ssh, ..Policy::open() };
        let mut interfaces = Interfaces::new();
        let found = stranded(&policy, &facts, &interfaces);
        assert_eq!(found.0.len(), 2, "{found:?}");
        assert_eq!(phrase(&found).unwrap(), "block ssh from 198.51.100.20");
        assert_eq!(phrase(&stranded(&Policy::open(), &facts, &interfaces)), None);
        let tunnel = Policy { mode: Mode::Tunnel, ..policy.clone() };
        assert_eq!(
            phrase(&stranded(&tunnel, &facts, &interfaces)).unwrap(),
            "block ssh from 198.51.100.20, 203.0.113.7"
        );
        interfaces.insert("192.0.2.1".parse().unwrap(), "wg0".into());
        let private = Policy { ssh_interfaces: ["wg0".to_owned()].into(), ..tunnel };
        assert!(stranded(&private, &facts, &interfaces).is_empty());
    }

    #[test]
    fn the_callers_session_is_read_off_its_environment() {
        let environ = b"A=1\0SSH_CONNECTION=198.51.100.20 50001 192.0.2.1 22\0B=2\0";
        let found = connection(environ).unwrap();
        assert_eq!(found, session("198.51.100.20:50001", "192.0.2.1:22"));
        assert!(is_among(&found, &[session("[::ffff:198.51.100.20]:50001", "[::ffff:192.0.2.1]:22")]));
        assert!(!is_among(&found, &[session("198.51.100.20:50002", "192.0.2.1:22")]), "a new connection");
        let link_local = connection(b"SSH_CONNECTION=fe80::1%eth0 5 fe80::2%eth0 22\0").unwrap();
        assert_eq!(link_local, session("[fe80::1]:5", "[fe80::2]:22"));
        for bad in [&b""[..], b"SSH_CONNECTION=\0", b"SSH_CONNECTION=a b c d\0", b"SSH_CONNECTION=1.2.3.4 5 1.2.3.4\0"]
        {
            assert_eq!(connection(bad), None);
        }
    }

    #[test]
    fn a_process_finds_the_session_of_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("SSH_CONNECTION", "198.51.100.20 50001 192.0.2.1 22")
            .spawn()
            .unwrap();
        // The kernel lets the parent go on before the new program's environment can be read.
        let start = std::time::Instant::now();
        let found = loop {
            match session_of(child.id()) {
                None if start.elapsed().as_secs() < 10 => std::thread::yield_now(),
                found => break found,
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(session("198.51.100.20:50001", "192.0.2.1:22")));
    }
}
