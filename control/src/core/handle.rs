//! The handle by which API, dashboard and command line reach everything. Cheap to clone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_git::Asker;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::Snapshot;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fleet::{Fleet, HostNow, SnapshotNow};
use super::statements::Keys;
use super::{Actor, Error, Settings};
use crate::model::{VersionKind, VersionRow};
use crate::seal::Key;
use crate::store::{Entry, Restored, Role, SetAside, Store, StoredStack, StoredVersion};
use crate::{clock, lifecycle};

#[derive(Debug, Clone)]
pub struct Control {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub store: Store,
    pub key: Key,
    pub settings: Settings,
    pub git: Asker,
    /// That this start found, and nobody was told of.
    pub damage: Vec<SetAside>,
    pub restored: Option<Restored>,
    pub fleet: Mutex<Fleet>,
    pub changes: watch::Sender<u64>,
    /// Called when the server ends: held reports are answered.
    pub draining: CancellationToken,
}

/// What is only in memory of who reported is written so often.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Fresh notes are looked at so often; they are renewed after hours.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

impl Control {
    /// Reads what there is. Call it once a home.
    pub async fn open(
        store: Store,
        key: Key,
        settings: Settings,
        git: Asker,
        draining: CancellationToken,
    ) -> Result<Self, Error> {
        let mut fleet = Fleet::default();
        for stored in store.stacks().await? {
            let last = store.versions(&stored.id, None, 1).await?.into_iter().next();
            fleet.put_stack(stored, last.map(version_row));
        }
        for stored in store.hosts().await? {
            fleet.hosts.insert(stored.id.clone(), HostNow::of(stored));
        }
        for live in store.lives().await? {
            if let Some(host) = fleet.hosts.get_mut(&live.host) {
                host.live = Some(live);
            }
        }
        for snapshot in store.snapshots().await? {
            // One of an earlier version that is read no more is sent anew soon.
            let Ok(body) = serde_json::from_str::<Snapshot>(&snapshot.body) else { continue };
            if let Some(host) = fleet.hosts.get_mut(&snapshot.host) {
                let (digest, received_at) = (snapshot.digest, snapshot.received_at);
                host.snapshot = Some(SnapshotNow { digest, received_at, body: Arc::new(body) });
            }
        }
        fleet.newest_event = store.newest_event().await?;
        let (fleet, changes) = (Mutex::new(fleet), watch::Sender::new(1));
        let (damage, restored) = (store.untold_damage().await?, store.restored().await?);
        let inner = Inner { store, key, settings, git, damage, restored, fleet, changes, draining };
        let control = Self { inner: Arc::new(inner) };
        if let Err(error) = control.tell_of_damage().await {
            // Not a reason to serve nobody: the log has it, and whoever asks is told.
            tracing::warn!(error = agentd_sys::causes::chain(&error), "the audit has no row of the damaged journal");
        }
        Ok(control)
    }

    /// The server's own work, until `cancel` is called.
    pub fn start(&self, cancel: &CancellationToken) {
        let (control, ending) = (self.clone(), cancel.clone());
        lifecycle::spawn_essential("chores", cancel.clone(), async move { control.chores(ending).await });
        let (store, ending) = (self.inner.store.clone(), cancel.clone());
        lifecycle::spawn_essential("store", cancel.clone(), async move {
            tokio::select! {
                () = ending.cancelled() => {}
                () = store.stopped() => {}
            }
        });
    }

