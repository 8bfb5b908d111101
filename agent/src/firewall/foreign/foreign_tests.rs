use std::path::Path;

use agentd_protocol::security::Mode;
use serde_json::json;

use super::super::Policy;
use super::gather::{OnDisk, has_notrack};
use super::*;

fn plain() -> Seen {
    Seen {
        nft: NftSeen::Usable { has_notrack: false },
        ufw: UfwSeen::Absent,
        iptables: Some(Backend::NfTables),
        legacy_tables: BTreeSet::new(),
        is_firewalld_running: false,
        engines: BTreeSet::new(),
        forwarders: BTreeSet::new(),
        xdp: XdpSeen::On(BTreeSet::new()),
        place: Place::Host,
        may_administer: true,
        is_nftables_service_enabled: false,
        published: BTreeSet::new(),
    }
}

const UFW: UfwSeen = UfwSeen::Installed { runtime: Runtime::Active, at_boot: true, manages_ipv6: true };

fn verdict(seen: &Seen, mode: Mode) -> Verdict {
    judge(seen, &Policy { mode, ..Policy::open() })
}

fn severities(seen: &Seen, mode: Mode) -> Vec<Severity> {
    verdict(seen, mode).findings.into_iter().map(|finding| finding.severity).collect()
}

#[test]
fn a_plain_host_with_nft_keeps_every_mode_and_nothing_is_said() {
    for mode in [Mode::Open, Mode::DaemonPort, Mode::Tunnel] {
        let expected = Verdict { enforcement: Enforcement::Nftables, reason: String::new(), findings: vec![] };
        assert_eq!(verdict(&plain(), mode), expected);
    }
}

#[test]
fn enforcement_is_what_is_usable_and_says_why() {
    let shown = |seen: &Seen, mode| {
        let verdict = verdict(seen, mode);
        (verdict.enforcement.to_string(), verdict.gravest())
    };
    let with_ufw = Seen { ufw: UFW, ..plain() };
    assert_eq!(shown(&with_ufw, Mode::DaemonPort), ("nftables (+ufw allows)".into(), Some(Severity::Note)));
    assert_eq!(shown(&with_ufw, Mode::Tunnel), ("nftables".into(), None));
    let ufw_alone = Seen { nft: NftSeen::Missing, ..with_ufw };
    assert_eq!(shown(&ufw_alone, Mode::DaemonPort), ("partial (ufw)".into(), Some(Severity::Ask)));
    assert_eq!(shown(&ufw_alone, Mode::Tunnel), ("partial (ufw)".into(), Some(Severity::Refuse)));
    assert_eq!(verdict(&ufw_alone, Mode::Tunnel).reason, "nft is not installed");
    let nothing = Seen { nft: NftSeen::Missing, ..plain() };
    assert_eq!(shown(&nothing, Mode::DaemonPort), ("nothing".into(), Some(Severity::Refuse)));
    assert_eq!(shown(&nothing, Mode::Open), ("nothing".into(), None));
    let powerless = Seen { may_administer: false, ufw: UFW, ..plain() };
    assert_eq!(shown(&powerless, Mode::Tunnel), ("nothing".into(), Some(Severity::Refuse)));
    assert_eq!(verdict(&powerless, Mode::Tunnel).reason, "no CAP_NET_ADMIN");
    let refused = Seen { nft: NftSeen::Refused("Operation not permitted".into()), ..plain() };
    assert_eq!(verdict(&refused, Mode::Tunnel).reason, "nft is refused: Operation not permitted");
}

#[test]
fn a_silent_ufw_is_taken_for_what_it_is_meant_to_be() {
    for (at_boot, enforcement) in [(true, Enforcement::PartialUfw), (false, Enforcement::Nothing)] {
        let ufw = UfwSeen::Installed { runtime: Runtime::Unknown, at_boot, manages_ipv6: true };
        let seen = Seen { nft: NftSeen::Missing, ufw, ..plain() };
        assert_eq!(verdict(&seen, Mode::DaemonPort).enforcement, enforcement);
        assert!(severities(&seen, Mode::DaemonPort).contains(&Severity::CannotVouch));
    }
}

