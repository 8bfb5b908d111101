//! A link that stands for the outside, made for the moment: what answers there, answers everybody.
//!
//! A child in a network namespace of its own holds the far end and tries every port; with its end the namespace and the
//! link are gone. Plain code.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::api::Selftest;
use agentd_protocol::security::Mode;
use agentd_sys::listeners::{Transport, listening};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Facts, Policy, command};

/// Link-local addresses (RFC 3927), out of the way of DHCP's fallback by their third byte.
const NEAR_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 213, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 213, 2);
const NEAR_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x213, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x213, 2);
/// `ip` waits for no one but the kernel.
const IP_LIMITS: command::Limits = command::Limits { time: Duration::from_secs(5), bytes: 64 << 10 };
const FAR_NAME: &str = "outside";
/// A SYN that was lost is sent again after 1 s.
const SILENCE: Duration = Duration::from_millis(1_500);
/// Ports tried at once; each is a descriptor.
const AT_ONCE: usize = 200;
/// Ports of one host that are tried: none listens on more.
const PORTS_MAX: usize = 2_000;
/// An answer of the child at most: a line of addresses.
const CONTROL_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nothing is shut in `open`: there is nothing to test")]
    NothingShut,
    #[error(
        "a process in a network namespace of its own cannot be started; is this a container without CAP_SYS_ADMIN?"
    )]
    Child(#[source] io::Error),
    #[error("`ip {arguments}` failed; is iproute2 installed? {said}")]
    Ip { arguments: String, said: String },
    #[error("the far end of the link cannot be reached from here, so its silence would prove nothing")]
    Deaf(#[source] io::Error),
    #[error("the far end of the link said nothing")]
    Mute,
    #[error("the ports cannot be tried")]
    Try(#[source] io::Error),
}

/// Of the rules in force; takes a few seconds.
pub fn run(policy: &Policy, facts: &Facts) -> Result<Selftest, Error> {
    if policy.mode == Mode::Open {
        return Err(Error::NothingShut);
    }
    let ports = ports();
    let mut far = FarEnd::start()?;
    far.link()?;
    let control = far.line()?.parse().map_err(|_| Error::Mute)?;
    TcpStream::connect_timeout(&SocketAddr::new(FAR_V4.into(), control), CONTROL_LIMIT).map_err(Error::Deaf)?;
    let answered = far.tries(&ports)?;
    let near = [Some(IpAddr::from(NEAR_V4)), far.has_v6.then_some(NEAR_V6.into())];
    let tried: Vec<SocketAddr> = ports
        .iter()
        .flat_map(|port| near.iter().flatten().map(move |address| SocketAddr::new(*address, *port)))
        .collect();
    let is_let_in = |address: &SocketAddr| lets_in(policy, facts, *address);
    let leaks: Vec<SocketAddr> = answered.iter().copied().filter(|address| !is_let_in(address)).collect();
    let shut = tried.iter().copied().filter(|address| is_let_in(address) && !answered.contains(address)).collect();
    let message = match leaks.len() {
        0 => format!("{}: {} addresses tried from outside, none answers that should not", policy.mode, tried.len()),
        count => {
            format!("{}: {} addresses tried from outside, {count} answer and should not", policy.mode, tried.len())
        }
    };
    Ok(Selftest { tried, leaks, shut, message })
}

/// Whether the rules let the far end in there: the proxy's port (A1), and SSH where its network is named (A2, T2). Its
/// interface is nobody's: none that an owner listed.
fn lets_in(policy: &Policy, facts: &Facts, near: SocketAddr) -> bool {
    let far = if near.is_ipv4() { IpAddr::from(FAR_V4) } else { FAR_V6.into() };
    let is_named = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&far));
    let is_port = policy.mode == Mode::DaemonPort;
    let is_opened = facts.break_glass.as_ref().is_some_and(|glass| is_named(&glass.ssh));
    (is_port && policy.proxy_tcp.contains(&near.port()))
        || (facts.ssh_ports.contains(&near.port()) && (is_opened || (is_port && is_named(&policy.ssh_networks()))))
}

