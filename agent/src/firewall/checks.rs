//! Whether this host still works: before a trial, so that its failures can be told from those of before, and after.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{Check, CheckName, Colour};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Two tries of a resolver that lost one datagram.
const DNS_LIMIT: Duration = Duration::from_secs(2);
const DNS_TRIES: usize = 2;
/// A handshake over a slow line with one lost SYN (retransmitted after 1 s).
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
const PROXY_LIMIT: Duration = Duration::from_secs(4);
/// Name resolution and a handshake of TLS come before the answer.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// As resolv.conf(5): further ones are ignored by every resolver.
const SERVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;
/// Where a home has it, too: it is the machine's.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What to try.
#[derive(Debug, Clone)]
pub struct Targets {
    pub resolv_conf: PathBuf,
    /// Where the proxy listens, by loopback.
    pub proxy: SocketAddr,
    /// More addresses that a host like this talks to, `host:port`.
    pub outbound: Vec<SocketAddr>,
    /// The control server, where the host has joined one.
    pub control: Option<Answers>,
}

/// Asks somebody, over a connection of its own; the answer, or why there is none.
#[derive(Clone)]
pub struct Answers(pub Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>);

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// What is there to compare with.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// Who is on SSH, and on which of our ports.
    pub ssh: BTreeSet<(IpAddr, u16)>,
}

/// All of them, side by side; each within its limit.
pub async fn run(targets: &Targets, before: &Before, now: &BTreeSet<(IpAddr, u16)>) -> Vec<Check> {
    let servers = name_servers(&targets.resolv_conf);
    let routes = [default_route_v4(), default_route_v6()];
    let outbound = |is_v6: bool| {
        let of_servers = servers.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT));
        let all = of_servers.chain(targets.outbound.iter().copied());
        all.filter(move |address| address.is_ipv6() == is_v6 && !address.ip().is_loopback()).collect::<Vec<_>>()
    };
    let (dns, v4, v6, proxy, control) = tokio::join!(
        dns(&servers),
        reaches(CheckName::OutboundIpv4, routes[0], outbound(false)),
        reaches(CheckName::OutboundIpv6, routes[1], outbound(true)),
        proxy(targets.proxy),
        control(targets.control.as_ref()),
    );
    vec![dns, v4, v6, proxy, sessions(before, now), control]
}

/// The red ones that nobody left out.
pub fn red<'a>(checks: &'a [Check], without: &[CheckName]) -> Vec<&'a Check> {
    checks.iter().filter(|check| check.colour == Colour::Red && !without.contains(&check.name)).collect()
}

/// Whether nothing that says so reaches anything outside.
pub fn is_cut_off(checks: &[Check]) -> bool {
    let is_outward =
        |check: &&Check| matches!(check.name, CheckName::Dns | CheckName::OutboundIpv4 | CheckName::OutboundIpv6);
    let mut outward = checks.iter().filter(is_outward).filter(|check| check.colour != Colour::NotApplicable).peekable();
    outward.peek().is_some() && outward.all(|check| check.colour == Colour::Red)
}

/// In a sentence, for a refusal.
pub fn in_words(red: &[&Check]) -> String {
    red.iter().map(|check| format!("{}: {}", check.name, check.text)).collect::<Vec<_>>().join("; ")
}

fn green(name: CheckName, text: impl Into<String>) -> Check {
    Check { name, colour: Colour::Green, text: text.into() }
}

fn failed(name: CheckName, text: impl Into<String>) -> Check {
    Check { name, colour: Colour::Red, text: text.into() }
}

fn not_applicable(name: CheckName, text: impl Into<String>) -> Check {
    Check { name, colour: Colour::NotApplicable, text: text.into() }
}

fn name_servers(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_servers(&text)
}

fn parse_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

/// One of them is enough, as it is for every program of this host.
async fn dns(servers: &[IpAddr]) -> Check {
    let name = CheckName::Dns;
    if servers.is_empty() {
        return not_applicable(name, "no name server is set");
    }
    let mut causes = Vec::new();
    for server in servers {
        match ask(SocketAddr::new(*server, DNS_PORT)).await {
            Ok(()) => return green(name, format!("{server} answers")),
            Err(cause) => causes.push(format!("{server}: {cause}")),
        }
    }
    failed(name, format!("no name server answers ({})", causes.join(", ")))
}

/// `. NS`: every resolver knows it, and no cache of a name is needed.
async fn ask(server: SocketAddr) -> Result<(), String> {
    let id = fastrand::u16(..).to_be_bytes();
    // Header: id, recursion desired, one question. Question: root, type NS (2), class IN (1) (RFC 1035 §4.1).
    let query = [id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let any: SocketAddr = if server.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0, 0, 0, 0], 0).into() };
    let told = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind(any).await.map_err(told)?;
    socket.connect(server).await.map_err(told)?;
    for _ in 0..DNS_TRIES {
        socket.send(&query).await.map_err(told)?;
        let mut answer = [0; 1_500];
        match timeout(DNS_LIMIT, socket.recv(&mut answer)).await {
            Ok(Ok(length)) if length >= 12 && answer[..2] == id => return Ok(()),
            Ok(Ok(_)) => return Err("its answer is none".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {}
        }
    }
    Err("silent".to_owned())
}

/// A refusal is as good as a connection: the answer came back.
async fn reaches(name: CheckName, has_route: bool, targets: Vec<SocketAddr>) -> Check {
    if !has_route {
        return not_applicable(name, "there is no default route");
    }
    let mut causes = Vec::new();
    for target in &targets {
        match timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
            Ok(Ok(_)) => return green(name, format!("{target} accepts")),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return green(name, format!("{target} answers"));
            }
            Ok(Err(error)) => causes.push(format!("{target}: {error}")),
            Err(_) => causes.push(format!("{target}: silent")),
        }
    }
    if targets.is_empty() {
        return not_applicable(name, "no name server is reached this way");
    }
    failed(name, format!("nothing outside answers ({})", causes.join(", ")))
}

