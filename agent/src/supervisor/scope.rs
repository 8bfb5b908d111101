//! Where the keeper lives, and with it all that runs. Under systemd that is a scope of its own, delegated to us: were it
//! the manager's cgroup, to stop the manager's unit would end every service (systemd.scope(5), systemd.kill(5)).

use std::path::Path;
use std::process::Stdio;

use agentd_protocol::places::Layout;
use tokio::process::Command;

/// systemd makes it with the first keeper and removes it with its last process.
const UNIT: &str = "agentd-apps.scope";
/// A shell that joins the scope, then becomes the program: what the keeper starts at once is born in there too.
const JOIN: &str = "busctl --quiet call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
                    org.freedesktop.systemd1.Manager AttachProcessesToUnit ssau \"$0\" '' 1 $$ && exec \"$@\"";
/// At a shutdown the scope goes after the drain and before the network, and whatever the drain left has so long to end.
const PROPERTIES: &[&str] = &[
    "Description=Services of agentd",
    "Delegate=yes",
    "TasksMax=infinity",
    "OOMPolicy=continue",
    "After=network.target",
    "Before=agentd-drain.service",
    "TimeoutStopSec=90s",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The manager's own cgroup.
    Inherited,
    Systemd,
}

impl Scope {
    /// The machine's agent has a scope where systemd is there to make one (sd_booted(3)).
    pub fn of(layout: Layout) -> Self {
        match layout {
            Layout::System if Path::new("/run/systemd/system").exists() => Self::Systemd,
            Layout::System | Layout::Home => Self::Inherited,
        }
    }

    /// To be followed by the program's arguments.
    pub(super) async fn command(self, program: &Path) -> Command {
        match self {
            Self::Inherited => Command::new(program),
            Self::Systemd if exists().await => wrapped("sh", &["-c", JOIN, UNIT], program),
            Self::Systemd => {
                let mut arguments = vec!["--scope", "--quiet", "--collect", "--unit", UNIT];
                arguments.extend(PROPERTIES.iter().flat_map(|property| ["--property", property]));
                arguments.push("--");
                wrapped("systemd-run", &arguments, program)
            }
        }
    }
}

fn wrapped(by: &str, arguments: &[&str], program: &Path) -> Command {
    let mut command = Command::new(by);
    command.args(arguments).arg(program);
    command
}

/// A keeper that was killed left its scope with the services in it. One that cannot be asked for is not there.
async fn exists() -> bool {
    let mut ask = Command::new("systemctl");
    ask.args(["is-active", "--quiet", UNIT]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ask.status().await.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_agent_of_the_machine_has_a_scope() {
        assert_eq!(Scope::of(Layout::Home), Scope::Inherited);
        let command = Scope::Inherited.command(Path::new("/shim")).await;
        assert_eq!(command.as_std().get_program(), "/shim");
        let wrapped = wrapped("systemd-run", &["--scope", "--"], Path::new("/shim"));
        let arguments: Vec<_> = wrapped.as_std().get_args().collect();
        assert_eq!(arguments, ["--scope", "--", "/shim"]);
    }
}
