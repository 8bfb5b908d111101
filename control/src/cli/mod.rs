//! The command line: `controld serve` is the server, every other verb calls one over its socket or its URL.
//!
//! Owns: words, tables and exit codes. Must never know: rules; it shows what `/api/v1` answers. Nothing survives a
//! restart.

mod client;
mod events;
mod host;
mod keep;
mod options;
mod out;
mod serve;
mod stack;
mod token;
mod user;

pub use options::Cli;

use std::path::PathBuf;

use agentd_protocol::control::problem::Problem;
use agentd_protocol::exit_code::Exit;
use agentd_protocol::stack::DOCUMENT_BYTES_MAX;
use agentd_sys::causes::chain;

use client::Client;
use options::Verb;
use out::Out;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no server answers at {place}: start one with `controld serve`, or name another with --home or --url")]
    Unreachable {
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{}", problem_text(.0))]
    Refused(Box<Problem>),
    #[error("the server's answer is not one of ours: is it a controld of this version?")]
    Answer(#[source] serde_json::Error),
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is over {} MiB, the most a document may have", DOCUMENT_BYTES_MAX / (1024 * 1024))]
    TooLarge { path: PathBuf },
    #[error("no stack is called {name}: `controld stack list` shows all")]
    NoStack { name: String },
    #[error("no host is called {name}: `controld host list` shows all")]
    NoHost { name: String },
    #[error("several hosts are called {name}: name one by its id")]
    ManyHosts { name: String },
    #[error("cannot make a client")]
    Client(#[source] reqwest::Error),
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(
        "{key} is not the key file that {path} was made with: name the right one with --key-file; without it nothing secret \
         comes back"
    )]
    BackupKey { key: PathBuf, path: PathBuf },
    #[error(
        "{path} was changed, or made by somebody without the key file {key}: do not restore it; take another copy of the \
         backup"
    )]
    BackupForeign { key: PathBuf, path: PathBuf },
    #[error(
        "{path} carries no seal of a key file, so nobody can tell who made it: it is refused; make backups with this version"
    )]
    BackupUnproven { path: PathBuf },
    #[error(transparent)]
    Serve(#[from] crate::serve::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Seal(#[from] crate::seal::Error),
}

impl Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Refused(problem) => match problem.status {
                404 => Exit::NotFound,
                422 => Exit::Invalid,
                _ => Exit::Failed,
            },
            Self::NoStack { .. } | Self::NoHost { .. } => Exit::NotFound,
            Self::Serve(error) => match error {
                crate::serve::Error::Locked { .. } => Exit::Locked,
                crate::serve::Error::Listen { .. } => Exit::PortTaken,
                crate::serve::Error::Plain { .. } | crate::serve::Error::HalfTls => Exit::Usage,
                _ => Exit::Home,
            },
            Self::Store(_) | Self::Seal(_) => Exit::Home,
            Self::BackupKey { .. } | Self::BackupForeign { .. } | Self::BackupUnproven { .. } => Exit::Home,
            Self::Answer(_)
            | Self::Read { .. }
            | Self::TooLarge { .. }
            | Self::ManyHosts { .. }
            | Self::Client(_)
            | Self::Output(_)
            | Self::Runtime(_) => Exit::Failed,
        }
    }
}

fn problem_text(problem: &Problem) -> String {
    let mut text = if problem.detail.is_empty() { problem.title.clone() } else { problem.detail.clone() };
    let problems = problem.extra.get("problems").and_then(serde_json::Value::as_array);
    for one in problems.into_iter().flatten() {
        let line = one.get("line").and_then(serde_json::Value::as_u64).filter(|line| *line > 0);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let what = one.get("text").and_then(serde_json::Value::as_str).unwrap_or_default();
        text.push_str(&format!("\n  {place}{what}"));
    }
    text
}

/// Runs one verb.
pub fn run(cli: Cli) -> Exit {
    let mut out = Out::new(cli.json);
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)
        .and_then(|runtime| runtime.block_on(act(cli, &mut out)));
    match done.and_then(|exit| out.finish().map(|()| exit).map_err(Error::Output)) {
        Ok(exit) => exit,
        Err(error) => {
            out.complain(format!("controld: {}", chain(&error)));
            error.exit()
        }
    }
}

async fn act(cli: Cli, out: &mut Out) -> Result<Exit, Error> {
    let at = cli.at;
    match cli.verb {
        Verb::Serve(options) => serve::serve(at.home, options).await,
        Verb::Stack(verb) => stack::stack(&Client::new(&at)?, verb, out).await,
        Verb::Token(verb) => token::token(&Client::new(&at)?, verb, out).await,
        Verb::Host(verb) => host::host(&Client::new(&at)?, verb, out).await,
        Verb::User(verb) => user::user(&Client::new(&at)?, verb, out).await,
        Verb::Events(options) => events::events(&Client::new(&at)?, options, out).await,
        Verb::Audit(options) => events::audit(&Client::new(&at)?, options, out).await,
        Verb::Backup { file } => keep::backup(&Client::new(&at)?, &file, out).await,
        Verb::Restore(options) => keep::restore(&at.home, &options, out),
    }
}
