//! One question to one instance on its own port, past the proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::api::{Probe, ProbeOutcome};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::super::launch::Gate;

/// Bytes of a health answer that are read; one that is longer passes by its status alone.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Asks. Cheap to clone.
#[derive(Debug, Clone)]
pub(in super::super) struct Prober(reqwest::Client);

/// What is asked and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Target {
    pub(in super::super) gate: Gate,
    /// Without one there is nobody to ask, and being asked at all is a pass.
    pub(in super::super) port: Option<u16>,
    pub(in super::super) timeout: Duration,
}

impl Prober {
    pub(in super::super) fn new() -> Result<Self, reqwest::Error> {
        agentd_sys::http::plain()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Every probe is a new connection, as a new client's would be.
            .pool_max_idle_per_host(0)
            .user_agent("agentd-probe")
            .build()
            .map(Self)
    }

    pub(in super::super) async fn ask(&self, target: &Target) -> Probe {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun = Instant::now();
        let question = async {
            match (&target.gate, target.port) {
                (Gate::None, _) | (_, None) => ProbeOutcome::Passed { status: None },
                (Gate::Tcp, Some(port)) => connect(port).await,
                (Gate::Http { path, host }, Some(port)) => self.get(port, path, host.as_deref()).await,
            }
        };
        let outcome = timeout(target.timeout, question).await.unwrap_or(ProbeOutcome::TimedOut);
        Probe { at_unix_ms: millis(at), latency_ms: millis(begun.elapsed()), outcome }
    }

    async fn get(&self, port: u16, path: &str, host: Option<&str>) -> ProbeOutcome {
        let mut request = self.0.get(format!("http://127.0.0.1:{port}{path}"));
        if let Some(host) = host {
            request = request.header(http::header::HOST, host);
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failure(&error),
        };
        let status = response.status().as_u16();
        let mut read = 0;
        while read < BODY_BYTES_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => break,
                Err(error) => return failure(&error),
            }
        }
        if (200..400).contains(&status) {
            ProbeOutcome::Passed { status: Some(status) }
        } else {
            ProbeOutcome::Status { status }
        }
    }
}

pub(in super::super) fn passed(outcome: &ProbeOutcome) -> bool {
    match outcome {
        ProbeOutcome::Passed { .. } => true,
        ProbeOutcome::Status { .. } | ProbeOutcome::Refused | ProbeOutcome::TimedOut | ProbeOutcome::Failed { .. } => {
            false
        }
    }
}

async fn connect(port: u16) -> ProbeOutcome {
    match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(_) => ProbeOutcome::Passed { status: None },
        Err(error) => failure(&error),
    }
}

/// The innermost cause says it best; the layers above repeat that a request failed.
fn failure(error: &(dyn std::error::Error + 'static)) -> ProbeOutcome {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => ProbeOutcome::Refused,
        Some(_) | None => ProbeOutcome::Failed { error: cause.to_string() },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection with what `answer` makes of the request's head; `None` says nothing, for ever.
    async fn server(answer: fn(&str) -> Option<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        crate::lifecycle::spawn("test-server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            match answer(std::str::from_utf8(&head).unwrap()) {
                Some(text) => {
                    stream.write_all(text.as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
                None => std::future::pending().await,
            }
        });
        port
    }

    async fn ask(gate: Gate, port: u16, timeout_ms: u64) -> ProbeOutcome {
        let target = Target { gate, port: Some(port), timeout: Duration::from_millis(timeout_ms) };
        Prober::new().unwrap().ask(&target).await.outcome
    }

    fn http(host: Option<&str>) -> Gate {
        Gate::Http { path: "/up?x=1".into(), host: host.map(str::to_owned) }
    }

    fn status(line: &str) -> Option<String> {
        Some(format!("HTTP/1.1 {line}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"))
    }

    #[tokio::test]
    async fn statuses() {
        let port = server(|_| status("200 OK")).await;
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Passed { status: Some(200) });
        let port = server(|_| status("302 Found")).await;
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Passed { status: Some(302) }, "not followed");
        let port = server(|_| status("500 No")).await;
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Status { status: 500 });
    }

    #[tokio::test]
    async fn path_and_host_are_sent() {
        let strict: fn(&str) -> Option<String> = |head| {
            let good = head.starts_with("GET /up?x=1 HTTP/1.1\r\n") && head.contains("host: api.example.com\r\n");
            status(if good { "204 Good" } else { "400 Bad host" })
        };
        let port = server(strict).await;
        assert_eq!(ask(http(Some("api.example.com")), port, 5_000).await, ProbeOutcome::Passed { status: Some(204) });
        let port = server(strict).await;
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Status { status: 400 });
    }

    #[tokio::test]
    async fn silence_refusal_and_nonsense() {
        let port = server(|_| None).await;
        assert_eq!(ask(http(None), port, 50).await, ProbeOutcome::TimedOut);
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Refused);
        assert_eq!(ask(Gate::Tcp, port, 5_000).await, ProbeOutcome::Refused);
        let port = server(|_| Some("SSH-2.0-x\r\n".into())).await;
        assert!(matches!(ask(http(None), port, 5_000).await, ProbeOutcome::Failed { .. }));
    }

    #[tokio::test]
    async fn an_endless_body_is_cut() {
        let port = server(|_| Some(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(200_000)))).await;
        assert_eq!(ask(http(None), port, 5_000).await, ProbeOutcome::Passed { status: Some(200) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(Gate::Tcp, port, 5_000).await, ProbeOutcome::Passed { status: None });
    }
}
