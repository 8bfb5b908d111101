//! What the facts mean (pure): one check a line, each with its cause and cure.

use agentd_protocol::api::{TunnelState, TunnelStatus};
use agentd_protocol::places::{Layout, Places};
use agentd_protocol::shim::hosts::{Advice, advice, forbidden};
use serde::Serialize;

use super::facts::{Clock, Disk, Facts, Folder, Home, Inotify, Life, Manager, Names, Port, PortState};
use super::{control, machine};
use crate::place;
use crate::words::bytes;

/// pidfd_open and close_range in the form we use.
const KERNEL_MIN: (u32, u32) = (5, 10);
/// `--end-of-options` in every verb of git we use.
const GIT_MIN: (u32, u32) = (2, 28);
/// DESIGN §7: one GiB or a twentieth, whichever is more.
const FLOOR_BYTES: u64 = 1 << 30;
const FLOOR_PARTS: u64 = 20;
/// Below a hundredth of its inodes a file system that has room refuses files all the same.
const FLOOR_INODE_PARTS: u64 = 100;
/// What an instance is given where the limit allows.
const OPEN_FILES_WANTED: u64 = 65_536;
/// The proxy needs two for each request under way.
const OPEN_FILES_MIN: u64 = 1_024;
/// agentd watches the stack file and local repositories.
const WATCHES_MIN: u64 = 1_024;
/// 2025-01-01: certificates are younger than clocks that start at their epoch.
const YEAR_2025_UNIX_S: u64 = 1_735_689_600;
/// Past what an hour's change of a hand-set clock or a slow sync explains.
const CLOCK_SLACK_S: u64 = 2 * 60 * 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Ok,
    Note,
    Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) verdict: Verdict,
    pub(super) said: String,
    pub(super) cure: Option<String>,
}

pub(super) fn ok(name: &str, said: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Ok, said: said.into(), cure: None }
}

pub(super) fn note(name: &str, said: impl Into<String>, cure: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Note, said: said.into(), cure: Some(cure.into()) }
}

pub(super) fn problem(name: &str, said: impl Into<String>, cure: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Problem, said: said.into(), cure: Some(cure.into()) }
}

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel(&facts.kernel), git(&facts.git)];
    checks.extend(home(&facts.home));
    checks.extend(facts.disk.map(|found| disk(&found)));
    checks.push(inotify(&facts.inotify));
    checks.extend(facts.open_files_max.map(open_files));
    checks.push(clock(&facts.clock));
    checks.extend(facts.machine.iter().flat_map(machine::checks));
    checks.extend(manager(&facts.manager, &facts.home.places));
    checks.extend(facts.ports.iter().map(|port| one_port(port, &facts.manager)));
    checks.push(instance_ports(facts));
    checks.extend(names(&facts.names));
    if let Manager::Answers { status, .. } = &facts.manager {
        checks.extend(control::checks(status));
    }
    checks.extend(limitations(&facts.manager));
    checks.extend(facts.orphaned_keepers.iter().map(|(pid, run_dir)| {
        let said = format!(
            "keeper {pid} serves {}, which is gone: its services cannot be managed any more",
            run_dir.display()
        );
        problem("stale home", said, format!("end them: `kill {pid}` stops that keeper's services too"))
    }));
    checks
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).filter(|part| !part.is_empty());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Check {
    match version(release) {
        Some(found) if found < KERNEL_MIN => {
            problem("kernel", format!("{release} is older than 5.10"), "boot a kernel of 5.10 or later")
        }
        Some(_) | None => ok("kernel", release),
    }
}

fn git(found: &Result<String, String>) -> Check {
    match found {
        Err(cause) => problem("git", format!("cannot be run: {cause}"), "install git 2.28 or later"),
        Ok(line) if version(line).is_some_and(|found| found < GIT_MIN) => {
            problem("git", format!("{line} is older than 2.28"), "install git 2.28 or later")
        }
        Ok(line) => ok("git", line.strip_prefix("git version ").unwrap_or(line)),
    }
}

