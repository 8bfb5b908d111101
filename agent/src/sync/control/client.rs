//! One signed call: every answer is read up to its limit and no further, within one deadline for all of it.

use std::net::IpAddr;
use std::time::Duration;

use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::problem::Problem;
use agentd_protocol::control::request::{
    CONTENT_DIGEST_HEADER, Parts, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, Signer, content_digest, sign,
};
use agentd_sys::causes::chain;
use reqwest::header::{self, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, Url};
use serde::{Deserialize, Serialize};

/// Name resolution, TCP and TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A call that is not held; what is larger than an answer has more.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// An object of 4 MiB over a slow line.
pub(super) const OBJECT_LIMIT: Duration = Duration::from_secs(120);
/// Idle connections are closed before most proxies do it.
const IDLE_LIMIT: Duration = Duration::from_secs(50);
/// Longest that a server may make a host wait, seconds: with the fifth more that hosts come apart by, an hour.
const RETRY_AFTER_SECS_MAX: u64 = 3_000;

/// How the control server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Base URL, without a slash at its end.
    pub url: String,
    /// PEM; trusted alone, in the place of the system's.
    pub authorities: Option<String>,
    /// A person has said that plain HTTP may leave this machine.
    pub plain_http: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{url}` is no address of a control server: https://HOST[:PORT], without user, query and fragment")]
    Url { url: String },
    #[error(
        "{url} is plain HTTP to another machine, which anybody on the way can read; use https, or --allow-plain-http"
    )]
    Plain { url: String },
    #[error("no HTTPS client can be made; look at the file of --ca-file, or the system's certificates")]
    Tls(#[source] reqwest::Error),
    #[error("it holds no certificate (PEM, `-----BEGIN CERTIFICATE-----`)")]
    NoAuthority,
    #[error("a certificate in it cannot be read (PEM); was it cut off?")]
    Authority(#[source] reqwest::Error),
}

/// Whether that text names at least one authority, and all of them can be trusted: one of none trusts nobody.
pub fn check_authorities(pem: &str) -> Result<(), ClientError> {
    if Certificate::from_pem_bundle(pem.as_bytes()).map_err(ClientError::Authority)?.is_empty() {
        return Err(ClientError::NoAuthority);
    }
    let builder = agentd_sys::http::with_tls(Some(pem.as_bytes())).map_err(ClientError::Authority)?;
    builder.build().map(drop).map_err(ClientError::Authority)
}

/// Why there is no answer, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("{0}")]
    Unreachable(String),
    #[error("no whole answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
}

#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Below the base URL, with its slash.
    pub(super) path: &'a str,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) bytes_max: usize,
    pub(super) limit: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// The server has held the call, or would have.
    pub(super) holds: bool,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Client {
    /// Blocks for some milliseconds: reads the authorities.
    pub(super) fn new(reach: &Reach) -> Result<Self, ClientError> {
        let bad = || ClientError::Url { url: shown(&reach.url) };
        let base = Url::parse(&reach.url).map_err(|_| bad())?;
        let is_bare = base.username().is_empty()
            && base.password().is_none()
            && base.query().is_none()
            && base.fragment().is_none();
        let builder = match base.scheme() {
            "https" if is_bare => agentd_sys::http::with_tls(reach.authorities.as_deref().map(str::as_bytes)),
            "http" if is_bare && (reach.plain_http || is_loopback(&base)) => Ok(agentd_sys::http::plain()),
            "http" if is_bare => return Err(ClientError::Plain { url: reach.url.clone() }),
            _ => return Err(bad()),
        };
        let http = builder
            .and_then(|builder| {
                agentd_sys::http::watched(builder)
                    .redirect(Policy::none())
                    .no_proxy()
                    .connect_timeout(CONNECT_LIMIT)
                    .pool_idle_timeout(IDLE_LIMIT)
                    .user_agent(concat!("agentd/", env!("CARGO_PKG_VERSION")))
                    .build()
            })
            .map_err(ClientError::Tls)?;
        Ok(Self { http, base })
    }

    /// `created`: Unix seconds, by the server's clock as far as it is known.
    pub(super) async fn send(&self, call: Call<'_>, created: u64, signers: &[Signer<'_>]) -> Result<Answer, NoAnswer> {
        let limit = call.limit;
        let answered = tokio::time::timeout(limit, self.exchange(call, created, signers));
        answered.await.unwrap_or(Err(NoAnswer::TooSlow(limit)))
    }

    async fn exchange(&self, call: Call<'_>, created: u64, signers: &[Signer<'_>]) -> Result<Answer, NoAnswer> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path().trim_end_matches('/'), call.path));
        let digest = content_digest(&call.body);
        let parts = Parts { method: call.method.as_str(), path: url.path(), query: "", content_digest: &digest };
        let signed = sign(parts, created, signers);
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .header(CONTENT_DIGEST_HEADER, &digest)
            .header(SIGNATURE_INPUT_HEADER, signed.signature_input)
            .header(SIGNATURE_HEADER, signed.signature);
        if call.method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json").body(call.body);
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > call.bytes_max {
                return Err(NoAnswer::TooLarge(call.bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            etag: text(&headers, header::ETAG.as_str()),
            retry_after: text(&headers, header::RETRY_AFTER.as_str()).and_then(|text| retry_after(&text)),
            holds: text(&headers, "preference-applied").is_some_and(|text| text.contains("wait")),
            body,
        })
    }
}

/// Of a host that keys and signatures say who it is.
pub(super) fn host_signer<'a>(keyid: &'a str, key: &'a SecretKey) -> Signer<'a> {
    Signer { label: agentd_protocol::control::request::HOST_LABEL, keyid, key }
}

/// Seconds alone: the form with a date needs clocks that agree (RFC 9110 §10.2.3).
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(|secs: u64| Duration::from_secs(secs.min(RETRY_AFTER_SECS_MAX)))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn unreachable(error: reqwest::Error) -> NoAnswer {
    NoAnswer::Unreachable(chain(&error.without_url()))
}

/// Without what may be a password.
fn shown(url: &str) -> String {
    url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, rest)| format!("...@{rest}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine_unless_somebody_says_so() {
        let made = |url: &str, plain_http| Client::new(&Reach { url: url.into(), authorities: None, plain_http });
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost", "https://control.example.com"] {
            assert!(made(url, false).is_ok(), "{url}");
        }
        for url in ["http://control.example.com", "http://127.0.0.1.example.com", "http://192.0.2.1"] {
            assert!(matches!(made(url, false), Err(ClientError::Plain { .. })), "{url}");
            assert!(made(url, true).is_ok(), "{url}");
        }
        for url in ["", "control.example.com", "ftp://x", "https://a:hush@x", "https://x?y", "https://x#y"] {
            let error = made(url, true).unwrap_err().to_string();
            assert!(!error.contains("hush") && error.contains("https://HOST"), "{error}");
        }
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let begin = "-----BEGIN CERTIFICATE-----\n";
        let end = "-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for none in ["", "no certificate", key, &"x".repeat(10_000)] {
            assert!(matches!(check_authorities(none), Err(ClientError::NoAuthority)), "{none:.60}");
        }
        for broken in [format!("{begin}AAAA\n{end}"), format!("{begin}%%%%\n{end}"), format!("{begin}{end}")] {
            assert!(matches!(check_authorities(&broken), Err(ClientError::Authority(_))), "{broken}");
            let reach = Reach { url: "https://x".into(), authorities: Some(broken), plain_http: false };
            assert!(matches!(Client::new(&reach), Err(ClientError::Tls(_))));
        }
    }

    #[test]
    fn a_server_cannot_make_a_host_wait_for_ever() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999999"), Some(Duration::from_secs(RETRY_AFTER_SECS_MAX)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