/// Those on loopback, too: from outside they are to be as silent as the rest.
fn ports() -> Vec<u16> {
    let ports: BTreeSet<u16> = listening(Transport::Tcp).iter().map(|socket| socket.address.port()).collect();
    ports.into_iter().take(PORTS_MAX).collect()
}

struct FarEnd {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    link: String,
    has_v6: bool,
}

impl FarEnd {
    fn start() -> Result<Self, Error> {
        let mut child = Command::new("/proc/self/exe")
            .args(["firewall", "outside"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::Child)?;
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        // IFNAMSIZ is 16 with its zero: a pid has at most 7 digits.
        let link = format!("agd-t-{}", child.id());
        let mut far = Self { child, said, link, has_v6: true };
        match far.line()?.as_str() {
            "ready" => Ok(far),
            _ => Err(Error::Child(io::ErrorKind::PermissionDenied.into())),
        }
    }

    fn link(&mut self) -> Result<(), Error> {
        let (pid, link) = (self.child.id().to_string(), self.link.clone());
        let link = link.as_str();
        ip(&["link", "add", link, "type", "veth", "peer", "name", FAR_NAME, "netns", &pid])?;
        ip(&["addr", "add", &format!("{NEAR_V4}/30"), "dev", link])?;
        // Without IPv6 there is nothing to try over it.
        if let Err(error) = ip(&["-6", "addr", "add", &format!("{NEAR_V6}/64"), "dev", link, "nodad"]) {
            tracing::debug!(%error, "no IPv6 in the self-test");
            self.has_v6 = false;
        }
        ip(&["link", "set", link, "up"])?;
        self.tell("linked")
    }

    fn tries(&mut self, ports: &[u16]) -> Result<BTreeSet<SocketAddr>, Error> {
        let line: Vec<String> = ports.iter().map(u16::to_string).collect();
        self.tell(&line.join(" "))?;
        Ok(self.line()?.split_ascii_whitespace().filter_map(|address| address.parse().ok()).collect())
    }

    fn tell(&mut self, line: &str) -> Result<(), Error> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).map_err(Error::Try)
    }

    /// Bounded by the child's own waits: its end closes the pipe.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.said.read_line(&mut line).map_err(Error::Try)? {
            0 => Err(Error::Mute),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        // It may have ended by itself; with it its namespace goes, and with that the link.
        let _ = self.child.kill();
        // Killed above.
        let _ = self.child.wait();
    }
}

/// `agentd firewall outside`: the far end. Speaks lines with who started it.
pub fn outside() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Child(errno.into()))?;
    let (mut lines, mut out) = (io::stdin().lines(), io::stdout());
    let mut say = |text: String| writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::Try);
    let mut next = || lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into())).map_err(Error::Try);
    say("ready".to_owned())?;
    next()?;
    ip(&["addr", "add", &format!("{FAR_V4}/30"), "dev", FAR_NAME])?;
    let v6 = ip(&["-6", "addr", "add", &format!("{FAR_V6}/64"), "dev", FAR_NAME, "nodad"]).is_ok();
    ip(&["link", "set", FAR_NAME, "up"])?;
    let control = TcpListener::bind((FAR_V4, 0)).map_err(Error::Try)?;
    say(control.local_addr().map_err(Error::Try)?.port().to_string())?;
    let ports: Vec<u16> = next()?.split_ascii_whitespace().filter_map(|port| port.parse().ok()).collect();
    let scope = nix::net::if_::if_nametoindex(FAR_NAME).unwrap_or(0);
    let targets: Vec<SocketAddr> = ports
        .iter()
        .flat_map(|port| {
            let v6_address = SocketAddrV6::new(NEAR_V6, *port, 0, scope);
            [Some(SocketAddr::new(NEAR_V4.into(), *port)), v6.then_some(v6_address.into())]
        })
        .flatten()
        .collect();
    let mut answered = Vec::new();
    for some in targets.chunks(AT_ONCE) {
        answered.extend(answering(some).map_err(Error::Try)?);
    }
    let shown: Vec<String> =
        answered.iter().map(|address| SocketAddr::new(address.ip(), address.port()).to_string()).collect();
    say(shown.join(" "))
}

