//! The address of a repository, taken apart once and put together again from checked parts: nothing a document says
//! reaches git as an option, as another transport or as a secret. Pure.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::classify::redact;
use crate::error::Error;

/// Digits of that name: 128 bits, no collisions by accident.
const KEY_DIGITS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub(crate) transport: Transport,
    /// As git gets it: scheme and host in lower case, never a password.
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    Https { user: Option<String>, host: String, port: Option<u16> },
    Ssh { host: String, port: Option<u16> },
    File { path: String },
}

const RULE: &str = "https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or file:///PATH";

impl Remote {
    pub fn parse(repo: &str) -> Result<Self, Error> {
        let bad = || Error::BadRepository { repo: redact(repo), rule: RULE };
        let plain = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace());
        let (scheme, rest) = match repo.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => return Self::parse_scp(repo).ok_or_else(bad),
        };
        if scheme == "file" {
            let fine = rest.starts_with('/') && !rest.chars().any(char::is_control);
            let path = rest.trim_end_matches('/').to_owned();
            return if fine && !path.is_empty() {
                Ok(Self { url: format!("file://{path}"), transport: Transport::File { path } })
            } else {
                Err(bad())
            };
        }
        let (authority, path) = rest.split_once('/').ok_or_else(bad)?;
        if path.is_empty() || !plain(rest) || rest.contains(['?', '#', '\\']) {
            return Err(bad());
        }
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(user), host_port),
            None => (None, authority),
        };
        let (host, port) = host_and_port(host_port).ok_or_else(bad)?;
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Error::SecretInAddress { host });
        }
        if user.is_some_and(|user| !is_user(user)) {
            return Err(bad());
        }
        let at = user.map(|user| format!("{user}@")).unwrap_or_default();
        let colon = port.map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{scheme}://{at}{host}{colon}/{path}");
        let transport = match scheme.as_str() {
            "https" => Transport::Https { user: user.map(str::to_owned), host, port },
            "ssh" => Transport::Ssh { host, port },
            _ => return Err(bad()),
        };
        Ok(Self { transport, url })
    }

    /// `user@host:path`, as git and scp write it. A user is demanded: `C:path` and `ext::x` are no addresses.
    fn parse_scp(repo: &str) -> Option<Self> {
        let (login, path) = repo.split_once(':')?;
        let (user, host) = login.split_once('@')?;
        let host = host.to_ascii_lowercase();
        let path_fine = !path.is_empty()
            && !path.starts_with([':', '-'])
            && !path.chars().any(|c| c.is_control() || c.is_whitespace());
        (is_user(user) && is_host(&host) && path_fine)
            .then(|| Self { url: format!("{user}@{host}:{path}"), transport: Transport::Ssh { host, port: None } })
    }

    /// Scheme as git's `protocol.<scheme>.allow` names it.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.transport {
            Transport::Https { .. } => "https",
            Transport::Ssh { .. } => "ssh",
            Transport::File { .. } => "file",
        }
    }

    /// Host with its port where one is given; a path for file addresses. For people.
    pub(crate) fn host_shown(&self) -> String {
        match &self.transport {
            Transport::Https { host, port, .. } | Transport::Ssh { host, port } => {
                port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
            }
            Transport::File { path } => path.clone(),
        }
    }

    pub fn shown(&self) -> String {
        redact(&self.url)
    }

    /// Whether a credential written for `host` (or `host:port`) is meant for this repository. A token goes to the port
    /// it was given for, since another port may be another service; a key never leaves us, so any port will do.
    pub(crate) fn is_at(&self, credential_host: &str) -> bool {
        let wanted = credential_host.to_ascii_lowercase();
        match &self.transport {
            Transport::Https { host, port, .. } => {
                wanted == self.host_shown() || (wanted == *host && matches!(port, None | Some(443)))
            }
            Transport::Ssh { host, .. } => wanted == *host || wanted == self.host_shown(),
            Transport::File { .. } => false,
        }
    }

    /// The command that pins this host's key, to be run after a look at its fingerprint.
    pub(crate) fn pin_command(&self, known_hosts_file: &Path) -> String {
        let (host, port) = match &self.transport {
            Transport::Https { host, port, .. } | Transport::Ssh { host, port } => {
                (host.trim_matches(['[', ']']), *port)
            }
            Transport::File { path } => (path.as_str(), None),
        };
        let port = port.map(|port| format!("-p {port} ")).unwrap_or_default();
        format!("ssh-keyscan -t ed25519 {port}{host} >> {}", known_hosts_file.display())
    }

    /// Name of its files, and of its mirror: the same address always has the same one.
    pub fn key(&self) -> String {
        let digest = Sha256::digest(self.url.as_bytes());
        digest.iter().take(KEY_DIGITS / 2).fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }
}

