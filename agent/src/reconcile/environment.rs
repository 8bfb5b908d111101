//! What an instance finds in its environment (pure). Nothing is inherited from the agent but PATH.

use std::collections::BTreeMap;
use std::path::Path;

use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};

/// Port and suffix of the names services call each other by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    pub suffix: String,
    /// Port of the internal listener; named in URLs unless it is 80.
    pub port: u16,
}

impl Naming {
    /// The name a service is called by.
    pub(super) fn host_of(&self, service: &ServiceName) -> String {
        format!("{service}.{}", self.suffix)
    }
}

/// Everything an environment is made from.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) release: ReleaseNumber,
    pub(super) commit: &'a Commit,
    pub(super) data_dir: &'a Path,
    pub(super) path: &'a str,
    pub(super) port: Option<u16>,
    pub(super) services: &'a [ServiceName],
    pub(super) naming: &'a Naming,
    /// The user's own, env_file first, then `env`: later ones win, and all win over ours.
    pub(super) user: &'a BTreeMap<String, String>,
}

/// `my-api` → `SERVICE_MY_API_URL`
pub(super) fn url_variable(service: &ServiceName) -> String {
    format!("SERVICE_{}_URL", service.as_str().to_ascii_uppercase().replace('-', "_"))
}

/// Where a service of this host finds another.
pub(super) fn url(service: &ServiceName, naming: &Naming) -> String {
    let host = naming.host_of(service);
    match naming.port {
        80 => format!("http://{host}"),
        port => format!("http://{host}:{port}"),
    }
}

/// The complete environment in sorted order.
pub(super) fn environment(from: &Sources<'_>) -> Vec<(String, String)> {
    let data_dir = from.data_dir.to_string_lossy().into_owned();
    let mut env = BTreeMap::from([
        ("AGENTD_COMMIT".to_owned(), from.commit.to_string()),
        ("AGENTD_RELEASE".to_owned(), from.release.to_string()),
        ("DATA_DIR".to_owned(), data_dir.clone()),
        ("HOME".to_owned(), data_dir),
        ("HOST".to_owned(), "127.0.0.1".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        // A user of its own has no entry in /etc/passwd to be looked up.
        ("LOGNAME".to_owned(), from.service.to_string()),
        ("PATH".to_owned(), from.path.to_owned()),
        // Python buffers a pipe by default: its log would come minutes late.
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
        ("SERVICE_NAME".to_owned(), from.service.to_string()),
        ("SHELL".to_owned(), "/bin/sh".to_owned()),
        ("USER".to_owned(), from.service.to_string()),
    ]);
    if let Some(port) = from.port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    for service in from.services {
        env.insert(url_variable(service), url(service, from.naming));
    }
    env.extend(from.user.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.into_iter().collect()
}

/// A build's environment: no runtime secrets, no port. HOME is the service's build cache, so that package clients
/// find what they fetched last time.
pub(super) fn build_environment(from: &Sources<'_>, cache_dir: &Path) -> Vec<(String, String)> {
    let cache_dir = cache_dir.to_string_lossy().into_owned();
    vec![
        ("AGENTD_COMMIT".to_owned(), from.commit.to_string()),
        ("AGENTD_RELEASE".to_owned(), from.release.to_string()),
        ("CI".to_owned(), "true".to_owned()),
        ("HOME".to_owned(), cache_dir),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("LOGNAME".to_owned(), from.service.to_string()),
        ("PATH".to_owned(), from.path.to_owned()),
        ("SERVICE_NAME".to_owned(), from.service.to_string()),
        ("SHELL".to_owned(), "/bin/sh".to_owned()),
        ("USER".to_owned(), from.service.to_string()),
    ]
}

/// The names that the user's own variables take from us, for `plan`.
pub(super) fn overridden<'a>(names: impl Iterator<Item = &'a String>, services: &[ServiceName]) -> Vec<String> {
    const OURS: &[&str] = &["PORT", "HOST", "SERVICE_NAME", "DATA_DIR"];
    let urls: Vec<String> = services.iter().map(url_variable).collect();
    names.filter(|name| OURS.contains(&name.as_str()) || urls.contains(name)).cloned().collect()
}

/// Why a line of an env_file cannot be used. Never carries a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) problem: &'static str,
}

/// `NAME=value` a line; `#` starts a comment line; one pair of surrounding quotes is taken off; `export ` in front is
/// allowed. No expansion of any kind.
pub(super) fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, BadLine> {
    let mut env = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let bad = |problem| BadLine { line: index + 1, problem };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or_else(|| bad("is not NAME=value"))?;
        if !is_variable_name(name) {
            return Err(bad("has a name outside A-Z, a-z, 0-9 and `_`, or one that starts with a digit"));
        }
        if name.starts_with("AGENTD_") {
            return Err(bad("sets a name that starts with AGENTD_, which is the agent's own"));
        }
        if value.contains('\0') {
            return Err(bad("holds a NUL byte"));
        }
        env.insert(name.to_owned(), unquote(value).to_owned());
    }
    Ok(env)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    #[test]
    fn the_user_wins_and_every_service_has_a_url() {
        let services = [name("my-api"), name("web")];
        let user = BTreeMap::from([("HOST".to_owned(), "0.0.0.0".to_owned())]);
        let env: BTreeMap<String, String> = environment(&Sources {
            service: &services[1],
            release: ReleaseNumber(3),
            commit: &Commit::new("0".repeat(40)).unwrap(),
            data_dir: Path::new("/d"),
            path: "/usr/bin",
            port: Some(20_001),
            services: &services,
            naming: &Naming { suffix: "svc.internal".into(), port: 8081 },
            user: &user,
        })
        .into_iter()
        .collect();
        assert_eq!(env["HOST"], "0.0.0.0");
        assert_eq!(env["PORT"], "20001");
        assert_eq!(env["SERVICE_MY_API_URL"], "http://my-api.svc.internal:8081");
        assert_eq!(env["AGENTD_RELEASE"], "3");
        assert_eq!((env["HOME"].as_str(), env["USER"].as_str(), env["LOGNAME"].as_str()), ("/d", "web", "web"));
        assert_eq!(overridden(user.keys(), &services), ["HOST"]);
    }

    #[test]
    fn env_files() {
        let text = "# c\n\nA=1\nexport B=\"two words\"\nC='x=y'\nD=\n";
        let env = parse_env_file(text).unwrap();
        let pairs: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "")]);
        assert_eq!(parse_env_file("A=1\nnonsense").unwrap_err().line, 2);
        assert_eq!(parse_env_file("1A=1").unwrap_err().line, 1);
        assert_eq!(parse_env_file("AGENTD_X=1").unwrap_err().line, 1);
    }
}
