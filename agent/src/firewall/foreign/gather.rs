//! Looks at the host, below a root that tests may choose, and asks nft, ufw and the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agentd_sys::causes::chain;
use agentd_sys::listeners::{self, Transport};
use serde_json::Value;

use super::super::nft::{self, Nft};
use super::super::ufw::{Ufw, setting};
use super::{Backend, Engine, NftSeen, Place, Published, Runtime, Seen, UfwSeen, XdpSeen, xdp};

/// The kubelet's API.
const KUBELET_PORT: u16 = 10_250;
/// Links between `iptables` and its program: alternatives(8) uses two.
const LINKS_MAX: usize = 8;
/// include/uapi/linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
/// Inode of the first pid namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// `root` is `/` but in tests. `guests` are interfaces of guests (P8), for which forwarding is expected.
pub fn gather(root: &Path, ufw: &Ufw, guests: &BTreeSet<String>) -> Seen {
    let on_disk = OnDisk { root };
    let listens = |port| listeners::listening(Transport::Tcp).iter().any(|socket| socket.address.port() == port);
    let mut engines = on_disk.engines();
    if listens(KUBELET_PORT) {
        engines.insert(Engine::Kubernetes);
    }
    let (nft, published) = nft();
    Seen {
        nft,
        published,
        ufw: on_disk.ufw(ufw),
        iptables: on_disk.iptables(),
        legacy_tables: on_disk.legacy_tables(),
        is_firewalld_running: on_disk.runs("firewalld"),
        engines,
        forwarders: on_disk.forwarders(guests),
        xdp: xdp::links().map_or(XdpSeen::CouldNotAsk, XdpSeen::On),
        place: on_disk.place(),
        may_administer: on_disk.may_administer(),
        is_nftables_service_enabled: on_disk.is_nftables_service_enabled(),
    }
}

fn nft() -> (NftSeen, BTreeSet<Published>) {
    match Nft::find().and_then(|nft| nft.everything()) {
        Ok(rules) => (NftSeen::Usable { has_notrack: has_notrack(&rules) }, published(&rules)),
        Err(nft::Error::Missing) => (NftSeen::Missing, BTreeSet::new()),
        Err(error) => (NftSeen::Refused(chain(&error)), BTreeSet::new()),
    }
}

pub(super) struct OnDisk<'a> {
    pub(super) root: &'a Path,
}