#[test]
fn each_neighbour_has_its_severity_and_a_cure() {
    let names = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let cases = [
        (Severity::Refuse, Seen { engines: [Engine::Kubernetes].into(), ..plain() }),
        (Severity::Ask, Seen { forwarders: names(&["eth0", "eth1"]), ..plain() }),
        (Severity::Ask, Seen { nft: NftSeen::Usable { has_notrack: true }, ..plain() }),
        (Severity::Ask, Seen { is_firewalld_running: true, ..plain() }),
        (Severity::CannotVouch, Seen { xdp: XdpSeen::On(names(&["eth0"])), ..plain() }),
        (Severity::CannotVouch, Seen { xdp: XdpSeen::CouldNotAsk, ..plain() }),
        (Severity::CannotVouch, Seen { place: Place::Container, ..plain() }),
        (Severity::CannotVouch, Seen { place: Place::OtherNamespace, ..plain() }),
        (Severity::Note, Seen { engines: [Engine::Docker, Engine::Podman].into(), ..plain() }),
        (Severity::Note, Seen { legacy_tables: names(&["filter"]), ..plain() }),
        (Severity::Note, Seen { is_nftables_service_enabled: true, ..plain() }),
    ];
    for (severity, seen) in cases {
        let found = verdict(&seen, Mode::DaemonPort).findings;
        assert_eq!(found.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [severity], "{found:?}");
        assert!(!found[0].cure.is_empty());
        assert_eq!(severities(&seen, Mode::Open), [], "`open` promises nothing");
    }
    let router = Seen { forwarders: names(&["eth0", "eth1"]), ..plain() };
    let trusted_interfaces = names(&["eth0", "eth1"]);
    let policy = Policy { mode: Mode::Tunnel, trusted_interfaces, ..Policy::open() };
    assert_eq!(judge(&router, &policy).findings, [], "the owner has answered");
    assert_eq!(severities(&Seen { forwarders: names(&["eth0"]), ..plain() }, Mode::Tunnel), []);
}

#[test]
fn the_gravest_comes_first_and_ufws_traps_are_told() {
    let ufw = UfwSeen::Installed { runtime: Runtime::Active, at_boot: true, manages_ipv6: false };
    let seen = Seen { ufw, engines: [Engine::Docker, Engine::Kubernetes].into(), ..plain() };
    assert_eq!(severities(&seen, Mode::DaemonPort), [Severity::Refuse, Severity::Note, Severity::Note, Severity::Note]);
    let ufw = UfwSeen::Installed { runtime: Runtime::Inactive, at_boot: true, manages_ipv6: true };
    assert!(verdict(&Seen { ufw, ..plain() }, Mode::Tunnel).findings[0].text.contains("after the next boot"));
}

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Replaces the link of an earlier case.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn look(&self) -> OnDisk<'_> {
        OnDisk { root: self.0.path() }
    }
}

#[test]
fn an_empty_root_has_nothing() {
    let root = Root::new();
    let look = root.look();
    assert_eq!((look.iptables(), look.engines(), look.place()), (None, BTreeSet::new(), Place::Host));
    assert_eq!(look.forwarders(&BTreeSet::new()), BTreeSet::new());
    assert!(!look.may_administer() && !look.is_nftables_service_enabled() && look.legacy_tables().is_empty());
    let absent = ufw::Ufw { program: root.0.path().join("ufw"), ..ufw::Ufw::system() };
    assert_eq!(look.ufw(&absent), UfwSeen::Absent);
}

#[test]
fn the_files_of_a_host_are_understood() {
    let root = Root::new();
    root.file("proc/self/status", "Name:\tx\nCapEff:\t0000000000001000\n")
        .file("proc/net/ip_tables_names", "filter\nnat\n");
    root.link("usr/sbin/iptables", "/etc/alternatives/iptables")
        .link("etc/alternatives/iptables", "/usr/sbin/iptables-nft");
    root.link("usr/sbin/iptables-nft", "xtables-nft-multi")
        .link("etc/systemd/system/sysinit.target.wants/nftables.service", "/x");
    let look = root.look();
    assert_eq!(look.iptables(), Some(Backend::NfTables));
    assert!(look.may_administer() && look.is_nftables_service_enabled());
    assert_eq!(look.legacy_tables().len(), 2);
    root.link("etc/alternatives/iptables", "/usr/sbin/iptables-legacy");
    assert_eq!(root.look().iptables(), Some(Backend::Legacy));
    root.file("proc/self/status", "CapEff:\t0000000000000fff\n");
    assert!(!root.look().may_administer());
}

#[test]
fn engines_and_places_leave_their_signs() {
    let root = Root::new();
    root.file("run/docker.sock", "").file("etc/cni/net.d/87-podman.conflist", "");
    assert_eq!(root.look().engines(), [Engine::Docker].into());
    root.file("etc/cni/net.d/10-flannel.conflist", "");
    assert!(root.look().engines().contains(&Engine::Kubernetes));
    root.link("proc/self/ns/net", "net:[1]")
        .link("proc/1/ns/net", "net:[1]")
        .link("proc/self/ns/pid", "pid:[4026531836]");
    assert_eq!(root.look().place(), Place::Host);
    root.link("proc/self/ns/pid", "pid:[4026532000]");
    assert_eq!(root.look().place(), Place::Container);
    root.link("proc/1/ns/net", "net:[2]");
    assert_eq!(root.look().place(), Place::OtherNamespace);
    root.file(".dockerenv", "");
    assert_eq!(root.look().place(), Place::Container);
}

