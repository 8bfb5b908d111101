//! The manager's side of the keeper: finds it or starts it, asks it, and starts another when it dies.
//!
//! One task owns the connection and asks one question at a time; a keeper answers at once. The keeper is never our
//! child: it outlives us, and its death is seen as the end of the connection.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::wire::{Envelope, Message, Refusal};
use agentd_protocol::shim::{CONTROL_SOCKET, KEEPER_DIR, NO_PIDFD_INFO_ENV};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::scope::Scope;
use super::socket::{AsyncConnection, SocketError};
use crate::lifecycle;

/// From a question to its answer, a restart of the keeper in between included.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// From starting a keeper to its first answer. It needs milliseconds.
const START_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);
/// Between attempts to get a keeper back: the first at once, then doubling.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Callers that wait for their turn; more wait before the queue, within their own limit.
const QUEUE_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the keeper's log {path} cannot be opened; see its folder's owner and mode")]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the keeper cannot be started from {path}; see that file's mode and whether its disk is mounted noexec")]
    Start {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the keeper was started and does not answer; its reason is in {log_path}")]
    NotReady {
        log_path: PathBuf,
        #[source]
        source: SocketError,
    },
    #[error("the keeper does not answer within {} s; see whether the process is stopped", CALL_LIMIT.as_secs())]
    Silent,
    #[error("the connection to the keeper broke before it answered; another one is being started")]
    Broken(#[source] SocketError),
    /// After `shutdown`, or while agentd ends.
    #[error("the keeper is not asked any more, agentd is ending")]
    Ended,
    #[error("the keeper refused: {text}")]
    Refused { reason: Refusal, text: String },
    #[error("the keeper gave an answer that fits no question; its version may be too old")]
    Unexpected,
}

/// Which keeper is connected. A caller that sees the generation grow asks again for every instance it has, with its
/// descriptors: the new keeper may not have them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperView {
    pub pid: u32,
    /// Connections so far, from 1.
    pub generation: u64,
}

#[derive(Debug, Clone)]
pub struct Keeper {
    questions: mpsc::Sender<Question>,
    view: watch::Receiver<KeeperView>,
}

type Answer = (Message, Vec<OwnedFd>);

#[derive(Debug)]
struct Question {
    message: Message,
    fds: Vec<OwnedFd>,
    reply: oneshot::Sender<Result<Vec<Answer>, Error>>,
}

/// What it takes to start a keeper.
#[derive(Debug)]
struct Place {
    run_dir: PathBuf,
    shim_path: PathBuf,
    log_path: PathBuf,
    scope: Scope,
}

struct Task {
    place: Place,
    cancel: CancellationToken,
    questions: mpsc::Receiver<Question>,
    view: watch::Sender<KeeperView>,
    seq: u32,
}

impl Keeper {
    /// Connects to the keeper of `run_dir`, which exists, or starts one from `shim_path` with its messages appended to
    /// `log_path`. Its task ends with `cancel`; the keeper does not.
    pub async fn ensure(
        run_dir: &Path,
        shim_path: &Path,
        log_path: &Path,
        scope: Scope,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let [run_dir, shim_path, log_path] = [run_dir, shim_path, log_path].map(Path::to_owned);
        let place = Place { run_dir, shim_path, log_path, scope };
        let connection = place.connection().await?;
        let (view, seen) = watch::channel(KeeperView { pid: connection.peer().pid, generation: 1 });
        let (sender, questions) = mpsc::channel(QUEUE_MAX);
        let task = Task { place, cancel: cancel.clone(), questions, view, seq: 0 };
        lifecycle::spawn_essential("keeper", cancel, task.run(connection));
        Ok(Self { questions: sender, view: seen })
    }

    /// Sees to it that a shim runs for the instance; its folder, spec and pipes exist. Descriptors are merged with
    /// those the keeper has by name, and reach a shim when it starts.
    pub async fn spawn(&self, instance: &InstanceId, held: Vec<(String, OwnedFd)>) -> Result<(), Error> {
        let (names, fds) = held.into_iter().unzip();
        self.order(Message::Spawn { instance: instance.to_string(), names }, fds).await
    }

