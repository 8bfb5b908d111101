//! Streams: an answer that goes on for minutes holds no longer than the credential it was given for.
//!
//! One place for all of them, in front of whoever writes one: an answer of `text/event-stream` is bounded in number and
//! life, and ends within a moment of a logout, a revocation or another password.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_protocol::digest::Digest;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use http::header;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Accounts;

/// Of one account, all browsers and programs together: more tabs than somebody looks at.
pub(crate) const ACCOUNT_MAX: u32 = 32;
/// Of everybody. Each costs a connection, and a look at the database now and then.
const ALL_MAX: u32 = 512;
/// Then the reader asks anew, with what it has.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// What ends by time alone is looked for so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Said to who has too many, seconds.
pub(crate) const RETRY_SECS: u64 = 30;

/// What a request was let in by.
#[derive(Debug, Clone)]
pub(super) enum Credential {
    Session { hash: Digest, user: String },
    ApiToken { hash: Digest, id: String },
}

impl Credential {
    fn account(&self) -> &str {
        match self {
            Self::Session { user, .. } => user,
            Self::ApiToken { id, .. } => id,
        }
    }

    async fn holds(&self, accounts: &Accounts) -> bool {
        let held = match self {
            Self::Session { hash, .. } => accounts.who(*hash, false).await.map(|user| user.is_some()),
            Self::ApiToken { hash, .. } => accounts.api_token_holds(*hash).await,
        };
        // A server too busy to say whether it holds is asked again by a reader that comes back.
        held.unwrap_or(false)
    }
}

/// How many are open, by account.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    open: Arc<Mutex<HashMap<String, u32>>>,
}

/// One stream's; given back when dropped.
#[derive(Debug)]
struct Place {
    streams: Streams,
    account: String,
}

impl Streams {
    fn open(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, account: &str) -> Option<Place> {
        let mut open = self.open();
        let all: u32 = open.values().sum();
        let own = open.get(account).copied().unwrap_or(0);
        if own >= ACCOUNT_MAX || all >= ALL_MAX {
            return None;
        }
        open.insert(account.to_owned(), own + 1);
        Some(Place { streams: self.clone(), account: account.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        match open.get(&self.account).copied() {
            Some(own) if own > 1 => open.insert(self.account.clone(), own - 1),
            _ => open.remove(&self.account),
        };
    }
}

/// Whether an answer is a stream.
pub(super) fn is_one(response: &Response) -> bool {
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    media.is_some_and(|media| media.starts_with("text/event-stream"))
}

/// `None`: the account has as many as it may.
pub(super) fn bound(
    response: Response,
    accounts: &Accounts,
    streams: &Streams,
    credential: Credential,
) -> Option<Response> {
    let place = streams.take(credential.account())?;
    let now = Instant::now();
    Some(response.map(|body| {
        let held = Held {
            chunks: body.into_data_stream(),
            ended: accounts.ended(),
            accounts: accounts.clone(),
            credential,
            until: now + LIFE,
            // At once: it may have ended while the answer was made.
            look_at: now,
            _place: place,
        };
        Body::from_stream(unfold(held, next))
    }))
}

struct Held {
    chunks: BodyDataStream,
    ended: watch::Receiver<u64>,
    accounts: Accounts,
    credential: Credential,
    until: Instant,
    look_at: Instant,
    _place: Place,
}

async fn next(mut held: Held) -> Option<(Result<Bytes, axum::Error>, Held)> {
    loop {
        tokio::select! {
            biased;
            () = sleep_until(held.until) => return None,
            // Of any account: whose it was is looked at.
            ended = held.ended.changed() => ended.ok()?,
            () = sleep_until(held.look_at) => {}
            chunk = held.chunks.next() => return Some((chunk?, held)),
        }
        if !held.credential.holds(&held.accounts).await {
            return None;
        }
        held.look_at = Instant::now() + LOOK_INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_account_and_given_back() {
        let streams = Streams::default();
        let mut own: Vec<Place> = (0..ACCOUNT_MAX).map(|_| streams.take("a").unwrap()).collect();
        assert!(streams.take("a").is_none());
        let other = streams.take("b").unwrap();
        own.pop();
        own.push(streams.take("a").unwrap());
        drop((own, other));
        assert!(streams.open().is_empty(), "nothing is remembered of who is gone");
        let accounts = ALL_MAX / ACCOUNT_MAX;
        let all: Vec<Place> = (0..accounts)
            .flat_map(|n| (0..ACCOUNT_MAX).map(move |_| n))
            .filter_map(|n| streams.take(&n.to_string()))
            .collect();
        assert_eq!(u32::try_from(all.len()).unwrap(), ALL_MAX);
        assert!(streams.take("one more").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_its_life() {
        use crate::auth::{NewApiToken, Scope};
        use crate::core::Actor;

        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(crate::store::Store::open(dir.path()).unwrap()).await;
        let new = NewApiToken { name: "ci".into(), scope: Scope::Read, days: 1 };
        let made = accounts.create_api_token(&Actor::Server, new).await.unwrap();
        let hash = super::super::secret::Secret::read_api_token(&made.token).unwrap().hash();
        let credential = Credential::ApiToken { hash, id: made.row.id };
        let endless = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>());
        let (streams, began) = (Streams::default(), Instant::now());
        let bounded = bound(Response::new(endless), &accounts, &streams, credential).unwrap();
        let read = axum::body::to_bytes(bounded.into_body(), 10).await.unwrap();
        assert!(read.is_empty() && began.elapsed() >= LIFE, "{:?}", began.elapsed());
        assert!(streams.open().is_empty());
    }
}
