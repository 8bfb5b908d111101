//! One request as its vector says, signed by the profile, and what came back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::control::enroll::Enroll;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::Report;
use agentd_protocol::control::request::{
    self, CONTENT_DIGEST_HEADER, Parts, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, Signer,
};
use agentd_protocol::digest::Digest;
use anyhow::{Context, Result, bail};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::Value;

use super::fill::{self, Values};
use super::vector::Send;

/// Longest wait for an answer: the longest hold, and room.
const LIMIT: Duration = Duration::from_secs(330);
/// The largest answer is a state object.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Request {
    method: Method,
    url: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value> {
        let shown = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no JSON in the answer {} `{shown:.200}`", self.status))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Keys by name: those of tokens as they were handed out, any other made from its name and the run.
#[derive(Debug)]
pub(super) struct Keys {
    run: String,
    known: BTreeMap<String, SecretKey>,
}

impl Keys {
    pub(super) fn of(run: String) -> Self {
        Self { run, known: BTreeMap::new() }
    }

    pub(super) fn learn(&mut self, name: &str, key: SecretKey) {
        self.known.insert(name.to_owned(), key);
    }

    pub(super) fn get(&self, name: &str) -> SecretKey {
        let made = || SecretKey::from_seed(Digest::of(format!("{}/{name}", self.run).as_bytes()).as_bytes());
        self.known.get(name).cloned().unwrap_or_else(made)
    }
}

pub(super) fn unix_secs() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Fills, checks against the protocol's types what claims to be right, and signs.
pub(super) fn build(
    send: &Send,
    base_url: &str,
    values: &Values,
    keys: &Keys,
    dir: &std::path::Path,
) -> Result<Request> {
    let body = match (&send.body, &send.text, send.blanks) {
        (Some(template), None, None) => serde_json::to_vec(&fill::tree(template, values, dir)?)?,
        (None, Some(text), None) => fill::plain(text, values)?.into_bytes(),
        (None, None, Some(count)) => vec![b' '; count],
        (None, None, None) => Vec::new(),
        _ => bail!("one of `body`, `text` and `blanks`"),
    };
    let (path, query) = (fill::plain(&send.path, values)?, fill::plain(&send.query, values)?);
    let digest = match &send.digest_of {
        Some(other) => request::content_digest(other.as_bytes()),
        None => request::content_digest(&body),
    };
    let created = u64::try_from(unix_secs() + send.created_s).context("a time after 1970")?;
    let mut signers = Vec::new();
    for sign in &send.sign {
        signers.push((sign.label.as_str(), fill::plain(&sign.keyid, values)?, keys.get(&sign.key)));
    }
    let signers: Vec<Signer<'_>> = signers.iter().map(|(label, keyid, key)| Signer { label, keyid, key }).collect();
    let parts = Parts { method: &send.method, path: &path, query: &query, content_digest: &digest };
    let mut headers = BTreeMap::new();
    if !body.is_empty() {
        headers.insert("content-type".to_owned(), "application/json".to_owned());
    }
    headers.insert(CONTENT_DIGEST_HEADER.to_owned(), digest.clone());
    if !signers.is_empty() {
        let mut signed = request::sign(parts, created, &signers);
        if let Some((from, to)) = &send.changed_input {
            signed.signature_input = signed.signature_input.replace(from, to);
        }
        headers.insert(SIGNATURE_INPUT_HEADER.to_owned(), signed.signature_input);
        headers.insert(SIGNATURE_HEADER.to_owned(), signed.signature);
    }
    for (name, template) in &send.headers {
        headers.insert(name.to_ascii_lowercase(), fill::plain(template, values)?);
    }
    let question = if query.is_empty() { "" } else { "?" };
    Ok(Request {
        method: send.method.parse().context("a method of HTTP")?,
        url: format!("{base_url}{path}{question}{query}"),
        headers,
        body,
    })
}

/// A body that is to be accepted is one that an agent could have sent.
pub(super) fn check_body(request: &Request) -> Result<()> {
    if request.url.ends_with("/v1/enroll") {
        serde_json::from_slice::<Enroll>(&request.body).context("the vector's body is no enrolment")?;
    } else if request.url.ends_with("/v1/report") {
        serde_json::from_slice::<Report>(&request.body).context("the vector's body is no report")?;
    }
    Ok(())
}

pub(super) async fn send(client: &Client, request: &Request) -> Result<Answer> {
    let mut building = client.request(request.method.clone(), &request.url).timeout(LIMIT).body(request.body.clone());
    for (name, value) in &request.headers {
        building = building.header(name, value);
    }
    let mut response = building.send().await.with_context(|| format!("{} {}", request.method, request.url))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.context("read the answer")? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            bail!("the answer is over {ANSWER_BYTES_MAX} bytes");
        }
    }
    Ok(Answer { status, headers, body })
}