fn home(home: &Home) -> Vec<Check> {
    let root = home.root.display();
    let elsewhere = "give another --home, or change its owner";
    let mut checks = vec![match home.folder {
        Folder::Usable => ok("home", root.to_string()),
        Folder::Missing { can_be_made: true } => note(
            "home",
            format!("{root} is not there yet"),
            "the first `agentd run` makes it; is --home the one you mean?",
        ),
        Folder::Missing { can_be_made: false } => {
            problem("home", format!("{root} is not there, and you may not make it"), elsewhere)
        }
        Folder::Occupied => problem("home", format!("{root} is not a folder"), "give another --home"),
        Folder::NotWritable => problem("home", format!("you may not write to {root}"), elsewhere),
    }];
    checks.extend(home.closed_to.as_ref().map(|(user, path)| {
        let said = format!("user `{user}` may not enter {}: builds and services run as that user", path.display());
        problem("home", said, format!("`chmod o+x {}`, another --home, or another --run-as", path.display()))
    }));
    checks.extend(home.unknown_user.as_ref().map(|user| {
        problem("run-as", format!("there is no user `{user}`"), "give --run-as a user that exists, here and to agentd")
    }));
    checks.extend(home.settings.as_ref().map(|cause| {
        problem("agentd.toml", format!("cannot be used: {cause}"), "correct it; the next start names the line")
    }));
    checks
}

fn disk(disk: &Disk) -> Check {
    let floor = FLOOR_BYTES.max(disk.total_bytes / FLOOR_PARTS);
    let said = format!("{} of {} free at the home", bytes(disk.free_bytes), bytes(disk.total_bytes));
    let cure = "free space there; `agentctl prune SERVICE` removes what left the stack";
    if disk.free_bytes < floor {
        return problem("disk", format!("{said}, under the floor of {}", bytes(floor)), cure);
    }
    // Some file systems have no fixed number of inodes and say 0.
    if disk.free_inodes < disk.total_inodes / FLOOR_INODE_PARTS {
        return problem("disk", format!("{said}, but only {} inodes", disk.free_inodes), cure);
    }
    ok("disk", said)
}

fn inotify(found: &Inotify) -> Check {
    let watched = "changes of stack file and local repositories are seen by polling only";
    if found.instances_max.is_some_and(|max| found.instances_used >= max) {
        let said = format!("all {} inotify instances of this user are in use: {watched}", found.instances_used);
        return note("inotify", said, "as root: `sysctl -w fs.inotify.max_user_instances=1024`");
    }
    if found.watches_max.is_some_and(|max| max < WATCHES_MIN) {
        let said = format!("few inotify watches are allowed: {watched} where they run out");
        return note("inotify", said, "as root: `sysctl -w fs.inotify.max_user_watches=65536`");
    }
    let shown = |max: Option<u64>| max.map_or_else(|| "?".to_owned(), |max| max.to_string());
    let (instances, watches) = (shown(found.instances_max), shown(found.watches_max));
    ok("inotify", format!("{} of {instances} instances in use, {watches} watches", found.instances_used))
}

fn open_files(max: u64) -> Check {
    let cure = "raise the hard limit of open files (`ulimit -Hn`) where agentd is started";
    match max {
        ..OPEN_FILES_MIN => problem("open files", format!("at most {max}: the proxy cannot serve many"), cure),
        OPEN_FILES_MIN..OPEN_FILES_WANTED => {
            note("open files", format!("at most {max}; instances would get {OPEN_FILES_WANTED}"), cure)
        }
        OPEN_FILES_WANTED.. => ok("open files", format!("at most {max}")),
    }
}

fn clock(clock: &Clock) -> Check {
    let cure = "set the clock, and let a time service keep it";
    if clock.now_unix_s < YEAR_2025_UNIX_S {
        return problem("clock", "it is years behind: no certificate is valid yet", cure);
    }
    match clock.database_unix_s {
        Some(changed) if changed > clock.now_unix_s + CLOCK_SLACK_S => {
            problem("clock", "it is behind the last change of this home: it was set back", cure)
        }
        Some(_) | None => ok("clock", "after the last change of this home"),
    }
}

