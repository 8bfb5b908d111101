//! Looks at host and home; changes nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agentd_protocol::api::Status;
use agentd_protocol::places::{Layout, Places};
use agentd_protocol::shim::hosts::{Refused, TRY_VERB};
use agentd_sys::files::{closed_to, is_locked, read_pid};
use agentd_sys::listeners::{self, Transport};
use agentd_sys::{clock, namespaces};

use super::facts::{Clock, Disk, Facts, Folder, Home, Inotify, Life, Manager, Names, Port, PortState};
use super::machine;
use super::probe;
use crate::client::{Client, Error};

/// A manager that answers later than this is in trouble.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
const EXTERNAL_PORT: u16 = 8080;
const INTERNAL_PORT: u16 = 8081;
const DNS_PORT: u16 = 5354;
const INTERNAL_PORT_SYSTEM: u16 = 80;
const DNS_SYSTEM: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 153), 53);
/// The value of `--run-as` that gives every service its own user, and an id that stands for all of those.
const EACH_SERVICE: &str = "each-service";
const NOBODY: &str = "nobody";
const SERVICE_ID: u32 = 2_100_000_000;
const INSTANCE_PORTS: [u16; 2] = [20_000, 29_999];

pub(super) fn facts(places: &Places, run_as: Option<&str>) -> anyhow::Result<Facts> {
    let places = &absolute(places)?;
    let run_as = run_as.unwrap_or(match places.layout {
        Layout::Home => NOBODY,
        Layout::System => EACH_SERVICE,
    });
    let manager = manager(places)?;
    let (settings, unreadable) = settings(&places.settings_dir.join("agentd.toml"));
    let instance_ports = instance_ports(&settings);
    Ok(Facts {
        kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
        git: git(),
        disk: disk(&places.state_dir),
        inotify: inotify(),
        open_files_max: open_files_max(&manager),
        ports: ports(&manager, &settings, places),
        instance_ports_used: used(&instance_ports),
        instance_ports,
        names: names(&manager, places),
        clock: Clock {
            now_unix_s: clock::real_ns() / 1_000_000_000,
            database_unix_s: std::fs::metadata(places.state_dir.join("agentd.db"))
                .ok()
                .and_then(|facts| facts.mtime().try_into().ok()),
        },
        orphaned_keepers: orphaned_keepers(),
        machine: machine::gather(places, Path::new("/")),
        home: home(places, run_as, unreadable),
        manager,
    })
}

/// A home as it was given may be relative.
fn absolute(places: &Places) -> anyhow::Result<Places> {
    Ok(match places.layout {
        Layout::Home => Places::below(&std::path::absolute(&places.settings_dir)?),
        Layout::System => places.clone(),
    })
}

fn manager(places: &Places) -> anyhow::Result<Manager> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked: Result<Status, Error> = runtime.block_on(async {
        let client = Client::new(places)?;
        let late = Error::Broken { cause: format!("no answer within {} s", STATUS_LIMIT.as_secs()) };
        tokio::time::timeout(STATUS_LIMIT, client.get("/v1/status")).await.unwrap_or(Err(late))
    });
    let error = match asked {
        Ok(status) => {
            let keeper = status.agent.keeper_pid.map_or(Life::Gone, life);
            return Ok(Manager::Answers { status: Box::new(status), keeper });
        }
        Err(error) => error,
    };
    let lock = places.state_dir.join("agentd.lock");
    Ok(match (is_locked(&lock), error) {
        (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => Manager::Foreign,
        (Ok(true), Error::NotRunning { .. }) => {
            let cause = "nothing listens on its socket; it is starting, or hangs".to_owned();
            Manager::Silent { pid: read_pid(&lock), cause }
        }
        (Ok(false) | Err(_), Error::NotRunning { .. }) => {
            let lock = places.run_dir.join("keeper/lock");
            Manager::Away { keeper: is_locked(&lock).unwrap_or(false).then(|| read_pid(&lock)).flatten() }
        }
        (Ok(_) | Err(_), error) => Manager::Silent { pid: read_pid(&lock), cause: error.text() },
    })
}

fn life(pid: u32) -> Life {
    match agentd_sys::process::stat(pid) {
        Some(stat) if stat.state != 'Z' => Life::Runs,
        Some(_) | None => Life::Gone,
    }
}

fn git() -> Result<String, String> {
    let output = Command::new("git").arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(text.trim().to_owned()) } else { Err(output.status.to_string()) }
}

