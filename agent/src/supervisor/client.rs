//! The manager's end of a shim's control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::ids::Epoch;
use agentd_protocol::shim::CONTROL_SOCKET;
use agentd_protocol::shim::state::State;
use agentd_protocol::shim::wire::{Envelope, Message, Refusal, VERSION_MAX, VERSION_MIN};
use tokio::time::timeout;

use super::socket::{AsyncConnection, SocketError};

/// A shim is single-threaded and answers at once; one that does not is stopped or stuck in the kernel.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(2);
/// A shim whose socket buffer stays full for so long does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// An open conversation.
#[derive(Debug)]
pub(super) struct Link {
    connection: AsyncConnection,
    seq: u32,
}

/// A shim's first words.
#[derive(Debug)]
pub(super) struct Welcome {
    pub(super) shim_pid: u32,
    pub(super) state: State,
}

/// Why there is no conversation.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoLink {
    #[error("no shim listens; the keeper is asked for one")]
    Dead,
    #[error("shim does not answer; see whether it is stopped or waits for a disk")]
    Hung,
    #[error("a newer agentd has taken over; this one gives no more orders")]
    Superseded,
    #[error("shim refuses: {text}")]
    Refused { text: String },
    #[error("keeper could not start a shim")]
    Spawn(#[source] super::keeper::Error),
    #[error("this agentd is ending")]
    Ending,
    #[error(transparent)]
    Socket(SocketError),
}

impl Link {
    /// Connects and is welcomed within [`WELCOME_TIMEOUT`]; events after `events_after` follow.
    pub(super) async fn open(dir: &Path, epoch: Epoch, events_after: u64) -> Result<(Self, Welcome), NoLink> {
        let connection = AsyncConnection::connect(dir, CONTROL_SOCKET).map_err(NoLink::from_socket)?;
        let mut link = Self { connection, seq: 0 };
        let hello = Message::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, epoch: epoch.0, events_after };
        let greeting = async {
            link.send(hello).await.map_err(NoLink::from_socket)?;
            loop {
                match link.receive().await.map_err(NoLink::from_socket)?.0.message {
                    Message::Welcome { shim_pid, state, .. } => return Ok(Welcome { shim_pid, state }),
                    Message::Refused { reason: Refusal::OldEpoch, .. } => return Err(NoLink::Superseded),
                    Message::Refused { text, .. } => return Err(NoLink::Refused { text }),
                    other => tracing::debug!(?other, "before its welcome"),
                }
            }
        };
        let welcome = timeout(WELCOME_TIMEOUT, greeting).await.map_err(|_| NoLink::Hung)??;
        Ok((link, welcome))
    }

    /// Returns the number an answer will name.
    pub(super) async fn send(&mut self, message: Message) -> Result<u32, SocketError> {
        self.seq = self.seq.wrapping_add(1).max(1);
        let envelope = Envelope { seq: self.seq, re: 0, message };
        timeout(SEND_TIMEOUT, self.connection.send(envelope, Vec::new()))
            .await
            .map_err(|_| SocketError::Send(io::ErrorKind::TimedOut.into()))??;
        Ok(self.seq)
    }

    /// The next message that can be read. Cancel-safe.
    pub(super) async fn receive(&self) -> Result<(Envelope, Vec<OwnedFd>), SocketError> {
        loop {
            match self.connection.receive().await {
                Err(SocketError::Malformed(cause)) => tracing::warn!(%cause, "message of a shim skipped"),
                other => return other,
            }
        }
    }
}

impl NoLink {
    fn from_socket(error: SocketError) -> Self {
        match &error {
            SocketError::Connect(cause) => match cause.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Dead,
                io::ErrorKind::WouldBlock => Self::Hung,
                _ => Self::Socket(error),
            },
            SocketError::Send(_) | SocketError::Receive(_) | SocketError::Closed | SocketError::Malformed(_) => {
                Self::Socket(error)
            }
        }
    }
}
