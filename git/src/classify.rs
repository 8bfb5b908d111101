//! What git's stderr means. Pure; git runs with LC_ALL=C, so its words are the ones matched here.

/// Kind of a failed git command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Unreachable,
    RepositoryMissing,
    AuthenticationFailed,
    HostKeyUnpinned,
    HostKeyChanged,
    /// The server looked and has no such object.
    ObjectMissing,
    /// The server does not say: it gives only what its refs point at.
    ObjectNotOffered,
    ReferenceMissing,
    ObjectsRefused,
    MirrorDamaged,
    DiskFull,
    Unknown,
}

/// Phrases in lower case; the first row that matches wins, so causes stand before their consequences ("could not read
/// from remote repository" follows nearly every failure and names none).
const PHRASES: &[(Fault, &[&str])] = &[
    (Fault::DiskFull, &["no space left on device", "disk quota exceeded"]),
    (
        Fault::HostKeyChanged,
        &["remote host identification has changed", "host key for", "revoked host key", "differs from the key"],
    ),
    (Fault::HostKeyUnpinned, &["host key is known for", "host key verification failed"]),
    (
        Fault::AuthenticationFailed,
        &[
            "authentication failed",
            "permission denied (",
            "could not read username",
            "could not read password",
            "invalid username or",
            "http basic: access denied",
            "too many authentication failures",
            "the requested url returned error: 401",
            "the requested url returned error: 403",
            "write access to repository not granted",
            "load key",
        ],
    ),
    (Fault::ObjectNotOffered, &["unadvertised object", "not valid", "filtering not recognized"]),
    (
        Fault::ObjectMissing,
        &["not our ref", "no such remote ref", "bad object 0000000000000000000000000000000000000000"],
    ),
    (Fault::ReferenceMissing, &["couldn't find remote ref"]),
    (
        Fault::RepositoryMissing,
        &[
            "repository not found",
            "does not appear to be a git repository",
            "the requested url returned error: 404",
            "project you were looking for could not be found",
            "' not found",
            "not a git repository: 'file",
        ],
    ),
    (
        Fault::Unreachable,
        &[
            "could not resolve host",
            "failed to connect",
            "couldn't connect to server",
            "connection refused",
            "connection timed out",
            "operation timed out",
            "connection reset",
            "connection closed by",
            "network is unreachable",
            "no route to host",
            "name or service not known",
            "temporary failure in name resolution",
            "operation too slow",
            "early eof",
            "the remote end hung up",
            "gnutls_handshake",
            "ssl certificate problem",
            "server certificate verification failed",
            "ssl_connect",
            "unexpected disconnect",
            "rpc failed",
            "the requested url returned error: 5",
            "timeout, server",
        ],
    ),
    (
        Fault::ObjectsRefused,
        &["fsck error", "error in packed object", "error in object", "object of unexpected type", "contains '.git'"],
    ),
    (
        Fault::MirrorDamaged,
        &[
            "is corrupt",
            "object file",
            "unable to read tree",
            "not a tree object",
            // A commit that is here whose tree is not.
            "needed a single revision",
            "failed to unpack tree object",
            "too short to be a packfile",
            "does not point to a valid object",
            "unable to read sha1 file",
            "not a git repository",
            "bad config line",
            "bad object",
            "missing blob",
            "missing tree",
        ],
    ),
];

pub fn classify(stderr: &str) -> Fault {
    let text = stderr.to_lowercase();
    PHRASES
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| text.contains(phrase)))
        .map_or(Fault::Unknown, |(fault, _)| *fault)
}

/// Bytes of one line that may enter an error.
const LINE_BYTES_MAX: usize = 300;

/// Lines that follow nearly every failure and say nothing about it.
const EMPTY_TALK: &[&str] = &[
    "could not read from remote repository",
    "please make sure you have the correct access rights",
    "and the repository exists",
    "the remote end hung up unexpectedly",
    "early eof",
];

/// The line of git's stderr that tells a person most: the first `fatal:` or `error:` with content, else the last line.
pub fn telling_line(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let talks = |line: &&&str| {
        let lower = line.to_lowercase();
        !EMPTY_TALK.iter().any(|phrase| lower.contains(phrase))
    };
    let marked = |line: &&&str| {
        ["fatal:", "error:", "ssh:", "remote: error", "permission denied"]
            .iter()
            .any(|mark| line.to_lowercase().contains(mark))
    };
    let found =
        lines.iter().filter(marked).find(talks).or_else(|| lines.iter().rev().find(talks)).or_else(|| lines.last());
    clean(found.copied().unwrap_or("git said nothing"))
}

