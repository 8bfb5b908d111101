//! One simulated host: its key, what it believes, and the calls it makes, as the agent makes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::control::enroll::{Enroll, Enrolled};
use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::Reported;
use agentd_protocol::control::request::{
    self, CONTENT_DIGEST_HEADER, HOST_LABEL, NEW_HOST_KEYID, Parts, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, Signer,
    TOKEN_LABEL,
};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, TrustRecord, check_state};
use agentd_protocol::digest::Digest;
use agentd_protocol::published;
use anyhow::{Context, Result, bail};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// Services of a host, in its snapshot.
const SERVICES: usize = 10;
/// Of a host that waits, seconds.
const HOLD_S: u64 = 50;
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// The agent's side of the server: one pool of connections for all hosts.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) base: String,
    pub(crate) client: Client,
}

/// How a report is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing is new: a digest, and time.
    Held,
    /// Snapshot, and so many events.
    Full { events: u64 },
}

#[derive(Debug)]
pub(crate) struct Host {
    key: SecretKey,
    id: HostId,
    stack: StackId,
    machine: Digest,
    seq: u64,
    event_seq: u64,
    trust: TrustRecord,
    /// Newest version that was verified.
    pub(crate) version: u64,
    number: usize,
}

impl Host {
    pub(crate) async fn enroll(calls: &Calls, join: &JoinString, number: usize) -> Result<Self> {
        let machine = Digest::of(format!("{}/{number}", join.stack).as_bytes());
        let key = SecretKey::from_seed(Digest::of(format!("{machine}/{}", join.token).as_bytes()).as_bytes());
        let enroll = Enroll {
            stack: join.stack.clone(),
            key: key.public(),
            name: format!("host-{number}"),
            machine,
            os: "debian 13".into(),
            arch: "x86_64".into(),
            agent: env!("CARGO_PKG_VERSION").into(),
            cap: 1,
            features: vec!["git".into()],
            labels: [("role".to_owned(), "web".to_owned())].into(),
            receipt: None,
        };
        let signers = [
            Signer { label: TOKEN_LABEL, keyid: join.token.as_str(), key: &join.key },
            Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key: &key },
        ];
        let body = serde_json::to_vec(&enroll)?;
        let answer = calls.ask(Method::POST, "/v1/enroll", body, None, &signers).await.context("enrol")?;
        let enrolled: Enrolled = serde_json::from_slice(&answer)?;
        let trust = TrustRecord::begin(&join.stack, &join.root, &enrolled.roots)?;
        let stack = join.stack.clone();
        Ok(Self { key, id: enrolled.host, stack, machine, seq: 0, event_seq: 0, trust, version: 0, number })
    }

    pub(crate) async fn report(&mut self, calls: &Calls, kind: Kind) -> Result<Reported> {
        self.seq += 1;
        let snapshot = serde_json::to_vec(&snapshot(self.number, self.version, self.seq))?;
        let events = match kind {
            Kind::Held => Vec::new(),
            Kind::Full { events } => (0..events).map(|_| self.event()).collect(),
        };
        let mut body = json!({
            "rid": &Digest::of(format!("{}/{}", self.machine, self.seq).as_bytes()).to_string()[..32],
            "boot": 1, "seq": self.seq, "cap": 1, "time": now(), "machine": self.machine,
            "head": {"root": 1, "epoch": 1, "seen": self.version, "applied": self.version},
            "digest": Digest::of(&snapshot),
            "stream": &self.machine.to_string()[..32], "events": events,
        });
        // A held host has said how it does before; its first report is a whole one.
        if kind != Kind::Held || self.seq == 1 {
            body["snapshot"] = serde_json::from_slice(&snapshot)?;
        }
        let wait = (kind == Kind::Held && self.seq > 1).then_some(HOLD_S);
        let answer = self.ask(calls, Method::POST, "/v1/report", serde_json::to_vec(&body)?, wait).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// What an agent does when it hears of a version: head, state and env object, each checked before the next.
    pub(crate) async fn follow(&mut self, calls: &Calls) -> Result<()> {
        let head = self.get(calls, "head.json").await?;
        let decision = self.trust.decide(&head, Now { clock: now(), built: Time::EPOCH })?;
        let Decision::Newer { record, offer } = decision else { bail!("nothing newer: {decision:?}") };
        let state = self.get(calls, &format!("obj/{}", offer.statement.state.sha256)).await?;
        check_state(&offer, &state)?;
        let env = published::env_digest(&state).context("the state names its env object")?;
        let env = self.get(calls, &format!("obj/{env}")).await?;
        published::join_salted(&state, &env).context("state and env object")?;
        self.trust = record.adopt(&offer);
        self.version = offer.statement.version.0;
        Ok(())
    }

    async fn get(&self, calls: &Calls, file: &str) -> Result<Vec<u8>> {
        self.ask(calls, Method::GET, &format!("/s/{}/{file}", self.stack), Vec::new(), None).await
    }

    async fn ask(
        &self,
        calls: &Calls,
        method: Method,
        path: &str,
        body: Vec<u8>,
        wait: Option<u64>,
    ) -> Result<Vec<u8>> {
        let signers = [Signer { label: HOST_LABEL, keyid: self.id.as_str(), key: &self.key }];
        calls.ask(method, path, body, wait, &signers).await.with_context(|| path.to_owned())
    }

    /// As long as most are.
    fn event(&mut self) -> Value {
        self.event_seq += 1;
        let eid = Digest::of(format!("{}/{}", self.machine, self.event_seq).as_bytes()).to_string();
        let eid = format!("{}-{}-7{}-8{}-{}", &eid[..8], &eid[8..12], &eid[13..16], &eid[17..20], &eid[20..32]);
        let service = format!("service-{}", self.event_seq % 10);
        json!({
            "eid": eid, "seq": self.event_seq, "at_unix_ms": now().unix_secs() * 1_000, "kind": "instance.ready",
            "severity": "info", "service": service, "release": 7,
            "data": {"port": 20_000 + self.event_seq % 10_000, "took_ms": 842, "commit": "1".repeat(40)},
            "text": format!("{service}: instance is ready on port {} after 842 ms", 20_000 + self.event_seq % 10_000),
        })
    }
}

