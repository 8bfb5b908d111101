//! `agentd firewall foreign` and its like: what the firewall's room sees and would do, without a manager and without tokio.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agentd_protocol::security::Mode;
use clap::Subcommand;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::firewall::ufw::{self, Ensured, Restored, Ufw, Undone, Wanted};
use crate::firewall::{Policy, facts, foreign, guard};

#[derive(Debug, Subcommand)]
pub enum LookVerb {
    /// What else filters packets on this host, and whether a closed mode can be kept. Changes nothing.
    #[command(after_help = "Example:\n  agentd firewall foreign --mode tunnel")]
    Foreign {
        /// The mode that is asked about: open, daemon-port or tunnel.
        #[arg(long, default_value = "tunnel", value_parser = mode)]
        mode: Mode,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Who is on SSH, and what a mode would mean for them. Changes nothing.
    #[command(hide = true)]
    SshPeers {
        #[arg(long, default_value = "tunnel", value_parser = mode)]
        mode: Mode,
        /// Networks that may reach SSH.
        #[arg(long, value_name = "NETWORK")]
        ssh: Vec<IpNet>,
        /// Interfaces on which SSH may be reached.
        #[arg(long, value_name = "NAME")]
        ssh_interface: Vec<String>,
    },
    /// Has an active UFW pass what `daemon-port` passes.
    #[command(hide = true)]
    UfwAllow {
        #[arg(long)]
        journal: PathBuf,
        #[arg(long)]
        proxy_port: Vec<u16>,
        #[arg(long)]
        ssh_port: Vec<u16>,
        #[arg(long)]
        ssh: Vec<IpNet>,
    },
    /// Takes back what the journal says UFW was told.
    #[command(hide = true)]
    UfwUndo {
        #[arg(long)]
        journal: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    Ufw(#[from] ufw::Error),
    #[error(transparent)]
    Guard(#[from] guard::Error),
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::parse(word).ok_or_else(|| "open, daemon-port or tunnel".to_owned())
}

/// What is to be printed.
pub fn act(verb: &LookVerb) -> Result<String, Error> {
    match verb {
        LookVerb::Foreign { mode, json } => {
            let guests = facts::gather(&facts::Sources::host())?.guest_interfaces;
            let seen = foreign::gather(Path::new("/"), &Ufw::system(), &guests);
            let verdict = foreign::judge(&seen, &Policy { mode: *mode, ..Policy::open() });
            Ok(if *json { serde_json::json!(verdict).to_string() } else { in_words(*mode, &verdict) })
        }
        LookVerb::SshPeers { mode, ssh, ssh_interface } => {
            let ssh_interfaces = ssh_interface.iter().cloned().collect();
            ssh_peers(&Policy { mode: *mode, ssh: ssh.clone(), ssh_interfaces, ..Policy::open() })
        }
        LookVerb::UfwAllow { journal, proxy_port, ssh_port, ssh } => {
            let wanted = Wanted {
                proxy: proxy_port.iter().copied().collect(),
                ssh_ports: ssh_port.iter().copied().collect(),
                ssh: ssh.iter().copied().collect(),
            };
            Ok(match Ufw::system().ensure(&wanted, journal)? {
                Ensured::NotActive => "ufw is not active; nothing was changed".to_owned(),
                Ensured::Allowed { added, pre_existing } => {
                    json!({ "added": texts(&added), "pre_existing": texts(&pre_existing) }).to_string()
                }
            })
        }
        LookVerb::UfwUndo { journal } => Ok(match Ufw::system().undo(journal)? {
            None => "there is nothing to take back".to_owned(),
            Some(undone) => taken_back(&undone).to_string(),
        }),
    }
}

fn in_words(mode: Mode, verdict: &foreign::Verdict) -> String {
    let reason = if verdict.reason.is_empty() { String::new() } else { format!(": {}", verdict.reason) };
    let mut lines = vec![format!("enforcement of {mode}: {}{reason}", verdict.enforcement)];
    for finding in &verdict.findings {
        lines.push(format!("{}: {}", finding.severity, finding.text));
        lines.push(format!("    {}", finding.cure));
    }
    lines.join("\n")
}

fn ssh_peers(policy: &Policy) -> Result<String, Error> {
    let facts = facts::gather(&facts::Sources::host())?.with_ssh_known(&BTreeSet::new());
    let peers = guard::peers(&guard::gather(&facts)?);
    let verdict = match guard::judge(&peers, policy, &facts) {
        guard::Verdict::NobodyOnSsh => json!({ "is": "nobody-on-ssh" }),
        guard::Verdict::StillAllowed(_) => json!({ "is": "still-allowed" }),
        guard::Verdict::WouldEnd { phrase, propose, .. } => {
            json!({ "is": "would-end", "phrase": phrase, "propose": texts(&propose) })
        }
    };
    let shown = |peer: &guard::Peer| {
        let how = format!("{:?}", peer.how).to_lowercase();
        json!({ "address": peer.address, "port": peer.port, "interface": peer.interface, "how": how })
    };
    let peers: Vec<Value> = peers.iter().map(shown).collect();
    Ok(json!({ "ports": facts.ssh_ports, "peers": peers, "verdict": verdict }).to_string())
}

fn taken_back(undone: &Undone) -> Value {
    let restored = |restored: &Restored| match restored {
        Restored::Exactly => json!("restored exactly"),
        Restored::SameRules => json!("the same rules"),
        Restored::Differs { added, missing } => json!({ "added": added, "missing": missing }),
    };
    let files: serde_json::Map<String, Value> =
        undone.files.iter().map(|file| (file.path.display().to_string(), restored(&file.restored))).collect();
    json!({ "removed": texts(&undone.removed), "left": texts(&undone.left), "files": files })
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}
