//! `GET /v1/services/NAME/logs`: the answer is made as fast as the caller takes it.

use agentd_protocol::api::{LogQuery, LogRecord, NDJSON};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::routes::{Api, Refused, failed};

pub(super) async fn logs(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refused> {
    let reading = api.reconcile.logs(&name, query).await.map_err(|error| failed(&error))?;
    let pieces = stream::unfold(reading, |mut reading| async {
        let records = reading.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(lines(&records)), reading))
    });
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(pieces)).into_response())
}

fn lines(records: &[LogRecord]) -> Bytes {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record).expect("a record is plain JSON");
        text.push(b'\n');
    }
    text.into()
}
