use agentd_protocol::security::Mode;
use ipnet::IpNet;
use proptest::prelude::*;

use super::super::{Facts, Policy};
use super::*;

const PEER: &str = "198.51.100.20:50000";

fn scene(local: &str, holder: &str) -> Scene {
    let connection = Socket { address: local.parse().unwrap(), peer: PEER.parse().unwrap(), inode: 7, uid: 0 };
    Scene {
        connections: vec![connection],
        listening: vec![(22, 8)],
        ssh_ports: [22].into(),
        holders: [(7, vec![Holder { pid: 40, name: holder.into() }])].into(),
        environments: BTreeSet::new(),
        sessions: BTreeSet::new(),
        interfaces: [("192.0.2.1".parse().unwrap(), "eth0".into())].into(),
        ephemeral: 32_768..=60_999,
    }
}

fn hows(scene: &Scene) -> Vec<How> {
    peers(scene).into_iter().map(|peer| peer.how).collect()
}

fn policy(mode: Mode) -> Policy {
    Policy { mode, ..Policy::open() }
}

fn facts() -> Facts {
    Facts { ssh_ports: [22].into(), ..Facts::default() }
}

#[test]
fn a_connection_held_by_any_server_is_somebody_on_ssh() {
    for server in ["sshd", "sshd-session", "sshd-auth", "dropbear"] {
        // On a port nobody listens on any more, as after a change of sshd's port.
        let found = peers(&scene("192.0.2.1:2222", server));
        let peer = Peer {
            address: "198.51.100.20".parse().unwrap(),
            port: 2222,
            interface: Some("eth0".into()),
            how: How::Held,
        };
        assert_eq!(found, [peer], "{server}");
    }
    assert_eq!(peers(&scene("192.0.2.1:2222", "nginx")), []);
}

#[test]
fn a_port_of_ssh_is_enough_whoever_holds_the_connection() {
    let mut seen = scene("192.0.2.1:2222", "invisible");
    seen.listening = vec![(2222, 8)];
    assert_eq!(hows(&seen), []);
    seen.holders.insert(8, vec![Holder { pid: 50, name: "sshd".into() }]);
    assert_eq!(hows(&seen), [How::Port]);
    // As a socket unit has it: process 1 listens, `Facts` know the port.
    assert_eq!(hows(&scene("192.0.2.1:22", "invisible")), [How::Port]);
}

#[test]
fn environment_and_logind_count_where_the_connection_is_there() {
    let mut seen = scene("192.0.2.1:2022", "renamed");
    let ends = |peer: &str| (peer.parse().unwrap(), "192.0.2.1:2022".parse().unwrap());
    seen.environments.insert(ends("198.51.100.21:50000"));
    assert_eq!(hows(&seen), [], "that of a session long gone");
    seen.environments.insert(ends(PEER));
    assert_eq!(hows(&seen), [How::Environment]);
    let mut seen = scene("192.0.2.1:22", "renamed");
    seen.ssh_ports = [2022].into();
    assert_eq!(hows(&seen), []);
    seen.sessions.insert("198.51.100.20".parse().unwrap());
    assert_eq!(hows(&seen), [How::Logind]);
}

#[test]
fn what_a_server_opens_itself_and_loopback_are_nobody() {
    assert_eq!(peers(&scene("192.0.2.1:40000", "sshd-session")), [], "ssh -L to somewhere else");
    let mut seen = scene("127.0.0.1:22", "sshd");
    seen.connections[0].peer = "127.0.0.1:50000".parse().unwrap();
    assert_eq!(peers(&seen), []);
}

#[test]
fn what_other_programs_write_is_read() {
    let environ = b"HOME=/root\0SSH_CONNECTION=2001:db8::7 5000 fe80::1%eth0 22\0X=";
    let (peer, local) = ("[2001:db8::7]:5000".parse().unwrap(), "[fe80::1]:22".parse().unwrap());
    assert_eq!(gather::ssh_connection(environ), Some((peer, local)));
    for torn in [&b"SSH_CONNECTION=1.2.3.4 5 6.7.8.9"[..], b"SSH_CONNECTION=a b c d", b"", b"\xff\0SSH_CONNECTION=\xff"]
    {
        assert_eq!(gather::ssh_connection(torn), None);
    }
    let session = "UID=0\nACTIVE=1\nSTATE=active\nREMOTE=1\nREMOTE_HOST=198.51.100.20\nSERVICE=sshd\n";
    assert_eq!(gather::remote_host(session), "198.51.100.20".parse().ok());
    assert_eq!(gather::remote_host(&session.replace("active", "closing")), None);
    assert_eq!(gather::remote_host(&session.replace("REMOTE=1", "REMOTE=0")), None);
    assert_eq!(gather::ephemeral("1024\t65000\n"), 1024..=65000);
    assert_eq!(gather::ephemeral(""), 32_768..=60_999);
}

