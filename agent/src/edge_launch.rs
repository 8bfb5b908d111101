//! The edge is the first service the supervisor runs: its listeners are bound once, here, and live in shim and keeper
//! from then on; a later manager finds it running.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::edge::{LISTEN_CONTROL, LISTEN_EXTERNAL};
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::StopSignal;
use agentd_sys::files::SocketDir;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::Home;
use crate::supervisor::{self, Gate, InstanceView, Label, Launch, ProbePolicy, RunAs, Supervisor};

/// Connections the kernel queues for the edge, over a restart of it too.
const BACKLOG: i32 = 4096;
/// The edge drains its requests itself when asked to stop; streams are cut after this.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);
const SERVICE: &str = "edge";
const CONTROL_SOCKET: &str = "edge.sock";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("port {} is taken{}; give another proxy.port, or end what listens there (another agentd: by `agentctl --home ITS_HOME down`)", address.port(), owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default())]
    PortTaken { address: SocketAddr, owner: Option<String> },
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

/// Where the edge listens and finds its files.
#[derive(Debug, Clone)]
pub struct EdgePlace {
    pub external: SocketAddr,
    dir: PathBuf,
}

impl EdgePlace {
    pub fn new(home: &Home, port: u16, public: bool) -> Self {
        let ip = if public { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        Self { external: SocketAddr::new(IpAddr::V4(ip), port), dir: home.edge_dir() }
    }

    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(CONTROL_SOCKET)
    }

    pub fn snapshot_file(&self) -> PathBuf {
        self.dir.join("snapshot.json")
    }
}

/// Finds the running edge or starts one. Tells where it listens: one that was found keeps the port it was started with,
/// whatever the document says by now.
pub async fn ensure(supervisor: &Supervisor, place: &EdgePlace) -> Result<SocketAddr, Error> {
    if let Some(view) = running(supervisor) {
        if let Some(external) = listens_on(supervisor, &view).await {
            if matches!(view.phase, Phase::Down) {
                supervisor.start_again(&view.id).await?;
            }
            return Ok(external);
        }
        tracing::warn!("the listening sockets died with every process that held them; a new edge takes over");
        stop(supervisor).await?;
    }
    let mut held =
        vec![(LISTEN_EXTERNAL.to_owned(), listen(place.external)?), (LISTEN_CONTROL.to_owned(), control(place)?)];
    let (program, program_path) = supervisor::own_program(held.len())?;
    held.push(program);
    let snapshot = place.snapshot_file().to_string_lossy().into_owned();
    let launch = Launch {
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
        user: RunAs::Configured,
    };
    supervisor.launch(launch).await?;
    Ok(place.external)
}

/// Stops the edge and lets its listeners go.
pub async fn stop(supervisor: &Supervisor) -> Result<(), Error> {
    if let Some(view) = running(supervisor) {
        if view.phase != Phase::Down {
            supervisor.stop(&view.id, None).await?;
        }
        supervisor.remove(&view.id).await?;
    }
    Ok(())
}

/// What the edge listens on, where shim or keeper still hold all of its listeners.
async fn listens_on(supervisor: &Supervisor, view: &InstanceView) -> Option<SocketAddr> {
    let held = match supervisor.held(&view.id).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "nobody can say what the edge listens on");
            return None;
        }
    };
    let find = |wanted: &str| held.iter().find(|(name, _)| name == wanted).map(|(_, fd)| fd);
    find(LISTEN_CONTROL)?;
    SockRef::from(find(LISTEN_EXTERNAL)?).local_addr().ok()?.as_socket()
}

fn running(supervisor: &Supervisor) -> Option<InstanceView> {
    supervisor.view().borrow().values().find(|view| matches!(view.label, Label::Edge)).cloned()
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Error> {
    let bound = || -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket).into())
    };
    bound().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { address, owner: supervisor::listener_name(address.port()) },
        _ => Error::Listen { address, source },
    })
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
