//! What the manager follows: a stack file, a control server, or nothing any more.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::What;
use agentd_protocol::places::Layout;
use agentd_protocol::stack::Stack;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DocumentError, Error, RunOptions, follow, read};
use crate::config::{Home, Settings};
use crate::lifecycle;
use crate::store::{ControlState, Joining, Store};
use crate::sync::Judge;
use crate::sync::control::{IDENTITY_FILE, Identity};

/// A host that has joined listens here until its first version says where, if nobody else does.
const PORT_DEFAULT: u16 = 8080;
/// How soon a manager sees that the host has joined or left.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) enum Following {
    File(PathBuf),
    Control(Box<Joined>),
    /// What is in force stays so.
    Nothing,
}

#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) identity: Arc<Identity>,
    pub(super) remembered: ControlState,
}

/// What the manager works by, and the news of it.
pub(super) struct Found {
    pub(super) following: Following,
    /// `None`: no version yet, of a host that has joined.
    pub(super) stack: Option<Stack>,
    pub(super) news: Option<What>,
    pub(super) judge: Judge,
}

/// Of the folder's identity and the command line, which must not both name one.
pub(super) async fn find(options: &RunOptions, home: &Home, store: &Store) -> Result<Found, Error> {
    let judge = follow::judge(home);
    let identity = Identity::load(&home.state_dir)?;
    let Some(identity) = identity else { return find_file(options, home, store, judge).await };
    if let Some(path) = &options.stack {
        let (stack, url) = (identity.stack_name, identity.reach.url);
        return Err(Error::Joined { stack, url, path: path.clone() });
    }
    if home.places.layout == Layout::System && home.places.stack_file().exists() {
        tracing::warn!(file = %home.places.stack_file().display(), "not followed: this host has joined a control server");
    }
    let joining = Joining { id: identity.joining.clone(), trust: identity.trust()? };
    let remembered = store.begin_control(joining).await?;
    let (url, host) = (identity.reach.url.clone(), identity.name.clone());
    let news = remembered.is_new.then_some(What::ControlJoined { url, host });
    let stack = store.latest_version().await?.map(|latest| latest.stack);
    let joined = Joined { identity: Arc::new(identity), remembered };
    Ok(Found { following: Following::Control(Box::new(joined)), stack, news, judge })
}

async fn find_file(options: &RunOptions, home: &Home, store: &Store, judge: Judge) -> Result<Found, Error> {
    let news = store.end_control().await?.then_some(What::ControlLeft {});
    let default = (home.places.layout == Layout::System).then(|| home.places.stack_file());
    if let Some(path) = options.stack.clone().or(default) {
        let stack = first_stack(&path, store, &judge).await?;
        return Ok(Found { following: Following::File(path), stack: Some(stack), news, judge });
    }
    match store.latest_version().await? {
        Some(latest) => Ok(Found { following: Following::Nothing, stack: Some(latest.stack), news, judge }),
        None => Err(Error::NothingToFollow { home: home.places.shown() }),
    }
}

/// The document, or the last version when the file cannot be used: it tells the proxy's port before anything starts.
async fn first_stack(path: &Path, store: &Store, judge: &Judge) -> Result<Stack, Error> {
    let problems = match std::fs::read_to_string(path) {
        Ok(text) => match read(&text, path) {
            Ok(stack) => match judge(&stack) {
                Ok(()) => return Ok(stack),
                Err(breaches) => breaches.iter().map(|breach| format!("{}: {breach}", path.display())).collect(),
            },
            Err(problems) => problems,
        },
        Err(error) => vec![format!("{}: cannot be read: {error}", path.display())],
    };
    match store.latest_version().await? {
        Some(stored) => Ok(stored.stack),
        None => Err(Error::Document(DocumentError { problems })),
    }
}

/// Where the proxy is to listen: the owner's word, the document's, or, before there is one, any port that is free.
pub(super) fn port(stack: Option<&Stack>, settings: &Settings) -> u16 {
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let any = || {
        let bound = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        bound.map_or(PORT_DEFAULT, |address| address.port())
    };
    let of_document = || stack.map(|stack| stack.proxy.port);
    settings
        .proxy_port()
        .or_else(of_document)
        .unwrap_or_else(|| if is_free(PORT_DEFAULT) { PORT_DEFAULT } else { any() })
}

/// Why the manager starts anew, as the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anew {
    /// What it follows is another: everything that runs is adopted.
    Followed,
    /// The first version asks for another port than is listened on; nothing runs yet but the edge.
    Port,
}

/// Until the host has joined, left, or joined anew.
async fn changed(home: Home) -> Anew {
    let path = home.state_dir.join(IDENTITY_FILE);
    let look = || std::fs::metadata(&path).ok().map(|found| (found.ino(), found.mtime(), found.mtime_nsec()));
    let first = look();
    loop {
        tokio::time::sleep(LOOK).await;
        if look() != first {
            return Anew::Followed;
        }
    }
}

/// Where whoever sees that the manager must start anew tells it, and where it hears it.
pub(super) fn watch(
    home: &Home,
    cancel: &CancellationToken,
) -> (watch::Sender<Option<Anew>>, watch::Receiver<Option<Anew>>) {
    let (anew, told) = watch::channel(None);
    let (home, cancel, teller) = (home.clone(), cancel.clone(), anew.clone());
    lifecycle::spawn("identity", async move {
        if let Some(why) = cancel.run_until_cancelled(changed(home)).await {
            teller.send_replace(Some(why));
        }
    });
    (anew, told)
}

/// The very program that runs, with the arguments it was given; returns only when it cannot.
pub(super) fn start_anew() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "agentd".into());
    Command::new("/proc/self/exe").arg0(name).args(arguments).exec()
}