/// Those that accept or refuse: either tells an outsider that somebody is there.
fn answering(targets: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    let mut open = Vec::new();
    for target in targets {
        let socket = Socket::new(Domain::for_address(*target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&(*target).into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            // No way there is no answer.
            Err(_) => continue,
        }
        open.push((*target, socket));
    }
    let start = Instant::now();
    let mut answered = Vec::new();
    while let Some(left) = SILENCE.checked_sub(start.elapsed()).filter(|_| !open.is_empty()) {
        let mut polled: Vec<PollFd<'_>> =
            open.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO))?;
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut at = 0;
        open.retain(|(target, socket)| {
            let is_ready = ready[at];
            at += 1;
            let error = || socket.take_error().ok().flatten().and_then(|error| error.raw_os_error());
            if is_ready && matches!(error(), None | Some(nix::libc::ECONNREFUSED | nix::libc::ECONNRESET)) {
                answered.push(*target);
            }
            !is_ready
        });
    }
    Ok(answered)
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    let failed = |said: String| Error::Ip { arguments: arguments.join(" "), said };
    let program = command::find("ip").ok_or_else(|| failed("it is not there".to_owned()))?;
    let output = command::run(&program, arguments, IP_LIMITS).map_err(|error| failed(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(output.stderr.trim().to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_accepts_or_refuses_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut found = answering(&[open, closed]).unwrap();
        found.sort_by_key(|address| *address == closed);
        assert_eq!(found, [open, closed]);
        assert!(matches!(run(&Policy::open(), &Facts::default()), Err(Error::NothingShut)));
    }
    #[test]
    fn only_what_the_rules_let_the_far_end_into_may_answer() {
        use crate::firewall::BreakGlass;
        let networks = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<IpNet>>();
        let facts = Facts { ssh_ports: [22].into(), ..Facts::default() };
        let port = |ssh: &[&str]| Policy {
            mode: Mode::DaemonPort,
            proxy_tcp: [8080].into(),
            ssh: networks(ssh),
            ..Policy::open()
        };
        let tunnel = Policy { mode: Mode::Tunnel, ..port(&["0.0.0.0/0"]) };
        let [v4, v6] = [IpAddr::from(NEAR_V4), NEAR_V6.into()];
        let may = |policy: &Policy, facts: &Facts, ip: IpAddr, to: u16| lets_in(policy, facts, SocketAddr::new(ip, to));
        assert!(may(&port(&[]), &facts, v4, 8080) && may(&port(&[]), &facts, v6, 8080));
        assert!(!may(&port(&["198.51.100.0/24"]), &facts, v4, 22), "another network's SSH");
        let v4_alone = port(&["0.0.0.0/0"]);
        assert!(may(&v4_alone, &facts, v4, 22));
        assert!(!may(&v4_alone, &facts, v6, 22), "named for IPv4, answering on IPv6");
        assert!(!may(&v4_alone, &facts, v4, 2200), "no port of SSH's");
        assert!(!may(&tunnel, &facts, v4, 22) && !may(&tunnel, &facts, v4, 8080), "T1");
        let glass = BreakGlass { ssh: networks(&["169.254.0.0/16"]), left: Duration::from_secs(9) };
        let opened = Facts { break_glass: Some(glass), ..facts };
        assert!(may(&tunnel, &opened, v4, 22) && !may(&tunnel, &opened, v6, 22) && !may(&tunnel, &opened, v4, 8080));
    }
}
