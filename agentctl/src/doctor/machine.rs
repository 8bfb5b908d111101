//! What the agent of the machine needs besides a home: systemd, nft, units that are started at boot.

use std::os::unix::net::UnixStream;
use std::path::Path;

use agentd_protocol::api::SecurityBrief;
use agentd_protocol::places::{Layout, Places};

use super::checks::{Check, note, ok, problem};
use super::facts::{Lack, Machine};

const FIREWALL_UNIT: &str = "agentd-firewall.service";
/// Each with the folder its link lies in once it is enabled.
const UNITS: &[(&str, &str)] =
    &[("agentd.service", "multi-user.target.wants"), (FIREWALL_UNIT, "sysinit.target.wants")];
const PROGRAMS: &[&str] = &["systemd-run", "systemctl", "busctl"];
const FOLDERS: &[&str] = &["usr/sbin", "sbin", "usr/bin", "bin"];

const BUS_SOCKET: &str = "run/dbus/system_bus_socket";
/// Debian's and its relatives'; git's own TLS library has it built in.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// `root` is `/` but in tests.
pub(super) fn gather(places: &Places, root: &Path) -> Option<Machine> {
    if places.layout == Layout::Home {
        return None;
    }
    let is_there = |program: &&str| FOLDERS.iter().any(|folder| root.join(folder).join(program).is_file());
    let enabled = |unit: &str, wants: &str| {
        // A link whose target is missing is one all the same.
        root.join("etc/systemd/system").join(wants).join(unit).symlink_metadata().is_ok()
    };
    Some(Machine {
        runs_systemd: root.join("run/systemd/system").is_dir(),
        has_nft: is_there(&"nft"),
        has_rules: places.state_dir.join("firewall/active.json").exists(),
        not_at_boot: UNITS.iter().filter(|(unit, wants)| !enabled(unit, wants)).map(|(unit, _)| *unit).collect(),
        missing: PROGRAMS.iter().filter(|program| !is_there(program)).copied().collect(),
        has_bus: UnixStream::connect(root.join(BUS_SOCKET)).is_ok(),
        lacks: [
            (Lack::Ip, is_there(&"ip")),
            (Lack::Certificates, root.join(CERTIFICATES).exists()),
            (Lack::Ssh, is_there(&"ssh")),
        ]
        .into_iter()
        .filter_map(|(lack, is_there)| (!is_there).then_some(lack))
        .collect(),
    })
}

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    if !machine.runs_systemd {
        let cure = "run agentd in a folder: agentd run --stack FILE --home DIR";
        return vec![problem("systemd", "does not run this machine: nothing starts agentd at boot", cure)];
    }
    let mut checks = vec![match machine.missing.as_slice() {
        [] => ok("systemd", "runs this machine"),
        missing => problem("systemd", format!("{} missing", missing.join(", ")), "install systemd and dbus in full"),
    }];
    checks.push(match machine.has_bus {
        true => ok("system bus", "answers"),
        false => problem(
            "system bus",
            "nobody listens on it: services cannot be given their scope",
            "apt install dbus; systemctl start dbus.socket",
        ),
    });
    checks.extend(machine.lacks.iter().map(|lack| match lack {
        Lack::Ip => note("iproute2", "no `ip`: the self-test cannot be made", "apt install iproute2"),
        Lack::Certificates => problem(
            "certificates",
            format!("no /{CERTIFICATES}: nothing can be fetched by https"),
            "apt install ca-certificates; if it is installed: update-ca-certificates",
        ),
        Lack::Ssh => note("ssh", "no `ssh`: repositories cannot be fetched by ssh", "apt install openssh-client"),
    }));
    checks.extend(machine.not_at_boot.iter().map(|unit| {
        let cure = format!("systemctl enable {unit}");
        match (*unit == FIREWALL_UNIT, machine.has_rules) {
            (true, true) => problem(unit, "not enabled: the rules are not loaded before the network is up", cure),
            (true, false) | (false, _) => note(unit, "not started at boot", cure),
        }
    }));
    checks.push(match (machine.has_nft, machine.has_rules) {
        (true, _) => ok("nft", "installed"),
        (false, true) => problem("nft", "missing: the confirmed rules can neither be loaded nor kept", INSTALL_NFT),
        (false, false) => note("nft", "missing: no security mode but `open` can be had", INSTALL_NFT),
    });
    checks
}

