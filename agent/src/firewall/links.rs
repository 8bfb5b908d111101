//! Which interfaces lead to guests, by what they are and never by name: `br-lan` is a network of people on a router.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::facts::{Error, Sources};

/// TUN_TYPE_MASK and IFF_TAP (include/uapi/linux/if_tun.h).
const TUN_TYPE_MASK: u32 = 0x000f;
const TAP: u32 = 0x0002;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// Bridges all of whose ports end in a namespace or a virtual machine of this host.
    pub(super) guests: BTreeSet<String>,
    /// All bridges, where netfilter sees the frames within them.
    pub(super) bridged: BTreeSet<String>,
}

pub(super) fn gather(sources: &Sources) -> Result<Links, Error> {
    let class = sources.sys.join("class/net");
    let failed = |source| Error::Interfaces { path: class.clone(), source };
    let mut links = Links::default();
    let filtered = frames_are_filtered(&sources.proc);
    for entry in fs::read_dir(&class).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.path().join("bridge").is_dir() {
            continue;
        }
        if filtered {
            links.bridged.insert(name.clone());
        }
        // One that went away meanwhile has no ports to tell of, and leads nowhere.
        if is_for_guests(&class, &entry.path()).unwrap_or(false) {
            links.guests.insert(name);
        }
    }
    Ok(links)
}

/// br_netfilter, if it is loaded at all.
fn frames_are_filtered(proc: &Path) -> bool {
    let is_on = |family: &str| {
        let switch = proc.join("sys/net/bridge").join(format!("bridge-nf-call-{family}"));
        fs::read_to_string(switch).is_ok_and(|value| value.trim() != "0")
    };
    is_on("iptables") || is_on("ip6tables")
}

fn is_for_guests(class: &Path, bridge: &Path) -> io::Result<bool> {
    for port in fs::read_dir(bridge.join("brif"))? {
        if !ends_here(&class.join(port?.file_name())) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the other end is held by this host: a tap device, or half of a veth pair. What cannot be told is a wire.
fn ends_here(link: &Path) -> bool {
    let word = |file: &str| fs::read_to_string(link.join(file)).ok();
    if let Some(flags) = word("tun_flags") {
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        return flags & TUN_TYPE_MASK == TAP;
    }
    is_veth(link).unwrap_or(false)
}

/// Sysfs does not name the kind. A veth has no device, names no type, stands on no other interface, and its link is
/// another number than its own; a VLAN, bond, macvlan, VXLAN or dummy fails one of these.
fn is_veth(link: &Path) -> io::Result<bool> {
    let number = |file: &str| fs::read_to_string(link.join(file)).map(|text| text.trim().parse::<u32>().unwrap_or(0));
    let has_type = fs::read_to_string(link.join("uevent"))?.lines().any(|line| line.starts_with("DEVTYPE="));
    let mut stands_on_another = false;
    for entry in fs::read_dir(link)? {
        stands_on_another |= entry?.file_name().to_string_lossy().starts_with("lower_");
    }
    let (own, other) = (number("ifindex")?, number("iflink")?);
    Ok(!link.join("device").exists() && !has_type && !stands_on_another && other != 0 && other != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.0.path().join("sys/class/net")).unwrap();
            host
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, name: &str, files: &[(&str, &str)]) {
            for (file, text) in [&[("uevent", "INTERFACE=x\n"), ("ifindex", "7\n"), ("iflink", "7\n")], files].concat()
            {
                self.put(&format!("sys/class/net/{name}/{file}"), text);
            }
        }

        fn bridge(&self, name: &str, ports: &[&str]) {
            self.link(name, &[("uevent", "DEVTYPE=bridge\n"), ("bridge/bridge_id", "x")]);
            fs::create_dir_all(self.0.path().join(format!("sys/class/net/{name}/brif"))).unwrap();
            for port in ports {
                self.put(&format!("sys/class/net/{name}/brif/{port}/port_no"), "1");
            }
        }

        fn links(&self) -> Links {
            let at = |dir: &str| self.0.path().join(dir);
            gather(&Sources { proc: at("proc"), sys: at("sys"), root: at("") }).unwrap()
        }
    }

    #[test]
    fn a_bridge_is_for_guests_when_no_port_leaves_the_host() {
        let host = Host::new();
        host.link("veth1", &[("iflink", "6\n")]);
        host.link("tap1", &[("tun_flags", "0x1002\n")]);
        host.link("tun1", &[("tun_flags", "0x1001\n")]);
        host.link("eth1", &[("device/vendor", "0x8086")]);
        host.link("vlan1", &[("uevent", "DEVTYPE=vlan\n"), ("iflink", "2\n")]);
        host.link("macvlan1", &[("iflink", "2\n"), ("lower_eth0/ifindex", "2")]);
        host.link("dummy1", &[]);
        host.bridge("docker0", &["veth1"]);
        host.bridge("virbr0", &["tap1", "veth1"]);
        host.bridge("empty", &[]);
        for port in ["eth1", "vlan1", "macvlan1", "dummy1", "tun1", "gone"] {
            host.bridge(&format!("br-{port}"), &["veth1", port]);
        }
        let links = host.links();
        assert_eq!(links.guests, ["docker0", "empty", "virbr0"].map(str::to_owned).into());
        assert_eq!(links.bridged, BTreeSet::new(), "no br_netfilter");
        host.put("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n");
        host.put("proc/sys/net/bridge/bridge-nf-call-ip6tables", "1\n");
        assert_eq!(host.links().bridged.len(), 9, "all bridges");
    }

    #[test]
    fn a_host_that_cannot_be_looked_at_is_an_error() {
        let none = Sources { proc: "/nonexistent".into(), sys: "/nonexistent".into(), root: "/nonexistent".into() };
        let error = gather(&none).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/class/net"), "{error}");
    }
}
