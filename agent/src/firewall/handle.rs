//! The way in for the document, for people, and for those who want to know.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{
    Awaiting, SecurityBrief, SecurityConfirm, SecurityDone, SecurityOpen, SecurityOrder, SecurityPlan, SecurityStatus,
    Selftest,
};
use agentd_protocol::security::{Mode, Security};
use tokio::sync::{mpsc, oneshot, watch};

use super::Error;
use super::files::Moment;
use super::truth::Truth;
use super::wishes::Document;

/// Orders that may wait; each is a person's.
pub(super) const ORDERS_MAX: usize = 8;

/// For a first look at kernel and ufw, which answers in a fraction of a second on a host that is not busy.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What changes nothing and takes its time.
#[derive(Debug)]
pub(super) enum Question {
    Plan { order: SecurityOrder, reply: Reply<SecurityPlan> },
    Selftest { reply: Reply<Selftest> },
}

#[derive(Debug)]
pub(super) enum Order {
    Apply { order: SecurityOrder, reply: Reply<SecurityDone> },
    Confirm { confirm: SecurityConfirm, caller: Option<u32>, reply: Reply<SecurityDone> },
    Revert { reply: Reply<SecurityDone> },
    Open { open: SecurityOpen, reply: Reply<String> },
}

#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) documents: Arc<watch::Sender<Option<Document>>>,
    pub(super) truth: Arc<watch::Sender<Truth>>,
}

impl Handle {
    /// What the document in force asks for; `None`: the mode is left alone. Never waits.
    pub fn document_wants(&self, security: Option<Security>, proxy_port: u16) {
        self.truth.send_if_modified(|truth| {
            let Some(reason) = truth.unmanaged.clone() else { return false };
            truth.awaiting = security.as_ref().filter(|wanted| wanted.mode != Mode::Open).map(|wanted| Awaiting {
                mode: wanted.mode,
                why: reason,
                command: "agentd run --system".to_owned(),
            });
            true
        });
        let wanted = Some(Document { security, proxy_port });
        self.documents.send_if_modified(|document| {
            let changed = *document != wanted;
            *document = wanted;
            changed
        });
    }

    /// The kernel's truth, and every change of it.
    pub fn truth(&self) -> watch::Receiver<Truth> {
        self.truth.subscribe()
    }

    /// Just after a start it waits for the first look.
    pub async fn status(&self) -> SecurityStatus {
        let mut truth = self.truth.subscribe();
        // What is not known by then is said not to be.
        let _ = tokio::time::timeout(FIRST_LOOK_MAX, truth.wait_for(Truth::is_told)).await; // see above
        let told = truth.borrow();
        told.status(&Moment::now())
    }

    pub fn brief(&self) -> SecurityBrief {
        self.truth.borrow().brief(&Moment::now())
    }

    pub fn limitation(&self) -> Option<String> {
        self.truth.borrow().limitation()
    }

    pub async fn plan(&self, order: SecurityOrder) -> Result<SecurityPlan, Error> {
        self.ask(&self.questions, |reply| Question::Plan { order, reply }).await
    }

    /// Returns when the trial runs and its checks were green, or nothing was changed.
    pub async fn apply(&self, order: SecurityOrder) -> Result<SecurityDone, Error> {
        self.ask(&self.orders, |reply| Order::Apply { order, reply }).await
    }

    /// `caller`: the process that asks; through an SSH connection of before the trial it proves nothing.
    pub async fn confirm(&self, confirm: SecurityConfirm, caller: Option<u32>) -> Result<SecurityDone, Error> {
        self.ask(&self.orders, |reply| Order::Confirm { confirm, caller, reply }).await
    }

    pub async fn revert(&self) -> Result<SecurityDone, Error> {
        self.ask(&self.orders, |reply| Order::Revert { reply }).await
    }

    pub async fn open(&self, open: SecurityOpen) -> Result<String, Error> {
        self.ask(&self.orders, |reply| Order::Open { open, reply }).await
    }

    pub async fn selftest(&self) -> Result<Selftest, Error> {
        self.ask(&self.questions, |reply| Question::Selftest { reply }).await
    }

    async fn ask<T, A>(&self, whom: &mpsc::Sender<A>, what: impl FnOnce(Reply<T>) -> A) -> Result<T, Error> {
        if let Some(reason) = self.truth.borrow().unmanaged.clone() {
            return Err(Error::Unmanaged(reason));
        }
        let (reply, answer) = oneshot::channel();
        whom.send(what(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)?
    }
}