/// A server's words go to terminals: no control characters, bounded.
fn clean(line: &str) -> String {
    let mut out = String::new();
    for character in line.chars().filter(|c| !c.is_control()) {
        if out.len() + character.len_utf8() > LINE_BYTES_MAX {
            out.push('…');
            break;
        }
        out.push(character);
    }
    out
}

/// Takes user and password out of every address: `https://u:p@h/` becomes `https://***@h/`.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority_len = after.find(['/', '\'', '"', ' ', '\n', '\t', '?', '#']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(authority_len);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of git 2.28-2.47, OpenSSH 8-10 and the large forges, as they print them.
    const TABLE: &[(&str, Fault)] = &[
        (
            "fatal: unable to access 'https://h/x/': Failed to connect to h port 443 after 0 ms: Couldn't connect to server",
            Fault::Unreachable,
        ),
        ("fatal: unable to access 'https://h/x/': Could not resolve host: h", Fault::Unreachable),
        (
            "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.",
            Fault::Unreachable,
        ),
        ("error: RPC failed; curl 28 Operation too slow. Less than 1000 bytes/sec", Fault::Unreachable),
        (
            "fatal: '/srv/nope' does not appear to be a git repository\nfatal: Could not read from remote repository.",
            Fault::RepositoryMissing,
        ),
        ("remote: Repository not found.\nfatal: repository 'https://h/x/' not found", Fault::RepositoryMissing),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", Fault::AuthenticationFailed),
        (
            "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/x/'",
            Fault::AuthenticationFailed,
        ),
        (
            "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            Fault::AuthenticationFailed,
        ),
        (
            "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.\nfatal: Could not read from remote repository.",
            Fault::HostKeyUnpinned,
        ),
        (
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
            Fault::HostKeyChanged,
        ),
        (
            "fatal: remote error: upload-pack: not our ref 0123456789012345678901234567890123456789",
            Fault::ObjectMissing,
        ),
        (
            "error: Server does not allow request for unadvertised object 0123456789012345678901234567890123456789",
            Fault::ObjectNotOffered,
        ),
        ("fatal: remote error: want 0123456789012345678901234567890123456789 not valid", Fault::ObjectNotOffered),
        ("fatal: couldn't find remote ref refs/heads/nope", Fault::ReferenceMissing),
        ("fatal: write error: No space left on device\nfatal: index-pack failed", Fault::DiskFull),
        ("error: object 0123: missingEmail: invalid author\nfatal: fsck error in packed object", Fault::ObjectsRefused),
        ("error: object file objects/ab/cd is empty\nfatal: loose object abcd is corrupt", Fault::MirrorDamaged),
        ("fatal: failed to unpack tree object 0123456789012345678901234567890123456789", Fault::MirrorDamaged),
        ("fatal: the sky is green", Fault::Unknown),
        ("", Fault::Unknown),
    ];

    #[test]
    fn complaints_of_git_are_understood() {
        for (stderr, fault) in TABLE {
            assert_eq!(classify(stderr), *fault, "{stderr}");
        }
    }

    #[test]
    fn the_telling_line_is_the_cause() {
        let refused = "ssh: connect to host h port 22: Connection refused\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n";
        assert_eq!(telling_line(refused), "ssh: connect to host h port 22: Connection refused");
        assert_eq!(telling_line("hint: x\nfatal: it broke\n"), "fatal: it broke");
        assert_eq!(telling_line(" \n"), "git said nothing");
        assert_eq!(telling_line("fatal: \x1b[31mred"), "fatal: [31mred");
        assert!(telling_line(&format!("fatal: {}", "ü".repeat(1000))).len() < LINE_BYTES_MAX + 8);
    }

    #[test]
    fn secrets_leave_addresses() {
        for (text, safe) in [
            ("fatal: 'https://u:p@h/x' not found", "fatal: 'https://***@h/x' not found"),
            ("https://tok@h", "https://***@h"),
            ("https://u:p@ss@h/x and ssh://git@h:22/y", "https://***@h/x and ssh://***@h:22/y"),
            ("https://h/a@b", "https://h/a@b"),
            ("no address: a@b", "no address: a@b"),
        ] {
            assert_eq!(redact(text), safe);
        }
    }
}