const INSTALL_NFT: &str = "apt install nftables";

/// As the manager tells it.
pub(super) fn security(brief: &SecurityBrief) -> Check {
    let said = format!("mode {}, exposure {}, {}", brief.mode, brief.exposure, brief.enforcement);
    match &brief.notice {
        _ if !brief.is_kept => problem(
            "security",
            format!("{said}: the kernel does not have what was confirmed"),
            "agentctl security status tells why; agentd puts it right by itself where it can",
        ),
        Some(notice) => note("security", format!("{said}; {notice}"), "agentctl security status"),
        None => ok("security", said),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::security::{Exposure, Mode};

    use super::super::checks::Verdict;
    use super::*;

    fn places(root: &Path) -> Places {
        Places { state_dir: root.join("state"), ..Places::system() }
    }

    fn made(root: &Path, paths: &[&str]) {
        for path in paths {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), "").unwrap();
        }
    }

    fn amiss(root: &Path) -> Vec<(String, Verdict)> {
        let machine = gather(&places(root), root).unwrap();
        let checks = checks(&machine).into_iter().filter(|check| check.verdict != Verdict::Ok);
        checks.map(|check| (check.name, check.verdict)).collect()
    }

    #[test]
    fn a_machine_is_told_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(gather(&Places::below(root), root).is_none(), "a home asks nothing of its machine");
        assert_eq!(amiss(root), [("systemd".to_owned(), Verdict::Problem)]);
        std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        made(root, &["usr/bin/systemctl", "usr/bin/systemd-run"]);
        let names = |found: Vec<(String, Verdict)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let lacking =
            ["systemd", "system bus", "iproute2", "certificates", "ssh", "agentd.service", FIREWALL_UNIT, "nft"];
        assert_eq!(names(amiss(root)), lacking);
        made(root, &["usr/sbin/ip", CERTIFICATES, "usr/bin/ssh", "run/dbus/unused"]);
        let _bus = std::os::unix::net::UnixListener::bind(root.join(BUS_SOCKET)).unwrap();
        assert_eq!(names(amiss(root)), ["systemd", "agentd.service", FIREWALL_UNIT, "nft"]);
        made(root, &["usr/bin/busctl", "etc/systemd/system/multi-user.target.wants/agentd.service"]);
        made(root, &["state/firewall/active.json"]);
        assert_eq!(amiss(root), [(FIREWALL_UNIT.to_owned(), Verdict::Problem), ("nft".to_owned(), Verdict::Problem)]);
        made(root, &["usr/sbin/nft", "etc/systemd/system/sysinit.target.wants/agentd-firewall.service"]);
        assert_eq!(amiss(root), []);
    }

    #[test]
    fn what_the_kernel_lacks_is_a_problem() {
        let right = SecurityBrief {
            mode: Mode::Tunnel,
            exposure: Exposure::None,
            enforcement: "nftables".to_owned(),
            is_kept: true,
            notice: None,
        };
        assert_eq!(security(&right).verdict, Verdict::Ok);
        let asked = SecurityBrief { notice: Some("on trial".to_owned()), ..right.clone() };
        assert_eq!(security(&asked).verdict, Verdict::Note);
        let partial = SecurityBrief { mode: Mode::DaemonPort, exposure: Exposure::Unmanaged, ..asked.clone() };
        assert_eq!(security(&partial).verdict, Verdict::Note, "a trial, or UFW alone");
        assert_eq!(security(&SecurityBrief { is_kept: false, ..asked }).verdict, Verdict::Problem);
        assert_eq!(security(&SecurityBrief { is_kept: false, ..right }).verdict, Verdict::Problem);
    }
}