#[test]
fn daemon_port_asks_for_the_network_that_is_missing() {
    let seen = peers(&scene("192.0.2.1:22", "sshd"));
    let Verdict::WouldEnd { phrase, propose, peers } = judge(&seen, &policy(Mode::DaemonPort), &facts()) else {
        panic!("nothing lets it in")
    };
    assert_eq!((phrase.as_str(), peers), ("block ssh from 198.51.100.20", seen.clone()));
    assert_eq!(propose, ["198.51.100.20/32".parse::<IpNet>().unwrap()]);
    let named = Policy { ssh: propose, ..policy(Mode::DaemonPort) };
    assert_eq!(judge(&seen, &named, &facts()), Verdict::StillAllowed(seen.clone()));
    let elsewhere = Facts { ssh_ports: [2222].into(), ..Facts::default() };
    let verdict = judge(&seen, &named, &elsewhere);
    assert!(matches!(verdict, Verdict::WouldEnd { propose, .. } if propose.is_empty()), "no network opens that port");
    assert_eq!(judge(&[], &policy(Mode::Tunnel), &facts()), Verdict::NobodyOnSsh);
}

#[test]
fn tunnel_ends_ssh_but_on_interfaces_the_owner_named() {
    let seen = peers(&scene("192.0.2.1:22", "sshd"));
    let networks = Policy { ssh: vec!["198.51.100.0/24".parse().unwrap()], ..policy(Mode::Tunnel) };
    let verdict = judge(&seen, &networks, &facts());
    assert!(matches!(verdict, Verdict::WouldEnd { propose, .. } if propose.is_empty()), "networks do not help there");
    let named = Policy { ssh_interfaces: ["eth0".into()].into(), ..policy(Mode::Tunnel) };
    assert_eq!(judge(&seen, &named, &facts()), Verdict::StillAllowed(seen.clone()));
    let trusted = Policy { trusted_interfaces: ["eth0".into()].into(), ..policy(Mode::Tunnel) };
    assert_eq!(judge(&seen, &trusted, &facts()), Verdict::StillAllowed(seen));
}

