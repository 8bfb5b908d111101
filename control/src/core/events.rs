//! The timeline, the audit, and backups.

use std::path::Path;

use serde_json::json;

use super::handle::{entry, purpose_of_key};
use super::{Actor, Control, Error, names};
use crate::clock;
use crate::model::{AuditPage, BackupContents, BackupHost, BackupMade, BackupStack, EventFilter, EventPage};
use crate::seal::Key;
use crate::store::{Contents, Prove, Role};
use agentd_protocol::control::enroll::NAME_BYTES_MAX;
use agentd_protocol::digest::Digest;

const EVENTS_DEFAULT: u32 = 50;
pub const EVENTS_PER_PAGE_MAX: u32 = 1_000;
const AUDIT_PER_PAGE_MAX: u32 = 500;

impl Control {
    pub async fn events(&self, filter: EventFilter) -> Result<EventPage, Error> {
        let limit = filter.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_PER_PAGE_MAX);
        // Before the query: what arrives meanwhile is later than the cursor.
        let newest = self.fleet().newest_event;
        // One more than asked for tells whether there are more.
        let mut events = self.inner.store.events(filter, limit + 1).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = events.len() > limit;
        events.truncate(limit);
        let fleet = self.fleet();
        for event in &mut events {
            let name = fleet.hosts.get(&event.host).map(|host| host.stored.name.clone());
            event.host_name = name.unwrap_or_else(|| event.host.to_string());
        }
        Ok(EventPage { events, newest, more })
    }

    /// Newest first, below `before`.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, Error> {
        let limit = limit.clamp(1, AUDIT_PER_PAGE_MAX);
        let mut rows = self.inner.store.audit(before, limit + 1).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(AuditPage { rows, more })
    }

    /// Writes a whole, checked copy of the precious database to a new file.
    pub async fn backup(&self, actor: &Actor, file: &Path) -> Result<BackupMade, Error> {
        if !file.is_absolute() || file.exists() {
            return Err(Error::BadRequest("a backup goes to a new file, named by its whole path".to_owned()));
        }
        let target = file.display().to_string();
        self.inner.store.append_audit(entry(actor, "backup.make", &target, json!({}))).await?;
        let key = self.inner.key.clone();
        let prove: Prove = Box::new(move |proven| key.seal(PROOF, proven.as_bytes()));
        let contents = self.inner.store.backup(file, clock::now_unix_ms(), prove).await?;
        let bytes = std::fs::read(file).map_err(|_| Error::Conflict("the backup is gone again".to_owned()))?;
        Ok(BackupMade {
            file: target,
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            sha256: Digest::of(&bytes),
            contents: shown(contents, Some(&self.inner.key)),
        })
    }
}

/// What the seal on a backup is for, see [`Key::seal`].
const PROOF: &str = "backup";

/// As people see what a backup holds, and whether `key` opens its secrets.
pub fn shown(contents: Contents, key: Option<&Key>) -> BackupContents {
    let key_fits = match (key, &contents.sample) {
        (Some(key), Some((stack, sealed))) => Some(key.open(&purpose_of_key(stack, Role::Version), sealed).is_ok()),
        (Some(_), None) => Some(true),
        (None, _) => None,
    };
    let is_proven = |key: &Key| {
        let sealed = contents.proof.as_ref().and_then(|proof| key.open(PROOF, proof).ok());
        sealed.is_some_and(|proven| proven.as_slice() == contents.proven.as_bytes())
    };
    let authentic = key.map(is_proven);
    let stack = |stack: crate::store::ContentsStack| BackupStack {
        id: stack.id,
        name: stack.name,
        version: stack.version,
        hosts: stack.hosts,
    };
    let host = |host: crate::store::ContentsHost| BackupHost {
        id: host.id,
        name: names::shown(&host.name, NAME_BYTES_MAX),
        stack: names::shown(&host.stack, NAME_BYTES_MAX),
    };
    BackupContents {
        made_unix_ms: contents.made_unix_ms,
        schema: contents.schema,
        stacks: contents.stacks.into_iter().map(stack).collect(),
        active: contents.active.into_iter().map(host).collect(),
        tokens_open: contents.tokens_open,
        audit_rows: contents.audit_rows,
        key_fits,
        authentic,
    }
}
