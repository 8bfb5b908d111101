//! What stands in the way of a policy and what a person says to go on, and whether a confirmation proves anything.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Session;
use super::foreign::{self, Finding, Severity};
use super::guard;

/// Ancestors of a caller that are looked at; no session is nested deeper.
const ANCESTORS_MAX: usize = 64;

/// Somebody's SSH, which a policy would end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// To be typed by whoever means it.
    pub phrase: String,
    /// Networks that would keep them in; none where no network can.
    pub propose: Vec<IpNet>,
}

impl Stranded {
    pub fn in_words(&self) -> String {
        let from = self.phrase.strip_prefix("block ssh from ").unwrap_or(&self.phrase);
        format!("somebody is on SSH from {from} and could not come back")
    }
}

/// Each kind is set aside by a word of its own: a phrase, `--accept`, `--force`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objections {
    pub stranded: Option<Stranded>,
    pub asked: Vec<Finding>,
    pub refused: Vec<Finding>,
}

impl Objections {
    pub fn of(guard: guard::Verdict, foreign: &foreign::Verdict) -> Self {
        let with = |severity| foreign.findings.iter().filter(move |one| one.severity == severity).cloned().collect();
        let stranded = match guard {
            guard::Verdict::WouldEnd { phrase, propose, .. } => Some(Stranded { phrase, propose }),
            guard::Verdict::NobodyOnSsh | guard::Verdict::StillAllowed(_) => None,
        };
        Self { stranded, asked: with(Severity::Ask), refused: with(Severity::Refuse) }
    }

    pub fn phrase(&self) -> Option<&str> {
        self.stranded.as_ref().map(|stranded| stranded.phrase.as_str())
    }

    /// None where nothing stands in the way.
    pub fn in_words(&self) -> Option<String> {
        let findings = self.refused.iter().chain(&self.asked).map(said);
        let all: Vec<String> = self.stranded.iter().map(Stranded::in_words).chain(findings).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What `agentctl security apply` is to be given to go on.
    pub fn words_to_go_on(&self) -> String {
        let phrase = self.phrase().map(|phrase| format!(" --phrase \"{phrase}\"")).unwrap_or_default();
        let accept = if self.asked.is_empty() { "" } else { " --accept" };
        let force = if self.refused.is_empty() { "" } else { " --force" };
        format!("{phrase}{accept}{force}")
    }
}

/// With its cure.
pub fn said(finding: &Finding) -> String {
    format!("{} ({})", finding.text, finding.cure)
}

/// The SSH session a process was started from: the nearest of it and its ancestors that knows of one. `sudo` and `su`
/// drop the variable, their parent has it.
pub fn session_of(pid: u32) -> Option<Session> {
    let mut pid = pid;
    for _ in 0..ANCESTORS_MAX {
        let found = std::fs::read(format!("/proc/{pid}/environ")).ok().and_then(|environ| connection(&environ));
        if found.is_some() {
            return found;
        }
        pid = agentd_sys::process::stat(pid).map(|stat| stat.parent).filter(|parent| *parent > 1)?;
    }
    None
}

/// `SSH_CONNECTION` as sshd(8) sets it: client's address and port, server's address and port.
fn connection(environ: &[u8]) -> Option<Session> {
    let entry = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    let text = std::str::from_utf8(entry).ok()?;
    let mut words = text.split(' ');
    let mut end = || {
        let ip: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(ip.to_canonical(), words.next()?.parse().ok()?))
    };
    let (peer, local) = (end()?, end()?);
    Some(Session { local, peer })
}

/// Whether a connection is one of those that were there before.
pub fn is_among(session: &Session, before: &[Session]) -> bool {
    let plain = |address: &SocketAddr| (address.ip().to_canonical(), address.port());
    before.iter().any(|old| plain(&old.peer) == plain(&session.peer) && plain(&old.local) == plain(&session.local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(peer: &str, local: &str) -> Session {
        Session { local: local.parse().unwrap(), peer: peer.parse().unwrap() }
    }

    #[test]
    fn each_objection_has_its_word() {
        let finding = |severity, text: &str| Finding { severity, text: text.to_owned(), cure: "do this".to_owned() };
        let foreign = foreign::Verdict {
            enforcement: foreign::Enforcement::Nftables,
            reason: String::new(),
            findings: vec![finding(Severity::Refuse, "r"), finding(Severity::Ask, "a"), finding(Severity::Note, "n")],
        };
        let ended = guard::Verdict::WouldEnd {
            peers: Vec::new(),
            phrase: "block ssh from 198.51.100.20".to_owned(),
            propose: Vec::new(),
        };
        let all = Objections::of(ended, &foreign);
        assert_eq!(all.words_to_go_on(), " --phrase \"block ssh from 198.51.100.20\" --accept --force");
        let words = "somebody is on SSH from 198.51.100.20 and could not come back; r (do this); a (do this)";
        assert_eq!(all.in_words().unwrap(), words);
        let calm = foreign::Verdict { findings: vec![finding(Severity::CannotVouch, "c")], ..foreign };
        let none = Objections::of(guard::Verdict::NobodyOnSsh, &calm);
        assert_eq!((none.in_words(), none.words_to_go_on().as_str()), (None, ""));
    }

    #[test]
    fn the_callers_session_is_read_off_its_environment() {
        let environ = b"A=1\0SSH_CONNECTION=198.51.100.20 50001 192.0.2.1 22\0B=2\0";
        let found = connection(environ).unwrap();
        assert_eq!(found, session("198.51.100.20:50001", "192.0.2.1:22"));
        assert!(is_among(&found, &[session("[::ffff:198.51.100.20]:50001", "[::ffff:192.0.2.1]:22")]));
        assert!(!is_among(&found, &[session("198.51.100.20:50002", "192.0.2.1:22")]), "a new connection");
        let link_local = connection(b"SSH_CONNECTION=fe80::1%eth0 5 fe80::2%eth0 22\0").unwrap();
        assert_eq!(link_local, session("[fe80::1]:5", "[fe80::2]:22"));
        for bad in [&b""[..], b"SSH_CONNECTION=\0", b"SSH_CONNECTION=a b c d\0", b"SSH_CONNECTION=1.2.3.4 5 1.2.3.4\0"]
        {
            assert_eq!(connection(bad), None);
        }
    }

    #[test]
    fn a_process_finds_the_session_of_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("SSH_CONNECTION", "198.51.100.20 50001 192.0.2.1 22")
            .spawn()
            .unwrap();
        // The kernel lets the parent go on before the new program's environment can be read.
        let start = std::time::Instant::now();
        let found = loop {
            match session_of(child.id()) {
                None if start.elapsed().as_secs() < 10 => std::thread::yield_now(),
                found => break found,
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(session("198.51.100.20:50001", "192.0.2.1:22")));
    }
}
