//! Hosts as people see and change them, and as requests of theirs are checked.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::key::PublicKey;
use agentd_protocol::digest::Digest;
use bytes::Bytes;
use serde_json::json;

use super::handle::entry;
use super::{Actor, Control, Error, names, views};
use crate::clock;
use crate::model::{HostDetail, HostRow};
use crate::store::{StoredHost, StoredStanding};

/// What a host may fetch, with its tag.
#[derive(Debug, Clone)]
pub struct File {
    pub body: Bytes,
    pub etag: String,
}

impl Control {
    /// The key that a request of that host has to be signed with.
    pub fn host_key(&self, id: &HostId) -> Result<PublicKey, Error> {
        let fleet = self.fleet();
        let host = fleet.hosts.get(id).ok_or(Error::HostUnknown)?;
        match &host.stored.standing {
            StoredStanding::Active => Ok(host.stored.key),
            StoredStanding::Pending { .. } => Err(Error::HostUnknown),
            StoredStanding::Revoked { .. } => Err(Error::HostRevoked),
        }
    }

    /// `None`: nothing was published. A stack that is not the host's is as unknown as one that does not exist.
    pub fn head_file(&self, host: &HostId, stack: &StackId) -> Result<File, Error> {
        self.check_member(host, stack)?;
        let fleet = self.fleet();
        let head = fleet.stacks.get(stack).map(|stack| stack.head.borrow().clone());
        let head = head.ok_or_else(|| Error::not_found("the stack"))?;
        let body = head.body.ok_or_else(|| Error::not_found("a version"))?;
        Ok(File { body, etag: head.etag })
    }

    pub async fn root_file(&self, host: &HostId, stack: &StackId, number: u64) -> Result<File, Error> {
        self.check_member(host, stack)?;
        let roots = self.inner.store.roots(stack).await?;
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let root = index.and_then(|index| roots.into_iter().nth(index));
        let (_, envelope) = root.ok_or_else(|| Error::not_found(format!("root {number}")))?;
        let etag = format!("\"{}\"", Digest::of(envelope.as_bytes()));
        Ok(File { body: envelope.into(), etag })
    }

    pub async fn object_file(&self, host: &HostId, stack: &StackId, sha256: &Digest) -> Result<File, Error> {
        self.check_member(host, stack)?;
        let found = self.object(stack, sha256).await?;
        let (_, body) = found.ok_or_else(|| Error::not_found(format!("object {sha256}")))?;
        Ok(File { body: Bytes::copy_from_slice(&body), etag: format!("\"{sha256}\"") })
    }

    fn check_member(&self, host: &HostId, stack: &StackId) -> Result<(), Error> {
        if self.host_stack(host)? == *stack { Ok(()) } else { Err(Error::not_found(format!("stack {stack}"))) }
    }

    /// Of one stack, or of all; by name, revoked ones last.
    #[expect(clippy::unused_async, reason = "as its siblings; a fleet that does not fit in memory will be read")]
    pub async fn hosts(&self, stack: Option<&StackId>) -> Result<Vec<HostRow>, Error> {
        let fleet = self.fleet();
        if let Some(id) = stack
            && !fleet.stacks.contains_key(id)
        {
            return Err(Error::not_found(format!("stack {id}")));
        }
        let mut stacks: Vec<_> = fleet.stacks.values().collect();
        stacks.sort_by(|a, b| a.stored.name.cmp(&b.stored.name));
        let wanted = stacks.into_iter().filter(|now| stack.is_none_or(|id| now.stored.id == *id));
        Ok(wanted.flat_map(|now| views::host_rows(&fleet, now, clock::now_unix_ms())).collect())
    }

    #[expect(clippy::unused_async, reason = "as its siblings")]
    pub async fn host(&self, id: &HostId) -> Result<HostDetail, Error> {
        let fleet = self.fleet();
        let unknown = || Error::not_found(format!("host {id}"));
        let host = fleet.hosts.get(id).ok_or_else(unknown)?;
        let stack = fleet.stacks.get(&host.stored.stack).ok_or_else(unknown)?;
        Ok(HostDetail {
            row: views::host_row(stack, host, clock::now_unix_ms()),
            os: host.stored.os.clone(),
            arch: host.stored.arch.clone(),
            enrolled_unix_ms: host.stored.enrolled_at,
            approved_by: host.stored.approved_by.clone(),
            token: host.stored.token.clone(),
            key_id: host.stored.key.id(),
            snapshot: host.snapshot.as_ref().map(|snapshot| (*snapshot.body).clone()),
            snapshot_unix_ms: host.snapshot.as_ref().map(|snapshot| snapshot.received_at),
            conflict_unix_ms: views::conflict(host, clock::now_unix_ms()),
        })
    }

