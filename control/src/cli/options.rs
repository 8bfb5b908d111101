//! The words of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "Example:
  controld serve --home /var/lib/controld
  controld stack create shop
  controld stack draft shop stack.toml && controld stack publish shop --reason \"first\"
  controld token create shop

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 document not valid, 4 no server answers, 5 not found, 7 home in use, \
8 home not usable, 9 address taken.";

/// The control server: hands out stacks to hosts, and shows what is true of them.
#[derive(Debug, Parser)]
#[command(name = "controld", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub at: At,
    /// Answers as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

const HOME_ENV: &str = "CONTROLD_HOME";

fn usual_home() -> PathBuf {
    std::env::var_os(HOME_ENV).map_or_else(|| PathBuf::from("/var/lib/controld"), PathBuf::from)
}

/// Which server.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// Folder of the server of this machine [default: $CONTROLD_HOME, else /var/lib/controld]
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = usual_home(), hide_default_value = true)]
    pub home: PathBuf,
    /// Another machine's server; needs --api-token-file
    #[arg(long, global = true, value_name = "URL", requires = "api_token_file")]
    pub url: Option<String>,
    /// File whose first line is an API token
    #[arg(long, global = true, value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs the server; an empty folder is a new one
    #[command(
        after_help = "Example:\n  controld serve --home /var/lib/controld --public-url https://control.example.com"
    )]
    Serve(Serve),
    /// Stacks: what should run
    #[command(subcommand)]
    Stack(StackVerb),
    /// Tokens that hosts join with
    #[command(subcommand)]
    Token(TokenVerb),
    /// Hosts that have joined, or want to
    #[command(subcommand)]
    Host(HostVerb),
    /// Accounts: the owner's link and password, and API tokens
    #[command(subcommand)]
    User(UserVerb),
    /// What happened on hosts
    #[command(after_help = "Example:\n  controld events --stack shop --severity warn --limit 20")]
    Events(Events),
    /// What people and programs did here, newest first
    #[command(after_help = "Example:\n  controld audit --limit 20")]
    Audit(Audit),
    /// Writes a whole, checked copy of the database to a new file; the key file is not in it
    #[command(after_help = "Example:\n  controld backup /var/backups/controld-monday.db")]
    Backup { file: PathBuf },
    /// Puts a backup into a home without a database, or tells what it would
    #[command(after_help = "Example:\n  controld restore --dry-run /var/backups/controld-monday.db")]
    Restore(Restore),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on [default: 127.0.0.1:9440]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Certificate chain, PEM; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// How hosts and people reach it, where that is another address
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Key that secrets are sealed with [default: HOME/controld.key]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Listen without TLS where other machines can reach it: for a trusted network alone
    #[arg(long)]
    pub insecure_listen: bool,
}

#[derive(Debug, Subcommand)]
pub enum StackVerb {
    /// Makes a stack, with keys of its own
    #[command(after_help = "Example:\n  controld stack create shop --environment production")]
    Create {
        name: String,
        #[arg(long, value_name = "WORD", default_value = "")]
        environment: String,
    },
    /// Every stack, and how it is
    List,
    /// One stack: its hosts and services
    Show { stack: String },
    /// Shows the draft, or saves a file as the draft
    #[command(
        after_help = "Example:\n  controld stack draft shop stack.toml\n\nValues of env variables are shown as <kept>."
    )]
    Draft {
        stack: String,
        /// TOML, or JSON where its name ends in .json; `-` is standard input, TOML
        file: Option<PathBuf>,
    },
    /// What differs between two versions, or a version and the draft [default: newest and draft]
    Diff {
        stack: String,
        #[arg(default_value = "")]
        from: String,
        #[arg(default_value = "draft")]
        to: String,
    },
    /// Makes the draft the newest version
    #[command(after_help = "Example:\n  controld stack publish shop --reason \"new checkout\"")]
    Publish {
        stack: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Every version, newest first
    Versions { stack: String },
    /// Publishes the content of an older version anew
    #[command(after_help = "Example:\n  controld stack rollback shop 52 --reason \"500s on /checkout\"")]
    Rollback {
        stack: String,
        version: u64,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Hosts stay at what they run, until `resume`
    Hold {
        stack: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ends a hold
    Resume {
        stack: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Makes a token and shows, once, the string that one host joins with
    #[command(after_help = "Example:\n  controld token create shop --ttl 600 | ssh web-1 sudo agentd join -")]
    Create {
        stack: String,
        /// For people
        #[arg(long, default_value = "")]
        note: String,
        /// How long it holds, seconds [default: 3600]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// A person has to say yes to the host
        #[arg(long)]
        approval: bool,
        /// NAME=VALUE, given to the host; may be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
    },
    /// Tokens of a stack, newest first
    List { stack: String },
    /// Ends a token
    Revoke { token: String },
}

#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Hosts, of one stack or of all
    List {
        stack: Option<String>,
    },
    /// One host: what runs there, and what is wrong
    Show {
        host: String,
    },
    /// Lets a host in that waits for it; the code is the one it shows
    #[command(after_help = "Example:\n  controld host approve web-1 WXQR-4821")]
    Approve {
        host: String,
        code: String,
    },
    Rename {
        host: String,
        name: String,
    },
    /// There is one machine with its key now: a conflict that was seen is over
    #[command(after_help = "Example:\n  controld host clear-conflict web-1")]
    ClearConflict {
        host: String,
    },
    /// Its reports are refused from now on; its services run on
    Revoke {
        host: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SeverityWord {
    Info,
    Warn,
    Error,
}

#[derive(Debug, Args)]
pub struct Events {
    #[arg(long)]
    pub stack: Option<String>,
    #[arg(long)]
    pub host: Option<String>,
    #[arg(long)]
    pub service: Option<String>,
    /// That and worse
    #[arg(long)]
    pub severity: Option<SeverityWord>,
    /// A word of the events' list, or its family: `build`
    #[arg(long)]
    pub kind: Option<String>,
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Audit {
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Restore {
    pub file: PathBuf,
    /// Only checks it and tells what would come back
    #[arg(long)]
    pub dry_run: bool,
    /// Key to try its secrets with [default: HOME/controld.key]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// Prints a link that makes the owner or, where there is one, sets another password; it works once
    #[command(after_help = "Example:\n  controld user create-link")]
    CreateLink,
    /// Lists the accounts
    #[command(after_help = "Example:\n  controld user list")]
    List,
    /// Sets a password, read from standard input; ends every session
    #[command(after_help = "Example:\n  controld user passwd martha < password.txt")]
    Passwd { name: String },
    /// Ends every session of everybody
    #[command(after_help = "Example:\n  controld user logout-all")]
    LogoutAll,
    /// API tokens, for programs
    #[command(subcommand)]
    Token(ApiTokenVerb),
}

#[derive(Debug, Subcommand)]
pub enum ApiTokenVerb {
    /// Makes one and shows it, once
    #[command(after_help = "Example:\n  controld user token create ci --write --days 30 > ci.token")]
    Create {
        name: String,
        /// It may also change things
        #[arg(long)]
        write: bool,
        #[arg(long, default_value_t = 90)]
        days: u64,
    },
    /// Lists them, without what opens the server
    #[command(after_help = "Example:\n  controld user token list")]
    List,
    /// Revokes one
    #[command(after_help = "Example:\n  controld user token revoke apt_0123456789ab")]
    Revoke { id: String },
}
