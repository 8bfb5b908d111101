//! `policy.toml`: what the host's owner lets no document do here, whoever publishes it. Read anew for every document, so
//! that an edit holds at once; one that cannot be read lets nothing new in, and what runs runs on.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use agentd_protocol::security::{Mode, Security};
use agentd_protocol::stack::{Service, Stack};
use serde::Deserialize;

use crate::config::Error;
use crate::firewall::OwnerRules;

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    security: OwnerRules,
    git: Git,
    ports: Ports,
    services: Services,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Git {
    /// `None`: any.
    hosts: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ports {
    proxy: Option<Vec<PortRange>>,
    fixed: Option<Vec<PortRange>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Services {
    max: Option<usize>,
}

/// `8080` or `"8000-8999"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
struct PortRange(RangeInclusive<u16>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port such as 8080, or a range such as \"8000-8999\"")]
enum Written {
    One(u16),
    Range(String),
}

#[derive(Debug)]
struct BadRange;

impl fmt::Display for BadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port such as 8080, or a range such as \"8000-8999\"")
    }
}

impl TryFrom<Written> for PortRange {
    type Error = BadRange;

    fn try_from(written: Written) -> Result<Self, BadRange> {
        match written {
            Written::One(port) => Ok(Self(port..=port)),
            Written::Range(text) => text.parse(),
        }
    }
}

impl FromStr for PortRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let (first, last) = text.split_once('-').ok_or(BadRange)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| BadRange);
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self(first..=last)) } else { Err(BadRange) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { first.fmt(f) } else { write!(f, "{first}-{last}") }
    }
}

impl Policy {
    /// Absent file: the defaults, by which a document may shut and not open, and all else is its own.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::Settings { path: path.to_owned(), line, message: error.message().to_owned() }
        })
    }

    pub fn owner_rules(self) -> OwnerRules {
        self.security
    }

    /// Every breach, in a sentence with the service, the key and the policy's own. `in_force`: what the host lets in.
    pub fn judge(&self, stack: &Stack, in_force: Option<&Security>) -> Result<(), Vec<String>> {
        let mut breaches = Vec::new();
        let count = stack.service.len();
        breaches.extend(
            self.services
                .max
                .filter(|max| count > *max)
                .map(|max| format!("service: {count} of them, and `services.max` of policy.toml lets in {max}")),
        );
        breaches.extend(
            outside(&self.ports.proxy, stack.proxy.port).map(|allowed| {
                format!("proxy.port {}: `ports.proxy` of policy.toml lets in {allowed}", stack.proxy.port)
            }),
        );
        for service in &stack.service {
            let fixed = service.port.and_then(|port| Some((port, outside(&self.ports.fixed, port)?)));
            breaches.extend(fixed.map(|(port, allowed)| {
                format!("service {}, port {port}: `ports.fixed` of policy.toml lets in {allowed}", service.name)
            }));
            breaches.extend(self.git.breach(service));
        }
        let weaker = || Some(weaker(in_force?, stack.security.as_ref()?));
        if self.security.allow_weaken == Some(false)
            && let Some(Some(what)) = weaker()
        {
            breaches.push(format!("security: {what}, and `security.allow_weaken` of policy.toml is false"));
        }
        if breaches.is_empty() { Ok(()) } else { Err(breaches) }
    }
}

impl Git {
    fn breach(&self, service: &Service) -> Option<String> {
        let hosts = self.hosts.as_ref()?;
        let host = host_of(&service.repo);
        if host.as_ref().is_some_and(|host| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))) {
            return None;
        }
        let found = host.map_or_else(|| "it names no host".to_owned(), |host| format!("its host is {host}"));
        let allowed = if hosts.is_empty() { "none".to_owned() } else { hosts.join(", ") };
        Some(format!("service {}, repo: {found}, and `git.hosts` of policy.toml lets in {allowed}", service.name))
    }
}

/// Of `https://[user@]host[:port]/…`, `ssh://…` and `user@host:path`; a file has none.
fn host_of(repo: &str) -> Option<String> {
    let (rest, is_url) = match repo.split_once("://") {
        Some(("file", _)) => return None,
        Some((_, rest)) => (rest, true),
        None => (repo, false),
    };
    let authority = rest.split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    let fits = !host.is_empty() && (is_url || authority.contains(':'));
    fits.then(|| host.trim_end_matches('.').to_ascii_lowercase())
}

/// What is allowed, where this port is not.
fn outside(ranges: &Option<Vec<PortRange>>, port: u16) -> Option<String> {
    let ranges = ranges.as_ref()?;
    if ranges.iter().any(|range| range.0.contains(&port)) {
        return None;
    }
    let shown: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    Some(if shown.is_empty() { "none".to_owned() } else { shown.join(", ") })
}

/// How a document's wish lets in more than is in force.
fn weaker(in_force: &Security, wanted: &Security) -> Option<String> {
    if wanted.mode < in_force.mode {
        return Some(format!("mode {} is more open than {}, which is in force", wanted.mode, in_force.mode));
    }
    let covered = |network: &&ipnet::IpNet| in_force.ssh.iter().any(|known| known.contains(*network));
    let is_same = wanted.mode == Mode::DaemonPort && in_force.mode == Mode::DaemonPort;
    let more = wanted.ssh.iter().find(|network| !covered(network)).filter(|_| is_same)?;
    Some(format!("SSH from {more} is not let in now"))
}

