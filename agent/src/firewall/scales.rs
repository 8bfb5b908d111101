//! What an order, a question or the document is weighed with: looks at the host, changes nothing, and takes its time
//! beside the task that keeps the rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use agentd_protocol::api::{Check, Selftest};
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, watch};

use super::checks::{self, Before, Targets};
use super::files::Moment;
use super::handle::Question;
use super::surroundings::{Surroundings, Survey};
use super::transaction::{Error as Transaction, Transactions};
use super::wishes::{Decision, Document, OwnerRules, decide};
use super::{Error, Facts, Policy, selftest};
use crate::lifecycle;

#[derive(Debug, Clone)]
pub(super) struct Scales {
    pub(super) core: Transactions,
    pub(super) surroundings: Arc<dyn Surroundings>,
    pub(super) owner: OwnerRules,
    pub(super) targets: Targets,
    pub(super) documents: watch::Receiver<Option<Document>>,
}

impl Scales {
    /// One at a time: two self-tests would use the same addresses.
    pub(super) async fn answer(self, mut questions: mpsc::Receiver<Question>) {
        while let Some(question) = questions.recv().await {
            // Whoever asked may have gone away: the answer is then nobody's.
            match question {
                Question::Plan { order, reply } => drop(reply.send(self.plan(&order).await)),
                Question::Selftest { reply } => drop(reply.send(self.selftest().await)),
            }
        }
    }

    pub(super) async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Transactions) -> T + Send + 'static) -> T {
        let core = self.core.clone();
        lifecycle::spawn_blocking("firewall", move || act(&core)).await.expect("transactions do not panic")
    }

    pub(super) fn document(&self) -> Option<Document> {
        self.documents.borrow().clone()
    }

    /// Who is on SSH, and on which of our ports; nobody where that cannot be told, which a check then reports.
    pub(super) async fn on_ssh(&self) -> BTreeSet<(IpAddr, u16)> {
        let surroundings = Arc::clone(&self.surroundings);
        let peers = self.blocking(move |core| surroundings.on_ssh(&core.host())).await;
        let peers = peers.inspect_err(|error| tracing::warn!(error = chain(error), "nobody is seen on SSH"));
        peers.unwrap_or_default().into_iter().map(|peer| (peer.address, peer.port)).collect()
    }

    pub(super) async fn checked(&self, before: &Before) -> Vec<Check> {
        let on_ssh = self.on_ssh().await;
        checks::run(&self.targets, before, &on_ssh).await
    }

    pub(super) async fn survey(&self, facts: Facts) -> Result<Survey, Error> {
        let surroundings = Arc::clone(&self.surroundings);
        self.blocking(move |_| Survey::take(&*surroundings, facts)).await.map_err(Error::Guard)
    }

    /// What the document's wish comes to, on the host as it is.
    pub(super) async fn decide(&self, document: Document) -> Result<Decision, Error> {
        let (owner, surroundings) = (self.owner.clone(), Arc::clone(&self.surroundings));
        self.blocking(move |core| {
            let active = core.files().active().map_err(Transaction::from)?;
            let survey = Survey::take(&*surroundings, core.host()).map_err(Error::Guard)?;
            Ok(decide(active.as_ref(), &document, &owner, |to| survey.objections(to)))
        })
        .await
    }

    /// What speaks against `to` by now, in words.
    pub(super) async fn objects(&self, to: Policy) -> Result<Option<String>, Error> {
        let facts = self.blocking(|core| core.host()).await;
        Ok(self.survey(facts).await?.objections(&to).in_words())
    }

    async fn selftest(&self) -> Result<Selftest, Error> {
        self.blocking(|core| Ok(selftest::run(&core.policy_in_force()?, &core.facts(&Moment::now())?)?)).await
    }
}
