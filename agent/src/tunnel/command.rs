//! What the program is run with (pure). The secret is at no place where others look: not on the command line, not in the
//! environment, in no file we write. It is handed over as an open descriptor, and named by it.

use std::path::Path;

use super::settings::{Identity, Managed};

/// First descriptor a program receives (sd_listen_fds(3)); ours is the only one.
pub const SECRET_FD: &str = "/proc/self/fd/3";
/// How long requests under way may take after SIGTERM. The shim waits longer than this.
const GRACE: &str = "30s";

/// The shim announces the descriptors it hands over, as systemd does; cloudflared takes any it is told of for a listener
/// (its metrics listener then fails to open), so it must not be told.
const UNANNOUNCED: [&str; 7] = ["/usr/bin/env", "-u", "LISTEN_FDS", "-u", "LISTEN_FDNAMES", "-u", "LISTEN_PID"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub argv: Vec<String>,
    /// Complete. No proxy is named: what is asked of loopback must not go through one.
    pub env: Vec<(String, String)>,
    /// Of the file the command names.
    pub config: String,
}

impl Command {
    /// Everything by which one run differs from another, in words; no secret is among it.
    pub fn settings(&self) -> String {
        format!("{}\n{}", self.argv.join(" "), self.config)
    }
}

pub fn command(managed: &Managed, program: &Path, config_file: &Path, origin_port: u16) -> Command {
    let mut argv: Vec<String> = UNANNOUNCED.into_iter().map(str::to_owned).collect();
    argv.extend([program.to_string_lossy().into_owned(), "tunnel".to_owned()]);
    // Always named: without it, a configuration that lies in /etc/cloudflared would be taken.
    argv.extend(["--config".to_owned(), config_file.to_string_lossy().into_owned()]);
    argv.extend(["--no-autoupdate".to_owned(), "--metrics".to_owned(), managed.metrics.to_string()]);
    argv.extend(["--grace-period", GRACE, "--protocol", managed.protocol.word(), "run"].map(str::to_owned));
    if let Identity::Token { .. } = managed.identity {
        argv.extend(["--token-file", SECRET_FD].map(str::to_owned));
    }
    // The home is where it would look for configuration and certificates of an account.
    let env = [("HOME", "/nonexistent"), ("PATH", "/usr/local/bin:/usr/bin:/bin")];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Command { argv, env, config: config(&managed.identity, origin_port) }
}

/// Every value is quoted as JSON, which YAML reads as it stands.
fn config(identity: &Identity, origin_port: u16) -> String {
    let mut text = "# Written by agentd; changes are lost at its next start.\nno-autoupdate: true\n".to_owned();
    if let Identity::Credentials { tunnel, hostnames, .. } = identity {
        let quoted = |value: &str| serde_json::Value::from(value).to_string();
        text += &format!("tunnel: {}\ncredentials-file: {}\ningress:\n", quoted(tunnel), quoted(SECRET_FD));
        let service = quoted(&origin(origin_port));
        for name in hostnames {
            text += &format!("  - hostname: {}\n    service: {service}\n", quoted(name));
        }
        text += "  - service: \"http_status:404\"\n";
    }
    text
}

/// By number, not `localhost`: that may be ::1, where nobody listens.
pub(super) fn origin(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::super::settings::Protocol;
    use super::*;

    fn managed(identity: Identity) -> Managed {
        let metrics = "127.0.0.1:20241".parse().unwrap();
        Managed { program: None, identity, metrics, protocol: Protocol::Auto }
    }

    fn run_with(identity: Identity) -> Command {
        command(&managed(identity), Path::new("/usr/bin/cloudflared"), Path::new("/run/t/config.yml"), 8080)
    }

    #[test]
    fn a_token_is_handed_over_by_descriptor() {
        let command = run_with(Identity::Token { file: "/etc/agentd/tunnel.token".into() });
        assert_eq!(
            command.argv.join(" "),
            "/usr/bin/env -u LISTEN_FDS -u LISTEN_FDNAMES -u LISTEN_PID \
             /usr/bin/cloudflared tunnel --config /run/t/config.yml --no-autoupdate --metrics 127.0.0.1:20241 \
             --grace-period 30s --protocol auto run --token-file /proc/self/fd/3"
        );
        assert!(command.env.iter().all(|(name, _)| ["HOME", "PATH"].contains(&name.as_str())), "{:?}", command.env);
        assert!(!command.config.contains("ingress"), "the dashboard says where it leads");
    }

    #[test]
    fn a_tunnel_of_our_own_leads_to_the_external_listener_alone() {
        let tunnel = "6ff42ae2-765d-4adf-8112-31c55c1551ef".to_owned();
        let hostnames = vec!["app.example.com".to_owned(), "*.b.test".to_owned()];
        let command = run_with(Identity::Credentials { tunnel, file: "/c.json".into(), hostnames });
        assert!(command.argv.join(" ").ends_with("--protocol auto run"), "{:?}", command.argv);
        let expected = "# Written by agentd; changes are lost at its next start.\n\
            no-autoupdate: true\n\
            tunnel: \"6ff42ae2-765d-4adf-8112-31c55c1551ef\"\n\
            credentials-file: \"/proc/self/fd/3\"\n\
            ingress:\n\
            \x20 - hostname: \"app.example.com\"\n    service: \"http://127.0.0.1:8080\"\n\
            \x20 - hostname: \"*.b.test\"\n    service: \"http://127.0.0.1:8080\"\n\
            \x20 - service: \"http_status:404\"\n";
        assert_eq!(command.config, expected);
    }

    #[test]
    fn another_port_is_another_run() {
        let hostnames = vec!["a.test".to_owned()];
        let identity = Identity::Credentials { tunnel: "u".into(), file: "/c".into(), hostnames };
        let at = |port| command(&managed(identity.clone()), Path::new("/c"), Path::new("/y"), port).settings();
        assert_eq!(at(1), at(1));
        assert_ne!(at(1), at(2));
    }
}
