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
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::routes::Face;
use crate::auth::Viewer;

/// Between two signs to one page: as much as an eye follows, and as a fleet in motion costs.
const PAUSE: Duration = Duration::from_millis(500);
/// Proxies and browsers end a connection that is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Ended by the server's end; by the gate, when whoever looks may not look any more, or after a while.
pub(crate) async fn stream(State(face): State<Face>, _viewer: Viewer) -> Response {
    let mut changes = face.control.changes();
    changes.mark_unchanged();
    let step = Step { changes, draining: face.control.draining().clone(), is_greeted: false };
    let body = Body::from_stream(futures_util::stream::unfold(step, next));
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (head, body).into_response()
}

struct Step {
    changes: watch::Receiver<u64>,
    draining: CancellationToken,
    is_greeted: bool,
}

async fn next(mut step: Step) -> Option<(Result<Bytes, Infallible>, Step)> {
    if !step.is_greeted {
        step.is_greeted = true;
        return Some((Ok(Bytes::from_static(b"retry: 3000\n\n")), step));
    }
    let sign: &'static [u8] = tokio::select! {
        () = step.draining.cancelled() => return None,
        news = timeout(KEEP_ALIVE, step.changes.changed()) => match news {
            Ok(changed) => {
                changed.ok()?;
                sleep(PAUSE).await;
                step.changes.mark_unchanged();
                b"event: changed\ndata: \n\n"
            }
            Err(_) => b": still here\n\n",
        },
    };
    Some((Ok(Bytes::from_static(sign)), step))
}
