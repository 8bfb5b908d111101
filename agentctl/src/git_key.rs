//! `agentctl git-key new NAME`: a deploy key for private repositories.

use agentd_protocol::api::GitKey;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  agentctl git-key new shop

The private half stays on this host; the public one is printed, to be added to the repository as a read-only deploy key. \
Then name the key in agentd.toml, as the message says.

Exit codes: 0, 1 there is one of that name, 4 no agentd answers")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a key pair on this host and print its public half
    New {
        /// What agentd.toml will call it
        name: String,
    },
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let Verb::New { name } = &args.verb;
    let key: GitKey = client.post(&format!("/v1/git-keys/{name}")).await?;
    out.line(key.public.trim_end());
    // On stderr, so that the key alone can be piped on.
    out.complain(format_args!(
        "add it to the repository as a read-only deploy key, then to agentd.toml:\n\n[git.\"{name}\"]\nhost = \"git.example.com\"\nssh_key_file = \"{}\"",
        key.private_file
    ));
    Ok(Exit::Ok)
}