    /// Living shims and their pids.
    pub async fn list(&self) -> Result<Vec<(InstanceId, u32)>, Error> {
        let mut all = Vec::new();
        for (message, _) in self.ask(Message::List, Vec::new()).await? {
            match message {
                Message::Instances { shims } => {
                    for (id, pid) in shims {
                        all.push((InstanceId::new(id).map_err(|_| Error::Unexpected)?, pid));
                    }
                }
                Message::Done => return Ok(all),
                other => return Err(refusal(other)),
            }
        }
        Err(Error::Unexpected)
    }

    /// Duplicates of the descriptors kept for an instance. Refused with `Unknown` when none is kept.
    pub async fn held(&self, instance: &InstanceId) -> Result<Vec<(String, OwnedFd)>, Error> {
        let question = Message::AskHeld { instance: Some(instance.to_string()) };
        match self.ask(question, Vec::new()).await?.pop() {
            Some((Message::Held { names }, fds)) if names.len() == fds.len() => {
                Ok(names.into_iter().zip(fds).collect())
            }
            Some((other, _)) => Err(refusal(other)),
            None => Err(Error::Unexpected),
        }
    }

    /// Drops what is kept for an instance whose shim has gone. Idempotent; refused with `Busy` while the shim lives.
    pub async fn forget(&self, instance: &InstanceId) -> Result<(), Error> {
        self.order(Message::Forget { instance: instance.to_string() }, Vec::new()).await
    }

    /// Ends the keeper; refused with `Busy` while a shim lives. Afterwards every call gives [`Error::Ended`].
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.order(Message::Shutdown, Vec::new()).await
    }

    pub fn pid(&self) -> u32 {
        self.view.borrow().pid
    }

    pub fn view(&self) -> watch::Receiver<KeeperView> {
        self.view.clone()
    }

    async fn order(&self, message: Message, fds: Vec<OwnedFd>) -> Result<(), Error> {
        match self.ask(message, fds).await?.pop() {
            Some((Message::Done, _)) => Ok(()),
            Some((other, _)) => Err(refusal(other)),
            None => Err(Error::Unexpected),
        }
    }

    async fn ask(&self, message: Message, fds: Vec<OwnedFd>) -> Result<Vec<Answer>, Error> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.questions.send(Question { message, fds, reply }).await.map_err(|_| Error::Ended)?;
            answer.await.map_err(|_| Error::Ended)?
        };
        timeout(CALL_LIMIT, asked).await.map_err(|_| Error::Silent)?
    }
}

fn refusal(message: Message) -> Error {
    match message {
        Message::Refused { reason, text } => Error::Refused { reason, text },
        _ => Error::Unexpected,
    }
}

/// What a connection came to.
enum Next {
    Reconnect,
    /// Nobody is to be asked any more.
    Rest,
}