#[test]
fn forwarders_are_links_of_the_host_and_not_of_its_guests() {
    let root = Root::new();
    let sys = |path: &str| format!("sys/class/net/{path}");
    root.file("proc/sys/net/ipv4/ip_forward", "0\n");
    for (link, state) in [("lo", "unknown"), ("eth0", "up"), ("eth1", "down"), ("wg0", "unknown"), ("vnet3", "up")] {
        root.file(&sys(&format!("{link}/operstate")), state);
    }
    root.file(&sys("vnet3/brport/state"), "").file(&sys("virbr0/bridge/x"), "").file(&sys("virbr0/brif/vnet3/x"), "");
    root.file(&sys("eth0/device/x"), "").file(&sys("veth9/operstate"), "up");
    assert_eq!(root.look().forwarders(&BTreeSet::new()), BTreeSet::new(), "forwarding is off");
    root.file("proc/sys/net/ipv4/ip_forward", "1\n");
    let guests = ["veth9".to_owned()].into();
    assert_eq!(root.look().forwarders(&guests), ["eth0".to_owned(), "wg0".to_owned()].into());
    root.file(&sys("br0/bridge/x"), "").file(&sys("br0/brif/eth0/x"), "");
    assert!(root.look().forwarders(&guests).contains("br0"), "a bridge with a card in it");
}

#[test]
fn ufw_is_what_it_says_and_what_its_files_intend() {
    use std::os::unix::fs::PermissionsExt;
    let root = Root::new();
    root.file("ufw", "#!/bin/sh\necho 'Status: inactive'\n").file("etc/ufw/ufw.conf", "# ENABLED=no\nENABLED=yes\n");
    root.file("etc/default/ufw", "IPV6=no\n");
    let program = root.0.path().join("ufw");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ufw = ufw::Ufw { program, ..ufw::Ufw::system() };
    let installed = |runtime| UfwSeen::Installed { runtime, at_boot: true, manages_ipv6: false };
    assert_eq!(root.look().ufw(&ufw), installed(Runtime::Inactive));
    root.file("ufw", "#!/bin/sh\necho broken >&2; exit 1\n");
    assert_eq!(root.look().ufw(&ufw), installed(Runtime::Unknown));
}

#[test]
fn notrack_is_found_in_either_dialect() {
    let rule = |statement: serde_json::Value| json!({"nftables": [{"rule": {"expr": [{"match": {}}, statement]}}]});
    assert!(has_notrack(&rule(json!({"notrack": null}))));
    assert!(has_notrack(&rule(json!({"xt": {"type": "target", "name": "CT"}}))));
    assert!(!has_notrack(&rule(json!({"xt": {"type": "target", "name": "LOG"}}))));
    assert!(!has_notrack(&rule(json!({"xt": null}))));
}

/// On whatever machine this runs, as whichever user: it ends, and its parts do not contradict each other.
#[test]
fn this_host_can_be_looked_at() {
    let seen = gather(Path::new("/"), &ufw::Ufw::system(), &BTreeSet::new());
    let verdict = verdict(&seen, Mode::Tunnel);
    let closed = matches!(verdict.enforcement, Enforcement::Nftables | Enforcement::NftablesWithUfwAllows);
    assert_eq!(closed, matches!(seen.nft, NftSeen::Usable { .. }) && seen.may_administer, "{seen:?}");
    assert_eq!(verdict.reason.is_empty(), closed);
}

#[test]
fn ports_that_lead_to_guests_are_found_in_either_spelling() {
    let dport = |port: serde_json::Value| {
        let left = serde_json::json!({"payload": {"protocol": "tcp", "field": "dport"}});
        serde_json::json!({"match": {"op": "==", "left": left, "right": port}})
    };
    let rule = |expr: serde_json::Value| serde_json::json!({"rule": {"chain": "c", "expr": expr}});
    let rules = serde_json::json!({"nftables": [
        rule(serde_json::json!([dport(8080.into()), {"counter": null}, {"xt": {"type": "target", "name": "DNAT"}}])),
        rule(serde_json::json!([dport(serde_json::json!({"set": [80, 443]})), {"dnat": {"addr": "172.17.0.2"}}])),
        rule(serde_json::json!([dport(9090.into()), {"accept": null}])),
    ]});
    let ports: Vec<u16> = gather::published(&rules).iter().map(|one| one.port).collect();
    assert_eq!(ports, [80, 443, 8080]);
}
