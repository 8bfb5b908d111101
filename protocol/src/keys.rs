//! Every key of the desired state, in one table: what validation knows, `agentctl explain` prints and editors are told.

/// Where a key stands and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted, `service` for each `[[service]]`.
    pub name: &'static str,
    pub kind: KeyKind,
    pub meaning: &'static str,
    /// In words where there is no fixed value.
    pub default: &'static str,
    pub example: &'static str,
    pub support: Support,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Section,
    /// `[[service]]`
    Sections,
    Text,
    /// Whole number between the two, inclusive.
    Number(u64, u64),
    Switch,
    Span,
    /// Text, one of these.
    Word(&'static [&'static str]),
    /// Table of text values under names of the user's.
    Variables,
    TextList,
    /// `512M` or a number of bytes.
    Size,
    Decimal,
}

impl KeyKind {
    /// For messages: "expected ...".
    pub fn expected(self) -> String {
        match self {
            Self::Section => "a table".to_owned(),
            Self::Sections => "a list of tables".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Number(least, most) => format!("a whole number from {least} to {most}"),
            Self::Switch => "true or false".to_owned(),
            Self::Span => "a duration such as \"500ms\", \"15s\", \"5m\" or \"2h\"".to_owned(),
            Self::Word(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Self::Variables => "a table of texts".to_owned(),
            Self::TextList => "a list of texts".to_owned(),
            Self::Size => "a size such as \"512M\"".to_owned(),
            Self::Decimal => "a number".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Supported,
    /// A valid key whose effect this version does not have: refused, never accepted and ignored.
    NotYet,
}

/// What a refused key is told.
pub const NOT_YET: &str = "not supported by this version";

const fn key(
    name: &'static str,
    kind: KeyKind,
    default: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind, meaning, default, example, support: Support::Supported }
}

const fn not_yet(name: &'static str, kind: KeyKind, example: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, meaning, default: "none", example, support: Support::NotYet }
}

use KeyKind::{Decimal, Number, Section, Sections, Size, Span, Switch, Text, TextList, Variables, Word};

/// Most of the numbers a person may set for counts of things to wait for.
const COUNT_MAX: u64 = 1_000;

/// In the order of the reference.
pub const KEYS: &[Key] = &[
    key("schema", Number(1, 1), "required", "1", "Version of this format."),
    key("stack", Section, "required", "", "The stack itself."),
    key("stack.name", Text, "required", "\"shop\"", "Name of the stack: a DNS label."),
    key(
        "stack.poll_interval",
        Span,
        "15s",
        "\"15s\"",
        "How often the repositories are asked for new commits on followed refs.",
    ),
    key("proxy", Section, "all defaults", "", "How the host is reached from outside."),
    key("proxy.port", Number(1, 65_535), "8080", "8080", "Port of the external listener."),
    key(
        "proxy.health_path",
        Text,
        "none",
        "\"/-/healthy\"",
        "Path that the proxy itself answers with 200, for load balancers.",
    ),
    not_yet("dns", Section, "", "Names of services."),
    not_yet("dns.suffix", Text, "\"svc.internal\"", "Zone under which every service has a name."),
    key("security", Section, "all defaults", "", "What the host lets in."),
    key(
        "security.mode",
        Word(&["open", "daemon-port", "tunnel"]),
        "open",
        "\"open\"",
        "How far the host's inbound side is shut; this version knows \"open\" alone: no firewall change.",
    ),
    not_yet(
        "security.ssh",
        TextList,
        "[\"203.0.113.0/24\"]",
        "Networks from which SSH is let in, in mode daemon-port.",
    ),
    key("service", Sections, "none", "", "One service of the stack; repeated."),
    key("service.name", Text, "required", "\"api\"", "Name of the service: a DNS label, unique in the stack."),
    key(
        "service.kind",
        Word(&["web", "worker", "job", "static"]),
        "web",
        "\"worker\"",
        "web listens on a port; worker does not. job and static are not supported by this version.",
    ),
    key(
        "service.repo",
        Text,
        "required",
        "\"https://git.example.com/shop/api\"",
        "Git repository: https, ssh or file URL, or git@host:path.",
    ),
    key("service.ref", Text, "one of ref and commit", "\"main\"", "Branch or tag to follow."),
    key(
        "service.commit",
        Text,
        "one of ref and commit",
        "\"0123456789abcdef0123456789abcdef01234567\"",
        "Exact commit, 40 hexadecimal digits.",
    ),
    key(
        "service.dir",
        Text,
        "the repository's root",
        "\"apps/api\"",
        "Folder of the service in its repository. A commit that leaves it untouched rebuilds nothing.",
    ),
    key(
        "service.git_auth",
        Text,
        "the credential of the repository's host, if any",
        "\"shop-key\"",
        "Name of a credential in the host's settings.",
    ),
    key("service.build", Text, "none", "\"npm ci\"", "Shell command that builds a release, in `dir`."),
    key("service.run", Text, "required", "\"node server.js\"", "Shell command that runs the service, in `dir`."),
    key(
        "service.port",
        Number(1, 65_535),
        "a free port, given as $PORT",
        "3000",
        "Fixed port the service listens on. Leave out and listen on $PORT for replacement without downtime and for replicas.",
    ),
    key(
        "service.host",
        Text,
        "any",
        "\"api.example.com\"",
        "Host name this service's path is served under; an exact host beats any.",
    ),
    key(
        "service.path",
        Text,
        "none: not reached from outside",
        "\"/api\"",
        "Path prefix, on segment boundaries; the longest wins.",
    ),
    key(
        "service.strip_prefix",
        Switch,
        "false",
        "true",
        "Take the path prefix off before the service sees the request.",
    ),
    key("service.public", Switch, "true", "false", "false: never reached from outside, whatever its path."),
    key("service.replicas", Number(1, 64), "1", "2", "Instances that run side by side."),
    not_yet("service.depends_on", TextList, "[\"db-proxy\"]", "Services that must be ready first."),
    key(
        "service.env",
        Variables,
        "empty",
        "{ LOG_LEVEL = \"info\" }",
        "Environment variables; they win over agentd's own and over env_file. Values are never shown.",
    ),
    key(
        "service.env_file",
        Text,
        "none",
        "\"/etc/agentd/shop-api.env\"",
        "File on the host with NAME=value lines, mode 0600, read at every deploy.",
    ),
    key(
        "service.health",
        Section,
        "a TCP connect to the port",
        "{ path = \"/healthz\" }",
        "How a new instance proves that it is ready, and how a running one is watched.",
    ),
    key("service.health.path", Text, "none", "\"/healthz\"", "GET here must answer 200 to 399."),
    key(
        "service.health.host",
        Text,
        "127.0.0.1:PORT",
        "\"shop.example.com\"",
        "Host header of the probe, for frameworks that refuse unknown hosts.",
    ),
    key("service.health.interval", Span, "10s", "\"10s\"", "Between probes of a running instance."),
    key("service.health.timeout", Span, "5s", "\"5s\"", "Longest wait for a probe's answer."),
    key(
        "service.health.start_deadline",
        Span,
        "60s",
        "\"60s\"",
        "From start to ready; past it the release has failed.",
    ),
    key(
        "service.health.failures",
        Number(1, COUNT_MAX),
        "3",
        "3",
        "Failures in a row until an instance gets no more requests.",
    ),
    key("service.health.restart", Switch, "true", "false", "Restart an instance that keeps failing for over a minute."),
    key(
        "service.restart",
        Word(&["always", "on-failure", "never"]),
        "always",
        "\"on-failure\"",
        "When a program that ended is started again.",
    ),
    key(
        "service.stop",
        Section,
        "all defaults",
        "{ signal = \"SIGQUIT\", timeout = \"10s\" }",
        "How an instance is stopped.",
    ),
    key(
        "service.stop.signal",
        Word(&["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH"]),
        "SIGTERM",
        "\"SIGQUIT\"",
        "Signal that asks the program to end.",
    ),
    key("service.stop.timeout", Span, "30s", "\"30s\"", "From the signal to the kill of the whole process tree."),
    key("service.drain", Span, "30s", "\"30s\"", "How long requests in flight may go on when an instance is replaced."),
    not_yet("service.limits", Section, "", "Limits of one instance."),
    not_yet("service.limits.memory", Size, "\"512M\"", "Most memory."),
    not_yet("service.limits.cpu", Decimal, "1.5", "Most processors."),
    not_yet("service.limits.pids", Number(1, 4_194_304), "512", "Most processes."),
    not_yet("service.schedule", Text, "\"*/5 * * * *\"", "When a job runs."),
    not_yet("service.root", Text, "\"dist\"", "Folder a static site is served from."),
    not_yet("service.fallback", Text, "\"index.html\"", "File a static site answers unknown paths with."),
];

/// The key of that dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The keys directly under a section (`""` is the document).
pub fn children(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| match key.name.rsplit_once('.') {
        Some((parent, _)) => parent == section,
        None => section.is_empty(),
    })
}

/// The last part of a dotted name.
pub fn leaf(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, leaf)| leaf)
}

/// Of `candidates`, what was probably meant.
pub fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Less alike than this is a guess, not a help.
    const LIKENESS_MIN: f64 = 0.7;
    candidates
        .map(|candidate| (strsim::jaro_winkler(found, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_under_a_section() {
        for key in KEYS {
            if let Some((parent, _)) = key.name.rsplit_once('.') {
                let parent = find(parent).unwrap_or_else(|| panic!("{} has no section", key.name));
                assert!(matches!(parent.kind, Section | Sections), "{}", key.name);
            }
            assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
        }
    }

    #[test]
    fn typing_errors_find_their_key() {
        let names = || children("service").map(|key| leaf(key.name));
        assert_eq!(nearest("prot", names()), Some("port"));
        assert_eq!(nearest("replica", names()), Some("replicas"));
        assert_eq!(nearest("zzz", names()), None);
    }
}
