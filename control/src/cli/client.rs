//! Calls to a server: over the socket of its home, or its URL with an API token.

use std::time::Duration;

use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::problem::Problem;
use agentd_sys::files::SocketDir;
use agentd_sys::http;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Error;
use super::options::At;
use crate::model::{HostRow, StackOverview};
use crate::serve::SOCKET;

/// Publishing asks repositories, each for up to a minute.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    place: String,
    token: Option<Zeroizing<String>>,
    /// Keeps the socket's short name valid.
    _dir: Option<SocketDir>,
}

impl Client {
    pub(super) fn new(at: &At) -> Result<Self, Error> {
        let Some(url) = &at.url else { return Self::local(at) };
        let token = match &at.api_token_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).map(Zeroizing::new);
                let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
                Some(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned()))
            }
        };
        let builder = if url.starts_with("https://") { http::with_tls(None) } else { Ok(http::plain()) };
        let client = builder.and_then(|builder| builder.timeout(LIMIT).build()).map_err(Error::Client)?;
        let base = format!("{}/api/v1", url.trim_end_matches('/'));
        Ok(Self { http: client, base, place: url.clone(), token, _dir: None })
    }

    fn local(at: &At) -> Result<Self, Error> {
        let place = at.home.join(SOCKET).display().to_string();
        let unreachable = |source| Error::Unreachable { place: place.clone(), source: Box::new(source) };
        let dir = SocketDir::open(&at.home).map_err(unreachable)?;
        let client = http::plain().unix_socket(dir.path_of(SOCKET)).timeout(LIMIT).build().map_err(Error::Client)?;
        Ok(Self { http: client, base: "http://controld/api/v1".to_owned(), place, token: None, _dir: Some(dir) })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        }
    }

    pub(super) async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let unreachable = |source| Error::Unreachable { place: self.place.clone(), source: Box::new(source) };
        let response = request.send().await.map_err(unreachable)?;
        let is_success = response.status().is_success();
        let bytes = Zeroizing::new(response.bytes().await.map_err(unreachable)?.to_vec());
        if is_success {
            return serde_json::from_slice(&bytes).map_err(Error::Answer);
        }
        let problem: Problem = serde_json::from_slice(&bytes).map_err(Error::Answer)?;
        Err(Error::Refused(Box::new(problem)))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// By name or id.
    pub(super) async fn stack_id(&self, name: &str) -> Result<StackId, Error> {
        if let Ok(id) = StackId::new(name) {
            return Ok(id);
        }
        let stacks: Vec<StackOverview> = self.get("/stacks").await?;
        let found = stacks.into_iter().find(|stack| stack.name == name);
        found.map(|stack| stack.id).ok_or_else(|| Error::NoStack { name: name.to_owned() })
    }

    /// By name or id.
    pub(super) async fn host_id(&self, name: &str) -> Result<HostId, Error> {
        if let Ok(id) = HostId::new(name) {
            return Ok(id);
        }
        let hosts: Vec<HostRow> = self.get("/hosts").await?;
        let mut found = hosts.into_iter().filter(|host| host.name == name);
        match (found.next(), found.next()) {
            (Some(host), None) => Ok(host.id),
            (None, _) => Err(Error::NoHost { name: name.to_owned() }),
            (Some(_), Some(_)) => Err(Error::ManyHosts { name: name.to_owned() }),
        }
    }
}