fn is_user(user: &str) -> bool {
    !user.is_empty()
        && !user.starts_with('-')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
}

fn is_host(host: &str) -> bool {
    let name = !host.starts_with(['-', '.'])
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    !host.is_empty() && (name || v6.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()))
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.to_ascii_lowercase();
    if is_host(&text) {
        return Some((text, None));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    is_host(host).then(|| (host.to_owned(), Some(port)))
}

/// Whether git takes this as the name of a branch, a tag or a full ref (git-check-ref-format(1)).
pub fn is_reference(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let part_fine = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !name.starts_with('-')
        && name != "@"
        && name.len() <= 255
        && !name.contains(forbidden)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name.split('/').all(part_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised() {
        for (repo, url) in [
            ("https://Git.Example.com/shop/api", "https://git.example.com/shop/api"),
            ("https://bot@h:8443/x.git", "https://bot@h:8443/x.git"),
            ("ssh://git@h:2222/x", "ssh://git@h:2222/x"),
            ("ssh://git@[::1]:22/x", "ssh://git@[::1]:22/x"),
            ("git@H:shop/api.git", "git@h:shop/api.git"),
            ("file:///srv/a b/", "file:///srv/a b"),
        ] {
            assert_eq!(Remote::parse(repo).unwrap().url, url);
        }
    }

    #[test]
    fn hostile_addresses_are_refused() {
        for repo in [
            "",
            "--upload-pack=x",
            "http://h/x",
            "ext::sh -c id",
            "ssh://-oProxyCommand=id/x",
            "ssh://-l@h/x",
            "git@-h:x",
            "git@h:-x",
            "git@h:",
            "https://h",
            "https://h/",
            "https://h/x?token=1",
            "https://h/a\nb",
            "file://host/x",
            "file:///",
            "/srv/x",
            "C:x",
            "https://h:0/x",
            "git://h/x",
            "fd::17/x",
        ] {
            assert!(matches!(Remote::parse(repo), Err(Error::BadRepository { .. })), "{repo}");
        }
        let refused = Remote::parse("https://u:hunter2@h/x").unwrap_err();
        assert!(matches!(refused, Error::SecretInAddress { .. }));
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }

    #[test]
    fn references_follow_their_rules() {
        for good in ["main", "v1.2", "feature/x", "refs/heads/main", "HEAD", "a@b"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in [
            "",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a:b",
            "a^{}",
            "*",
            "a/",
            "/a",
            "a//b",
            ".a",
            "a.lock",
            "@",
            "a@{1}",
            "a\n",
        ] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn a_credential_serves_its_host_only() {
        let plain = Remote::parse("https://h/x").unwrap();
        assert!(plain.is_at("H") && !plain.is_at("h2") && !plain.is_at("h:1"));
        let other_port = Remote::parse("https://h:8443/x").unwrap();
        assert!(!other_port.is_at("h") && other_port.is_at("h:8443"));
        let port = Remote::parse("ssh://git@h:2222/x").unwrap();
        assert!(port.is_at("h") && port.is_at("h:2222") && !port.is_at("h:22"));
        assert_eq!(port.pin_command(Path::new("/k")), "ssh-keyscan -t ed25519 -p 2222 h >> /k");
    }
}