fn manager(manager: &Manager, places: &Places) -> Vec<Check> {
    match manager {
        Manager::Away { keeper: None } => {
            let said = match places.layout {
                Layout::Home => "does not run on this home",
                Layout::System => "does not run on this system",
            };
            vec![note("agentd", said, format!("{} starts it", place::start(places)))]
        }
        Manager::Away { keeper: Some(pid) } => {
            let said = format!("does not run; its services run on under keeper {pid}");
            vec![problem("agentd", said, "start it again on this home: it takes over what runs")]
        }
        Manager::Foreign => {
            let said = "this home is another user's: whether agentd runs cannot be seen";
            vec![problem("agentd", said, "run this as that user, or as root")]
        }
        Manager::Silent { pid, cause } => {
            let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("pid {pid}"));
            let said = format!("{who} holds the home, but: {cause}");
            vec![problem("agentd", said, format!("see {}", places.log_dir.join("agentd.log").display()))]
        }
        Manager::Answers { status, keeper } => {
            let ours = env!("CARGO_PKG_VERSION");
            let pid = status.agent.pid;
            let mut checks = vec![if status.agent.version == ours {
                ok("agentd", format!("{ours} answers, pid {pid}"))
            } else {
                let said = format!("{} answers, pid {pid}; this agentctl is {ours}", status.agent.version);
                note("agentd", said, "install both from one release, then restart agentd")
            }];
            checks.push(match (status.agent.keeper_pid, keeper) {
                (Some(pid), Life::Runs) => ok("keeper", format!("pid {pid}")),
                (Some(_) | None, Life::Runs | Life::Gone) => problem(
                    "keeper",
                    "does not run: a shim that dies is not replaced",
                    "agentd starts one within seconds; else see log/keeper.log",
                ),
            });
            checks.push(match status.edge.pid {
                Some(pid) => ok("proxy", format!("pid {pid}")),
                None => problem("proxy", "does not answer agentd: no change reaches it", "see log/edge in the home"),
            });
            checks.extend(status.security.as_ref().map(machine::security));
            checks.extend(status.tunnel.iter().flat_map(tunnel));
            checks
        }
    }
}

fn tunnel(found: &TunnelStatus) -> Vec<Check> {
    let cause = || found.cause.clone().unwrap_or_else(|| "no cause is known yet".to_owned());
    let log = if found.managed { "`agentctl logs tunnel`" } else { "the log of cloudflared" };
    let how = match found.state {
        TunnelState::Connected => match &found.cause {
            None => ok("tunnel", format!("connected, connections: {}", found.connections)),
            Some(cause) => note("tunnel", format!("connected, but: {cause}"), "correct [tunnel] in agentd.toml"),
        },
        TunnelState::Connecting => note("tunnel", "not connected yet", format!("wait a minute, then see {log}")),
        TunnelState::Degraded => note("tunnel", format!("degraded: {}", cause()), format!("see {log}")),
        TunnelState::Down => problem("tunnel", format!("down: {}", cause()), format!("see {log}")),
    };
    let cure = "change it at Cloudflare, or use tunnel, credentials_file and hostnames instead of token_file";
    let drift = found.config_drift.as_ref().map(|drift| note("tunnel", drift.clone(), cure));
    std::iter::once(how).chain(drift).collect()
}

fn one_port(port: &Port, manager: &Manager) -> Check {
    let Port { what, key, address, state } = port;
    let another = format!("end what listens there, or give another {key}");
    match state {
        PortState::Answers => ok(what, format!("{address} answers")),
        PortState::Silent { cause } => problem(
            what,
            format!("{address} does not answer: {cause}"),
            "see log/edge in the home; `agentctl status` shows the proxy",
        ),
        PortState::Free => ok(what, format!("{address} is free")),
        PortState::Ours => ok(what, format!("{address} is held by this home's proxy, which runs on")),
        PortState::Taken { owner } => {
            let by = owner.as_ref().map_or_else(|| "a program of another user".to_owned(), String::clone);
            let said = format!("{address} is taken by {by}");
            match manager {
                // It may be this home's own, which cannot be told then.
                Manager::Silent { .. } | Manager::Foreign => note(what, said, another),
                Manager::Away { .. } | Manager::Answers { .. } => problem(what, said, another),
            }
        }
        PortState::Refused { cause } => problem(what, format!("{address} cannot be had: {cause}"), another),
    }
}

