//! `GET /v1/routes`: what the edge routes by.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::edge::{Absent, Route};
use crate::ids::{Generation, InstanceId, ReleaseNumber, ServiceName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    pub generation: Generation,
    pub force: Force,
    /// Answered by the edge itself, before any route.
    pub health_path: Option<String>,
    /// External routes in the order in which they are tried.
    pub routes: Vec<Route>,
    /// A service is `<name>.<suffix>` from within.
    pub suffix: String,
    pub services: Vec<RoutedService>,
    /// The file that instances see in the place of /etc/hosts; `None` where the host refuses that.
    pub hosts_file: Option<String>,
}

/// Whether the table shown is what requests are routed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Force {
    InForce,
    /// The edge has not taken the newest table.
    Behind {
        cause: String,
    },
    /// The edge is not connected: it routes by its last table, if it runs at all.
    Away,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedService {
    pub name: ServiceName,
    /// Why no instance gets requests; `None`: at least one does.
    pub absent: Option<Absent>,
    pub instances: Vec<RoutedInstance>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedInstance {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    pub address: Option<SocketAddr>,
    /// Gets requests.
    pub routed: bool,
    /// Passes its health check. One that fails it still gets requests where no other is left.
    pub ready: bool,
    pub phase: String,
}