    async fn chores(&self, cancel: CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH_INTERVAL);
        let mut renew = tokio::time::interval(RENEW_INTERVAL);
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            let done = tokio::select! {
                () = cancel.cancelled() => break,
                _ = flush.tick() => self.flush().await,
                _ = renew.tick() => self.renew().await,
                _ = prune.tick() => self.prune().await,
            };
            if let Err(error) = done {
                // The disk is full or slow: the next turn tries again.
                tracing::warn!(error = agentd_sys::causes::chain(&error), "a chore failed; it is tried again");
            }
        }
    }

    /// When no request is answered any more.
    pub async fn flush_at_end(&self) {
        if let Err(error) = self.flush().await {
            tracing::warn!(error = agentd_sys::causes::chain(&error), "who reported last is lost");
        }
        if let Err(error) = self.inner.store.flush_counted(clock::now_unix_ms(), true).await {
            tracing::warn!(error = agentd_sys::causes::chain(&error), "how often strangers knocked is lost");
        }
    }

    /// Writes down who reported; called at the end too.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let lives: Vec<_> = {
            let mut fleet = self.fleet();
            let lives = fleet.hosts.values_mut().filter_map(|host| {
                let is_dirty = std::mem::take(&mut host.is_dirty);
                host.live.clone().filter(|_| is_dirty)
            });
            lives.collect()
        };
        if lives.is_empty() { Ok(()) } else { Ok(self.inner.store.touch(lives).await?) }
    }

    async fn prune(&self) -> Result<(), Error> {
        let now = clock::now_unix_ms();
        self.inner.store.flush_counted(now, false).await?;
        self.inner.store.prune_answers(now).await?;
        while self.inner.store.prune_events(now).await? {}
        Ok(())
    }

    /// Said once, at the start: people look at alarms, and some at the log alone.
    async fn tell_of_damage(&self) -> Result<(), Error> {
        for aside in &self.inner.damage {
            let (path, why) = (aside.path.display().to_string(), &aside.why);
            tracing::error!(
                why,
                "the journal was damaged and is now {path}; a new one has begun: what hosts said until now is in the old one alone"
            );
            let detail = json!({"kept_as": path, "why": why});
            let mut entry = entry(&Actor::Server, "journal.damaged", "journal.db", detail);
            entry.alarm = true;
            self.inner.store.append_audit(entry).await?;
        }
        Ok(())
    }

    /// What people have to know of the server itself, each a sentence; empty when all is well.
    pub fn notices(&self) -> Vec<String> {
        let damage = self.inner.damage.iter().map(|aside| {
            format!(
                "The journal was damaged and is kept as {}. A new one has begun: the history of hosts starts anew, and what \
                 they run is not touched.",
                aside.path.display()
            )
        });
        let restored = self.inner.restored.and_then(|restored| notice_of(restored, clock::now_unix_ms()));
        damage.chain(restored).collect()
    }

    pub(super) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // A panic while it was held left whole rows.
        self.inner.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// For auth's accounts.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Counts up whenever something that any answer is made of changes: a report, an event, a published version. For live
    /// pages: wait for a change, look again, at most a few times a second.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// Cancelled when the server ends: who holds an answer open lets go.
    pub fn draining(&self) -> &CancellationToken {
        &self.inner.draining
    }

    pub(super) fn stored_stack(&self, id: &StackId) -> Result<StoredStack, Error> {
        let fleet = self.fleet();
        fleet.stacks.get(id).map(|stack| stack.stored.clone()).ok_or_else(|| Error::not_found(format!("stack {id}")))
    }

    /// After a change in the database.
    pub(super) async fn reload_stack(&self, id: &StackId) -> Result<(), Error> {
        let Some(stored) = self.inner.store.stacks().await?.into_iter().find(|stack| stack.id == *id) else {
            return Ok(());
        };
        let last = self.inner.store.versions(id, None, 1).await?.into_iter().next();
        self.fleet().put_stack(stored, last.map(version_row));
        self.changed();
        Ok(())
    }

    pub(super) async fn keys_of(&self, stack: &StackId) -> Result<Keys, Error> {
        let stored = self.inner.store.stack_keys(stack).await?;
        let open = |role: Role| -> Result<SecretKey, Error> {
            let sealed =
                stored.iter().find(|key| key.role == role).ok_or_else(|| Error::not_found("the stack's key"))?;
            let seed = self.inner.key.open(&purpose_of_key(stack, role), &sealed.sealed)?;
            let seed = seed.as_slice().try_into().map_err(|_| crate::seal::Error::Sealed)?;
            Ok(SecretKey::from_seed(seed))
        };
        Ok(Keys { root: open(Role::Root)?, version: open(Role::Version)?, fresh: open(Role::Fresh)? })
    }
}

/// Long enough to be seen by whoever looks once a week.
const RESTORED_SHOWN_MS: u64 = 7 * 24 * 3_600 * 1_000;

fn notice_of(restored: Restored, now: u64) -> Option<String> {
    let Restored { at_unix_ms, made_unix_ms } = restored;
    let (at, made) = (clock::time_of(at_unix_ms), clock::time_of(made_unix_ms));
    (now.saturating_sub(at_unix_ms) < RESTORED_SHOWN_MS).then(|| {
        format!(
            "This server was restored at {at} from a backup made at {made}. Hosts that were revoked between the two are \
             taken again: look through the hosts and revoke them anew."
        )
    })
}

/// Where a private key stands, for [`Key::seal`].
pub(crate) fn purpose_of_key(stack: &StackId, role: Role) -> String {
    format!("stack key {stack} {}", role.word())
}

pub(super) fn entry(actor: &Actor, action: &'static str, target: impl std::fmt::Display, detail: Value) -> Entry {
    Entry {
        at_unix_ms: clock::now_unix_ms(),
        actor: actor.to_string(),
        action,
        target: target.to_string(),
        detail,
        alarm: false,
    }
}

pub(super) fn version_row(version: StoredVersion) -> VersionRow {
    VersionRow {
        number: version.number,
        note: match version.kind {
            VersionKind::Deploy => VersionKind::Deploy,
            VersionKind::Rollback { of } => VersionKind::Rollback { of },
        },
        by: version.actor,
        reason: version.reason,
        created_unix_ms: version.created_at,
        sha256: version.state,
        summary: version.summary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_told_of_for_a_week() {
        let restored = Restored { at_unix_ms: 86_400_000, made_unix_ms: 3_600_000 };
        let said = notice_of(restored, 86_400_000).unwrap();
        assert!(said.contains("1970-01-02T00:00:00Z") && said.contains("1970-01-01T01:00:00Z"), "{said}");
        assert!(notice_of(restored, 86_400_000 + RESTORED_SHOWN_MS - 1).is_some());
        assert!(notice_of(restored, 86_400_000 + RESTORED_SHOWN_MS).is_none());
    }
}