impl OnDisk<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Empty for what is not there or may not be read: the same as nothing said.
    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    pub(super) fn ufw(&self, ufw: &Ufw) -> UfwSeen {
        if !ufw.program.exists() {
            return UfwSeen::Absent;
        }
        let says = |text: &str, name| setting(text, name).is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        UfwSeen::Installed {
            runtime: ufw.state().map_or(Runtime::Unknown, Runtime::from),
            at_boot: says(&self.text("etc/ufw/ufw.conf"), "ENABLED"),
            manages_ipv6: says(&self.text("etc/default/ufw"), "IPV6"),
        }
    }

    pub(super) fn iptables(&self) -> Option<Backend> {
        let mut path = self.at("usr/sbin/iptables");
        for _ in 0..LINKS_MAX {
            match std::fs::read_link(&path) {
                // Joining an absolute path would leave the root.
                Ok(target) => {
                    path = match target.strip_prefix("/") {
                        Ok(absolute) => self.root.join(absolute),
                        Err(_) => path.with_file_name(target),
                    };
                }
                Err(_) => break,
            }
        }
        let name = path.file_name()?.to_str()?;
        [("nft", Backend::NfTables), ("legacy", Backend::Legacy)]
            .into_iter()
            .find_map(|(part, backend)| name.contains(part).then_some(backend))
    }

    pub(super) fn legacy_tables(&self) -> BTreeSet<String> {
        let files = ["proc/net/ip_tables_names", "proc/net/ip6_tables_names"];
        files.iter().flat_map(|path| self.text(path).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// By the name `ps` shows.
    fn runs(&self, program: &str) -> bool {
        let pids = self.names("proc");
        let mut pids = pids.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        pids.any(|pid| self.text(&format!("proc/{pid}/comm")).trim() == program)
    }

    pub(super) fn engines(&self) -> BTreeSet<Engine> {
        let signs = [
            (Engine::Docker, "run/docker.sock"),
            (Engine::Docker, "sys/class/net/docker0"),
            (Engine::Podman, "run/podman/podman.sock"),
            (Engine::Podman, "sys/class/net/podman0"),
            (Engine::Libvirt, "sys/class/net/virbr0"),
            (Engine::Libvirt, "run/libvirt/libvirt-sock"),
            (Engine::Kubernetes, "var/lib/kubelet"),
            (Engine::Kubernetes, "var/lib/rancher"),
        ];
        let mut found: BTreeSet<Engine> =
            signs.iter().filter(|(_, path)| self.at(path).exists()).map(|(engine, _)| *engine).collect();
        // Podman keeps a network of its own where Kubernetes keeps the cluster's.
        if self.names("etc/cni/net.d").iter().any(|name| !name.contains("podman") && !name.starts_with('.')) {
            found.insert(Engine::Kubernetes);
        }
        found
    }

    /// None where forwarding is off.
    pub(super) fn forwarders(&self, guests: &BTreeSet<String>) -> BTreeSet<String> {
        let switches = ["proc/sys/net/ipv4/ip_forward", "proc/sys/net/ipv6/conf/all/forwarding"];
        if !switches.iter().any(|path| self.text(path).trim() == "1") {
            return BTreeSet::new();
        }
        let links = self.names("sys/class/net").into_iter().filter(|name| name != "lo" && !guests.contains(name));
        links.filter(|name| self.is_forwarder(name)).collect()
    }

    /// A card, a tunnel, a VLAN, a bridge with a card in it; not a port of a bridge, nor a bridge of guests alone.
    fn is_forwarder(&self, name: &str) -> bool {
        let has = |link: &str, what: &str| self.at(&format!("sys/class/net/{link}/{what}")).exists();
        let is_up = self.text(&format!("sys/class/net/{name}/operstate")).trim() != "down";
        let ports = self.names(&format!("sys/class/net/{name}/brif"));
        let serves_guests = has(name, "bridge") && !ports.iter().any(|port| has(port, "device"));
        is_up && !has(name, "brport") && !serves_guests
    }

    pub(super) fn place(&self) -> Place {
        let ours = std::fs::read_link(self.at("proc/self/ns/net"));
        let first = std::fs::read_link(self.at("proc/1/ns/net"));
        let signs = [".dockerenv", "run/.containerenv", "run/systemd/container"];
        if signs.iter().any(|path| self.at(path).exists()) {
            return Place::Container;
        }
        // Unreadable without privilege: then nothing is known against the host.
        match (ours, first) {
            (Ok(ours), Ok(first)) if ours != first => return Place::OtherNamespace,
            (Ok(_) | Err(_), Ok(_) | Err(_)) => {}
        }
        match std::fs::read_link(self.at("proc/self/ns/pid")) {
            Ok(namespace) if namespace.as_os_str() != FIRST_PID_NAMESPACE => Place::Container,
            Ok(_) | Err(_) => Place::Host,
        }
    }

    pub(super) fn may_administer(&self) -> bool {
        let status = self.text("proc/self/status");
        let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << CAP_NET_ADMIN) != 0)
    }

    pub(super) fn is_nftables_service_enabled(&self) -> bool {
        let targets = ["sysinit.target.wants", "multi-user.target.wants"];
        // The link may lead out of a test's root: its being there is what counts.
        let link = |target: &&str| self.at(&format!("etc/systemd/system/{target}/nftables.service"));
        targets.iter().map(link).any(|path| path.symlink_metadata().is_ok())
    }
}

/// A `notrack` statement anywhere, or the xtables target that does the same and is shown by its name alone.
pub(super) fn has_notrack(rules: &Value) -> bool {
    match rules {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let target = || value.get("name").and_then(Value::as_str);
            key == "notrack" || (key == "xt" && matches!(target(), Some("CT" | "NOTRACK"))) || has_notrack(value)
        }),
        Value::Array(items) => items.iter().any(has_notrack),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Of every rule with DNAT, nft's own or the xtables target of that name, the destination ports it names.
pub(super) fn published(rules: &Value) -> BTreeSet<Published> {
    let rules = rules["nftables"].as_array().into_iter().flatten().filter_map(|one| one["rule"]["expr"].as_array());
    let leads_on = |expr: &&Vec<Value>| {
        expr.iter().any(|part| part.get("dnat").is_some() || part["xt"]["name"].as_str() == Some("DNAT"))
    };
    rules.filter(leads_on).flatten().flat_map(|part| named(&part["match"])).collect()
}

fn named(part: &Value) -> Vec<Published> {
    let payload = &part["left"]["payload"];
    let protocol = match (payload["field"].as_str(), payload["protocol"].as_str()) {
        (Some("dport"), Some("tcp")) => "tcp",
        (Some("dport"), Some("udp")) => "udp",
        _ => return Vec::new(),
    };
    let right = &part["right"];
    let ports = right["set"].as_array().cloned().unwrap_or_else(|| vec![right.clone()]);
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    ports.iter().filter_map(port).map(|port| Published { port, protocol }).collect()
}
