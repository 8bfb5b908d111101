//! `GET /live`: says that something has changed, so that a page looks again. What changed is not said: the page asks for
//! itself, with its own rights.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Refused;
use super::routes::Face;
use crate::auth::Viewer;

/// Between two signs to one page: as much as an eye follows, and as a fleet in motion costs.
const PAUSE: Duration = Duration::from_millis(500);
/// Proxies and browsers end a connection that is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Then the browser asks anew: a stream does not outlive what it was allowed by.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Streams at once, of everybody.
pub(crate) const STREAMS_MAX: usize = 256;

pub(crate) async fn stream(State(face): State<Face>, viewer: Viewer) -> Result<Response, Refused> {
    let place = face.streams.clone().try_acquire_owned().map_err(|_| crate::core::Error::Overloaded)?;
    let mut changes = face.control.changes();
    changes.mark_unchanged();
    let start = Step { face, viewer, changes, until: Instant::now() + LIFE, _place: place };
    let body = Body::from_stream(futures_util::stream::unfold(Next::Greet(Box::new(start)), next));
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((head, body).into_response())
}

struct Step {
    face: Face,
    viewer: Viewer,
    changes: watch::Receiver<u64>,
    until: Instant,
    _place: tokio::sync::OwnedSemaphorePermit,
}

enum Next {
    Greet(Box<Step>),
    Wait(Box<Step>),
}

async fn next(state: Next) -> Option<(Result<Bytes, Infallible>, Next)> {
    let mut step = match state {
        Next::Greet(step) => return Some((Ok(Bytes::from_static(b"retry: 3000\n\n")), Next::Wait(step))),
        Next::Wait(step) => step,
    };
    let is_news = timeout(KEEP_ALIVE, step.changes.changed()).await;
    if Instant::now() >= step.until || matches!(is_news, Ok(Err(_))) {
        return None;
    }
    // A session that ended takes its streams with it, at the next sign.
    let is_in = step.face.accounts.who(step.viewer.session, false).await.is_ok_and(|user| user.is_some());
    if !is_in {
        return None;
    }
    let sign: &'static [u8] = if is_news.is_ok() {
        sleep(PAUSE).await;
        step.changes.mark_unchanged();
        b"event: changed\ndata: \n\n"
    } else {
        b": still here\n\n"
    };
    Some((Ok(Bytes::from_static(sign)), Next::Wait(step)))
}