fn home(places: &Places, run_as: &str, settings: Option<String>) -> Home {
    let root = match places.layout {
        Layout::Home => places.settings_dir.clone(),
        Layout::System => places.state_dir.clone(),
    };
    let writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    let exists = existing(&root);
    let folder = match std::fs::metadata(&root) {
        Err(_) => Folder::Missing { can_be_made: exists.is_dir() && writable(exists) },
        Ok(facts) if !facts.is_dir() => Folder::Occupied,
        Ok(_) if writable(&root) => Folder::Usable,
        Ok(_) => Folder::NotWritable,
    };
    let mut home =
        Home { folder, closed_to: None, unknown_user: None, settings, places: places.clone(), root: root.clone() };
    // A plain user's services run as that user.
    if nix::unistd::geteuid().is_root() {
        let of_services = run_as == EACH_SERVICE;
        let user = match nix::unistd::User::from_name(run_as) {
            _ if of_services => Some((SERVICE_ID, SERVICE_ID)),
            Ok(found) => found.map(|user| (user.uid.as_raw(), user.gid.as_raw())),
            Err(_) => None,
        };
        match user {
            Some((uid, gid)) => {
                // What agentd will make is made enterable.
                let within = &places.state_dir;
                let innermost = if within.is_dir() { within } else { exists };
                let real = innermost.canonicalize().unwrap_or_else(|_| innermost.to_owned());
                let closed = if uid == 0 { None } else { closed_to(&real, uid, gid).unwrap_or_default() };
                let shown = if of_services { "of a service" } else { run_as };
                home.closed_to = closed.map(|path| (shown.to_owned(), path));
            }
            None => home.unknown_user = Some(run_as.to_owned()),
        }
    }
    home
}

/// The path, or the innermost folder above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn disk(root: &Path) -> Option<Disk> {
    let facts = nix::sys::statvfs::statvfs(existing(root)).ok()?;
    let block = facts.fragment_size();
    Some(Disk {
        free_bytes: facts.blocks_available().saturating_mul(block),
        total_bytes: facts.blocks().saturating_mul(block),
        free_inodes: facts.files_available(),
        total_inodes: facts.files(),
    })
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn inotify() -> Inotify {
    let own = nix::unistd::geteuid().as_raw();
    let held = |pid: u32| {
        let dir = format!("/proc/{pid}");
        if !std::fs::metadata(&dir).is_ok_and(|facts| facts.uid() == own) {
            return 0;
        }
        let fds = std::fs::read_dir(format!("{dir}/fd")).into_iter().flatten().flatten();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|link| link.to_str() == Some("anon_inode:inotify")).count()
    };
    Inotify {
        instances_max: number("/proc/sys/fs/inotify/max_user_instances"),
        watches_max: number("/proc/sys/fs/inotify/max_user_watches"),
        instances_used: u64::try_from(pids().map(held).sum::<usize>()).unwrap_or(u64::MAX),
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `Max open files  1024  524288  files`; `unlimited` counts as no limit. Root may raise its own up to the system's.
fn open_files_max(manager: &Manager) -> Option<u64> {
    let whose = match manager {
        Manager::Answers { status, .. } => status.agent.pid.to_string(),
        Manager::Away { .. } | Manager::Foreign | Manager::Silent { .. } => "self".to_owned(),
    };
    if std::fs::metadata(format!("/proc/{whose}")).is_ok_and(|facts| facts.uid() == 0) {
        return number("/proc/sys/fs/nr_open");
    }
    let text = std::fs::read_to_string(format!("/proc/{whose}/limits")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Read leniently: agentd itself names the line of a mistake.
fn settings(path: &Path) -> (toml::Table, Option<String>) {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (toml::Table::new(), None),
        Err(error) => (toml::Table::new(), Some(error.to_string())),
        Ok(text) => match text.parse::<toml::Table>() {
            Ok(table) => (table, None),
            Err(error) => (toml::Table::new(), Some(error.message().to_owned())),
        },
    }
}

fn setting<'a>(settings: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    settings.get("ports")?.get(key)
}

fn port(settings: &toml::Table, key: &str) -> Option<u16> {
    u16::try_from(setting(settings, key)?.as_integer()?).ok()
}

fn instance_ports(settings: &toml::Table) -> RangeInclusive<u16> {
    let number = |value: &toml::Value| u16::try_from(value.as_integer()?).ok();
    let pair = || {
        let values = setting(settings, "instances")?.as_array()?;
        Some([number(values.first()?)?, number(values.get(1)?)?])
    };
    let [first, last] = pair().unwrap_or(INSTANCE_PORTS);
    first..=last
}

fn used(range: &RangeInclusive<u16>) -> usize {
    listeners::listening(Transport::Tcp).iter().filter(|socket| range.contains(&socket.address.port())).count()
}

const EXTERNAL: (&str, &str) = ("port of the proxy", "proxy.port in the stack file");
const INTERNAL: (&str, &str) = ("internal port", "ports.internal in agentd.toml");
const DNS: (&str, &str) = ("dns port", "ports.dns in agentd.toml");

fn ports(manager: &Manager, settings: &toml::Table, places: &Places) -> Vec<Port> {
    let made = |(what, key), address, state| Port { what, key, address, state };
    if let Manager::Answers { status, .. } = manager {
        let edge = &status.edge;
        let told = |asked: Result<(), String>| match asked {
            Ok(()) => PortState::Answers,
            Err(cause) => PortState::Silent { cause },
        };
        let tcp = [(EXTERNAL, edge.external), (INTERNAL, edge.internal)];
        let tcp = tcp.into_iter().filter_map(|(name, address)| Some((name, address?)));
        let tcp = tcp.map(|(name, address)| made(name, address, told(probe::connects(address))));
        let dns = edge.dns.map(|address| made(DNS, address, told(probe::resolves(address, &edge.suffix))));
        return tcp.chain(dns).collect();
    }
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let external = loopback(EXTERNAL_PORT);
    let (internal, dns) = match places.layout {
        Layout::Home => (loopback(INTERNAL_PORT), loopback(DNS_PORT)),
        Layout::System => (loopback(INTERNAL_PORT_SYSTEM), SocketAddr::from(DNS_SYSTEM)),
    };
    let moved = |address: SocketAddr, key| SocketAddr::new(address.ip(), port(settings, key).unwrap_or(address.port()));
    let (internal, dns) = (moved(internal, "internal"), moved(dns, "dns"));
    vec![
        made(EXTERNAL, external, unused(external, &[Transport::Tcp], places)),
        made(INTERNAL, internal, unused(internal, &[Transport::Tcp], places)),
        made(DNS, dns, unused(dns, &[Transport::Udp, Transport::Tcp], places)),
    ]
}

fn unused(address: SocketAddr, transports: &[Transport], places: &Places) -> PortState {
    for transport in transports {
        let bound = match transport {
            Transport::Tcp => probe::is_free(address),
            Transport::Udp => probe::is_free_for_datagrams(address),
        };
        match bound {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let owner = listeners::listener(address.port(), *transport);
                if owner.is_some_and(|pid| is_of(pid, places)) {
                    return PortState::Ours;
                }
                return PortState::Taken { owner: listeners::listener_name(address.port(), *transport) };
            }
            Err(error) => return PortState::Refused { cause: error.to_string() },
        }
    }
    PortState::Free
}

