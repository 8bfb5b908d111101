//! `GET /v1/services/NAME/logs` with a [`LogQuery`]: lines of JSON, one [`LogRecord`] each. NAME is a service, `edge` or
//! `agentd`.

use serde::{Deserialize, Serialize};

use crate::ids::ReleaseNumber;

/// Content type of an answer that is one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// The last so many lines of all instances together; without it all since `since_unix_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_ms: Option<u64>,
    /// Goes on with what is written from now on, by instances to come too.
    #[serde(default)]
    pub follow: bool,
    /// The newest build, or with `release` the build of that one, in place of the instances.
    #[serde(default)]
    pub build: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// First letters of an instance's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LogRecord {
    /// Lines of this log may come from here on.
    Source(LogSource),
    Line(LogLine),
    /// All has been told; an answer without it was cut off.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSource {
    /// An instance's id, or `agentd`.
    pub instance: String,
    pub release: Option<ReleaseNumber>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When its first byte came.
    pub at_unix_ms: u64,
    pub instance: String,
    pub stream: LogStream,
    /// Where its first byte stands: grows within a stream of an instance, so that a reader can find its place again.
    pub segment: u32,
    pub offset: u64,
    /// Without its line end; secrets are masked, invalid UTF-8 is replaced.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    Stdout,
    Stderr,
    /// A remark of the agent's between the lines.
    Agent,
}
