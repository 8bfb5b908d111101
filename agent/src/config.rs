//! Where everything lies, and what the host's owner has settled in `agentd.toml`: what a document may ask for.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use agentd_protocol::places::{Layout, Places};
use agentd_protocol::shim::spec::User;
use serde::Deserialize;
use toml::Spanned;

use crate::source::Credential;
use crate::tunnel::{Section, Tunnel};

/// Ports of instances when agentd.toml does not say (DESIGN §7).
const INSTANCE_PORTS: RangeInclusive<u16> = 20_000..=29_999;
/// Port of the internal listener in dev; part of every `SERVICE_<NAME>_URL`.
const INTERNAL_PORT_DEV: u16 = 8081;
/// Port names are resolved on in dev, UDP and TCP: not 53, which only root may take, nor mDNS's 5353.
const DNS_PORT_DEV: u16 = 5354;

/// The machine's own names need no port in their URLs.
const INTERNAL_PORT_SYSTEM: u16 = 80;
/// Where the resolver of the machine asks for names of services: 127.0.0.53 and .54 are systemd-resolved's.
const DNS_SYSTEM: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 153), 53);
/// Ids of services when agentd.toml does not say: free in systemd's table of uids, above what containers (subuid,
/// nspawn) and directory services (sssd) give out by default.
const USER_IDS: RangeInclusive<u32> = 2_100_000_000..=2_100_009_999;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("home {path} cannot be used: create it, or give a --home you may write to")]
    Home {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("host settings {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("host settings {path}, line {line}: {message}")]
    Settings { path: PathBuf, line: usize, message: String },
    #[error("--run-as {0}: no such user")]
    NoUser(String),
    #[error("--run-as each-service takes root: start agentd as root, or leave it out")]
    EachTakesRoot,
    #[error(
        "user ids {first} to {last} cannot be used: {why}; set others in agentd.toml, as in `[users] ids = [60578, 61183]`"
    )]
    UserIds { first: u32, last: u32, why: String },
    #[error(
        "user `{user}` cannot enter {path}: builds and services run as that user; choose another --home, \
         `chmod o+x` the folder, or --run-as another user"
    )]
    Unreachable { user: String, path: PathBuf },
}

/// The folders of one agent, made and writable.
#[derive(Debug, Clone)]
pub struct Home {
    pub places: Places,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
}

impl Home {
    /// Makes what is missing; `None` is the agent of the machine. Folders services must pass through are 0711, the rest
    /// 0700; the settings of the machine are readable.
    pub fn open(home: Option<&Path>) -> Result<Self, Error> {
        let failed = |path: &Path, source| Error::Home { path: path.to_owned(), source };
        let places = match home {
            Some(root) => {
                std::fs::create_dir_all(root).map_err(|source| failed(root, source))?;
                Places::below(&root.canonicalize().map_err(|source| failed(root, source))?)
            }
            None => Places::system(),
        };
        for (dir, mode) in [
            (&places.settings_dir, 0o755),
            (&places.state_dir, 0o711),
            (&places.run_dir, 0o711),
            (&places.log_dir, 0o700),
        ] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
            made.and_then(|()| writable(dir)).map_err(|source| failed(dir, source))?;
        }
        let (state_dir, run_dir, log_dir) = (places.state_dir.clone(), places.run_dir.clone(), places.log_dir.clone());
        Ok(Self { places, state_dir, run_dir, log_dir })
    }

    pub fn settings_file(&self) -> PathBuf {
        self.places.settings_dir.join("agentd.toml")
    }

    pub fn policy_file(&self) -> PathBuf {
        self.places.settings_dir.join("policy.toml")
    }

    pub fn known_hosts_file(&self) -> PathBuf {
        self.places.settings_dir.join("known_hosts")
    }

    pub fn database_file(&self) -> PathBuf {
        self.state_dir.join("agentd.db")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.state_dir.join("agentd.lock")
    }

    pub fn agent_log_file(&self) -> PathBuf {
        self.log_dir.join("agentd.log")
    }

    pub fn git_keys_dir(&self) -> PathBuf {
        self.places.settings_dir.join("git-keys")
    }

    pub fn tunnel_dir(&self) -> PathBuf {
        self.run_dir.join("tunnel")
    }

    pub fn edge_dir(&self) -> PathBuf {
        self.run_dir.join("edge")
    }
}

