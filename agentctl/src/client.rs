//! Calls to the manager over its Unix socket.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use agentd_protocol::api::{API_SOCKET, Failure};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::places::Places;
use agentd_sys::files::SocketDir;
use reqwest::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::place;

/// The longest any call may take: a deploy's start deadline, drain and stop, with the manager's own slack.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// Of an answer that is followed: longer than anybody looks at one.
const OPEN_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// To reach the manager at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why a call has no answer, or the answer is no.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody listens: with where was looked.
    NotRunning { places: Places },
    /// Somebody listens whom we may not call.
    NotAllowed { places: Places },
    /// The connection broke or the answer was not ours.
    Broken { cause: String },
    /// The manager says no, in its own words.
    Refused { status: StatusCode, text: String },
}

impl Error {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::NotRunning { places } => place::not_running(places),
            Self::NotAllowed { places } => place::not_allowed(places),
            Self::Broken { cause } => format!("the call to agentd broke off: {cause}"),
            Self::Refused { text, .. } => text.clone(),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NotRunning { .. } | Self::NotAllowed { .. } | Self::Broken { .. } => Exit::Unreachable,
            Self::Refused { status: StatusCode::NOT_FOUND, .. } => Exit::NotFound,
            Self::Refused { .. } => Exit::Failed,
        }
    }
}

/// One home's manager.
pub(crate) struct Client {
    http: reqwest::Client,
    places: Places,
    /// Keeps the socket's short name valid.
    _dir: SocketDir,
}

impl Client {
    pub(crate) fn new(places: &Places) -> Result<Self, Error> {
        let missing = |_| Error::NotRunning { places: places.clone() };
        let dir = SocketDir::open(&places.run_dir).map_err(missing)?;
        let http = agentd_sys::http::plain()
            .unix_socket(dir.path_of(API_SOCKET))
            .timeout(LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .build()
            .map_err(|error| Error::Broken { cause: chain(&error) })?;
        Ok(Self { http, places: places.clone(), _dir: dir })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.answer(self.http.get(url(path))).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.answer(self.http.post(url(path))).await
    }

    pub(crate) async fn post_body<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.answer(self.http.post(url(path)).json(body)).await
    }

    /// An answer that goes on for as long as there is something to say.
    pub(crate) async fn open(&self, path: &str) -> Result<reqwest::Response, Error> {
        let response =
            self.http.get(url(path)).timeout(OPEN_LIMIT).send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| Error::Broken { cause: chain(&error) })?;
        Err(refused(status, &body))
    }

    async fn answer<T: DeserializeOwned>(&self, call: reqwest::RequestBuilder) -> Result<T, Error> {
        let response = call.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| Error::Broken { cause: chain(&error) })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| Error::Broken { cause: chain(&error) });
        }
        Err(refused(status, &body))
    }

    /// An answer of many lines, which may never end.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, Error> {
        Ok(Lines { response: self.open(path).await?, bytes: Vec::new(), at: 0 })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let places = || self.places.clone();
        match connecting(error) {
            Some(io::ErrorKind::PermissionDenied) => Error::NotAllowed { places: places() },
            Some(_) => Error::NotRunning { places: places() },
            None => Error::Broken { cause: chain(error) },
        }
    }

    /// Whether a manager answers.
    pub(crate) async fn is_up(&self) -> bool {
        self.get::<serde_json::Value>("/v1/status").await.is_ok()
    }
}

/// Why no connection was made, if that is what failed.
fn connecting(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut cause = error.is_connect().then_some(error.source())?;
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    Some(io::ErrorKind::NotConnected)
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
    let text = match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => failure.error,
        Err(_) => format!("agentd answered {status}"),
    };
    Error::Refused { status, text }
}

/// The lines of an answer as they come.
pub(crate) struct Lines {
    response: reqwest::Response,
    /// What has come; what was asked for already ends at `at`.
    bytes: Vec<u8>,
    at: usize,
}

impl Lines {
    /// The next line; `None` at the end, also where the connection broke.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = self.bytes[self.at..].iter().position(|byte| *byte == b'\n') {
                let line = self.bytes[self.at..self.at + length].to_vec();
                self.at += length + 1;
                return Some(line);
            }
            let more = self.response.chunk().await.ok()??;
            self.bytes.drain(..std::mem::take(&mut self.at));
            self.bytes.extend_from_slice(&more);
        }
    }

    /// Whether another line is there already.
    pub(crate) fn has_more(&self) -> bool {
        self.bytes[self.at..].contains(&b'\n')
    }
}

fn url(path: &str) -> String {
    format!("http://agentd{path}")
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
