//! `agentctl explain`: the table of keys, for people.

use agentd_document::reference;
use agentd_protocol::exit_code::Exit;
use agentd_protocol::keys::{self, KEYS, Key, NOT_YET, Support};

use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl explain
  agentctl explain service.health.path

Exit codes: 0, 5 no such key")]
pub(crate) struct Args {
    /// Key with dots, such as service.health.path; without it, all keys are listed
    key: Option<String>,
    /// Print the reference page
    #[arg(long, conflicts_with = "key")]
    markdown: bool,
}

pub(crate) fn run(args: &Args, out: &mut Out) -> anyhow::Result<Exit> {
    match &args.key {
        None if args.markdown => out.line(reference::markdown().trim_end()),
        None => list(KEYS.iter(), out),
        Some(name) => return Ok(one(name, out)),
    }
    Ok(Exit::Ok)
}

fn one(name: &str, out: &mut Out) -> Exit {
    let Some(key) = keys::find(name) else {
        let near = keys::nearest_name(name).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        out.complain(format_args!("agentctl: there is no key `{name}`{near}; `agentctl explain` lists them"));
        return Exit::NotFound;
    };
    out.line(reference::explain(key));
    let mut inside = keys::children(key.name).peekable();
    if inside.peek().is_some() {
        out.line("  keys:");
        list(inside, out);
    }
    Exit::Ok
}

fn list(listed: impl Iterator<Item = &'static Key>, out: &mut Out) {
    for key in listed {
        let later = if key.support == Support::NotYet { format!(" ({NOT_YET})") } else { String::new() };
        out.line(format_args!("{:<30} {}{later}", key.name, key.meaning));
    }
}
