//! The edge is the first service the supervisor runs: its listeners are bound once, here, and live in shim and keeper
//! from then on; a later manager finds it running.

mod handover;
mod public;

pub use handover::retire;
pub use public::{PublicSockets, Reach};

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::edge::{
    LISTEN_CONTROL, LISTEN_DNS_TCP, LISTEN_DNS_UDP, LISTEN_EXTERNAL, LISTEN_INTERNAL, LISTEN_PUBLIC_V4,
    LISTEN_PUBLIC_V6,
};
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::spec::{RestartPolicy, User};
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::StopSignal;
use agentd_sys::files::SocketDir;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Home, Settings};
use crate::supervisor::{self, Gate, InstanceView, Label, Launch, ProbePolicy, Supervisor, Tmp, Transport};

/// Connections the kernel queues for the edge, over a restart of it too.
const BACKLOG: i32 = 4096;
/// The edge drains its requests itself when asked to stop; streams are cut after this.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
const SERVICE: &str = "edge";
/// What a new edge inherits of the one before.
const SOCKETS: &[&str] =
    &[LISTEN_EXTERNAL, LISTEN_PUBLIC_V4, LISTEN_PUBLIC_V6, LISTEN_INTERNAL, LISTEN_DNS_UDP, LISTEN_DNS_TCP];
const CONTROL_SOCKET: &str = "edge.sock";
const PROXY_KEY: &str = "proxy.port in the stack file (or ports.proxy in agentd.toml)";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("port {port} is taken{}; give another {key}, or end what listens there (another agentd: by `agentctl --home ITS_HOME shutdown`)", owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default())]
    PortTaken { port: u16, key: &'static str, owner: Option<String> },
    #[error(
        "proxy.port in the stack file and ports.internal in agentd.toml are both {port}, on one address: change one of them"
    )]
    SamePort { port: u16 },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the edge's control socket {path} cannot be bound")]
    Control {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
}

/// What the edge listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    pub external: SocketAddr,
    pub internal: SocketAddr,
    /// UDP and TCP.
    pub dns: SocketAddr,
}

/// Where the edge is to listen, and where its files are.
#[derive(Debug, Clone)]
pub struct EdgePlace {
    wanted: Listening,
    outside: Outside,
    dir: PathBuf,
    /// `None`: the manager's own.
    user: Option<User>,
}

/// Whether outside traffic can ever come in directly. Where it cannot, no socket for it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    Never,
    WhenOpened,
}

impl EdgePlace {
    pub fn new(home: &Home, port: u16, outside: Outside, settings: &Settings, user: Option<User>) -> Self {
        let external = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let layout = home.places.layout;
        let (internal, dns) = (settings.internal(layout), settings.dns(layout));
        Self { wanted: Listening { external, internal, dns }, outside, dir: home.edge_dir(), user }
    }

    /// Ports of agentd.toml that a running edge does not listen on yet, in words.
    pub fn waits_for_down(&self, listening: Listening, public: &PublicSockets) -> Vec<String> {
        let ports = [
            ("ports.internal", self.wanted.internal, listening.internal),
            ("ports.dns", self.wanted.dns, listening.dns),
        ];
        let other = ports.into_iter().filter(|(_, wanted, found)| wanted.port() != found.port());
        let said = other.map(|(key, wanted, found)| {
            let (wanted, found) = (wanted.port(), found.port());
            format!(
                "{key} {wanted} takes effect at the next start after `agentctl shutdown`; the edge listens on {found}"
            )
        });
        let shut = "requests from outside are taken from loopback only until `agentctl shutdown` and a new start: the edge \
                    was started without sockets for them";
        let shut = (self.outside == Outside::WhenOpened && public.is_empty()).then(|| shut.to_owned());
        said.chain(shut).collect()
    }

    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(CONTROL_SOCKET)
    }

    pub fn snapshot_file(&self) -> PathBuf {
        self.dir.join("snapshot.json")
    }
}

/// Descriptors with their names, as they are held.
type Held = Vec<(String, OwnedFd)>;

/// The edge that serves from now on, and those that are to end once it does.
#[derive(Debug)]
pub struct Edge {
    pub listening: Listening,
    pub public: PublicSockets,
    pub retiring: Vec<InstanceId>,
}

