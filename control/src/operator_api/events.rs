//! The timeline: pages, and a stream of what arrives (server-sent events, HTML §9.2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bodies::Query;
use crate::core::{Actor, Control, Error};
use crate::model::{EventFilter, EventPage, EventRow};

/// Between two looks: a browser needs no more.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Each may have 16 KiB: what waits for a slow reader stays below a few MiB.
const EVENTS_PER_LOOK: u32 = 200;

pub(super) async fn page(
    State(control): State<Control>,
    _actor: Actor,
    Query(filter): Query<EventFilter>,
) -> Result<Json<EventPage>, Error> {
    Ok(Json(control.events(filter).await?))
}

struct Follower {
    control: Control,
    filter: EventFilter,
    changes: watch::Receiver<u64>,
    reading: Reading,
}

/// How far the reader is, and what waits for it.
#[derive(Debug)]
struct Reading {
    /// Up to here everything was looked at.
    after: u64,
    /// The cursor that the reader has.
    told: u64,
    told_at: Instant,
    waiting: VecDeque<Message>,
}

#[derive(Debug)]
enum Message {
    Event(Box<EventRow>),
    /// Nothing fitted up to here.
    Cursor(u64),
}

/// From `Last-Event-ID`, else from `after`, else from now on. Each has its id, so that a broken stream goes on where it
/// broke; where nothing fits the filter for a while, an id comes alone, so that it goes on from there. It ends when the
/// server does, and with the credential it was opened with: readers ask anew.
pub(super) async fn stream(
    State(control): State<Control>,
    _actor: Actor,
    headers: HeaderMap,
    Query(mut filter): Query<EventFilter>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let newest = control.events(EventFilter { limit: Some(1), ..EventFilter::default() }).await?.newest;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    // A cursor of a journal that was lost since would wait for events that are long told.
    let after = resumed.or(filter.after).unwrap_or(newest).min(newest);
    (filter.after, filter.before, filter.limit) = (Some(after), None, Some(EVENTS_PER_LOOK));
    let changes = control.changes();
    let follower = Follower { control, filter, changes, reading: Reading::from(after, Instant::now()) };
    let events = stream::unfold(follower, |mut follower| async move {
        let message = follower.next().await?.sent()?;
        Some((Ok(message), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Follower {
    /// `None`: the server ends, or cannot look.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.reading.waiting.pop_front() {
                return Some(message);
            }
            self.changes.borrow_and_update();
            self.filter.after = Some(self.reading.after);
            let page = self.control.events(self.filter.clone()).await.ok()?;
            self.reading.take(page, Instant::now());
            if !self.reading.waiting.is_empty() {
                continue;
            }
            let draining = self.control.draining().clone();
            tokio::select! {
                () = draining.cancelled() => return None,
                changed = self.changes.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            }
        }
    }
}

impl Reading {
    fn from(after: u64, now: Instant) -> Self {
        Self { after, told: after, told_at: now, waiting: VecDeque::new() }
    }

    /// Moves the cursor over what was looked at, whether it fitted the filter or not.
    fn take(&mut self, page: EventPage, now: Instant) {
        let last = page.events.last().map(|event| event.id);
        // Whatever had come when the look began has been looked at, unless there was too much of it.
        let looked_at = if page.more { last.unwrap_or(self.after) } else { last.unwrap_or(0).max(page.newest) };
        self.after = self.after.max(looked_at);
        self.waiting.extend(page.events.into_iter().map(|event| Message::Event(Box::new(event))));
        if let Some(last) = last {
            (self.told, self.told_at) = (last, now);
        } else if self.after > self.told && now.duration_since(self.told_at) >= KEEP_ALIVE {
            (self.told, self.told_at) = (self.after, now);
            self.waiting.push_back(Message::Cursor(self.after));
        }
    }
}

impl Message {
    fn sent(self) -> Option<Event> {
        match self {
            Self::Event(event) => Event::default().id(event.id.to_string()).json_data(&event).ok(),
            Self::Cursor(id) => Some(Event::default().id(id.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> EventRow {
        let event =
            serde_json::json!({"eid": "e", "seq": 1, "at_unix_ms": 1, "kind": "k", "severity": "info", "text": "t"});
        let row = serde_json::json!({"id": id, "stack": "stk_abcdef", "host": "hst_abcdef", "host_name": "a", "received_unix_ms": 1, "event": event});
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn a_cursor_moves_over_what_does_not_fit() {
        let start = Instant::now();
        let mut reading = Reading::from(10, start);
        let page =
            |ids: &[u64], newest, more| EventPage { events: ids.iter().map(|id| event(*id)).collect(), newest, more };
        reading.take(page(&[], 500, false), start);
        assert_eq!((reading.after, reading.waiting.len()), (500, 0), "the next look does not begin at 10 again");
        reading.take(page(&[], 700, false), start + KEEP_ALIVE);
        assert!(
            matches!(reading.waiting.pop_front(), Some(Message::Cursor(700))),
            "a reader that comes back begins there"
        );
        reading.take(page(&[], 700, false), start + 3 * KEEP_ALIVE);
        assert!(reading.waiting.is_empty(), "it has been told");
        reading.take(page(&[701, 703], 705, true), start);
        assert_eq!((reading.after, reading.waiting.len()), (703, 2), "there are more");
        reading.take(page(&[704], 703, false), start);
        assert_eq!((reading.after, reading.told), (704, 704), "one that came during the look");
    }
}