impl Task {
    async fn run(mut self, mut connection: AsyncConnection) {
        let cancel = self.cancel.clone();
        let work = async {
            while let Next::Reconnect = self.serve(&connection).await {
                tracing::warn!(pid = connection.peer().pid, "keeper is gone; starting another");
                connection = self.reconnect().await;
                self.view.send_modify(|view| {
                    *view = KeeperView { pid: connection.peer().pid, generation: view.generation + 1 };
                });
            }
            self.questions.close();
            // Waiting questions are dropped with the queue: their callers see Ended.
            while self.questions.try_recv().is_ok() {}
            self.cancel.cancelled().await;
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    async fn serve(&mut self, connection: &AsyncConnection) -> Next {
        loop {
            tokio::select! {
                question = self.questions.recv() => {
                    let Some(question) = question else { return Next::Rest };
                    if let Some(next) = self.exchange(connection, question).await {
                        return next;
                    }
                }
                unasked = connection.receive() => match unasked {
                    // An answer that came after its limit.
                    Ok(_) | Err(SocketError::Malformed(_)) => {}
                    Err(_) => return Next::Reconnect,
                },
            }
        }
    }

    async fn exchange(&mut self, connection: &AsyncConnection, question: Question) -> Option<Next> {
        // The caller has given up while it queued.
        if question.reply.is_closed() {
            return None;
        }
        let is_last = question.message == Message::Shutdown;
        self.seq = self.seq.wrapping_add(1).max(1);
        let envelope = Envelope { seq: self.seq, re: 0, message: question.message };
        let (result, next) = match timeout(CALL_LIMIT, converse(connection, envelope, question.fds)).await {
            Ok(Ok(answers)) => {
                let done = is_last && answers.iter().any(|(message, _)| *message == Message::Done);
                (Ok(answers), done.then_some(Next::Rest))
            }
            Ok(Err(cause)) => (Err(Error::Broken(cause)), Some(Next::Reconnect)),
            Err(_) => (Err(Error::Silent), None),
        };
        // A caller that left has seen its own limit; the answer is nobody's.
        let _ = question.reply.send(result);
        next
    }

    /// Tries until there is a keeper.
    async fn reconnect(&self) -> AsyncConnection {
        let mut pause = RETRY_MIN;
        loop {
            match self.place.connection().await {
                Ok(connection) => return connection,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "no keeper; trying again in {pause:?}");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// One question and its answers: Instances may come several times, anything else is the last.
async fn converse(
    connection: &AsyncConnection,
    question: Envelope,
    fds: Vec<OwnedFd>,
) -> Result<Vec<Answer>, SocketError> {
    let seq = question.seq;
    connection.send(question, fds).await?;
    let mut answers = Vec::new();
    loop {
        let (envelope, fds) = connection.receive().await?;
        if envelope.re == seq {
            let goes_on = matches!(envelope.message, Message::Instances { .. });
            answers.push((envelope.message, fds));
            if !goes_on {
                return Ok(answers);
            }
        }
    }
}

impl Place {
    /// A connection whose keeper has answered once; starts a keeper when nobody listens.
    async fn connection(&self) -> Result<AsyncConnection, Error> {
        let ready_by = Instant::now() + START_LIMIT;
        let keeper_dir = self.run_dir.join(KEEPER_DIR);
        let connect = || AsyncConnection::connect(&keeper_dir, CONTROL_SOCKET);
        let mut connected = connect();
        if connected.is_err() {
            self.start().await?;
        }
        let connection = loop {
            connected = match connected {
                Ok(connection) => break connection,
                Err(source) if Instant::now() >= ready_by => {
                    return Err(Error::NotReady { log_path: self.log_path.clone(), source });
                }
                Err(_) => {
                    sleep(CONNECT_INTERVAL).await;
                    connect()
                }
            };
        };
        let hello = Envelope { seq: u32::MAX, re: 0, message: Message::List };
        match timeout_at(ready_by, converse(&connection, hello, Vec::new())).await {
            Ok(Ok(_)) => Ok(connection),
            Ok(Err(cause)) => Err(Error::Broken(cause)),
            Err(_) => Err(Error::Silent),
        }
    }

    /// Returns when the process we started has made the keeper and ended. Of two keepers the lock lets one live.
    async fn start(&self) -> Result<(), Error> {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log_path);
        let log = log.map_err(|source| Error::Log { path: self.log_path.clone(), source })?;
        let mut command = self.scope.command(&self.shim_path).await;
        command.arg("keeper").arg(&self.run_dir).arg("--detach").env_clear();
        for name in ["PATH", NO_PIDFD_INFO_ENV] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let start_error = |source| Error::Start { path: self.shim_path.clone(), source };
        match timeout(START_LIMIT, command.status()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(start_error(io::Error::other(status.to_string()))),
            Ok(Err(source)) => Err(start_error(source)),
            Err(_) => Err(start_error(io::ErrorKind::TimedOut.into())),
        }
    }
}