/// Finds the running edge or starts one. Tells where it listens: one that was found keeps the ports it was started with,
/// whatever document and settings say by now. One of another program than ours gets a successor on the same sockets.
pub async fn ensure(supervisor: &Supervisor, place: &EdgePlace) -> Result<Edge, Error> {
    let edges = running(supervisor);
    let current = edges.iter().find(|view| handover::runs_our_program(view)).or(edges.first());
    let mut found = Held::new();
    if let Some(view) = current {
        found = held(supervisor, view).await;
        if let Some(listening) = listens_on(&found) {
            // Several: a handover was cut short, and which of them the control socket leads to, nobody can say.
            if edges.len() > 1 || !handover::runs_our_program(view) {
                return succeed(supervisor, place, found, &edges).await;
            }
            return Ok(Edge { listening, public: PublicSockets::of(&found), retiring: Vec::new() });
        }
        if outer(&found).is_none() {
            tracing::warn!("the listening sockets died with every process that held them; a new edge takes over");
            found.clear();
            stop(supervisor).await?;
        }
    }
    // Before the old edge ends: a port that is taken leaves it serving.
    let sockets = bind_missing(found, place)?;
    if !running(supervisor).is_empty() {
        tracing::warn!(
            "the edge was started by an older agentd and knows no names; it drains, then a new one takes over"
        );
        stop(supervisor).await?;
    }
    begin(supervisor, place, sockets, Vec::new()).await
}

/// A second edge on the sockets of the first: both accept until the first is told to end.
async fn succeed(
    supervisor: &Supervisor,
    place: &EdgePlace,
    mut sockets: Held,
    edges: &[InstanceView],
) -> Result<Edge, Error> {
    tracing::info!("the edge that was found is not one of ours to keep; a new one takes over on its sockets");
    handover::end_idle(supervisor, edges).await;
    sockets.retain(|(name, _)| SOCKETS.contains(&name.as_str()));
    // Managers reach the new edge from here on; the old one routes by what it was told last.
    sockets.push((LISTEN_CONTROL.to_owned(), control(place)?));
    begin(supervisor, place, sockets, edges.iter().map(|edge| edge.id.clone()).collect()).await
}

async fn begin(
    supervisor: &Supervisor,
    place: &EdgePlace,
    sockets: Held,
    retiring: Vec<InstanceId>,
) -> Result<Edge, Error> {
    let listening = listens_on(&sockets).expect("all sockets are there");
    let public = PublicSockets::of(&sockets);
    supervisor.launch(launch(sockets, place)?).await?;
    Ok(Edge { listening, public, retiring })
}

fn launch(sockets: Held, place: &EdgePlace) -> Result<Launch, Error> {
    // Every name starts with LISTEN_PREFIX, so the numbers follow the order.
    let mut held = sockets;
    let (program, program_path) = supervisor::own_program(held.len())?;
    held.push(program);
    let snapshot = place.snapshot_file().to_string_lossy().into_owned();
    Ok(Launch {
        service: SERVICE.to_owned(),
        label: Label::Edge,
        argv: vec![program_path, "edge".to_owned(), "--snapshot".to_owned(), snapshot],
        env: vec![("RUST_BACKTRACE".to_owned(), "1".to_owned())],
        cwd: PathBuf::from("/"),
        port: None,
        held,
        restart: RestartPolicy::Always,
        stop_signal: StopSignal::Term.number(),
        stop_timeout: STOP_TIMEOUT,
        run_limit: None,
        gate: Gate::None,
        probe: ProbePolicy::default(),
        user: place.user.clone(),
        tmp: Tmp::Shared,
        hosts_file: None,
    })
}

/// Stops every edge and lets their listeners go.
pub async fn stop(supervisor: &Supervisor) -> Result<(), Error> {
    for view in running(supervisor) {
        end(supervisor, &view).await?;
    }
    Ok(())
}

async fn end(supervisor: &Supervisor, view: &InstanceView) -> Result<(), Error> {
    if view.phase != Phase::Down {
        supervisor.stop(&view.id, None).await?;
    }
    Ok(supervisor.remove(&view.id).await?)
}

