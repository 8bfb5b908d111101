//! The handle through which versions, orders and questions come in.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{LogQuery, Plan, Status, What};
use agentd_protocol::control::report::EventRecord;
use agentd_protocol::ids::{ReleaseNumber, ServiceName, Version};
use agentd_protocol::stack::Stack;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::journal::Journal;
use super::logs::{LogReading, Logs};
use super::mask::mask_record;
use super::worker::{Doing, Rooms};

/// Orders and questions from sync, api and the app.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) rooms: Rooms,
    pub(super) logs: Arc<Logs>,
}

#[derive(Debug)]
pub(super) enum Command {
    Apply { version: Version },
    Order { service: ServiceName, act: Act, reply: oneshot::Sender<Result<Ticket, Error>> },
    Prune { service: ServiceName, reply: oneshot::Sender<Result<(), Error>> },
    Status { reply: oneshot::Sender<Result<Status, Error>> },
    Plan { of: Option<Box<Stack>>, reply: oneshot::Sender<Result<Plan, Error>> },
    Down { reply: oneshot::Sender<Vec<(ServiceName, Ticket)>> },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Stop,
    Start,
    Restart,
    Rollback { to: Option<ReleaseNumber> },
    Unpin,
}

/// An order that was given, and how long carrying it out may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) limit: Duration,
}

impl Handle {
    /// A new version is in the store.
    pub async fn apply(&self, version: Version) -> Result<(), Error> {
        self.commands.send(Command::Apply { version }).await.map_err(|_| Error::Ended)
    }

    pub async fn stop(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Stop).await
    }

    pub async fn start(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Start).await
    }

    /// New instances of the release that runs; beside the old ones where the port allows it.
    pub async fn restart(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Restart).await
    }

    /// To `to`, or to the newest built release before the active one; pins it.
    pub async fn rollback(&self, service: &ServiceName, to: Option<ReleaseNumber>) -> Result<(), Error> {
        self.order(service, Act::Rollback { to }).await
    }

    pub async fn unpin(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Unpin).await
    }

    /// From now on this machine's other programs find no names: for when everything has been taken down.
    pub fn withdraw_names(&self) {
        self.rooms.hosts.withdraw();
    }

    /// Removes releases, data and logs of a service that has left the document.
    pub async fn prune(&self, service: &ServiceName) -> Result<(), Error> {
        self.ask(|reply| Command::Prune { service: service.clone(), reply }).await?
    }

    /// Without what is used; nothing but the task itself and the store is waited for.
    pub(super) async fn status_unmeasured(&self) -> Result<Status, Error> {
        self.ask(|reply| Command::Status { reply }).await?
    }

    pub async fn plan(&self) -> Result<Plan, Error> {
        self.ask(|reply| Command::Plan { of: None, reply }).await?
    }

    /// What a document that is not in force would do. Refs it follows are not asked for: one that is followed already
    /// counts as unchanged.
    pub async fn plan_of(&self, stack: Stack) -> Result<Plan, Error> {
        self.ask(|reply| Command::Plan { of: Some(Box::new(stack)), reply }).await?
    }

    /// What a service wrote; `name` is one, or `edge`, or `agentd`.
    pub async fn logs(&self, name: &str, query: LogQuery) -> Result<LogReading, Error> {
        self.logs.read(name, query).await
    }

    /// Stops every service without forgetting what was wanted: the next start brings all of it back.
    pub async fn down(&self) -> Result<(), Error> {
        for (service, ticket) in self.ask(|reply| Command::Down { reply }).await? {
            if let Err(error) = self.carried_out(&service, ticket).await {
                tracing::warn!(%service, %error, "did not stop as it should");
            }
        }
        Ok(())
    }

    pub fn journal(&self) -> &Journal {
        &self.rooms.journal
    }

    /// About the host as a whole, from a room that knows of no journal.
    pub fn note_host(&self, what: What) {
        self.rooms.journal.host(what);
    }

    /// Takes secrets out of an event that is about to leave the host: an older manager may have written down what this one
    /// knows to be one.
    pub fn mask_record(&self, record: &mut EventRecord) {
        mask_record(record, &self.rooms.secrets.current());
    }

    /// The manager's last word, on disk when this returns.
    pub async fn leaving(&self, why: Leaving) {
        self.rooms.journal.host(match why {
            Leaving::Signal(signal) => What::HostStop { signal: signal.to_owned() },
            Leaving::Down => What::HostDown {},
            Leaving::Anew => What::HostStop { signal: "its own word, to start anew".to_owned() },
        });
        self.rooms.journal.flush().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }

    async fn order(&self, service: &ServiceName, act: Act) -> Result<(), Error> {
        let ticket = self.ask(|reply| Command::Order { service: service.clone(), act, reply }).await??;
        self.carried_out(service, ticket).await
    }

    async fn carried_out(&self, service: &ServiceName, ticket: Ticket) -> Result<(), Error> {
        let mut reports = self.rooms.reports.subscribe();
        let settled = reports.wait_for(|reports| {
            reports
                .get(service)
                .is_some_and(|report| report.ticket >= ticket.number && matches!(report.doing, Doing::Settled(_)))
        });
        let reports = match tokio::time::timeout(ticket.limit, settled).await {
            Err(_) => return Err(Error::TooSlow { service: service.clone(), limit_s: ticket.limit.as_secs() }),
            Ok(Err(_)) => return Err(Error::Ended),
            Ok(Ok(reports)) => reports.clone(),
        };
        match reports.get(service).and_then(|report| report.problem.as_ref()) {
            Some(problem) => Err(Error::NotDone { service: service.clone(), cause: problem.cause.clone() }),
            None => Ok(()),
        }
    }
}

/// Why the manager ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Services run on.
    Signal(&'static str),
    Down,
    /// The same program takes over at once: what it follows has changed.
    Anew,
}
