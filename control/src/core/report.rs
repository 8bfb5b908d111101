//! Reports of hosts: in order, taken in whole, and held until there is news.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::report::{EventRecord, HeadHint, Report, Reported};
use agentd_protocol::control::{
    BOOT_PLAUSIBLE_MAX, EVENT_DATA_BYTES_MAX, EVENT_TEXT_BYTES_MAX, EVENTS_BYTES_MAX, EVENTS_PER_REPORT_MAX,
    HOLD_SECS_MAX,
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fleet::{HeadNow, HostNow, SnapshotNow};
use super::handle::entry;
use super::{Actor, Control, Error, views};
use crate::clock;
use crate::store::{Arrival, Batch, Entry, Ingested, Live, StoredSnapshot, StoredStanding};

/// Ids that a host makes up, bytes.
const ID_BYTES_MAX: usize = 64;
/// A host that goes back in time that often within that time is two hosts with one key.
const REGRESSIONS_MAX: usize = 3;
const REGRESSIONS_WITHIN_MS: u64 = 600_000;
/// A host that has been told of a version and does not have it yet is held no longer than that: it may not have heard.
const HOLD_BEHIND: Duration = Duration::from_secs(5);

/// Of the agents that are still understood.
const CAPABILITY_MIN: u32 = 1;

/// Where a report stands among those of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Next,
    /// The newest one once more.
    Again,
}

impl Control {
    /// Whoever signed it has been checked. `wait`: how long the host wants to be held.
    pub async fn report(&self, id: &HostId, report: Report, wait: Option<Duration>) -> Result<Reported, Error> {
        check(&report)?;
        let live = self.take_turn(id, &report).await?;
        let brings_news = !report.events.is_empty();
        self.take_in(id, report, &live).await?;
        let (mut head, told, token) = self.await_head(id)?;
        if let Some(wait) = wait.filter(|_| !brings_news) {
            let pace = self.pace(&self.host_stack(id)?);
            let hold = hold_time(wait, Duration::from_secs(pace.hold_s));
            self.hold_until_news(&mut head, &live, told, hold, token).await;
        }
        let now = head.borrow().clone();
        self.answer(id, &now)
    }

    /// In memory, at once: of two requests with one number the first is taken.
    async fn take_turn(&self, id: &HostId, report: &Report) -> Result<Live, Error> {
        let now = clock::now_unix_ms();
        let turn = {
            let mut fleet = self.fleet();
            let host = fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?;
            check_standing(&host.stored.standing)?;
            if host.stored.machine == report.machine { turn(host, report, now) } else { Err(Error::IdentityConflict) }
        };
        if let Err(Error::IdentityConflict) = &turn {
            self.alarm_conflict(id, report, now).await?;
        }
        turn
    }

    /// Once in a while, not with every report: both hosts go on asking.
    async fn alarm_conflict(&self, id: &HostId, report: &Report, now: u64) -> Result<(), Error> {
        let (is_new, is_shown, before) = {
            let mut fleet = self.fleet();
            let host = fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?;
            let is_new = host.stored.conflict_at.is_none_or(|at| now.saturating_sub(at) > REGRESSIONS_WITHIN_MS);
            let (is_shown, before) = (views::conflict(host, now).is_some(), host.stored.conflict_at);
            if is_new {
                host.stored.conflict_at = Some(now);
            }
            (is_new, is_shown, before)
        };
        if is_new {
            // The audit is kept for ever: while the conflict is shown it has its row.
            let entry = (!is_shown).then(|| {
                let entry = entry(&Actor::Server, "host.conflict", id, json!({"machine": report.machine}));
                Entry { alarm: true, ..entry }
            });
            if let Err(error) = self.inner.store.mark_conflict(id, now, entry).await {
                if let Some(host) = self.fleet().hosts.get_mut(id) {
                    host.stored.conflict_at = before;
                }
                return Err(error.into());
            }
            self.changed();
        }
        Ok(())
    }

    async fn take_in(&self, id: &HostId, report: Report, live: &Live) -> Result<(), Error> {
        let now = clock::now_unix_ms();
        let (stack, has_snapshot) = {
            let fleet = self.fleet();
            let host = fleet.hosts.get(id).ok_or(Error::HostUnknown)?;
            let has = host.snapshot.as_ref().is_some_and(|snapshot| snapshot.digest == report.digest);
            (host.stored.stack.clone(), has)
        };
        let snapshot = report.snapshot.filter(|_| !has_snapshot);
        if snapshot.is_none() && report.events.is_empty() {
            return Ok(());
        }
        let seqs = report.events.first().zip(report.events.last()).map(|(first, last)| (first.seq, last.seq));
        let batch = Batch {
            stack,
            live: live.clone(),
            snapshot: snapshot.as_ref().map(|snapshot| StoredSnapshot {
                host: id.clone(),
                digest: report.digest,
                received_at: now,
                body: serde_json::to_string(snapshot).expect("it came as JSON"),
            }),
            stream: report.stream,
            seqs,
            events: report.events.into_iter().map(arrival).collect(),
            received_at: now,
        };
        match self.inner.store.ingest(batch).await? {
            Ingested::Gap { expected } => return Err(Error::OutboxGap { expected }),
            Ingested::Done { newest, .. } => {
                let mut fleet = self.fleet();
                fleet.newest_event = fleet.newest_event.max(newest);
                if let Some((host, body)) = fleet.hosts.get_mut(id).zip(snapshot) {
                    host.snapshot = Some(SnapshotNow { digest: report.digest, received_at: now, body: Arc::new(body) });
                }
            }
        }
        self.changed();
        Ok(())
    }

