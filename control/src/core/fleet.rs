//! What is asked for often, in memory: heads, who may report, and how hosts are. The databases have the same, but for the
//! last seconds of who reported.

use std::collections::HashMap;
use std::sync::Arc;

use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::report::{HeadHint, Snapshot};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::limits::Shares;
use crate::model::VersionRow;
use crate::store::{Live, StoredHost, StoredStack, StoredStanding};

#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub stacks: HashMap<StackId, StackNow>,
    pub hosts: HashMap<HostId, HostNow>,
    pub newest_event: u64,
}

#[derive(Debug)]
pub(super) struct StackNow {
    pub stored: StoredStack,
    /// The newest version.
    pub last: Option<VersionRow>,
    pub head: watch::Sender<HeadNow>,
}

/// What a host may fetch and is woken for.
#[derive(Debug, Clone)]
pub(super) struct HeadNow {
    /// Grows with every change that hosts are woken for.
    pub generation: u64,
    pub hint: HeadHint,
    pub held: bool,
    /// `None`: nothing was published.
    pub body: Option<Bytes>,
    pub etag: String,
}

impl HeadNow {
    pub(super) fn of(stack: &StoredStack, generation: u64) -> Self {
        let body = stack.head.as_ref().map(|head| Bytes::copy_from_slice(head.as_bytes()));
        let digest = Digest::of(body.as_deref().unwrap_or_default());
        Self {
            generation,
            hint: HeadHint { root: stack.root_number, epoch: stack.epoch, version: stack.last_version },
            held: stack.held,
            body,
            etag: format!("\"{digest}\""),
        }
    }
}

#[derive(Debug)]
pub(super) struct HostNow {
    pub stored: StoredHost,
    pub live: Option<Live>,
    /// `live` is newer than in the database.
    pub is_dirty: bool,
    pub snapshot: Option<SnapshotNow>,
    /// Ends the wait of the report that is held.
    pub held: Option<CancellationToken>,
    /// The generation of the head that the last answer told of.
    pub told: u64,
    /// When it last went back in time, Unix ms; the newest last.
    pub regressions: Vec<u64>,
    pub shares: Shares,
}

#[derive(Debug, Clone)]
pub(super) struct SnapshotNow {
    pub digest: Digest,
    pub received_at: u64,
    pub body: Arc<Snapshot>,
}

impl HostNow {
    pub(super) fn of(stored: StoredHost) -> Self {
        Self {
            stored,
            live: None,
            is_dirty: false,
            snapshot: None,
            held: None,
            told: 0,
            regressions: Vec::new(),
            shares: Shares::default(),
        }
    }
}

impl Fleet {
    /// Of a stack that exists.
    pub(super) fn hosts_of(&self, stack: &StackId) -> Vec<&HostNow> {
        let mut hosts: Vec<&HostNow> = self.hosts.values().filter(|host| host.stored.stack == *stack).collect();
        hosts.sort_by(|a, b| (&a.stored.name, &a.stored.id).cmp(&(&b.stored.name, &b.stored.id)));
        hosts
    }

    /// The newest version that hosts of the stack have seen in its epoch, as far as they can be believed.
    pub(super) fn newest_seen(&self, stack: &StoredStack) -> Version {
        let believed = Version(stack.last_version.0.saturating_add(AHEAD_BELIEVED_MAX));
        let hosts = self.hosts.values().filter(|host| host.stored.stack == stack.id);
        let lives = hosts.filter_map(|host| host.live.as_ref()).filter(|live| live.epoch == stack.epoch);
        lives.map(|live| live.seen).filter(|seen| *seen <= believed).max().unwrap_or_default()
    }

    /// Hosts that joined long ago and are not known to have ever reported: what they have seen went with the journal.
    pub(super) fn unheard(&self, stack: &StackId, now_unix_ms: u64) -> usize {
        let is_unheard = |host: &&HostNow| {
            host.stored.stack == *stack
                && host.stored.standing == StoredStanding::Active
                && host.live.is_none()
                && now_unix_ms.saturating_sub(host.stored.enrolled_at) > FIRST_REPORT_MS
        };
        self.hosts.values().filter(is_unheard).count()
    }

    /// Puts in what the database has now; those who wait are woken when the head is another.
    pub(super) fn put_stack(&mut self, stored: StoredStack, last: Option<VersionRow>) {
        let Some(now) = self.stacks.get_mut(&stored.id) else {
            let head = watch::Sender::new(HeadNow::of(&stored, 1));
            self.stacks.insert(stored.id.clone(), StackNow { stored, last, head });
            return;
        };
        if stored.head_revision < now.stored.head_revision {
            // Two who published read the row again, and the first one's reading came last.
            return;
        }
        let before = now.head.borrow().clone();
        let is_news = before.hint.version != stored.last_version || before.held != stored.held;
        let head = HeadNow::of(&stored, before.generation + u64::from(is_news));
        if is_news {
            now.head.send_replace(head);
        } else {
            // A renewed note is fetched at the next look; nobody has to be woken for it.
            now.head.send_if_modified(|current| {
                *current = head;
                false
            });
        }
        now.stored = stored;
        now.last = last;
    }
}

/// A host that has joined reports as soon as somebody starts it.
const FIRST_REPORT_MS: u64 = 600_000;
/// A host may not push versions further ahead than a restored backup could be behind.
pub(crate) const AHEAD_BELIEVED_MAX: u64 = 1_000;