/// What shim or keeper still hold for the edge.
async fn held(supervisor: &Supervisor, view: &InstanceView) -> Held {
    supervisor.held(&view.id).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "nobody can say what the edge listens on");
        Held::new()
    })
}

fn find<'a>(held: &'a Held, wanted: &str) -> Option<&'a OwnedFd> {
    held.iter().find(|(name, _)| name == wanted).map(|(_, fd)| fd)
}

fn address(held: &Held, name: &str) -> Option<SocketAddr> {
    SockRef::from(find(held, name)?).local_addr().ok()?.as_socket()
}

/// The address of a first edge's sockets: an agentd before names knew only these.
fn outer(held: &Held) -> Option<SocketAddr> {
    find(held, LISTEN_CONTROL)?;
    address(held, LISTEN_EXTERNAL)
}

/// `None` unless all are there.
fn listens_on(held: &Held) -> Option<Listening> {
    let (external, internal) = (outer(held)?, address(held, LISTEN_INTERNAL)?);
    address(held, LISTEN_DNS_TCP)?;
    Some(Listening { external, internal, dns: address(held, LISTEN_DNS_UDP)? })
}

/// Keeps the sockets that were found and binds the others.
fn bind_missing(found: Held, place: &EdgePlace) -> Result<Held, Error> {
    let Listening { external, internal, dns } = place.wanted;
    if external.port() == internal.port() && find(&found, LISTEN_EXTERNAL).is_none() {
        return Err(Error::SamePort { port: external.port() });
    }
    let mut found: BTreeMap<String, OwnedFd> = found.into_iter().collect();
    let joinable = !found.contains_key(LISTEN_EXTERNAL);
    let mut sockets = Held::new();
    for (name, wanted) in [
        (LISTEN_EXTERNAL, Wanted::Port(external, Transport::Tcp, PROXY_KEY)),
        (LISTEN_INTERNAL, Wanted::Port(internal, Transport::Tcp, "ports.internal in agentd.toml")),
        (LISTEN_DNS_UDP, Wanted::Port(dns, Transport::Udp, "ports.dns in agentd.toml")),
        (LISTEN_DNS_TCP, Wanted::Port(dns, Transport::Tcp, "ports.dns in agentd.toml")),
        (LISTEN_CONTROL, Wanted::Control),
    ] {
        let socket = match (found.remove(name), wanted) {
            (Some(socket), _) => socket,
            (None, Wanted::Port(address, transport, key)) => listen(address, transport, key, place.outside)?,
            (None, Wanted::Control) => control(place)?,
        };
        sockets.push((name.to_owned(), socket));
    }
    found.retain(|name, _| name == LISTEN_PUBLIC_V4 || name == LISTEN_PUBLIC_V6);
    // A loopback socket that was made to stand alone cannot be joined by others: then there are none until the next edge.
    if found.is_empty() && joinable && place.outside == Outside::WhenOpened {
        sockets.extend(public_sockets(place)?);
    }
    sockets.extend(found);
    Ok(sockets)
}

fn public_sockets(place: &EdgePlace) -> Result<Held, Error> {
    let port = place.wanted.external.port();
    public::bind(port)
        .map_err(|source| refused((Ipv4Addr::UNSPECIFIED, port).into(), Transport::Tcp, PROXY_KEY, source))
}

/// A socket, and the setting that moves it elsewhere.
enum Wanted {
    Port(SocketAddr, Transport, &'static str),
    Control,
}

fn running(supervisor: &Supervisor) -> Vec<InstanceView> {
    supervisor.view().borrow().values().filter(|view| matches!(view.label, Label::Edge)).cloned().collect()
}

fn listen(address: SocketAddr, transport: Transport, key: &'static str, outside: Outside) -> Result<OwnedFd, Error> {
    let tcp = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Only for the sockets of all addresses beside it: it also lets any program of this user share the port.
        socket.set_reuse_port(key == PROXY_KEY && outside == Outside::WhenOpened)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    // Without SO_REUSEADDR: for UDP it would let another program take the queries.
    let udp = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let bound = match transport {
        Transport::Tcp => tcp(),
        Transport::Udp => udp(),
    };
    bound.map(OwnedFd::from).map_err(|source| refused(address, transport, key, source))
}

fn refused(address: SocketAddr, transport: Transport, key: &'static str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            Error::PortTaken { port: address.port(), key, owner: supervisor::listener_name(address.port(), transport) }
        }
        _ => Error::Listen { address, source },
    }
}

