//! `agentd join` and `agentd leave`: what a person types, and what they are told.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::control::join::{BYTES_MAX, BadJoin, JoinString};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::places::Layout;
use agentd_sys::files::is_locked;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::config::{self, Home};
use crate::store::{self, Store};
use crate::sync::control::{
    Applicant, ClientError, Identity, IdentityError, JoinError, Progress, Reach, check_authorities, drop_pending,
    forget, join, pending_key,
};

/// Of `--ca-file`, bytes.
const CA_BYTES_MAX: u64 = 1024 * 1024;
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 63;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    BadJoin(#[from] BadJoin),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} (--ca-file) names no authority to trust")]
    Authorities {
        path: PathBuf,
        #[source]
        source: ClientError,
    },
    #[error("{path} holds a secret and may be read by others; `chmod 600 {path}`")]
    Open { path: PathBuf },
    #[error("the join string cannot be read from stdin")]
    Stdin(#[source] io::Error),
    #[error("`{0}` is no label: --label KEY=VALUE, each up to 63 of letters, digits, `-`, `_` and `.`")]
    Label(String),
    #[error("this host has joined {url} already and follows stack `{stack}`; `agentd leave` first (services run on)")]
    Joined { stack: String, url: String },
    #[error("this host follows stack `{stack}` of a stack file; `agentd leave` first (services run on)")]
    HasStack { stack: String },
    #[error("this host is to follow {path}; `agentd leave` first (services run on)")]
    HasFile { path: PathBuf },
    #[error("nothing to leave: this host follows no stack and has joined no control server")]
    NothingToLeave,
    #[error(
        "agentd runs and follows the stack file: end it (`systemctl stop agentd`, or Ctrl-C), then `agentd leave`; services run on"
    )]
    Runs,
    #[error("{path} cannot be set aside; rename it, then try again")]
    SetAside {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nothing was changed: say yes, or give --yes")]
    NotConfirmed,
}

impl Error {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Store(_) | Self::Identity(_) => Exit::Home,
            Self::Join(error) => of_join(error),
            Self::BadJoin(_) | Self::Label(_) | Self::Authorities { .. } => Exit::Usage,
            Self::Joined { .. } | Self::HasStack { .. } | Self::HasFile { .. } => Exit::HasStack,
            Self::NothingToLeave => Exit::NotFound,
            Self::Runs => Exit::Locked,
            Self::Runtime(_)
            | Self::Read { .. }
            | Self::Open { .. }
            | Self::Stdin(_)
            | Self::SetAside { .. }
            | Self::NotConfirmed => Exit::Failed,
        }
    }
}

