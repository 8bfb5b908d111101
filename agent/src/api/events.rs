//! `GET /v1/events`: what happened, one JSON object a line, and what happens from now on where that is asked for.

use std::convert::Infallible;
use std::time::Duration;

use agentd_protocol::api::{EVENTS_DEFAULT, EVENTS_MAX, Event, KEEP_ALIVE_SECS, NEWEST_EVENT_HEADER};
use agentd_protocol::ids::{EventId, ServiceName};
use agentd_sys::causes::chain;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::routes::{Api, Refused, failed, service};
use crate::reconcile::{EventQuery, Journal};

const CONTENT: &str = "application/x-ndjson";

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    after: Option<u64>,
    limit: Option<u32>,
    service: Option<String>,
    /// Unix time, ms.
    since: Option<u64>,
    /// Given: the answer goes on with what happens.
    follow: Option<u8>,
}

pub(super) async fn events(State(api): State<Api>, Query(asked): Query<Asked>) -> Result<Response, Refused> {
    let journal = api.reconcile.journal().clone();
    // Before the first page: what comes while it is read is not missed.
    let newest = journal.newest();
    let service: Option<ServiceName> = asked.service.map(service).transpose()?;
    let query = EventQuery {
        after: asked.after.map(EventId),
        since_unix_ms: asked.since,
        service,
        limit: asked.limit.unwrap_or(EVENTS_DEFAULT).min(EVENTS_MAX),
    };
    let at_all = EventQuery { limit: 1, ..EventQuery::default() };
    let known = journal.events(at_all).await.map_err(|error| failed(&error))?;
    let known = known.last().map(|event| event.id).unwrap_or_default();
    let first = journal.events(query.clone()).await.map_err(|error| failed(&error))?;
    let page = lines(&first);
    let body = match asked.follow {
        None | Some(0) => Body::from(page),
        Some(_) => {
            // Asked for the newest: what is older, and what does not fit, stays out for ever.
            let floor = query.after.unwrap_or(known);
            let last = first.last().map_or(floor, |event| event.id.max(floor));
            let query = EventQuery { after: Some(last), since_unix_ms: None, limit: EVENTS_MAX, ..query };
            let follower = Follower { journal, newest, query, ending: api.ending };
            follower.body(page)
        }
    };
    let newest_header = (HeaderName::from_static(NEWEST_EVENT_HEADER), known.to_string());
    Ok(([(CONTENT_TYPE, CONTENT.to_owned()), newest_header], body).into_response())
}

struct Follower {
    journal: Journal,
    newest: watch::Receiver<EventId>,
    query: EventQuery,
    ending: CancellationToken,
}

impl Follower {
    fn body(self, first: Bytes) -> Body {
        let later = stream::unfold(self, |mut follower| async move {
            let page = follower.next().await?;
            Some((Ok::<Bytes, Infallible>(page), follower))
        });
        let first = stream::iter([Ok(first)]);
        Body::from_stream(futures_util::StreamExt::chain(first, later))
    }

    /// The next lines, or an empty one as a sign of life; `None` when the manager ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.newest.mark_unchanged();
            match self.journal.events(self.query.clone()).await {
                Ok(found) => {
                    if let Some(last) = found.last() {
                        self.query.after = Some(last.id);
                        return Some(lines(&found));
                    }
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a follower of the events is left");
                    return None;
                }
            }
            tokio::select! {
                () = self.ending.cancelled() => return None,
                changed = self.newest.changed() => changed.ok()?,
                () = tokio::time::sleep(Duration::from_secs(KEEP_ALIVE_SECS)) => return Some(Bytes::from_static(b"\n")),
            }
        }
    }
}

fn lines(events: &[Event]) -> Bytes {
    events.iter().map(line).collect::<String>().into()
}

/// The one way by which an event leaves the manager.
fn line(event: &Event) -> String {
    let json = serde_json::to_string(event).expect("an event is plain JSON");
    format!("{json}\n")
}
