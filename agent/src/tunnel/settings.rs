//! `[tunnel]` of agentd.toml (pure): exactly one way to a tunnel, or what is wrong with it and where.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

/// Where cloudflared answers by itself when nobody says.
const METRICS_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 20_241);
/// Of one name on a certificate (RFC 1035 §2.3.4).
const HOSTNAME_BYTES_MAX: usize = 253;
const HOSTNAMES_MAX: usize = 100;

/// As written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    watch: Option<Spanned<SocketAddr>>,
    program: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
    tunnel: Option<Spanned<String>>,
    credentials_file: Option<Spanned<PathBuf>>,
    hostnames: Option<Spanned<Vec<String>>>,
    metrics: Option<Spanned<SocketAddr>>,
    protocol: Option<Spanned<Protocol>>,
}

/// How the program speaks to Cloudflare's edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// QUIC, or HTTP/2 where UDP 7844 does not pass.
    #[default]
    Auto,
    Quic,
    Http2,
}

impl Protocol {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Quic => "quic",
            Self::Http2 => "http2",
        }
    }
}

/// As asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tunnel {
    /// The user runs the program; it answers here.
    Watched {
        metrics: SocketAddr,
    },
    Managed(Managed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// `None`: the one on the PATH.
    pub program: Option<PathBuf>,
    pub identity: Identity,
    pub metrics: SocketAddr,
    pub protocol: Protocol,
}

/// By what Cloudflare knows the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Configured in the dashboard: whoever holds the account says where it leads.
    Token { file: PathBuf },
    /// Configured here.
    Credentials { tunnel: String, file: PathBuf, hostnames: Vec<String> },
}

impl Identity {
    pub fn file(&self) -> &PathBuf {
        match self {
            Self::Token { file } | Self::Credentials { file, .. } => file,
        }
    }
}

/// What cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Byte of the text; `None` is the section's own.
    pub at: Option<usize>,
    pub message: String,
}

fn wrong<T>(at: &Option<Spanned<T>>, message: impl Into<String>) -> Wrong {
    Wrong { at: at.as_ref().map(|found| found.span().start), message: message.into() }
}

const WAYS: &str = "[tunnel] is one of: watch = \"127.0.0.1:20241\" (somebody else runs cloudflared); token_file; \
                    or tunnel, credentials_file and hostnames";

impl Section {
    pub fn choose(self) -> Result<Tunnel, Wrong> {
        if let Some(watch) = &self.watch {
            let others = [
                ("program", self.program.as_ref().map(|it| it.span().start)),
                ("token_file", self.token_file.as_ref().map(|it| it.span().start)),
                ("tunnel", self.tunnel.as_ref().map(|it| it.span().start)),
                ("credentials_file", self.credentials_file.as_ref().map(|it| it.span().start)),
                ("hostnames", self.hostnames.as_ref().map(|it| it.span().start)),
                ("metrics", self.metrics.as_ref().map(|it| it.span().start)),
                ("protocol", self.protocol.as_ref().map(|it| it.span().start)),
            ];
            if let Some((key, at)) = others.into_iter().find(|(_, at)| at.is_some()) {
                let message = format!("tunnel.watch and tunnel.{key} do not go together: take one of them out. {WAYS}");
                return Err(Wrong { at, message });
            }
            return Ok(Tunnel::Watched { metrics: loopback(&self.watch, *watch.get_ref())? });
        }
        let identity = self.identity()?;
        if self.program.as_ref().is_some_and(|program| !program.get_ref().is_absolute()) {
            return Err(wrong(&self.program, "tunnel.program must be an absolute path"));
        }
        let metrics = self.metrics.as_ref().map_or(METRICS_DEFAULT, |metrics| *metrics.get_ref());
        Ok(Tunnel::Managed(Managed {
            metrics: loopback(&self.metrics, metrics)?,
            program: self.program.map(Spanned::into_inner),
            identity,
            protocol: self.protocol.map(Spanned::into_inner).unwrap_or_default(),
        }))
    }

    fn identity(&self) -> Result<Identity, Wrong> {
        match (&self.token_file, &self.tunnel, &self.credentials_file, &self.hostnames) {
            (Some(file), None, None, None) => {
                Ok(Identity::Token { file: absolute(&self.token_file, file.get_ref(), "token_file")? })
            }
            (Some(_), Some(_), ..) => {
                Err(wrong(&self.tunnel, format!("tunnel.tunnel does not go with token_file: take one out. {WAYS}")))
            }
            (Some(_), None, Some(_), _) => {
                let message = format!("tunnel.credentials_file does not go with token_file: take one out. {WAYS}");
                Err(wrong(&self.credentials_file, message))
            }
            (Some(_), None, None, Some(_)) => {
                let message = "tunnel.hostnames does not go with token_file: there the dashboard says them";
                Err(wrong(&self.hostnames, message))
            }
            (None, Some(tunnel), Some(file), Some(names)) => {
                if !is_uuid(tunnel.get_ref()) {
                    return Err(wrong(&self.tunnel, "tunnel.tunnel must be the UUID `cloudflared tunnel list` shows"));
                }
                let file = absolute(&self.credentials_file, file.get_ref(), "credentials_file")?;
                let (tunnel, hostnames) = (tunnel.get_ref().to_ascii_lowercase(), self.checked(names.get_ref())?);
                Ok(Identity::Credentials { tunnel, file, hostnames })
            }
            (None, None, None, None) => Err(wrong(&None::<Spanned<()>>, WAYS)),
            (None, tunnel, file, names) => {
                let missing = [
                    ("tunnel", tunnel.is_none()),
                    ("credentials_file", file.is_none()),
                    ("hostnames", names.is_none()),
                ];
                let missing: Vec<&str> = missing.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
                Err(wrong(&None::<Spanned<()>>, format!("[tunnel] lacks {}. {WAYS}", missing.join(" and "))))
            }
        }
    }