fn instance_ports(facts: &Facts) -> Check {
    let (first, last) = (facts.instance_ports.start(), facts.instance_ports.end());
    let total = facts.instance_ports.clone().count();
    let said = format!("{first}-{last}, {} in use", facts.instance_ports_used);
    if facts.instance_ports_used * 2 > total {
        return note("instance ports", said, "widen ports.instances in agentd.toml: a replacement needs free ones");
    }
    ok("instance ports", said)
}

fn names(names: &Names) -> Option<Check> {
    let refused =
        |Advice { cause, cure }| note("private names", format!("services find no names in /etc/hosts: {cause}"), cure);
    Some(match names {
        Names::Possible => ok("private names", "services can have an /etc/hosts of their own"),
        Names::Refused { refused: by, facts } => refused(advice(by, facts)),
        Names::Untried { facts } => match forbidden(facts) {
            Some(advice) => refused(advice),
            None => ok("private names", "nothing on this host forbids them; the first start tries"),
        },
        Names::ManagerTells => return None,
    })
}

fn limitations(manager: &Manager) -> Vec<Check> {
    match manager {
        Manager::Answers { status, .. } => status
            .limitations
            .iter()
            .map(|said| Check { name: "limitation".to_owned(), verdict: Verdict::Note, said: said.clone(), cure: None })
            .collect(),
        Manager::Away { .. } | Manager::Foreign | Manager::Silent { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::hosts;

    use std::path::Path;

    use super::*;

    const HOST: hosts::Facts = hosts::Facts {
        user: hosts::User::Plain,
        apparmor_restricts: false,
        user_namespaces_max: Some(9),
        unprivileged_clone_off: false,
    };

    /// A host in order, before the first start.
    fn healthy() -> Facts {
        Facts {
            kernel: "5.10.0-32-amd64".into(),
            git: Ok("git version 2.47.3".into()),
            home: Home {
                places: Places::below(Path::new("/srv/agentd")),
                root: "/srv/agentd".into(),
                folder: Folder::Usable,
                closed_to: None,
                unknown_user: None,
                settings: None,
            },
            manager: Manager::Away { keeper: None },
            disk: Some(Disk { free_bytes: 2 << 30, total_bytes: 20 << 30, free_inodes: 0, total_inodes: 0 }),
            inotify: Inotify { instances_max: Some(128), watches_max: Some(8_192), instances_used: 3 },
            open_files_max: Some(524_288),
            ports: vec![dns(PortState::Free)],
            instance_ports: 20_000..=20_009,
            instance_ports_used: 5,
            names: Names::Untried { facts: HOST },
            clock: Clock { now_unix_s: YEAR_2025_UNIX_S, database_unix_s: Some(YEAR_2025_UNIX_S + 60) },
            orphaned_keepers: Vec::new(),
            machine: None,
        }
    }

    fn dns(state: PortState) -> Port {
        Port { what: "dns port", key: "ports.dns", address: "127.0.0.1:5354".parse().unwrap(), state }
    }

    /// Name, verdict and text of everything that is not in order.
    fn amiss(change: impl FnOnce(&mut Facts)) -> Vec<(String, Verdict, String)> {
        let mut facts = healthy();
        change(&mut facts);
        let checks = checks(&facts).into_iter().filter(|check| check.verdict != Verdict::Ok);
        // That no agentd runs is noted of every one of them.
        let others = checks.filter(|check| check.name != "agentd" || check.verdict == Verdict::Problem);
        others
            .map(|check| (check.name, check.verdict, format!("{} | {}", check.said, check.cure.unwrap_or_default())))
            .collect()
    }

    #[test]
    fn a_host_in_order_has_nothing_amiss() {
        assert_eq!(amiss(|_| {}), []);
    }

    #[test]
    fn each_trouble_has_its_line_and_its_cure() {
        type Change = fn(&mut Facts);
        let cases: Vec<(&str, Verdict, &str, Change)> = vec![
            ("kernel", Verdict::Problem, "5.10", |facts| facts.kernel = "5.4.0".into()),
            ("git", Verdict::Problem, "install git", |facts| facts.git = Err("not found".into())),
            ("git", Verdict::Problem, "older than 2.28", |facts| facts.git = Ok("git version 2.9.5".into())),
            ("home", Verdict::Problem, "another --home", |facts| facts.home.folder = Folder::NotWritable),
            ("home", Verdict::Note, "not there yet", |facts| {
                facts.home.folder = Folder::Missing { can_be_made: true };
            }),
            ("home", Verdict::Problem, "chmod o+x /srv", |facts| {
                facts.home.closed_to = Some(("nobody".into(), "/srv".into()));
            }),
            ("run-as", Verdict::Problem, "no user `web`", |facts| facts.home.unknown_user = Some("web".into())),
            ("agentd.toml", Verdict::Problem, "expected", |facts| facts.home.settings = Some("expected".into())),
            ("disk", Verdict::Problem, "floor of 1.0G", |facts| {
                facts.disk = Some(Disk { free_bytes: 1 << 29, total_bytes: 2 << 30, free_inodes: 9, total_inodes: 9 });
            }),
            ("disk", Verdict::Problem, "floor of 50.0G", |facts| {
                facts.disk =
                    Some(Disk { free_bytes: 9 << 30, total_bytes: 1_000 << 30, free_inodes: 9, total_inodes: 9 });
            }),
            ("disk", Verdict::Problem, "inodes", |facts| {
                facts.disk =
                    Some(Disk { free_bytes: 9 << 30, total_bytes: 9 << 30, free_inodes: 1, total_inodes: 900 });
            }),
            ("inotify", Verdict::Note, "max_user_instances", |facts| facts.inotify.instances_used = 128),
            ("inotify", Verdict::Note, "max_user_watches", |facts| facts.inotify.watches_max = Some(10)),
            ("open files", Verdict::Note, "65536", |facts| facts.open_files_max = Some(4_096)),
            ("open files", Verdict::Problem, "ulimit", |facts| facts.open_files_max = Some(256)),
            ("clock", Verdict::Problem, "years behind", |facts| facts.clock.now_unix_s = 0),
            ("clock", Verdict::Problem, "set back", |facts| {
                facts.clock.database_unix_s = Some(facts.clock.now_unix_s + 86_400);
            }),
            ("agentd", Verdict::Problem, "keeper 7", |facts| facts.manager = Manager::Away { keeper: Some(7) }),
            ("agentd", Verdict::Problem, "pid 8 holds", |facts| {
                facts.manager = Manager::Silent { pid: Some(8), cause: "no answer".into() };
            }),
            ("agentd", Verdict::Problem, "another user's", |facts| facts.manager = Manager::Foreign),
            ("dns port", Verdict::Problem, "pid 5 (named)", |facts| {
                facts.ports = vec![dns(PortState::Taken { owner: Some("pid 5 (named)".into()) })];
            }),
            ("dns port", Verdict::Problem, "another user", |facts| {
                facts.ports = vec![dns(PortState::Taken { owner: None })];
            }),
            ("dns port", Verdict::Problem, "ports.dns", |facts| {
                facts.ports = vec![dns(PortState::Refused { cause: "Permission denied".into() })];
            }),
            ("dns port", Verdict::Problem, "does not answer", |facts| {
                facts.ports = vec![dns(PortState::Silent { cause: "no answer".into() })];
            }),
            ("instance ports", Verdict::Note, "widen", |facts| facts.instance_ports_used = 6),
            ("private names", Verdict::Note, "apparmor_restrict", |facts| {
                facts.names = Names::Untried { facts: hosts::Facts { apparmor_restricts: true, ..HOST } };
            }),
            ("private names", Verdict::Note, "seccomp", |facts| {
                let refused = hosts::Refused { step: hosts::Step::Namespace, errno: 1 };
                facts.names = Names::Refused { refused, facts: HOST };
            }),
            ("stale home", Verdict::Problem, "kill 9", |facts| facts.orphaned_keepers = vec![(9, "/gone/run".into())]),
        ];
        for (name, verdict, word, change) in cases {
            let found = amiss(change);
            assert_eq!(found.len(), 1, "{name}, {word}: {found:?}");
            assert_eq!((found[0].0.as_str(), found[0].1), (name, verdict), "{found:?}");
            assert!(found[0].2.contains(word), "{word}: {found:?}");
        }
    }

    #[test]
    fn ports_of_our_own_proxy_are_no_trouble() {
        assert_eq!(amiss(|facts| facts.ports = vec![dns(PortState::Ours), dns(PortState::Answers)]), []);
    }
}