fn writable(dir: &Path) -> io::Result<()> {
    nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).map_err(io::Error::from)
}

/// `agentd.toml`: every key has a default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    ports: Ports,
    #[serde(default)]
    users: UserSettings,
    #[serde(default)]
    git: BTreeMap<String, GitSettings>,
    #[serde(default, rename = "tunnel")]
    tunnel_section: Option<Spanned<Section>>,
    #[serde(skip)]
    tunnel: Option<Tunnel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    /// First and last port instances may get.
    instances: Option<[u16; 2]>,
    /// In the place of the document's `proxy.port`, for a host where that one is taken.
    proxy: Option<u16>,
    internal: Option<u16>,
    dns: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserSettings {
    /// First and last uid, and gid, that services may get.
    ids: Option<[u32; 2]>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GitSettings {
    /// The name of the section when absent.
    host: Option<String>,
    ssh_key_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Settings {
    /// Absent file: all defaults.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let bad = |line, message: &str| Error::Settings { path: path.to_owned(), line, message: message.to_owned() };
        let line_of = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let mut settings: Self = toml::from_str(text)
            .map_err(|error| bad(line_of(error.span().map_or(0, |span| span.start)), error.message()))?;
        if let Some([first, last]) = settings.ports.instances
            && (first > last || first < 1024)
        {
            return Err(bad(1, "ports.instances must be [first, last] with 1024 <= first <= last"));
        }
        for (name, git) in &settings.git {
            if git.ssh_key_file.is_some() == git.token_file.is_some() {
                return Err(bad(1, &format!("git.\"{name}\" must have either ssh_key_file or token_file")));
            }
        }
        if let Some(section) = settings.tunnel_section.take() {
            let at = section.span().start;
            let chosen = section.into_inner().choose();
            let chosen = chosen.map_err(|wrong| bad(line_of(wrong.at.unwrap_or(at)), &wrong.message))?;
            settings.tunnel = Some(chosen);
        }
        Ok(settings)
    }

    pub fn tunnel(&self) -> Option<&Tunnel> {
        self.tunnel.as_ref()
    }

    pub fn instance_ports(&self) -> RangeInclusive<u16> {
        self.ports.instances.map_or(INSTANCE_PORTS, |[first, last]| first..=last)
    }

    pub fn proxy_port(&self) -> Option<u16> {
        self.ports.proxy
    }

    pub fn internal(&self, layout: Layout) -> SocketAddr {
        let port = match layout {
            Layout::Home => INTERNAL_PORT_DEV,
            Layout::System => INTERNAL_PORT_SYSTEM,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.internal.unwrap_or(port)))
    }

    /// UDP and TCP.
    pub fn dns(&self, layout: Layout) -> SocketAddr {
        let (address, port) = match layout {
            Layout::Home => (Ipv4Addr::LOCALHOST, DNS_PORT_DEV),
            Layout::System => DNS_SYSTEM,
        };
        SocketAddr::from((address, self.ports.dns.unwrap_or(port)))
    }

    pub fn user_ids(&self) -> RangeInclusive<u32> {
        self.users.ids.map_or(USER_IDS, |[first, last]| first..=last)
    }

    pub fn credentials(&self) -> BTreeMap<String, Credential> {
        let credential = |(name, git): (&String, &GitSettings)| {
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

/// Whom builds and services run as.
#[derive(Debug, Clone)]
pub struct RunUser {
    pub name: String,
    pub user: User,
}

impl RunUser {
    /// A plain user runs everything as itself (`None`). Root picks an unprivileged user, `nobody` unless told
    /// otherwise, and stays root only when told so by name.
    pub fn choose(wish: Option<&str>) -> Result<Option<Self>, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let name = wish.unwrap_or("nobody");
        if name == "root" {
            return Ok(None);
        }
        match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => {
                Ok(Some(Self { name: name.to_owned(), user: User { uid: user.uid.as_raw(), gid: user.gid.as_raw() } }))
            }
            Ok(None) | Err(_) => Err(Error::NoUser(name.to_owned())),
        }
    }

    /// The folders of a PATH that this user may enter. With one that is closed, a shell calls a program that is nowhere
    /// to be found "not executable", and its user looks for the cause in the wrong place.
    pub fn search_path(&self, path: &str) -> String {
        let closed = |dir: &Path| {
            let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            matches!(self.check_reaches(&real), Err(Error::Unreachable { .. }))
        };
        path.split(':').filter(|dir| !closed(Path::new(dir))).collect::<Vec<_>>().join(":")
    }

    /// Every folder down to `dir` must let this user pass.
    pub fn check_reaches(&self, dir: &Path) -> Result<(), Error> {
        match agentd_sys::files::closed_to(dir, self.user.uid, self.user.gid) {
            Ok(None) => Ok(()),
            Ok(Some(path)) => Err(Error::Unreachable { user: self.name.clone(), path }),
            Err(source) => Err(Error::Home { path: dir.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_the_line() {
        let text =
            "[ports]\ninstances = [21000, 21999]\ndns = 5355\n\n[git.\"git.example.com\"]\ntoken_file = \"/t\"\n";
        let settings = Settings::parse(text, Path::new("agentd.toml")).unwrap();
        assert_eq!(settings.instance_ports(), 21_000..=21_999);
        let at = |layout| (settings.internal(layout).to_string(), settings.dns(layout).to_string());
        assert_eq!(at(Layout::Home), ("127.0.0.1:8081".to_owned(), "127.0.0.1:5355".to_owned()));
        assert_eq!(at(Layout::System), ("127.0.0.1:80".to_owned(), "127.0.0.153:5355".to_owned()));
        assert_eq!(Settings::default().dns(Layout::System).to_string(), "127.0.0.153:53");
        assert_eq!(settings.credentials().len(), 1);
        let watched = Settings::parse("[tunnel]\nwatch = \"127.0.0.1:20241\"\n", Path::new("agentd.toml")).unwrap();
        assert!(matches!(watched.tunnel(), Some(Tunnel::Watched { .. })));
        let both = "[ports]\ndns = 5355\n[tunnel]\nwatch = \"127.0.0.1:1\"\ntoken_file = \"/t\"\n";
        let (lone, unknown) = ("\n[tunnel]\nprotocol = \"quic\"\n", "[tunnel]\ntoken = \"hush\"\n");
        for (text, line) in [(both, 5), (lone, 2), (unknown, 2)] {
            let error = Settings::parse(text, Path::new("agentd.toml")).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}:")) && !error.contains("hush"), "{error}");
        }
        for (text, line) in [("[ports]\nx = 1\n", 2), ("[ports]\ninstances = [5, 1]\n", 1), ("[git.a]\n", 1)] {
            match Settings::parse(text, Path::new("agentd.toml")) {
                Err(Error::Settings { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn folders_closed_to_the_run_user_leave_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let user = User { uid: 65_534, gid: 65_534 };
        let user = RunUser { name: "nobody".into(), user };
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let path = format!("/usr/bin:{}/bin:{}:/nowhere/bin:/bin", dir.path().display(), dir.path().display());
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        assert_eq!(user.search_path(&path), "/usr/bin:/nowhere/bin:/bin");
    }

    #[test]
    fn a_home_that_cannot_be_made_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Home::open(Some(&file.join("home"))), Err(Error::Home { .. })));
    }
}