/// The folder is open to the edge's user, the socket is not: the edge holds it by descriptor.
fn control(place: &EdgePlace) -> Result<OwnedFd, Error> {
    let bound = |dir: &Path| -> io::Result<OwnedFd> {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        let path = dir.join(CONTROL_SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(SocketDir::open(dir)?.path_of(CONTROL_SOCKET))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener.into())
    };
    bound(&place.dir).map_err(|source| Error::Control { path: place.control_socket(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// As an older agentd named the descriptor of its own program.
    const PROGRAM: &str = "listen.program";

    /// Ports that are free now; the kernel does not give them out again at once.
    fn place(dir: &Path) -> EdgePlace {
        let free = || loopback(0);
        let port =
            || listen(free(), Transport::Tcp, "", Outside::Never).map(|fd| SockRef::from(&fd).local_addr().unwrap());
        let [external, internal, dns] = [(); 3].map(|()| port().unwrap().as_socket().unwrap());
        let wanted = Listening { external, internal, dns };
        EdgePlace { wanted, outside: Outside::WhenOpened, dir: dir.join("edge"), user: None }
    }

    #[test]
    fn all_sockets_are_bound_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let sockets = bind_missing(Held::new(), &place).unwrap();
        assert_eq!(listens_on(&sockets), Some(place.wanted));
        let launch = launch(sockets, &place).unwrap();
        let program = launch.held.len() - 1;
        assert_eq!(launch.held[program].0, PROGRAM);
        assert_eq!(launch.argv[0], format!("/proc/self/fd/{}", program + 3));
        assert!(launch.held.iter().all(|(name, _)| name.starts_with(agentd_protocol::shim::LISTEN_PREFIX)));
    }

    #[test]
    fn an_edge_of_before_names_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let mut place = place(dir.path());
        let old = vec![
            (LISTEN_EXTERNAL.to_owned(), listen(loopback(0), Transport::Tcp, "", Outside::Never).unwrap()),
            (LISTEN_CONTROL.to_owned(), control(&place).unwrap()),
            (PROGRAM.to_owned(), std::fs::File::open("/proc/self/exe").unwrap().into()),
        ];
        let kept = outer(&old).unwrap();
        assert_ne!(kept, place.wanted.external);
        assert_eq!(listens_on(&old), None);
        let all = bind_missing(old, &place).unwrap();
        place.wanted.external = kept;
        assert_eq!(listens_on(&all), Some(place.wanted), "the external socket is the one there was");
        assert!(all.iter().all(|(name, _)| name != PROGRAM), "the program is the new one");
    }

    #[test]
    fn a_taken_port_names_owner_and_key() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let taken = listen(loopback(0), transport, "", Outside::Never).unwrap();
            let address = SockRef::from(&taken).local_addr().unwrap().as_socket().unwrap();
            let error = listen(address, transport, "ports.dns in agentd.toml", Outside::Never).unwrap_err().to_string();
            assert!(error.contains(&format!("taken by pid {}", std::process::id())), "{error}");
            assert!(error.contains("another ports.dns in agentd.toml,"), "{error}");
        }
    }

    #[test]
    fn one_port_for_two_listeners_names_both_keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut place = place(dir.path());
        place.wanted.external = place.wanted.internal;
        let error = bind_missing(Held::new(), &place).unwrap_err().to_string();
        assert!(error.contains("proxy.port") && error.contains("ports.internal"), "{error}");
    }

    #[test]
    fn other_ports_wait_for_the_next_edge() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let public = PublicSockets::of(&bind_missing(Held::new(), &place).unwrap());
        assert!(place.waits_for_down(place.wanted, &public).is_empty());
        let said = place.waits_for_down(Listening { dns: loopback(1), ..place.wanted }, &public);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("ports.dns ") && said[0].ends_with("listens on 1"), "{said:?}");
        let said = place.waits_for_down(place.wanted, &PublicSockets::default());
        assert!(said[0].contains("from loopback only until `agentctl shutdown`"), "{said:?}");
    }
}