    /// `code`: the one the person has read on the host; it has to be the same.
    pub async fn approve_host(&self, actor: &Actor, id: &HostId, code: &str) -> Result<HostRow, Error> {
        let stored = self.stored_host(id)?;
        if !matches!(&stored.standing, StoredStanding::Pending { .. }) {
            return Err(Error::Conflict("the host does not wait for anybody".to_owned()));
        }
        let code = code.trim().to_ascii_uppercase();
        let entry = entry(actor, "host.approve", id, json!({"name": stored.name, "stack": stored.stack}));
        if !self.inner.store.approve(id, &code, &actor.to_string(), entry).await? {
            return Err(Error::Conflict("the host shows another code: it may be another machine".to_owned()));
        }
        self.edit(id, |host| {
            host.standing = StoredStanding::Active;
            host.approved_by = Some(actor.to_string());
        })
        .await
    }

    pub async fn rename_host(&self, actor: &Actor, id: &HostId, name: &str) -> Result<HostRow, Error> {
        let (stored, name) = (self.stored_host(id)?, names::name(name)?);
        let entry = entry(actor, "host.rename", id, json!({"from": stored.name, "to": name}));
        self.inner.store.edit_host(id, Some(name.clone()), None, entry).await?;
        self.edit(id, |host| host.name = name).await
    }

    pub async fn label_host(
        &self,
        actor: &Actor,
        id: &HostId,
        labels: BTreeMap<String, String>,
    ) -> Result<HostRow, Error> {
        self.stored_host(id)?;
        let labels = names::labels(&labels)?;
        let entry = entry(actor, "host.label", id, json!({"labels": labels}));
        self.inner.store.edit_host(id, None, Some(labels.clone()), entry).await?;
        self.edit(id, |host| host.labels = labels).await
    }

    /// It runs on; its reports and questions are refused from now on.
    pub async fn revoke_host(&self, actor: &Actor, id: &HostId, reason: &str) -> Result<HostRow, Error> {
        let (stored, reason) = (self.stored_host(id)?, names::reason(reason)?);
        let now = clock::now_unix_ms();
        let entry = entry(actor, "host.revoke", id, json!({"name": stored.name, "reason": reason}));
        let was_revoked = matches!(stored.standing, StoredStanding::Revoked { .. });
        if !self.inner.store.revoke_host(id, &reason, now, entry).await? && was_revoked {
            // As of then, and for the reason of then.
            return Ok(self.host(id).await?.row);
        }
        let row = self.edit(id, |host| host.standing = StoredStanding::Revoked { at: now, reason }).await?;
        let held = self.fleet().hosts.get_mut(id).and_then(|host| host.held.take());
        if let Some(held) = held {
            held.cancel();
        }
        Ok(row)
    }

    /// A person has seen to it that there is one machine with that key. Should there be two still, it shows again.
    pub async fn clear_conflict(&self, actor: &Actor, id: &HostId) -> Result<HostRow, Error> {
        let stored = self.stored_host(id)?;
        let Some(since) = stored.conflict_at else {
            return Err(Error::Conflict("there is no conflict to clear".to_owned()));
        };
        let entry = entry(actor, "host.conflict-cleared", id, json!({"name": stored.name, "since_unix_ms": since}));
        self.inner.store.clear_conflict(id, entry).await?;
        if let Some(host) = self.fleet().hosts.get_mut(id) {
            host.regressions.clear();
        }
        self.edit(id, |host| host.conflict_at = None).await
    }

    fn stored_host(&self, id: &HostId) -> Result<StoredHost, Error> {
        let fleet = self.fleet();
        let host = fleet.hosts.get(id).ok_or_else(|| Error::not_found(format!("host {id}")))?;
        Ok(host.stored.clone())
    }

    async fn edit(&self, id: &HostId, change: impl FnOnce(&mut StoredHost)) -> Result<HostRow, Error> {
        if let Some(host) = self.fleet().hosts.get_mut(id) {
            change(&mut host.stored);
        }
        self.changed();
        Ok(self.host(id).await?.row)
    }
}