    /// The stack's head, which generation of it the host was told of, and what ends its wait.
    fn await_head(&self, id: &HostId) -> Result<(watch::Receiver<HeadNow>, u64, CancellationToken), Error> {
        let mut fleet = self.fleet();
        let fleet = &mut *fleet;
        let host = fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?;
        check_standing(&host.stored.standing)?;
        let stack = fleet.stacks.get(&host.stored.stack).ok_or(Error::HostUnknown)?;
        let token = self.inner.draining.child_token();
        if let Some(earlier) = host.held.replace(token.clone()) {
            earlier.cancel();
        }
        Ok((stack.head.subscribe(), host.told, token))
    }

    async fn hold_until_news(
        &self,
        head: &mut watch::Receiver<HeadNow>,
        live: &Live,
        told: u64,
        hold: Duration,
        superseded: CancellationToken,
    ) {
        let now = head.borrow_and_update().clone();
        let is_behind = now.hint.version > live.seen;
        if now.generation != told && (is_behind || told != 0) {
            return;
        }
        let generation = now.generation;
        let hold = if is_behind && !now.held { hold.min(HOLD_BEHIND) } else { hold };
        let has_news = async {
            // An error means that the stack is gone: the hold's end answers.
            while head.changed().await.is_ok() {
                if head.borrow_and_update().generation != generation {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = has_news => {}
            () = superseded.cancelled() => {}
            () = tokio::time::sleep(hold) => {}
        }
    }

    fn answer(&self, id: &HostId, head: &HeadNow) -> Result<Reported, Error> {
        let (full, stack) = {
            let mut fleet = self.fleet();
            let host = fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?;
            check_standing(&host.stored.standing)?;
            host.told = head.generation;
            let has = host.snapshot.as_ref().map(|snapshot| snapshot.digest);
            (host.live.as_ref().is_some_and(|live| Some(live.digest) != has), host.stored.stack.clone())
        };
        let mut next = self.pace(&stack);
        if !self.inner.draining.is_cancelled() {
            next.spread_s = 0;
        }
        let HeadHint { root, epoch, version } = head.hint;
        Ok(Reported { head: HeadHint { root, epoch, version }, full, next, time: clock::now() })
    }

    pub(super) fn host_stack(&self, id: &HostId) -> Result<StackId, Error> {
        Ok(self.fleet().hosts.get(id).ok_or(Error::HostUnknown)?.stored.stack.clone())
    }
}

/// Looked at anew after each wait: a person may have decided meanwhile.
fn check_standing(standing: &StoredStanding) -> Result<(), Error> {
    match standing {
        StoredStanding::Active => Ok(()),
        StoredStanding::Pending { .. } => Err(Error::HostUnknown),
        StoredStanding::Revoked { .. } => Err(Error::HostRevoked),
    }
}

/// The wish of the host within our bounds, ± 10 % so that a fleet that was answered at once comes back apart.
fn hold_time(wait: Duration, most: Duration) -> Duration {
    let hold = wait.min(most).min(Duration::from_secs(HOLD_SECS_MAX));
    // Where the kernel has no random bytes they come back together, which is no harm.
    let byte = crate::seal::random::<1>().map_or(0, |byte| byte[0]);
    let part = f64::from(byte) / 255.0 * 0.1;
    hold.mul_f64(1.0 - part)
}

/// The highest start that is taken of that host now. It grows by one a millisecond: whoever has a copied key and counts up
/// to it leaves room for the host itself, at once.
fn boot_max(host: &HostNow, now: u64) -> u64 {
    BOOT_PLAUSIBLE_MAX.saturating_add(now.saturating_sub(host.stored.enrolled_at))
}

fn turn(host: &mut HostNow, report: &Report, now: u64) -> Result<Live, Error> {
    let boot_max = boot_max(host, now);
    // One beyond it, of a clock that was wrong, is no measure.
    let known = host.live.as_ref().filter(|live| live.boot <= boot_max);
    if report.boot > boot_max {
        return Err(Error::StateRegressed { boot: known.map_or(0, |live| live.boot) });
    }
    let (turn, boot) = match known {
        None => (Some(Turn::Next), 0),
        Some(live) if (report.boot, report.seq) > (live.boot, live.seq) => (Some(Turn::Next), live.boot),
        Some(live) if (report.boot, report.seq, &report.rid) == (live.boot, live.seq, &live.rid) => {
            (Some(Turn::Again), live.boot)
        }
        Some(live) => (None, live.boot),
    };
    let Some(turn) = turn else {
        host.regressions.retain(|at| now.saturating_sub(*at) <= REGRESSIONS_WITHIN_MS);
        host.regressions.push(now);
        let is_conflict = host.regressions.len() >= REGRESSIONS_MAX;
        let old = host.regressions.len().saturating_sub(REGRESSIONS_MAX);
        host.regressions.drain(..old);
        return Err(if is_conflict { Error::IdentityConflict } else { Error::StateRegressed { boot } });
    };
    let last_seen = match (known, turn) {
        // Somebody who repeats a request he overheard does not make the host look alive.
        (Some(live), Turn::Again) => live.last_seen,
        (None, _) | (_, Turn::Next) => now,
    };
    let live = Live {
        host: host.stored.id.clone(),
        last_seen,
        boot: report.boot,
        seq: report.seq,
        rid: report.rid.clone(),
        epoch: report.head.epoch,
        seen: report.head.seen,
        applied: report.head.applied,
        digest: report.digest,
    };
    if turn == Turn::Next {
        host.is_dirty = true;
    }
    host.live = Some(live.clone());
    Ok(live)
}

fn arrival(mut event: EventRecord) -> Arrival {
    cut(&mut event.text);
    Arrival {
        eid: event.eid.clone(),
        severity: event.severity,
        kind: event.kind.clone(),
        service: event.service.as_ref().map(ToString::to_string),
        body: serde_json::to_string(&event).expect("it came as JSON"),
    }
}

/// The cut is told where it was made.
fn cut(text: &mut String) {
    if text.len() <= EVENT_TEXT_BYTES_MAX {
        return;
    }
    let (whole, mut end) = (text.len(), EVENT_TEXT_BYTES_MAX - CUT_NOTE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(&format!(" [cut off: {} bytes more]", whole - end));
}

/// For the words and a number.
const CUT_NOTE_BYTES_MAX: usize = 48;

fn check(report: &Report) -> Result<(), Error> {
    let bad = |text: &str| Err(Error::BadRequest(text.to_owned()));
    let is_id = |text: &str| {
        (1..=ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !is_id(&report.rid) || !is_id(&report.stream) {
        return bad("rid and stream are letters, digits and `-`");
    }
    if report.cap < CAPABILITY_MIN {
        return Err(Error::AgentTooOld);
    }
    let largest = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let numbers = [report.boot, report.seq, report.head.seen.0, report.head.applied.0, report.head.epoch];
    if numbers.iter().any(|number| *number > largest) {
        return bad("a number is too large");
    }
    let too_many = Error::TooManyEvents { events_max: EVENTS_PER_REPORT_MAX, bytes_max: EVENTS_BYTES_MAX };
    if report.events.len() > EVENTS_PER_REPORT_MAX {
        return Err(too_many);
    }
    let mut bytes = 0;
    for (event, next) in report.events.iter().zip(report.events.iter().skip(1).map(Some).chain([None])) {
        if !is_id(&event.eid) || !is_id(&event.kind) {
            return bad("an event's eid and kind are letters, digits, `-` and `.`");
        }
        if event.seq == 0 || event.seq > largest || next.is_some_and(|next| next.seq != event.seq + 1) {
            return bad("events are numbered from 1, oldest first, without holes");
        }
        let data = serde_json::to_string(&event.data).map_or(usize::MAX, |text| text.len());
        if data > EVENT_DATA_BYTES_MAX {
            return Err(too_many);
        }
        bytes += serde_json::to_string(event).map_or(usize::MAX, |text| text.len());
    }
    if bytes > EVENTS_BYTES_MAX { Err(too_many) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_where_letters_end_and_says_so() {
        for text in ["é".repeat(100_000), "x".repeat(4_097), "語".repeat(2_000)] {
            let mut short = text.clone();
            cut(&mut short);
            assert!(short.len() <= EVENT_TEXT_BYTES_MAX, "{}", short.len());
            let (kept, note) = short.split_once(" [cut off: ").unwrap();
            let more: usize = note.strip_suffix(" bytes more]").unwrap().parse().unwrap();
            assert_eq!(kept.len() + more, text.len());
            assert!(text.starts_with(kept));
        }
        let mut fits = "x".repeat(4_096);
        cut(&mut fits);
        assert_eq!(fits.len(), 4_096);
    }
}
