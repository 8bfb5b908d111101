//! From a tree of JSON values to a [`Stack`] with every default filled in, or to everything that is wrong with it.
//!
//! Pure. A problem names its place by JSON pointer; who has the text turns that into a line. No problem ever holds a
//! value from below `env`, nor a repository address, which may hold a password.

mod across;
mod open;
mod rules;
mod service;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::ServiceName;
use crate::security::{Mode, Security};
use crate::stack::{Proxy, SCHEMA, SERVICES_MAX, Stack, StackSection};
use open::{Flaw, Problems, Table, kind_of};

/// Bytes of one value under `env`: half of what Linux takes as one string of an environment (MAX_ARG_STRLEN).
pub const ENV_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all names and values of one service: half of what an instance's specification may hold.
pub const ENV_BYTES_MAX: usize = 1024 * 1024;
pub const ENV_NAME_BYTES_MAX: usize = 255;
/// Bytes of `build` and `run`: each becomes one argument of a shell.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// Problems reported at once; beyond them nobody reads on, and a hostile document must not cost memory.
pub const PROBLEMS_MAX: usize = 1_000;

/// [`Problem::found`] of a key that the schema has not: what stands below it is anything.
pub const UNKNOWN_KEY: &str = "an unknown key";

/// One thing that is wrong, in words for whoever wrote the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, as an RFC 6901 pointer. A missing key is pointed at as if it were there.
    pub pointer: String,
    /// Where, as a person writes it: `service.health.path`; empty for the document itself.
    pub key: String,
    pub found: String,
    pub expected: String,
    /// What was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    pub at: Locus,
}

/// Which half of `key = value` the problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locus {
    Key,
    Value,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { "document" } else { &self.key };
        write!(f, "{key}: found {}, expected {}", self.found, self.expected)?;
        match &self.nearest {
            Some(nearest) => write!(f, " (did you mean {nearest}?)"),
            None => Ok(()),
        }
    }
}

/// Reads a document; on failure every problem in it, never none.
pub fn validate(tree: &Value) -> Result<Stack, Vec<Problem>> {
    let mut problems = Problems::default();
    let stack = read(tree, &mut problems);
    match stack {
        Some(stack) if problems.is_empty() => Ok(stack),
        _ => Err(problems.into_vec()),
    }
}

/// `None` only after a problem has been noted.
fn read(tree: &Value, problems: &mut Problems) -> Option<Stack> {
    let Value::Object(map) = tree else {
        problems.note(String::new(), String::new(), Flaw::plain(kind_of(tree), "a table"), Locus::Value);
        return None;
    };
    let root = Table::open(map, String::new(), "", problems);
    let schema = root.integer("schema", problems).map(|_| SCHEMA);
    let stack = section(&root, problems);
    let proxy = proxy(&root, problems);
    // Opening a table checks its keys; `dns` has none yet that this version takes.
    root.table("dns", problems);
    let security = security(&root, problems);
    let (claims, services) = services(&root, problems);
    across::check(&claims, &proxy, problems);
    Some(Stack {
        schema: schema?,
        stack: stack?,
        proxy: Proxy { port: proxy.port?, health_path: proxy.health_path },
        security,
        service: services.into_iter().collect::<Option<_>>()?,
    })
}

fn section(root: &Table<'_>, problems: &mut Problems) -> Option<StackSection> {
    let table = root.table("stack", problems)?;
    let name = table.ruled("name", problems, rules::name);
    let poll_interval = table.span("poll_interval", problems);
    Some(StackSection { name: name?, poll_interval })
}

/// The proxy's keys as far as they were readable.
struct ProxyDraft {
    port: Option<u16>,
    health_path: Option<String>,
}

fn proxy(root: &Table<'_>, problems: &mut Problems) -> ProxyDraft {
    let absent = serde_json::Map::new();
    let table = root
        .table("proxy", problems)
        .unwrap_or_else(|| Table::open(&absent, "/proxy".to_owned(), "proxy", &mut Problems::default()));
    ProxyDraft {
        port: table.port("port", problems),
        health_path: table.ruled("health_path", problems, rules::route_path),
    }
}

/// `None` also after a problem, which has been noted then.
fn security(root: &Table<'_>, problems: &mut Problems) -> Option<Security> {
    let table = root.table("security", problems)?;
    let ssh = table.list("ssh", problems, rules::network);
    let mode = table.choice("mode", problems).and_then(Mode::parse)?;
    if mode != Mode::DaemonPort && table.has("ssh") {
        let found = format!("networks beside `mode = \"{mode}\"`, which lets no SSH in or shuts nothing");
        let flaw = Flaw::plain(found, "none, or `mode = \"daemon-port\"`");
        table.note("ssh", flaw, Locus::Key, problems);
    }
    Some(Security { mode, ssh })
}

fn services(root: &Table<'_>, problems: &mut Problems) -> (Vec<across::Claim>, Vec<Option<crate::stack::Service>>) {
    let list = root.tables("service", problems);
    if list.len() > SERVICES_MAX {
        let flaw = Flaw::plain(format!("{} services", list.len()), format!("at most {SERVICES_MAX}"));
        problems.note("/service".to_owned(), "service".to_owned(), flaw, Locus::Key);
    }
    list.iter()
        .take(SERVICES_MAX)
        .enumerate()
        .map(|(index, value)| match value {
            Value::Object(map) => {
                let table = Table::open(map, format!("/service/{index}"), "service", problems);
                service::read(index, &table, problems)
            }
            other => {
                let flaw = Flaw::plain(kind_of(other), "a table");
                problems.note(format!("/service/{index}"), "service".to_owned(), flaw, Locus::Value);
                (across::Claim::default(), None)
            }
        })
        .unzip()
}

/// The name of a service as it is quoted in a problem of another one.
fn named(name: Option<&ServiceName>, index: usize) -> String {
    name.map_or_else(|| format!("service number {}", index + 1), |name| format!("service \"{name}\""))
}
