//! `agentctl completions SHELL`

use agentd_protocol::exit_code::Exit;
use clap_complete::Shell as Generator;

use crate::out::Out;

/// Of the program the scripts complete.
const NAME: &str = "agentctl";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bash   agentctl completions bash > ~/.local/share/bash-completion/completions/agentctl
         (for everybody: /etc/bash_completion.d/agentctl; needs the package bash-completion)
  zsh    agentctl completions zsh > ~/.zfunc/_agentctl
         (with `fpath=(~/.zfunc $fpath)` before `compinit` in ~/.zshrc)
  fish   agentctl completions fish > ~/.config/fish/completions/agentctl.fish

The script is static: it knows verbs and options, not your services. Write it anew after an upgrade.")]
pub(crate) struct Args {
    /// Which one reads it
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &Args, command: &clap::Command, out: &mut Out) -> anyhow::Result<Exit> {
    let shell = match args.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    // The generators offer hidden verbs too.
    let mut offered = clap::Command::new(NAME)
        .args(command.get_arguments())
        .subcommands(command.get_subcommands().filter(|verb| !verb.is_hide_set()));
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut offered, NAME, &mut script);
    out.text(String::from_utf8(script)?);
    Ok(Exit::Ok)
}