/// Any answer will do: whether the services are well is another question.
async fn proxy(address: SocketAddr) -> Check {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head.starts_with(b"HTTP/1."))
    };
    match timeout(PROXY_LIMIT, asked).await {
        Ok(Ok(true)) => green(CheckName::Proxy, format!("{address} answers")),
        Ok(Ok(false)) => failed(CheckName::Proxy, format!("{address} does not speak HTTP")),
        Ok(Err(error)) => failed(CheckName::Proxy, format!("{address}: {error}")),
        Err(_) => failed(CheckName::Proxy, format!("{address} is silent")),
    }
}

/// Without it nobody elsewhere could take a bad change back.
async fn control(answers: Option<&Answers>) -> Check {
    let Some(Answers(ask)) = answers else {
        return not_applicable(CheckName::Control, "this host has joined no control server");
    };
    match timeout(CONTROL_LIMIT, ask()).await {
        Ok(Ok(text)) => green(CheckName::Control, text),
        Ok(Err(cause)) => failed(CheckName::Control, cause),
        Err(_) => failed(CheckName::Control, "the control server is silent"),
    }
}

/// People close sessions by themselves; that all of them go at once is another matter.
fn sessions(before: &Before, now: &BTreeSet<(IpAddr, u16)>) -> Check {
    let (all, left) = (before.ssh.len(), before.ssh.intersection(now).count());
    let text = format!("{left} of {all} addresses on SSH are there");
    match (all, left) {
        (0, _) => not_applicable(CheckName::Sessions, "nobody is on SSH"),
        (_, 0) => failed(CheckName::Sessions, text),
        (_, _) => green(CheckName::Sessions, text),
    }
}

/// Destination and mask 0 in /proc/net/route (proc_pid_net(5)); no flag 0x200, RTF_REJECT.
fn default_route_v4() -> bool {
    let table = std::fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    table.lines().skip(1).any(|row| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        let flags = fields.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000") && flags & 0x201 == 1
    })
}

/// `::/0` that is no unreachable route: those are on `lo`.
fn default_route_v6() -> bool {
    let table = std::fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
    table.lines().any(|row| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        let is_default = fields.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        is_default && fields.get(1) == Some(&"00") && fields.last().is_some_and(|name| *name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nnameserver x\noptions y\n";
        assert_eq!(parse_servers(text), ["192.0.2.1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert!(parse_servers("").is_empty());
    }

    #[test]
    fn sessions_that_all_went_are_red_and_one_that_stayed_is_enough() {
        let session = |host: u8| (IpAddr::from([198, 51, 100, host]), 22);
        let before = Before { ssh: [session(1), session(2)].into() };
        assert_eq!(sessions(&before, &[session(2)].into()).colour, Colour::Green);
        assert_eq!(sessions(&before, &[session(3)].into()).colour, Colour::Red);
        assert_eq!(sessions(&Before::default(), &[session(3)].into()).colour, Colour::NotApplicable);
    }

    #[test]
    fn a_host_without_any_connectivity_is_told_from_one_that_lacks_a_part() {
        let dns = |colour: fn(CheckName, &'static str) -> Check| colour(CheckName::Dns, "");
        let [red_dns, green_dns] = [dns(failed), dns(green)];
        let v4 = |colour: fn(CheckName, &'static str) -> Check| colour(CheckName::OutboundIpv4, "");
        let proxy = green(CheckName::Proxy, "");
        assert!(is_cut_off(&[red_dns.clone(), v4(failed), proxy.clone()]));
        assert!(is_cut_off(&[red_dns.clone(), v4(not_applicable)]));
        assert!(!is_cut_off(&[red_dns, v4(green)]));
        assert!(!is_cut_off(&[green_dns, v4(failed)]));
        assert!(!is_cut_off(&[dns(not_applicable), v4(not_applicable), proxy]), "a host that is meant to have none");
    }

    #[tokio::test]
    async fn a_silent_a_closed_and_a_speaking_proxy() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
        };
        let (check, ()) = tokio::join!(proxy(address), served);
        assert_eq!(check.colour, Colour::Green, "{check:?}");
        drop(listener);
        let check = proxy(address).await;
        assert_eq!(check.colour, Colour::Red, "{check:?}");
        assert_eq!(in_words(&red(std::slice::from_ref(&check), &[])), format!("proxy: {}", check.text));
        assert!(red(&[check], &[CheckName::Proxy]).is_empty());
    }

    #[tokio::test]
    async fn a_refusal_proves_the_way_out_and_back() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let name = CheckName::OutboundIpv4;
        assert_eq!(reaches(name, true, vec![closed]).await.colour, Colour::Green);
        assert_eq!(reaches(name, false, vec![closed]).await.colour, Colour::NotApplicable);
        assert_eq!(reaches(name, true, Vec::new()).await.colour, Colour::NotApplicable);
    }

    #[tokio::test]
    async fn a_name_server_that_answers_is_green_and_none_is_not_applicable() {
        assert_eq!(dns(&[]).await.colour, Colour::NotApplicable);
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answered = async {
            let mut query = [0; 100];
            let (length, from) = server.recv_from(&mut query).await.unwrap();
            server.send_to(&query[..length], from).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(ask(address), answered);
        assert_eq!(outcome, Ok(()));
        drop(server);
        assert!(ask(address).await.is_err(), "nobody listens there any more");
    }
}
