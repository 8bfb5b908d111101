//! The signatures by which API, dashboard and command line reach everything.

use std::path::Path;

use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::ids::{ServiceName, Version};
use tokio::sync::watch;

use super::{Actor, Error};
use crate::model::*;

#[derive(Debug, Clone)]
pub struct Control {}

type Result<T> = std::result::Result<T, Error>;

impl Control {
    pub async fn stacks(&self) -> Result<Vec<StackOverview>> {
        Ok(Vec::new())
    }

    pub async fn stack(&self, stack: &StackId) -> Result<StackDetail> {
        Err(Error::not_found(stack))
    }

    pub async fn create_stack(&self, _actor: &Actor, _new: NewStack) -> Result<StackOverview> {
        Err(Error::Overloaded)
    }

    pub async fn edit_stack(&self, _actor: &Actor, stack: &StackId, _edit: StackEdit) -> Result<StackOverview> {
        Err(Error::not_found(stack))
    }

    pub async fn service(&self, stack: &StackId, _service: &ServiceName) -> Result<ServiceDetail> {
        Err(Error::not_found(stack))
    }

    pub async fn draft(&self, stack: &StackId) -> Result<Draft> {
        Err(Error::not_found(stack))
    }

    /// `revision`: the one that was looked at; 0 for a stack without a draft.
    pub async fn save_draft(
        &self,
        _actor: &Actor,
        stack: &StackId,
        _revision: u64,
        _format: DraftFormat,
        _text: String,
    ) -> Result<Draft> {
        Err(Error::not_found(stack))
    }

    /// Publishes the draft of that revision. The same `idempotency_key` again answers as the first time.
    pub async fn publish(
        &self,
        _actor: &Actor,
        stack: &StackId,
        _revision: u64,
        _reason: &str,
        _idempotency_key: Option<&str>,
    ) -> Result<VersionRow> {
        Err(Error::not_found(stack))
    }

    pub async fn rollback(
        &self,
        _actor: &Actor,
        stack: &StackId,
        _to: Version,
        _reason: &str,
        _idempotency_key: Option<&str>,
    ) -> Result<VersionRow> {
        Err(Error::not_found(stack))
    }

    pub async fn hold(&self, _actor: &Actor, stack: &StackId, _reason: &str) -> Result<StackOverview> {
        Err(Error::not_found(stack))
    }

    pub async fn resume(&self, _actor: &Actor, stack: &StackId, _reason: &str) -> Result<StackOverview> {
        Err(Error::not_found(stack))
    }

    /// Newest first, below `before`.
    pub async fn versions(&self, stack: &StackId, _before: Option<Version>, _limit: u32) -> Result<Vec<VersionRow>> {
        Err(Error::not_found(stack))
    }

    pub async fn version(&self, stack: &StackId, _number: Version) -> Result<VersionDetail> {
        Err(Error::not_found(stack))
    }

    pub async fn diff(&self, stack: &StackId, _from: Side, _to: Side) -> Result<Diff> {
        Err(Error::not_found(stack))
    }

    /// Newest first.
    pub async fn tokens(&self, stack: &StackId) -> Result<Vec<TokenRow>> {
        Err(Error::not_found(stack))
    }

    pub async fn create_token(
        &self,
        _actor: &Actor,
        stack: &StackId,
        _new: NewToken,
        _idempotency_key: Option<&str>,
    ) -> Result<TokenMade> {
        Err(Error::not_found(stack))
    }

    pub async fn revoke_token(&self, _actor: &Actor, token: &TokenId) -> Result<TokenRow> {
        Err(Error::not_found(token))
    }

    /// Of one stack, or of all.
    pub async fn hosts(&self, _stack: Option<&StackId>) -> Result<Vec<HostRow>> {
        Ok(Vec::new())
    }

    pub async fn host(&self, host: &HostId) -> Result<HostDetail> {
        Err(Error::not_found(host))
    }

    /// `code`: the one the person has read on the host; it has to be the same.
    pub async fn approve_host(&self, _actor: &Actor, host: &HostId, _code: &str) -> Result<HostRow> {
        Err(Error::not_found(host))
    }

    pub async fn rename_host(&self, _actor: &Actor, host: &HostId, _name: &str) -> Result<HostRow> {
        Err(Error::not_found(host))
    }

    pub async fn label_host(
        &self,
        _actor: &Actor,
        host: &HostId,
        _labels: std::collections::BTreeMap<String, String>,
    ) -> Result<HostRow> {
        Err(Error::not_found(host))
    }

    pub async fn revoke_host(&self, _actor: &Actor, host: &HostId, _reason: &str) -> Result<HostRow> {
        Err(Error::not_found(host))
    }

    pub async fn events(&self, _filter: EventFilter) -> Result<EventPage> {
        Ok(EventPage { events: Vec::new(), newest: 0, more: false })
    }

    /// Counts up whenever something that any of these answers changes: a report, an event, a published version. For live
    /// pages: wait for a change, look again, at most a few times a second.
    pub fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Newest first, below `before`.
    pub async fn audit(&self, _before: Option<u64>, _limit: u32) -> Result<AuditPage> {
        Ok(AuditPage { rows: Vec::new(), more: false })
    }

    /// Writes a whole, checked copy to a new file.
    pub async fn backup(&self, _actor: &Actor, _file: &Path) -> Result<BackupMade> {
        Err(Error::Overloaded)
    }
}
