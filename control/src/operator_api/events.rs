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
use crate::model::{EventFilter, EventPage};

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
    waiting: VecDeque<Event>,
    /// The reader has this cursor.
    told: u64,
    told_at: Instant,
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
    let (waiting, told_at) = (VecDeque::new(), Instant::now());
    let follower = Follower { control, filter, changes, waiting, told: after, told_at };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Follower {
    /// `None`: the server ends, or cannot look.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            self.changes.borrow_and_update();
            let page = self.control.events(self.filter.clone()).await.ok()?;
            self.take(&page)?;
            if !self.waiting.is_empty() {
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

    /// Moves the cursor over what was looked at, whether it fitted the filter or not.
    fn take(&mut self, page: &EventPage) -> Option<()> {
        for event in &page.events {
            self.waiting.push_back(Event::default().id(event.id.to_string()).json_data(event).ok()?);
        }
        let after = if page.more { page.events.last()?.id } else { cursor(self.filter.after, page) };
        self.filter.after = Some(after);
        if !page.events.is_empty() {
            (self.told, self.told_at) = (page.events.last()?.id, Instant::now());
        } else if after > self.told && self.told_at.elapsed() >= KEEP_ALIVE {
            self.waiting.push_back(Event::default().id(after.to_string()));
            (self.told, self.told_at) = (after, Instant::now());
        }
        Some(())
    }
}

/// Whatever came until the look began has been looked at.
fn cursor(after: Option<u64>, page: &EventPage) -> u64 {
    let last = page.events.last().map(|event| event.id);
    [after, last, Some(page.newest)].into_iter().flatten().max().unwrap_or_default()
}
