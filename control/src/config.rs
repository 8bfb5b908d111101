//! `<home>/controld.toml`: what the operator sets for the server. Everything in it has a default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agentd_git::Credential;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

pub const FILE_NAME: &str = "controld.toml";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not as it should be")]
    Malformed {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{path}: git.\"{name}\" must have either ssh_key_file or token_file")]
    Credential { path: PathBuf, name: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: Option<SocketAddr>,
    pub public_url: Option<String>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Addresses or networks of reverse proxies and tunnels (`["127.0.0.1", "10.0.0.0/8"]`) whose `X-Forwarded-For` is
    /// believed. Left out, nobody's is, and all who come by a proxy share its limits.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    git: BTreeMap<String, Git>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Git {
    /// Default: the section's name.
    host: Option<String>,
    ssh_key_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

/// An address stands for itself alone.
fn networks<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse::<IpNet>())
            .map_err(|_| serde::de::Error::custom(format!("{text} is no address and no network as 10.0.0.0/8")))
    };
    Vec::<String>::deserialize(value)?.into_iter().map(network).collect()
}

impl Config {
    /// A missing file is an empty one.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        let malformed = |source| Error::Malformed { path: path.to_owned(), source: Box::new(source) };
        let config: Self = toml::from_str(&text).map_err(malformed)?;
        let wrong = config.git.iter().find(|(_, git)| git.ssh_key_file.is_some() == git.token_file.is_some());
        match wrong {
            Some((name, _)) => Err(Error::Credential { path: path.to_owned(), name: name.clone() }),
            None => Ok(config),
        }
    }

    /// With which repositories' servers are asked what branches point at.
    pub fn credentials(&self) -> BTreeMap<String, Credential> {
        let credential = |(name, git): (&String, &Git)| {
            let host = git.host.clone().unwrap_or_else(|| name.clone());
            let credential = match (&git.ssh_key_file, &git.token_file) {
                (Some(key_file), _) => Credential::SshKey { host, key_file: key_file.clone() },
                (None, Some(token_file)) => Credential::Token { host, token_file: token_file.clone() },
                (None, None) => return None,
            };
            Some((name.clone(), credential))
        };
        self.git.iter().filter_map(credential).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_told_and_what_is_missing_is_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert!(Config::read(&path).unwrap().listen.is_none());
        std::fs::write(&path, "listen = '127.0.0.1:1'\ntrusted_proxies = ['::1', '10.0.0.0/8']\n[git.'git.example.com']\ntoken_file = '/t'\n").unwrap();
        let config = Config::read(&path).unwrap();
        assert!(config.listen.is_some() && config.credentials().contains_key("git.example.com"));
        assert_eq!(
            config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["::1/128", "10.0.0.0/8"]
        );
        for bad in [
            "lisen = 1\n",
            "trusted_proxies = ['proxy.example.com']\n",
            "[git.a]\n",
            "[git.a]\nssh_key_file = '/a'\ntoken_file = '/b'\n",
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(Config::read(&path).is_err(), "{bad}");
        }
    }
}
