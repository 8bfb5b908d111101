//! The manager's side: publishes snapshots, and knows what the edge said last. Runs in the manager.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::edge::{FromEdge, PROTOCOL, Snapshot, ToEdge};
use agentd_protocol::ids::{Generation, Incarnation, InstanceId};
use agentd_sys::causes::chain;
use agentd_sys::files::{Durability, write_atomic};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::bytes::BytesMut;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::frame::{Link, decode, encode};
use crate::lifecycle;

/// The edge applies a snapshot of 2,000 services in milliseconds; this is for a starved host.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Publishers wait for their turn.
const ORDERS_QUEUE: usize = 16;
/// Reports a slow listener may fall behind; it probes all backends then.
const UNREACHABLE_QUEUE: usize = 64;
/// Readable by the edge's user; a snapshot holds no secret.
const SNAPSHOT_MODE: u32 = 0o644;

pub type BackendKey = (InstanceId, Incarnation);

/// What the manager knows of the edge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeView {
    /// `None` while it is not connected.
    pub edge: Option<EdgeProcess>,
    /// In force at the edge, as far as it told; kept while it is not connected.
    pub generation: Option<Generation>,
    /// What the connected edge may have given a request to: what it said when we met, and what it was sent since.
    pub in_use: BTreeSet<BackendKey>,
}

impl EdgeView {
    fn is_idle(&self, backend: &BackendKey) -> bool {
        self.edge.is_some() && !self.in_use.contains(backend)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeProcess {
    pub pid: u32,
    pub build: String,
}

/// How waiting for a backend's last request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idleness {
    Idle,
    Deadline,
}

/// Handle to the task that talks to the edge.
#[derive(Debug, Clone)]
pub struct EdgeClient {
    orders: mpsc::Sender<Publish>,
    view: watch::Receiver<EdgeView>,
    unreachable: broadcast::Sender<BackendKey>,
}

#[derive(Debug)]
struct Publish {
    snapshot: Snapshot,
    done: oneshot::Sender<Result<(), Error>>,
}

impl EdgeClient {
    /// `socket` is the edge's control socket, `snapshot_file` the copy the edge starts from. Ends with `cancel`.
    pub fn start(socket: PathBuf, snapshot_file: PathBuf, cancel: CancellationToken) -> Self {
        let (orders, incoming) = mpsc::channel(ORDERS_QUEUE);
        let view = watch::Sender::new(EdgeView::default());
        let client = Self { orders, view: view.subscribe(), unreachable: broadcast::Sender::new(UNREACHABLE_QUEUE) };
        let task = Task {
            socket,
            snapshot_file,
            orders: incoming,
            view,
            unreachable: client.unreachable.clone(),
            newest: None,
            waiting: None,
            drained: false,
        };
        lifecycle::spawn_essential("edge client", cancel.clone(), task.run(cancel));
        client
    }

    /// Writes the copy on disk, then returns when every new request is routed by `snapshot`. With
    /// [`Error::NotConnected`], [`Error::NoAnswer`] and [`Error::Superseded`] the copy is written and the newest
    /// snapshot is sent again on the next connection.
    pub async fn publish(&self, snapshot: Snapshot) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.orders.send(Publish { snapshot, done }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    pub fn view(&self) -> watch::Receiver<EdgeView> {
        self.view.clone()
    }

    /// Backends that refused the edge a connection; to be probed at once.
    pub fn unreachable(&self) -> broadcast::Receiver<BackendKey> {
        self.unreachable.subscribe()
    }

    /// Waits until a backend that is no longer in the snapshot has no request left.
    pub async fn wait_idle(&self, backend: &BackendKey, deadline: Duration) -> Idleness {
        let mut view = self.view.clone();
        let idle = view.wait_for(|view| view.is_idle(backend));
        match tokio::time::timeout(deadline, idle).await {
            Ok(Ok(_)) => Idleness::Idle,
            // The client has ended: nothing will be heard any more.
            Ok(Err(_)) | Err(_) => Idleness::Deadline,
        }
    }
}

struct Task {
    socket: PathBuf,
    snapshot_file: PathBuf,
    orders: mpsc::Receiver<Publish>,
    view: watch::Sender<EdgeView>,
    unreachable: broadcast::Sender<BackendKey>,
    newest: Option<Newest>,
    waiting: Option<Waiting>,
    /// The edge that is connected has said that it ends.
    drained: bool,
}

struct Newest {
    backends: BTreeSet<BackendKey>,
    frame: Vec<u8>,
}

struct Waiting {
    generation: Generation,
    until: Instant,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Task {
    async fn run(mut self, cancel: CancellationToken) {
        let mut pause = RECONNECT_MIN;
        let mut next_try = Instant::now();
        let pulse = lifecycle::pulse("edge client");
        loop {
            pulse.beat();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(publish) = self.orders.recv() => self.take(publish, None).await,
                linked = connect_at(next_try, &self.socket) => {
                    match linked {
                        Ok(link) => {
                            pause = RECONNECT_MIN;
                            let ended = self.converse(link, &pulse, &cancel).await;
                            if cancel.is_cancelled() { return }
                            self.gone(&ended);
                        }
                        Err(error) => {
                            tracing::debug!(error = %chain(&error), "the edge is not there yet");
                            pause = (pause * 2).min(RECONNECT_MAX);
                        }
                    }
                    next_try = Instant::now() + pause;
                }
            }
        }
    }

