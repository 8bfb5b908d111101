//! Questions to the program, on its metrics address. Whoever listens there may answer anything: an answer has a limit in
//! time and size, and is believed in what concerns the tunnel alone.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::Error;
use super::drift::{self, Wanted};
use super::state::Observation;

const ANSWER_LIMIT: Duration = Duration::from_secs(3);
const READY_BYTES_MAX: usize = 4 * 1024;
const CONFIG_BYTES_MAX: usize = 256 * 1024;
/// Where every cloudflared connects to.
const EDGE: (&str, u16) = ("region1.v2.argotunnel.com", 7844);

#[derive(Debug, Clone)]
pub(super) struct Asker {
    client: reqwest::Client,
    metrics: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    ready_connections: u32,
}

impl Asker {
    pub(super) fn new(metrics: SocketAddr) -> Result<Self, Error> {
        let client = agentd_sys::http::plain()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(ANSWER_LIMIT)
            .user_agent("agentd-tunnel")
            .build();
        Ok(Self { client: client.map_err(Error::Asker)?, metrics })
    }

    pub(super) async fn look(&self) -> Observation {
        let ready = match self.get("/ready", READY_BYTES_MAX).await {
            Ok(body) => body,
            Err(cause) => return Observation::Silent { cause },
        };
        // Both 200 and 503 say it: the body is what counts.
        let Ok(Ready { ready_connections }) = serde_json::from_slice(&ready) else {
            return Observation::Silent { cause: format!("what answers at {} is not cloudflared", self.metrics) };
        };
        // Not cloudflared_tunnel_ha_connections of /metrics: that counts attempts, too, and is 1 without a network.
        Observation::Answers { connections: ready_connections }
    }

    pub(super) async fn drift(&self, wanted: &Wanted) -> Option<String> {
        let config = self.get("/config", CONFIG_BYTES_MAX).await.ok()?;
        drift::drift(&config, wanted)
    }

    async fn get(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let address = self.metrics;
        let failed = |error: reqwest::Error| {
            if error.is_connect() {
                format!("nothing answers at {address}: cloudflared does not run, or has another --metrics address")
            } else if error.is_timeout() {
                format!("no answer from {address} within {} s", ANSWER_LIMIT.as_secs())
            } else {
                format!("what answers at {address} is not cloudflared")
            }
        };
        let mut response = self.client.get(format!("http://{address}{path}")).send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > bytes_max {
                return Err(format!("what answers at {address} is not cloudflared"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Whether names are resolved and the way out is open: only then is a program without connections a stuck one.
pub(super) async fn has_network() -> bool {
    let connected = tokio::time::timeout(ANSWER_LIMIT, tokio::net::TcpStream::connect(EDGE)).await;
    matches!(connected, Ok(Ok(_)))
}
