//! The desired state, schema 1, as it stands after validation: every default filled in.
//!
//! Its JSON form is the state object: what is stored, hashed and later signed. Durations are carried as text ("15s"),
//! sizes too ("512M"), so that the object reads like what a person wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Commit, ServiceName};
use crate::security::Security;

/// The only schema this version reads.
pub const SCHEMA: u32 = 1;
pub const SERVICES_MAX: usize = 2_000;
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Where nobody says another.
pub const PROXY_PORT_DEFAULT: u16 = 8080;
pub const REPLICAS_MAX: u32 = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    pub schema: u32,
    pub stack: StackSection,
    pub proxy: Proxy,
    /// `None`: what the host lets in is not this document's business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// In the order of the document.
    pub service: Vec<Service>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackSection {
    pub name: ServiceName,
    pub poll_interval: Span,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
}

/// Debug shows the names of `env`, not the values.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: ServiceName,
    pub kind: Kind,
    /// https, ssh or file URL, or scp-like `git@host:path`.
    pub repo: String,
    pub source: Revision,
    /// Folder in the repository, relative, without `..`; `None` is its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Name of a credential in the host's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_auth: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// `None` for a static site alone, which our own program serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Folder a static site serves, below `dir`; `None` is `dir` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// File below `root` that answers what no file matches; only for a static site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Fixed port; `None`: the service listens on $PORT and can be replaced without downtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `None`: not reachable from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub strip_prefix: bool,
    pub public: bool,
    pub replicas: u32,
    /// Started before this one, stopped after it; names of this stack, without cycles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ServiceName>,
    /// Names of the variables in sorted order. The values stand in the env object (they are secrets until proven
    /// otherwise) while a document is published, and here only between reading a file and publishing it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Absolute path of a file on the host, mode 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// From the first start to ready; also without `health`, where the gate is a TCP connect.
    pub start_deadline: Span,
    pub restart: Restart,
    pub stop: Stop,
    pub drain: Span,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let Self {
            name,
            kind,
            repo,
            source,
            dir,
            git_auth,
            build,
            run,
            root,
            fallback,
            port,
            host,
            path,
            strip_prefix,
            public,
            replicas,
            depends_on,
            env,
            env_file,
            health,
            start_deadline,
            restart,
            stop,
            drain,
        } = self;
        f.debug_struct("Service")
            .field("name", name)
            .field("kind", kind)
            .field("repo", repo)
            .field("source", source)
            .field("dir", dir)
            .field("git_auth", git_auth)
            .field("build", build)
            .field("run", run)
            .field("root", root)
            .field("fallback", fallback)
            .field("port", port)
            .field("host", host)
            .field("path", path)
            .field("strip_prefix", strip_prefix)
            .field("public", public)
            .field("replicas", replicas)
            .field("depends_on", depends_on)
            .field("env", &env.keys())
            .field("env_file", env_file)
            .field("health", health)
            .field("start_deadline", start_deadline)
            .field("restart", restart)
            .field("stop", stop)
            .field("drain", drain)
            .finish()
    }
}

/// What to run of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revision {
    /// Branch or tag, to be resolved by the publisher.
    Ref(String),
    Commit(Commit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Web,
    /// No port, no route.
    Worker,
    /// Files of the release, served by our own program.
    Static,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub path: String,
    /// Host header of the probe; some frameworks refuse unknown hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub interval: Span,
    pub timeout: Span,
    /// Failures in a row until the instance is taken out of the routes.
    pub failures: u32,
    /// Whether a long failure restarts the instance (liveness).
    pub restart: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    pub signal: StopSignal,
    pub timeout: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    #[serde(rename = "SIGTERM")]
    Term,
    #[serde(rename = "SIGINT")]
    Int,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGHUP")]
    Hup,
    #[serde(rename = "SIGUSR1")]
    Usr1,
    #[serde(rename = "SIGUSR2")]
    Usr2,
    #[serde(rename = "SIGWINCH")]
    Winch,
}

impl StopSignal {
    /// Every signal and its name in the document.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Term, "SIGTERM"),
        (Self::Int, "SIGINT"),
        (Self::Quit, "SIGQUIT"),
        (Self::Hup, "SIGHUP"),
        (Self::Usr1, "SIGUSR1"),
        (Self::Usr2, "SIGUSR2"),
        (Self::Winch, "SIGWINCH"),
    ];

    /// Signal number on Linux (signal(7), every architecture we build for).
    pub fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
            Self::Winch => 28,
        }
    }
}

/// A duration as a person writes it: `500ms`, `15s`, `5m`, `2h`, `1d`; one number, one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Text that is not a [`Span`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpan;

impl fmt::Display for BadSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a duration such as \"500ms\", \"15s\", \"5m\", \"2h\" or \"1d\"")
    }
}

impl std::error::Error for BadSpan {}

/// Units in the order they are tried when writing: the largest that divides.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl std::str::FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| BadSpan)?;
        let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(BadSpan)?;
        number.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or(BadSpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.as_ms();
        let (name, unit_ms) =
            UNITS.into_iter().find(|(_, unit_ms)| ms != 0 && ms.is_multiple_of(*unit_ms)).unwrap_or(("s", 1_000));
        write!(f, "{}{name}", ms / unit_ms)
    }
}

impl TryFrom<String> for Span {
    type Error = BadSpan;
    fn try_from(text: String) -> Result<Self, BadSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_port_is_the_schemas() {
        let bare = serde_json::json!({"schema": 1, "stack": {"name": "shop"}});
        assert_eq!(crate::validate::validate(&bare).unwrap().proxy.port, PROXY_PORT_DEFAULT);
    }

    #[test]
    fn spans_read_as_written() {
        for text in ["500ms", "15s", "90s", "5m", "2h", "1d", "0s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{text}");
        }
        for bad in ["", "s", "1", "1 s", "-1s", "1.5s", "1w", "99999999999999999999s"] {
            assert_eq!(bad.parse::<Span>(), Err(BadSpan), "{bad}");
        }
    }
}
