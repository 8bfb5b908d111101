//! The timeline: pages, and a stream of what arrives (server-sent events, HTML §9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use tokio::sync::watch;

use super::bodies::Query;
use crate::core::{Actor, Control, EVENTS_PER_PAGE_MAX, Error};
use crate::model::{EventFilter, EventPage};

/// Between two looks: a browser needs no more.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
    waiting: std::collections::VecDeque<Event>,
}

/// From `Last-Event-ID`, else from `after`, else from now on. Each has its id, so that a broken stream goes on where it
/// broke.
pub(super) async fn stream(
    State(control): State<Control>,
    _actor: Actor,
    headers: HeaderMap,
    Query(mut filter): Query<EventFilter>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = match resumed.or(filter.after) {
        Some(after) => after,
        None => control.events(EventFilter { limit: Some(1), ..EventFilter::default() }).await?.newest,
    };
    (filter.after, filter.before, filter.limit) = (Some(after), None, Some(EVENTS_PER_PAGE_MAX));
    let changes = control.changes();
    let follower = Follower { control, filter, changes, waiting: std::collections::VecDeque::new() };
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
            for event in page.events {
                self.filter.after = Some(event.id);
                self.waiting.push_back(Event::default().id(event.id.to_string()).json_data(&event).ok()?);
            }
            if self.waiting.is_empty() {
                tokio::select! {
                    changed = self.changes.changed() => changed.ok()?,
                    () = self.control.draining().cancelled() => return None,
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }
}
