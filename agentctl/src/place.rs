//! Which agent is meant: the one of a home, or the machine's own.

use std::path::PathBuf;

use agentd_protocol::places::{Layout, Places};

const HOME_ENV: &str = "AGENTD_HOME";

/// A path as agentd makes it of the same words: it may be relative, and lead through links.
pub(crate) fn places(home: Option<PathBuf>) -> Places {
    let home = home.or_else(|| std::env::var_os(HOME_ENV).map(PathBuf::from));
    home.map_or_else(Places::system, |home| Places::below(&home))
}

/// How an agent that does not run is started.
pub(crate) fn start(places: &Places) -> String {
    match places.layout {
        Layout::Home => "`agentd run --stack FILE --home DIR`".to_owned(),
        Layout::System => {
            format!("`systemctl start agentd`, once the stack file lies in {}", places.stack_file().display())
        }
    }
}

/// What to do about an agent that is not found.
pub(crate) fn not_running(places: &Places) -> String {
    let socket = places.run_dir.join(agentd_protocol::api::API_SOCKET);
    let (socket, start) = (socket.display(), start(places));
    match places.layout {
        Layout::Home => format!(
            "no agentd runs on this home (looked for {socket}); name its home with --home or AGENTD_HOME, or start it \
             with {start}"
        ),
        Layout::System => format!(
            "agentd does not run on this system (looked for {socket}); start it with {start}; or name another agent's \
             home with --home or AGENTD_HOME"
        ),
    }
}

/// The socket is there and not for this user.
pub(crate) fn not_allowed(places: &Places) -> String {
    let socket = places.run_dir.join(agentd_protocol::api::API_SOCKET);
    let cure = match places.layout {
        Layout::Home => "run this as the user that agentd runs as, or as root",
        Layout::System => {
            "run this as root, or join the group: `usermod --append --groups agentd USER`, then log in anew"
        }
    };
    format!("you may not talk to agentd ({}); {cure}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_is_started_in_its_own_way() {
        let home = not_running(&places(Some("/srv/a".into())));
        assert!(home.contains("/srv/a/run/agentd.sock") && home.contains("agentd run --stack"), "{home}");
        let system = not_running(&Places::system());
        for said in ["/run/agentd/agentd.sock", "systemctl start agentd", "/etc/agentd/stack.toml"] {
            assert!(system.contains(said), "{system}");
        }
        assert!(not_allowed(&Places::system()).contains("--groups agentd"));
    }
}