#[test]
fn several_are_named_in_order_and_once() {
    let peer = |address: &str, port| Peer { address: address.parse().unwrap(), port, interface: None, how: How::Held };
    let several =
        [peer("2001:db8::9", 22), peer("203.0.113.9", 22), peer("203.0.113.9", 2222), peer("198.51.100.20", 22)];
    let Verdict::WouldEnd { phrase, propose, .. } = judge(&several, &policy(Mode::DaemonPort), &facts()) else {
        panic!("nothing lets them in")
    };
    assert_eq!(phrase, "block ssh from 198.51.100.20, 203.0.113.9, 2001:db8::9");
    let shown: Vec<String> = propose.iter().map(IpNet::to_string).collect();
    assert_eq!(shown, ["198.51.100.20/32", "203.0.113.9/32", "2001:db8::/64"]);
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    // Few bits, so that networks and addresses meet.
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(a, b)| IpAddr::from([198, 51, a, b])),
        (0u16..4, 0u16..4).prop_map(|(a, b)| IpAddr::from([0x2001, 0xdb8, 0, a, 0, 0, 0, b])),
    ]
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let interface = prop_oneof![Just(None), Just(Some("eth0".to_owned())), Just(Some("wg0".to_owned()))];
    (any_address(), prop_oneof![Just(22u16), Just(2222)], interface).prop_map(|(address, port, interface)| Peer {
        address,
        port,
        interface,
        how: How::Held,
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let network = (any_address(), 0u8..=128)
        .prop_map(|(address, bits)| IpNet::new(address, if address.is_ipv4() { bits.min(32) } else { bits }).unwrap());
    let interfaces =
        || proptest::collection::btree_set(prop_oneof![Just("eth0".to_owned()), Just("wg0".to_owned())], 0..2);
    let mode = prop_oneof![Just(Mode::DaemonPort), Just(Mode::Tunnel)];
    (mode, proptest::collection::vec(network, 0..3), interfaces(), interfaces()).prop_map(
        |(mode, ssh, named, trusted)| Policy {
            ssh,
            ssh_interfaces: named,
            trusted_interfaces: trusted,
            ..policy(mode)
        },
    )
}

/// The rules of docs/security-modes.md again, written the long way: bit by bit, and by what refuses.
fn refused(policy: &Policy, peer: &Peer) -> bool {
    let interface = peer.interface.as_deref().unwrap_or_default();
    if policy.trusted_interfaces.iter().any(|name| name == interface) {
        return false;
    }
    let within = |network: &IpNet| match (network.network(), peer.address) {
        (IpAddr::V4(net), IpAddr::V4(is)) => {
            (u32::from(net) ^ u32::from(is)).leading_zeros() >= u32::from(network.prefix_len())
        }
        (IpAddr::V6(net), IpAddr::V6(is)) => {
            (u128::from(net) ^ u128::from(is)).leading_zeros() >= u32::from(network.prefix_len())
        }
        _ => false,
    };
    let named = policy.ssh_interfaces.iter().any(|name| name == interface);
    let reachable = named || policy.mode == Mode::DaemonPort && policy.ssh.iter().any(within);
    peer.port != 22 || !reachable
}

proptest! {
    /// A guard that is wrong here locks somebody out.
    #[test]
    fn nobody_is_called_allowed_whom_the_policy_refuses(
        peers in proptest::collection::vec(any_peer(), 1..5), policy in any_policy(),
    ) {
        match judge(&peers, &policy, &facts()) {
            Verdict::NobodyOnSsh => prop_assert!(false, "there are {:?}", peers),
            Verdict::StillAllowed(all) => {
                prop_assert_eq!(&all, &peers);
                prop_assert!(!peers.iter().any(|peer| refused(&policy, peer)), "{:?} {:?}", policy, peers);
            }
            Verdict::WouldEnd { peers: ended, phrase, propose } => {
                let expected: Vec<Peer> = peers.iter().filter(|peer| refused(&policy, peer)).cloned().collect();
                prop_assert_eq!(&ended, &expected);
                prop_assert!(ended.iter().all(|peer| phrase.contains(&peer.address.to_string())));
                // What is proposed is enough for those on SSH's own ports.
                let mended = Policy { ssh: [policy.ssh.clone(), propose].concat(), ..policy.clone() };
                if policy.mode == Mode::DaemonPort && ended.iter().all(|peer| peer.port == 22) {
                    prop_assert_eq!(judge(&peers, &mended, &facts()), Verdict::StillAllowed(peers));
                }
            }
        }
    }

    /// Every connection held by a server on a port that is not the kernel's choice is found, whatever else is there.
    #[test]
    fn nobody_on_ssh_is_overlooked(
        ports in proptest::collection::vec(1u16..32_768, 1..6), server in 0usize..4, noise in proptest::collection::vec(any::<u16>(), 0..6),
    ) {
        let mut seen = scene("192.0.2.1:22", "nginx");
        for (at, port) in noise.iter().chain(&ports).enumerate() {
            let inode = 100 + u64::try_from(at).unwrap();
            let name = if at < noise.len() { "nginx" } else { SERVERS[server] };
            let peer = SocketAddr::from(([203, 0, 113, u8::try_from(at).unwrap()], 1000));
            seen.connections.push(Socket { address: (([192, 0, 2, 1]), *port).into(), peer, inode, uid: 0 });
            seen.holders.insert(inode, vec![Holder { pid: 2, name: name.into() }]);
        }
        let found: BTreeSet<IpAddr> = peers(&seen).into_iter().map(|peer| peer.address).collect();
        for at in noise.len()..noise.len() + ports.len() {
            let address = IpAddr::from([203, 0, 113, u8::try_from(at).unwrap()]);
            prop_assert!(found.contains(&address));
        }
        prop_assert_eq!(found.len(), ports.len());
    }
}