fn of_join(error: &JoinError) -> Exit {
    match error {
        JoinError::Client(_) => Exit::Usage,
        JoinError::Unreachable { .. } => Exit::Unreachable,
        JoinError::NotApproved { .. } => Exit::Pending,
        JoinError::Expired(_)
        | JoinError::Used
        | JoinError::Unknown
        | JoinError::Skewed { .. }
        | JoinError::Refused(_)
        | JoinError::OtherServer { .. }
        | JoinError::Unreadable(_) => Exit::NotAccepted,
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentd join                              asks for the join string; what is typed is not shown
  agentd join --token-file ./join          from a file that its owner alone may read
  some-vault read join | agentd join -     from another program
  agentd join --home ./home --name web-1   not this machine's agent, but that of a folder

The join string comes from the control server, holds for an hour and for one host. It is a secret: \
given as an argument it can be seen in the list of processes. The host makes its key here; run again after an \
interruption it is the same host. An agentd that runs on the home takes it up by itself; one of the machine is started \
with `systemctl start agentd`.

Exit codes: 0 joined, 4 the control server does not answer, 11 it does not take the host in, 12 the host has a stack \
already, 13 nobody has said yes yet")]
pub struct JoinArgs {
    /// The join string; `-`: from stdin
    #[arg(value_name = "JOIN_STRING")]
    token: Option<String>,
    /// File with the join string, mode 0600
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// What the control server calls this host [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// For the operator's eyes; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Certificates (PEM) of a private authority, trusted for the control server in the place of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Speak plain HTTP to a control server on another machine: anybody on the way can read the environment variables
    #[arg(long)]
    allow_plain_http: bool,
    /// Folder of an agent that is not the machine's
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentd leave                 this machine forgets its control server, or its stack file
  agentd leave --yes           without asking
  agentd leave --home ./home   the agent of that folder

Services run on as they are. The control server is not told: revoke the host there. A stack file of the machine is \
renamed, not removed.

Exit codes: 0 left, 5 nothing to leave, 7 an agentd that follows a stack file runs")]
pub struct LeaveArgs {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Folder of an agent that is not the machine's
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

pub fn run_join(args: &JoinArgs) -> Result<(), Error> {
    let home = Home::open(args.home.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(refuse_second(&home))?;
    let labels = args.labels.iter().map(|text| label(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    if labels.len() > LABELS_MAX {
        return Err(Error::Label(format!("{} labels", labels.len())));
    }
    let authorities = args.ca_file.as_deref().map(authorities).transpose()?;
    let joining = JoinString::read(&join_string(args)?)?;
    let reach = Reach {
        url: joining.url.clone(),
        authorities: authorities.map(|text| text.to_string()),
        plain_http: args.allow_plain_http,
    };
    let key = pending_key(&home.state_dir, &joining.stack)?;
    let applicant = Applicant { name: args.name.clone().unwrap_or_else(host_name), labels };
    let identity = runtime.block_on(join(&joining, reach, key, applicant, show))?;
    identity.store(&home.state_dir)?;
    drop_pending(&home.state_dir);
    say(&format!(
        "joined {} as {} (stack {}, {})",
        identity.reach.url, identity.name, identity.stack_name, identity.host
    ));
    say(&next(&home));
    Ok(())
}

/// Whether an agentd has to be started.
fn next(home: &Home) -> String {
    match (is_locked(&home.lock_file()).unwrap_or(false), home.places.layout) {
        (true, _) => "agentd runs here and takes it up by itself; `agentctl status` shows it".to_owned(),
        (false, Layout::System) => "next: systemctl enable --now agentd".to_owned(),
        (false, Layout::Home) => format!("next: agentd run --home {}", home.places.settings_dir.display()),
    }
}

async fn refuse_second(home: &Home) -> Result<(), Error> {
    if let Some(identity) = Identity::load(&home.state_dir)? {
        return Err(Error::Joined { stack: identity.stack_name, url: identity.reach.url });
    }
    if home.database_file().exists()
        && let Some(stack) = Store::open(&home.database_file())?.stack_of_file().await?
    {
        return Err(Error::HasStack { stack: stack.to_string() });
    }
    match own_file(home) {
        Some(path) => Err(Error::HasFile { path }),
        None => Ok(()),
    }
}

/// The machine's stack file, where there is one.
fn own_file(home: &Home) -> Option<PathBuf> {
    (home.places.layout == Layout::System).then(|| home.places.stack_file()).filter(|path| path.exists())
}

pub fn run_leave(args: &LeaveArgs) -> Result<(), Error> {
    let home = Home::open(args.home.as_deref())?;
    if let Some(identity) = Identity::load(&home.state_dir)? {
        confirm(args, &format!("leave {} (stack {})", identity.reach.url, identity.stack_name))?;
        forget(&home.state_dir)?;
        say(&format!("left {}; services run on. Revoke {} there.", identity.reach.url, identity.name));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let store = home.database_file().exists().then(|| Store::open(&home.database_file())).transpose()?;
    let stack = match &store {
        Some(store) => runtime.block_on(store.stack_of_file())?,
        None => None,
    };
    let file = own_file(&home);
    if stack.is_none() && file.is_none() {
        // What an interrupted joining has left.
        forget(&home.state_dir)?;
        return Err(Error::NothingToLeave);
    }
    if is_locked(&home.lock_file()).unwrap_or(false) {
        return Err(Error::Runs);
    }
    let name = stack.map_or_else(|| "of the stack file".to_owned(), |name| name.to_string());
    confirm(args, &format!("leave stack {name}"))?;
    if let Some(path) = file {
        let aside = path.with_extension("toml.left");
        std::fs::rename(&path, &aside).map_err(|source| Error::SetAside { path: path.clone(), source })?;
        say(&format!("{} is now {}", path.display(), aside.display()));
    }
    if let Some(store) = store {
        runtime.block_on(store.leave_file())?;
    }
    say(&format!("left stack {name}; services run on"));
    Ok(())
}

fn confirm(args: &LeaveArgs, what: &str) -> Result<(), Error> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::NotConfirmed);
    }
    ask(&format!("{what}? Services run on. [y/N] "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::Stdin)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::NotConfirmed) }
}

fn join_string(args: &JoinArgs) -> Result<Zeroizing<String>, Error> {
    if let Some(path) = &args.token_file {
        let mode =
            std::fs::metadata(path).map_err(|source| Error::Read { path: path.clone(), source })?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::Open { path: path.clone() });
        }
        return bounded(path, limit());
    }
    match args.token.as_deref() {
        Some(text) if text != "-" => Ok(Zeroizing::new(text.to_owned())),
        None if io::stdin().is_terminal() => typed(),
        Some(_) | None => {
            let mut text = Zeroizing::new(String::new());
            io::stdin().lock().take(limit()).read_to_string(&mut text).map_err(Error::Stdin)?;
            Ok(text)
        }
    }
}

fn limit() -> u64 {
    // A newline, and one more to see that it is too much.
    u64::try_from(BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2)
}

/// Without an echo.
fn typed() -> Result<Zeroizing<String>, Error> {
    let stdin = io::stdin();
    let failed = |errno: nix::errno::Errno| Error::Stdin(errno.into());
    let before = tcgetattr(&stdin).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    ask("Join string (not shown): ");
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    let read = stdin.lock().take(limit()).read_line(&mut text);
    let restored = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    say("");
    read.map_err(Error::Stdin)?;
    restored.map_err(failed)?;
    Ok(text)
}

/// Before the token is used: what is broken here is to cost nothing.
fn authorities(path: &Path) -> Result<Zeroizing<String>, Error> {
    let text = bounded(path, CA_BYTES_MAX)?;
    check_authorities(&text).map_err(|source| Error::Authorities { path: path.to_owned(), source })?;
    Ok(text)
}

fn bounded(path: &Path, bytes_max: u64) -> Result<Zeroizing<String>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.size() > bytes_max {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    file.take(bytes_max).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn label(text: &str) -> Result<(String, String), Error> {
    let is_plain = |part: &str| {
        (1..=LABEL_BYTES_MAX).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    match text.split_once('=') {
        Some((key, value)) if is_plain(key) && is_plain(value) => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(Error::Label(text.to_owned())),
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "host".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn show(progress: Progress) {
    say(&match progress {
        Progress::Code(code) => {
            format!(
                "waiting for approval: somebody has to say yes on the control server, to code {code} (Ctrl-C ends this; the same command waits on)"
            )
        }
        Progress::Later { cause, after } => {
            format!("the control server is busy ({cause}); trying again in {} s", after.as_secs())
        }
    });
}

fn say(line: &str) {
    // Nobody is left to tell when it is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

fn ask(text: &str) {
    let mut stderr = io::stderr();
    // As above.
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_that_is_none_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, says) in
            [("garbage", "holds no certificate"), ("", "holds no certificate"), (broken, "cannot be read")]
        {
            std::fs::write(&path, text).unwrap();
            let error = authorities(&path).unwrap_err();
            let told = agentd_sys::causes::chain(&error).to_string();
            assert!(told.contains("ca.pem") && told.contains(says), "{told}");
            assert_eq!(error.exit(), Exit::Usage);
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(authorities(&path), Err(Error::Read { .. })));
        assert!(matches!(authorities(&dir.path().join("none")), Err(Error::Read { .. })));
    }

    #[test]
    fn labels_are_pairs_of_plain_words() {
        assert_eq!(label("role=web-1").unwrap(), ("role".to_owned(), "web-1".to_owned()));
        for bad in ["role", "=x", "role=", "a b=c", "role=<b>", &format!("{}=x", "a".repeat(64))] {
            assert!(matches!(label(bad), Err(Error::Label(_))), "{bad}");
        }
    }
}