/// Shims, keeper and proxy of a home have its folders on their command lines.
fn is_of(pid: u32, places: &Places) -> bool {
    let dirs = [&places.run_dir, &places.state_dir].map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone()));
    command_line(pid).iter().any(|argument| dirs.iter().any(|dir| Path::new(argument).starts_with(dir)))
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn orphaned_keepers() -> Vec<(u32, PathBuf)> {
    let keeper = |pid| match command_line(pid).as_slice() {
        [program, verb, run_dir, ..] if program.ends_with("agentd-shim") && verb == "keeper" => {
            Some((pid, PathBuf::from(run_dir)))
        }
        _ => None,
    };
    pids().filter_map(keeper).filter(|(_, run_dir)| !run_dir.exists()).collect()
}

/// By the shim of this home, as the same user as the manager: another way could have another outcome.
fn names(manager: &Manager, places: &Places) -> Names {
    if let Manager::Answers { status, .. } = manager {
        let uid = std::fs::metadata(format!("/proc/{}", status.agent.pid)).map(|facts| facts.uid());
        if uid.is_ok_and(|uid| uid != nix::unistd::geteuid().as_raw()) {
            return Names::ManagerTells;
        }
    }
    let facts = namespaces::facts();
    let Some(shim) = newest_shim(&places.state_dir) else { return Names::Untried { facts } };
    let hosts_file = places.run_dir.join("hosts");
    let file = if hosts_file.exists() { &hosts_file } else { &shim };
    match Command::new(&shim).arg(TRY_VERB).arg(file).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Names::Possible,
        Ok(output) => match Refused::parse(&String::from_utf8_lossy(&output.stdout)) {
            Some(refused) => Names::Refused { refused, facts },
            // A shim of an agentd that did not know names.
            None => Names::Untried { facts },
        },
        Err(_) => Names::Untried { facts },
    }
}

fn newest_shim(state_dir: &Path) -> Option<PathBuf> {
    let dirs = std::fs::read_dir(state_dir.join("shim")).into_iter().flatten().flatten();
    let shims = dirs.map(|dir| dir.path().join("agentd-shim"));
    shims
        .filter(|path| path.is_file())
        .max_by_key(|path| std::fs::metadata(path).and_then(|facts| facts.modified()).ok())
}
