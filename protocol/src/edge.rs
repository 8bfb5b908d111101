//! What the manager tells the edge: whole snapshots, numbered, over a Unix stream socket the edge accepts on.
//!
//! Frame: length as u32 little endian, then that many bytes of JSON. A snapshot replaces everything before it; the edge
//! answers `Applied` when every new request is routed by it. The manager writes the same JSON to the snapshot file
//! before sending, so that an edge can start while the manager is away.

pub mod matching;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, Incarnation, InstanceId, ServiceName};

/// Version of this conversation; an edge refuses another one in its Hello.
pub const PROTOCOL: u32 = 2;
/// Most bytes of one frame: 2,000 services with 8 backends each stay below half of it.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Names of the edge's descriptors (see [`crate::shim`]).
pub const LISTEN_EXTERNAL: &str = "listen.external";
/// The same port on every address. Bound with the others, listened on only while outside traffic may come: any process
/// that holds it opens and shuts it for all (listen(2), shutdown(2)), and can see which it is (SO_ACCEPTCONN).
pub const LISTEN_PUBLIC_V4: &str = "listen.public-v4";
pub const LISTEN_PUBLIC_V6: &str = "listen.public-v6";
pub const LISTEN_INTERNAL: &str = "listen.internal";
pub const LISTEN_DNS_UDP: &str = "listen.dns-udp";
pub const LISTEN_DNS_TCP: &str = "listen.dns-tcp";
pub const LISTEN_CONTROL: &str = "listen.control";

/// Everything the edge routes by. Immutable; replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub generation: Generation,
    /// Path that answers 200 while the edge runs, for load balancers in front.
    pub health_path: Option<String>,
    /// External routes; no two with the same (host, path).
    pub routes: Vec<Route>,
    /// Every service of the stack, routed or not: each is reached from within as `<name>.<suffix>`.
    pub services: Vec<Service>,
    /// Lower case, without dots at its ends.
    pub suffix: String,
    /// Left out while it is nobody, which an edge of before knows no other of.
    #[serde(default, skip_serializing_if = "ForwardedBy::is_nobody")]
    pub client_address: ForwardedBy,
}

/// Whose word on a client's address is believed, on the external listener and from loopback alone. A loopback port has
/// no owner: any process of this host can forge such a word, so services may log by it, and must not authorise by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// The client is the peer of the connection.
    #[default]
    Nobody,
    /// A tunnel's program on this host: CF-Connecting-IP is the client.
    Cloudflare,
}

impl ForwardedBy {
    fn is_nobody(&self) -> bool {
        *self == Self::Nobody
    }
}

/// One external route. An exact host beats any host, then the longest path wins, on segment boundaries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Lower case, without port or trailing dot; `None` matches any.
    pub host: Option<String>,
    /// Starts with `/`, no trailing `/` but for the root.
    pub path: String,
    pub strip_prefix: bool,
    pub service: ServiceName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: ServiceName,
    /// Where requests may go; empty for the reason given in `absent`.
    pub backends: Vec<Backend>,
    /// What a request is told while there is no backend.
    pub absent: Absent,
}

/// Why a service has no backend; decides the words and Retry-After of the 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// Deploying for the first time, or between restarts.
    Starting,
    /// A fixed-port service between its old and its new release.
    Replacing,
    /// Crash-looping or failing its checks.
    Failing,
    /// Stopped by the operator.
    Stopped,
    /// It has no port and never will: a worker.
    NoPort,
}

/// One routable instance. The same (instance, incarnation) in a later snapshot is the same backend: its connections
/// and its count of requests in flight go on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub instance: InstanceId,
    pub incarnation: Incarnation,
    pub address: SocketAddr,
}

/// Manager to edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToEdge {
    Hello {
        protocol: u32,
    },
    Snapshot {
        snapshot: Snapshot,
    },
    /// Stop accepting, let requests finish, then exit. Idle keep-alive connections are told to close and are closed
    /// after `soft_ms`; everything ends at `deadline_ms`.
    Drain {
        soft_ms: u64,
        deadline_ms: u64,
    },
}

/// Edge to manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromEdge {
    /// First on every connection; `generation` of the snapshot in force, if any. Idle reports that are due follow.
    Hello {
        protocol: u32,
        build: String,
        pid: u32,
        generation: Option<Generation>,
        /// Every backend that may have a request or get one: those of the snapshot in force, and removed ones in use.
        backends: Vec<(InstanceId, Incarnation)>,
    },
    Applied {
        generation: Generation,
    },
    Rejected {
        generation: Generation,
        reason: String,
    },
    /// A backend that is no longer in the snapshot has no request left. Sent once per backend and connection.
    Idle {
        instance: InstanceId,
        incarnation: Incarnation,
    },
    /// A connection to a backend was refused: the manager probes it at once.
    Unreachable {
        instance: InstanceId,
        incarnation: Incarnation,
    },
    Drained {
        connections_left: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let name = ServiceName::new("api").unwrap();
        Snapshot {
            generation: Generation(3),
            health_path: Some("/-/healthy".into()),
            routes: vec![Route { host: None, path: "/api".into(), strip_prefix: false, service: name.clone() }],
            services: vec![Service {
                name,
                backends: vec![Backend {
                    instance: InstanceId::new("abcdef012345").unwrap(),
                    incarnation: Incarnation(1),
                    address: "127.0.0.1:20000".parse().unwrap(),
                }],
                absent: Absent::Starting,
            }],
            suffix: "svc.internal".into(),
            client_address: ForwardedBy::Cloudflare,
        }
    }

    #[test]
    fn a_snapshot_survives_its_json() {
        let snapshot = snapshot();
        let json = serde_json::to_string(&ToEdge::Snapshot { snapshot: snapshot.clone() }).unwrap();
        assert_eq!(serde_json::from_str::<ToEdge>(&json).unwrap(), ToEdge::Snapshot { snapshot });
    }
    #[test]
    fn without_a_tunnel_it_reads_as_it_did_before_there_were_any() {
        let nobody = Snapshot { client_address: ForwardedBy::Nobody, ..snapshot() };
        let json = serde_json::to_string(&nobody).unwrap();
        assert!(!json.contains("client_address"), "{json}");
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), nobody);
    }
}