    async fn converse(
        &mut self,
        mut link: Link,
        pulse: &lifecycle::Pulse,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        link.send(&ToEdge::Hello { protocol: PROTOCOL }).await?;
        loop {
            pulse.beat();
            let until = self.waiting.as_ref().map(|waiting| waiting.until);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                frame = link.next() => match frame? {
                    Some(frame) => self.hear(frame, &mut link).await?,
                    None => return Ok(()),
                },
                Some(publish) = self.orders.recv() => self.take(publish, Some(&mut link)).await,
                () = at(until) => self.answer(|generation| Err(Error::NoAnswer { generation })),
                () = pulse.due() => {}
            }
        }
    }

    /// Disk first: an edge that dies now starts again from the newest snapshot.
    async fn take(&mut self, publish: Publish, link: Option<&mut Link>) {
        let Publish { snapshot, done } = publish;
        let generation = snapshot.generation;
        let stored = self.store(&snapshot).await;
        let frame = stored.and_then(|()| encode(&ToEdge::Snapshot { snapshot: snapshot.clone() }));
        let outcome = match frame {
            Err(error) => Err(error),
            Ok(frame) => {
                self.view.send_modify(|view| view.in_use.extend(backends(&snapshot)));
                let sent = match link {
                    // Before its Hello the edge is not known to speak our version; Hello sends the newest.
                    Some(link) if self.view.borrow().edge.is_some() => link.send_frame(&frame).await,
                    Some(_) => Ok(()),
                    None => Err(Error::NotConnected { generation }),
                };
                self.newest = Some(Newest { backends: backends(&snapshot), frame });
                sent
            }
        };
        match outcome {
            Ok(()) => {
                self.answer(|generation| Err(Error::Superseded { generation }));
                self.waiting = Some(Waiting { generation, until: Instant::now() + APPLY_TIMEOUT, done });
            }
            // The publisher may have given up; then nobody is told.
            Err(error) => drop(done.send(Err(error))),
        }
    }

    async fn store(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let text = serde_json::to_vec(snapshot).map_err(Error::Message)?;
        let path = self.snapshot_file.clone();
        let written = lifecycle::spawn_blocking("write snapshot copy", move || {
            write_atomic(&path, &text, SNAPSHOT_MODE, Durability::PowerCut)
        })
        .await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| Error::WriteSnapshot { path: self.snapshot_file.clone(), source })
    }

    async fn hear(&mut self, frame: BytesMut, link: &mut Link) -> Result<(), Error> {
        match decode(frame).await? {
            FromEdge::Hello { protocol, build, pid, generation, backends } => {
                if protocol != PROTOCOL {
                    tracing::error!(protocol, ours = PROTOCOL, "the edge speaks another version; it must be replaced");
                }
                self.met(EdgeProcess { pid, build }, generation, backends.into_iter().collect());
                if let Some(newest) = &self.newest {
                    link.send_frame(&newest.frame).await?;
                }
            }
            FromEdge::Applied { generation } => {
                self.view.send_modify(|view| view.generation = Some(generation));
                self.answer_to(generation, Ok(()));
            }
            FromEdge::Rejected { generation, reason } => {
                tracing::error!(%generation, reason, "the edge refused a snapshot; it routes by the one before");
                self.answer_to(generation, Err(Error::Rejected { generation, reason }));
            }
            FromEdge::Idle { instance, incarnation } => {
                let backend = (instance, incarnation);
                // Sent before the edge had the snapshot in which the backend came back.
                if self.newest.as_ref().is_none_or(|newest| !newest.backends.contains(&backend)) {
                    self.view.send_if_modified(|view| view.in_use.remove(&backend));
                }
            }
            FromEdge::Unreachable { instance, incarnation } => {
                // Nobody listens while no service is supervised.
                let _ = self.unreachable.send((instance, incarnation));
            }
            FromEdge::Drained { connections_left } => {
                tracing::info!(connections_left, "the edge has drained and ends");
                self.drained = true;
            }
        }
        Ok(())
    }

    fn met(&mut self, edge: EdgeProcess, generation: Option<Generation>, mut in_use: BTreeSet<BackendKey>) {
        tracing::info!(pid = edge.pid, build = edge.build, ?generation, "connected to the edge");
        self.drained = false;
        in_use.extend(self.newest.iter().flat_map(|newest| newest.backends.iter().cloned()));
        self.view.send_modify(|view| {
            view.edge = Some(edge);
            view.generation = generation;
            view.in_use = in_use;
        });
    }

    fn gone(&mut self, ended: &Result<(), Error>) {
        match ended {
            _ if self.drained => {}
            Ok(()) => tracing::warn!("the edge closed the control connection; connecting again"),
            Err(error) => tracing::warn!(error = %chain(error), "lost the edge; connecting again"),
        }
        self.view.send_modify(|view| view.edge = None);
        self.answer(|generation| Err(Error::NotConnected { generation }));
    }

    fn answer_to(&mut self, generation: Generation, outcome: Result<(), Error>) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.generation == generation) {
            self.answer(|_| outcome);
        }
    }

    fn answer(&mut self, outcome: impl FnOnce(Generation) -> Result<(), Error>) {
        if let Some(waiting) = self.waiting.take() {
            // The publisher may have given up; then nobody is told.
            drop(waiting.done.send(outcome(waiting.generation)));
        }
    }
}

fn backends(snapshot: &Snapshot) -> BTreeSet<BackendKey> {
    let all = snapshot.services.iter().flat_map(|service| &service.backends);
    all.map(|backend| (backend.instance.clone(), backend.incarnation)).collect()
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn connect_at(when: Instant, socket: &Path) -> Result<Link, Error> {
    tokio::time::sleep_until(when).await;
    let stream = connect(socket).await.map_err(|source| Error::Connect { path: socket.into(), source })?;
    Ok(Link::new(stream))
}

/// Through the folder's descriptor: a socket address holds 107 bytes of path, a home may be deeper.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(dir)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)).await
}