impl Calls {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        wait: Option<u64>,
        signers: &[Signer<'_>],
    ) -> Result<Vec<u8>> {
        loop {
            let digest = request::content_digest(&body);
            let parts = Parts { method: method.as_str(), path, query: "", content_digest: &digest };
            let created = u64::try_from(now().unix_secs())?;
            let signed = request::sign(parts, created, signers);
            let mut asking = self.client.request(method.clone(), format!("{}{path}", self.base)).timeout(CALL_LIMIT);
            asking = asking.header(CONTENT_DIGEST_HEADER, &digest).header(SIGNATURE_HEADER, signed.signature);
            asking = asking.header(SIGNATURE_INPUT_HEADER, signed.signature_input).body(body.clone());
            if method == Method::POST {
                asking = asking.header("content-type", "application/json");
            }
            if let Some(seconds) = wait {
                asking = asking.header("prefer", format!("wait={seconds}"));
            }
            let answer = asking.send().await?;
            let status = answer.status();
            let retry_s = answer.headers().get("retry-after").and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
            if let (429, Some(seconds)) = (status.as_u16(), retry_s) {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                continue;
            }
            let bytes = answer.bytes().await?;
            if !status.is_success() {
                bail!("{status}: {:.300}", String::from_utf8_lossy(&bytes));
            }
            return Ok(bytes.to_vec());
        }
    }
}

pub(crate) fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// Counts are far below what a float holds exactly.
pub(crate) fn as_f64(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn snapshot(number: usize, version: u64, seq: u64) -> Value {
    let services: Vec<Value> = (0..SERVICES)
        .map(|service| {
            json!({
                "name": format!("service-{service}"), "state": "ready", "release": 7, "commit": "1".repeat(40),
                "pinned": null, "ready": 2, "wanted": 2, "restarts": 0, "since_unix_ms": 1_788_264_000_000_u64,
                "url": format!("http://service-{service}.svc.internal"), "cpu_millicores": seq % 1_000,
                "memory_bytes": 50_331_648 + seq, "last_error": null, "last_error_unix_ms": null, "warnings": [],
            })
        })
        .collect();
    json!({
        "host": {
            "agent": env!("CARGO_PKG_VERSION"), "os": "debian 13", "arch": "x86_64",
            "agent_started_unix_ms": 1_788_264_000_000_u64, "security": null, "tunnel": null,
            "dns": {"address": "127.0.0.153:53", "suffix": "svc.internal"},
            "usage": {
                "cpus": 2, "load_1m_milli": number, "load_5m_milli": 110, "load_15m_milli": 100,
                "memory_total_bytes": 8_589_934_592_u64, "memory_available_bytes": 6_442_450_944_u64,
                "disk_total_bytes": 107_374_182_400_u64, "disk_free_bytes": 85_899_345_920_u64,
            },
            "limitations": [], "refused": null, "clock_skew_ms": 0,
        },
        "stack": {
            "name": "fleet", "verdict": "applied", "since_unix_ms": 1_788_264_000_000_u64, "version": version,
            "applied_version": version, "file_problem": null, "problems": [],
        },
        "services": services,
        "outbox": {"records": 0, "bytes": 0, "lost": 0},
    })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::control::report::Snapshot;

    use super::*;

    #[test]
    fn a_snapshot_is_one_of_the_protocol() {
        let read: Snapshot = serde_json::from_value(snapshot(1, 2, 3)).unwrap();
        assert_eq!(read.services.len(), SERVICES);
    }
}