    fn checked(&self, names: &[String]) -> Result<Vec<String>, Wrong> {
        if names.is_empty() || names.len() > HOSTNAMES_MAX {
            return Err(wrong(&self.hostnames, format!("tunnel.hostnames must name 1 to {HOSTNAMES_MAX} hosts")));
        }
        match names.iter().find(|name| !is_hostname(name)) {
            Some(name) => {
                let message = format!("tunnel.hostnames: `{name}` is no host name; write it as app.example.com");
                Err(wrong(&self.hostnames, message))
            }
            None => Ok(names.iter().map(|name| name.to_ascii_lowercase()).collect()),
        }
    }
}

/// What answers there says much of the program, to anyone who asks.
fn loopback(at: &Option<Spanned<SocketAddr>>, address: SocketAddr) -> Result<SocketAddr, Wrong> {
    if address.ip().is_loopback() && address.port() > 0 {
        return Ok(address);
    }
    Err(wrong(at, format!("{address} is not on loopback: write 127.0.0.1 and a port, as in 127.0.0.1:20241")))
}

fn absolute(at: &Option<Spanned<PathBuf>>, path: &Path, key: &str) -> Result<PathBuf, Wrong> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(wrong(at, format!("tunnel.{key} must be an absolute path")))
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// One leading `*.` is allowed, as Cloudflare has it.
fn is_hostname(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= HOSTNAME_BYTES_MAX && rest.contains('.') && rest.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";

    fn choose(text: &str) -> Result<Tunnel, Wrong> {
        toml::from_str::<Section>(text).unwrap().choose()
    }

    #[test]
    fn each_way_alone_is_one() {
        let metrics = "127.0.0.1:20241".parse().unwrap();
        assert_eq!(choose("watch = \"127.0.0.1:20241\"").unwrap(), Tunnel::Watched { metrics });
        let token = Identity::Token { file: "/t".into() };
        let managed = |program: Option<&str>, identity, protocol| {
            Tunnel::Managed(Managed { program: program.map(Into::into), identity, metrics, protocol })
        };
        assert_eq!(choose("token_file = \"/t\"").unwrap(), managed(None, token.clone(), Protocol::Auto));
        let text = "token_file = \"/t\"\nprogram = \"/usr/bin/cloudflared\"\nprotocol = \"http2\"";
        assert_eq!(choose(text).unwrap(), managed(Some("/usr/bin/cloudflared"), token, Protocol::Http2));
        let text =
            format!("tunnel = \"{UUID}\"\ncredentials_file = \"/c\"\nhostnames = [\"App.example.com\", \"*.b.test\"]");
        let hostnames = vec!["app.example.com".to_owned(), "*.b.test".to_owned()];
        let local = Identity::Credentials { tunnel: UUID.into(), file: "/c".into(), hostnames };
        assert_eq!(choose(&text).unwrap(), managed(None, local, Protocol::Auto));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        let local = format!("tunnel = \"{UUID}\"\ncredentials_file = \"/c\"\n");
        for (text, at, word) in [
            ("".to_owned(), None, "is one of"),
            ("protocol = \"quic\"".to_owned(), None, "is one of"),
            ("watch = \"127.0.0.1:1\"\ntoken_file = \"/t\"".to_owned(), Some("\"/t\""), "token_file"),
            ("watch = \"10.0.0.1:1\"".to_owned(), Some("\"10."), "loopback"),
            ("token_file = \"/t\"\nmetrics = \"0.0.0.0:1\"".to_owned(), Some("\"0.0"), "loopback"),
            ("token_file = \"t\"".to_owned(), Some("\"t\""), "absolute"),
            ("token_file = \"/t\"\nprogram = \"cloudflared\"".to_owned(), Some("\"cloud"), "absolute"),
            (format!("{local}token_file = \"/t\""), Some("\"6ff"), "take one out"),
            ("token_file = \"/t\"\nhostnames = [\"a.b\"]".to_owned(), Some("[\"a"), "dashboard"),
            (local.clone(), None, "lacks hostnames"),
            (format!("{local}hostnames = []"), Some("[]"), "1 to 100"),
            (format!("{local}hostnames = [\"http://a.b\"]"), Some("[\"http"), "no host name"),
            ("tunnel = \"x\"\ncredentials_file = \"/c\"\nhostnames = [\"a.b\"]".to_owned(), Some("\"x\""), "UUID"),
        ] {
            let wrong = choose(&text).unwrap_err();
            assert_eq!(wrong.at, at.map(|found| text.find(found).unwrap()), "{text}: {wrong:?}");
            assert!(wrong.message.contains(word), "{text}: {wrong:?}");
        }
        assert!(toml::from_str::<Section>("token = \"secret\"").is_err(), "a token is never written there itself");
    }
}
