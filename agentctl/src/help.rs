//! Help of verbs that share their arguments, the exit codes, and the page docs/agentctl.md.

use std::fmt::Write as _;

use agentd_protocol::exit_code::Exit;

use crate::out::Out;

/// Of the page; a terminal's own width counts otherwise.
const COLUMNS: usize = 100;

pub(crate) const TOP: &str = "\
Examples:
  agentctl status                      what runs, and in one line what is wrong
  agentctl check stack.toml            every mistake in a file, before the agent sees it
  agentctl plan stack.toml             what the file would change
  agentctl rollback api                back to the release that served before
  agentctl explain service.health      what a key means

Exit codes:
  0  done, or all is well
  1  tried and failed; the message says what to do
  2  the command line is wrong
  3  the stack file does not validate
  4  no agentd answers on this home
  5  no such service, release or key
  6  degraded: something is not as the stack file wants it (status)
  7  another agentd runs on this home (agentd run)
  8  the home cannot be used: not writable, or its database is unreadable or newer (agentd run)
  9  a port or address is taken; the message names its owner (agentd run)
  10  shut down on request (agentd run --system)
  11  the control server does not take the host in (agentd join)
  12  the host has a stack, or has joined, already (agentd join, agentd run)
  13  nobody has said yes to the host yet (agentd join)";

pub(crate) const STOP: &str = "\
Example:
  agentctl stop api

New requests are answered 503, those under way have the service's `drain` to end, then its processes are asked to end \
and, past `stop.timeout`, killed. It stays stopped over restarts of agentd and changes of the file until \
`agentctl start`. Returns when it is done.

Exit codes: 0 stopped, 1 not done, 4 no agentd answers, 5 no such service";

pub(crate) const START: &str = "\
Example:
  agentctl start api

Ends a stop. Returns when the service is ready.

Exit codes: 0 ready, 1 it does not get ready (the message says why), 4 no agentd answers, 5 no such service";

pub(crate) const RESTART: &str = "\
Example:
  agentctl restart api

New instances of the same release start beside the old ones and take over when they are ready; no request is lost. A \
service with a fixed `port` is replaced in place, requests wait meanwhile. When the new ones do not get ready, the old \
ones serve on. Starts a stopped service, too.

Exit codes: 0 replaced, 1 not done, 4 no agentd answers, 5 no such service";

pub(crate) const ROLLBACK: &str = "\
Examples:
  agentctl rollback api                  to the newest release before this one that has served
  agentctl rollback api --release 3      see `agentctl releases api`

Starts a kept release with its own environment and route; nothing is fetched or built. The service is pinned to it, which \
ends with `agentctl unpin` or when its entry in the stack file changes.

Exit codes: 0 it serves, 1 not done and what served before serves on, 4 no agentd answers, 5 no such service or release";

pub(crate) const UNPIN: &str = "\
Example:
  agentctl unpin api

Ends what a rollback began: the release that the stack file asks for takes over.

Exit codes: 0 it follows the file, 1 not done, 4 no agentd answers, 5 no such service";

pub(crate) const PRUNE: &str = "\
Example:
  agentctl prune api

Removes releases and the data folder of a service that has left the stack file. There is no way back. Logs stay until \
they are old.

Exit codes: 0 removed, 1 it is still in the stack file, 4 no agentd answers, 5 no such service";

pub(crate) const SHUTDOWN: &str = "\
Example:
  agentctl shutdown

Every service is drained and stopped, then the proxy, the keeper and agentd itself. Data and releases are kept: the next \
start (`systemctl start agentd`, or `agentd run`) brings back all that was not stopped by hand. To stop agentd alone, end \
it (`systemctl stop agentd`): services run on. `down` is another name of this verb.

Exit codes: 0 all is down, 4 no agentd answers or it did not end";

/// `agentctl help-markdown`: the page of all verbs.
pub(crate) fn run(command: clap::Command, out: &mut Out) -> anyhow::Result<Exit> {
    let mut command = command.term_width(COLUMNS).disable_help_subcommand(true);
    command.build();
    let mut page = String::from(
        "# agentctl\n\nThe help of every verb. This page is written by a test: `UPDATE_EXPECTED=1 cargo nextest run \
         --workspace -E 'test(help)'`.\n",
    );
    section(&mut command, &mut page);
    out.text(page);
    Ok(Exit::Ok)
}

fn section(command: &mut clap::Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_help().to_string();
    // No line of the page ends in blanks, which editors remove.
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).expect("a String takes every write");
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
        section(verb, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_in_the_help() {
        for exit in Exit::ALL {
            assert!(TOP.contains(&format!("\n  {}  ", exit.code())), "{exit:?} is not in the help");
        }
    }
}