#[cfg(test)]
mod tests {
    use agentd_protocol::validate::validate;
    use serde_json::json;

    use super::*;
    use crate::firewall::DocumentMay;

    fn policy(text: &str) -> Result<Policy, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        Policy::read(&path)
    }

    fn stack() -> Stack {
        let entry = |name: &str, repo: &str, port: Option<u16>| {
            let mut entry =
                json!({ "name": name, "repo": repo, "commit": "1".repeat(40), "run": "x", "path": format!("/{name}") });
            if let Some(port) = port {
                entry["port"] = json!(port);
            }
            entry
        };
        let tree = json!({
            "schema": 1, "stack": { "name": "shop" }, "proxy": { "port": 9000 },
            "security": { "mode": "daemon-port", "ssh": ["203.0.113.0/24"] },
            "service": [
                entry("a", "https://git.example.com/x", Some(3000)),
                entry("b", "git@other.example.com:x/y.git", None),
                entry("c", "file:///srv/c", None),
            ],
        });
        validate(&tree).unwrap()
    }

    fn breaches(text: &str) -> Vec<String> {
        policy(text).unwrap().judge(&stack(), None).err().unwrap_or_default()
    }

    #[test]
    fn no_file_forbids_nothing() {
        assert_eq!(Policy::read(Path::new("/nonexistent/policy.toml")).unwrap(), Policy::default());
        assert_eq!(Policy::default().judge(&stack(), None), Ok(()));
    }

    #[test]
    fn every_breach_is_a_sentence_with_its_key() {
        assert_eq!(
            breaches("[services]\nmax = 2\n"),
            ["service: 3 of them, and `services.max` of policy.toml lets in 2"]
        );
        assert_eq!(
            breaches("[ports]\nproxy = [80, \"8000-8999\"]\nfixed = [\"4000-4001\"]\n"),
            [
                "proxy.port 9000: `ports.proxy` of policy.toml lets in 80, 8000-8999",
                "service a, port 3000: `ports.fixed` of policy.toml lets in 4000-4001"
            ]
        );
        assert_eq!(
            breaches("[git]\nhosts = [\"Git.example.com\"]\n"),
            [
                "service b, repo: its host is other.example.com, and `git.hosts` of policy.toml lets in Git.example.com",
                "service c, repo: it names no host, and `git.hosts` of policy.toml lets in Git.example.com"
            ]
        );
        assert_eq!(breaches("[ports]\nproxy = [9000]\nfixed = [\"3000-3000\"]\n[services]\nmax = 3\n"), [""; 0]);
        assert_eq!(breaches("[git]\nhosts = []\n").len(), 3);
    }

    #[test]
    fn a_host_is_found_in_every_form_of_address() {
        for (repo, host) in [
            ("https://git.example.com/x", Some("git.example.com")),
            ("https://user:pw@git.example.com:8443/x", Some("git.example.com")),
            ("https://evil.example/git.example.com", Some("evil.example")),
            ("https://git.example.com@evil.example/x", Some("evil.example")),
            ("ssh://git@GIT.example.com.:22/x", Some("git.example.com")),
            ("git@git.example.com:x/y", Some("git.example.com")),
            ("https://[2001:db8::1]:8443/x", Some("2001:db8::1")),
            ("file:///srv/x", None),
            ("/srv/x", None),
        ] {
            assert_eq!(host_of(repo).as_deref(), host, "{repo}");
        }
    }

    #[test]
    fn a_weaker_mode_is_refused_where_the_owner_says_so() {
        let security =
            |mode, ssh: &[&str]| Security { mode, ssh: ssh.iter().map(|net| net.parse().unwrap()).collect() };
        let strict = policy("[security]\nallow_weaken = false\n").unwrap();
        let judged = |in_force: &Security| strict.judge(&stack(), Some(in_force)).err().unwrap_or_default();
        assert_eq!(judged(&security(Mode::Tunnel, &[])).len(), 1);
        assert_eq!(judged(&security(Mode::DaemonPort, &["198.51.100.0/24"])).len(), 1);
        assert_eq!(judged(&security(Mode::DaemonPort, &["203.0.0.0/16"])), [""; 0]);
        assert_eq!(judged(&security(Mode::Open, &[])), [""; 0]);
        assert_eq!(Policy::default().judge(&stack(), Some(&security(Mode::Tunnel, &[]))), Ok(()));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_line() {
        for (text, line) in [
            ("\n[servces]\nmax = 1\n", 2),
            ("[ports]\nproxy = [\"9000-8000\"]\n", 2),
            ("[ports]\n\nfixed = [0.5]\n", 3),
            ("[services]\nmax = -1\n", 2),
            ("[git]\nhost = []\n", 2),
            ("[security]\ndocument = \"nothing\"\nalow_weaken = false\n", 3),
        ] {
            match policy(text) {
                Err(Error::Settings { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let owner = policy("[security]\ndocument = \"nothing\"\nallow_weaken = true\n").unwrap().owner_rules();
        assert_eq!(owner.document, DocumentMay::Nothing);
    }
}
