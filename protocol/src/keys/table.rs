//! The table itself, in the order of the reference page. NOT a place for logic.

use super::Absent::{self, Bool, Integer, Nothing, Required};
use super::Support::{NotYet, Supported};
use super::{Choice, Key, Shape, Support};
use crate::stack::REPLICAS_MAX;

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

const PORT: Shape = Shape::Integer { min: 1, max: 65_535 };
const ROUTE_PATH: Shape = Shape::Text("a path that starts with `/`");
const HOST_NAME: Shape = Shape::Text("a host name such as \"api.example.com\"");

const fn key(name: &'static str, shape: Shape, absent: Absent, meaning: &'static str, example: &'static str) -> Key {
    Key { name, shape, absent, meaning, example, support: Supported }
}

const fn later(name: &'static str, shape: Shape, meaning: &'static str, example: &'static str) -> Key {
    Key { name, shape, absent: Nothing("leave it out"), meaning, example, support: NotYet }
}

const fn choice(word: &'static str, support: Support) -> Choice {
    Choice { word, support }
}

const fn span(min_ms: u64, max_ms: u64) -> Shape {
    Shape::Span { min_ms, max_ms }
}

const MODES: &[Choice] = &[choice("open", Supported), choice("daemon-port", Supported), choice("tunnel", Supported)];
const KINDS: &[Choice] =
    &[choice("web", Supported), choice("worker", Supported), choice("static", Supported), choice("job", NotYet)];
const RESTARTS: &[Choice] = &[choice("always", Supported), choice("on-failure", Supported), choice("never", Supported)];
const SIGNALS: &[Choice] = &[
    choice("SIGTERM", Supported),
    choice("SIGINT", Supported),
    choice("SIGQUIT", Supported),
    choice("SIGHUP", Supported),
    choice("SIGUSR1", Supported),
    choice("SIGUSR2", Supported),
    choice("SIGWINCH", Supported),
];

/// u32 to i64 in a constant, where `From` cannot be called yet: taken apart and put together as bytes.
const fn widen(number: u32) -> i64 {
    let [a, b, c, d] = number.to_le_bytes();
    i64::from_le_bytes([a, b, c, d, 0, 0, 0, 0])
}

pub static KEYS: &[Key] = &[
    key("schema", Shape::Integer { min: 1, max: 1 }, Required, "Version of this format.", "1"),
    key("stack", Shape::Table, Required, "The stack as a whole.", "{ name = \"shop\" }"),
    key("stack.name", Shape::Text("a DNS label"), Required, "Name of the stack, shown by every command.", "\"shop\""),
    key(
        "stack.poll_interval",
        span(SECOND_MS, DAY_MS),
        Absent::Text("15s"),
        "How often each `ref` is resolved again. A change of the file itself is seen at once.",
        "\"15s\"",
    ),
    key(
        "proxy",
        Shape::Table,
        Nothing("the defaults of its keys"),
        "The listener for requests from outside.",
        "{ port = 8080 }",
    ),
    key("proxy.port", PORT, Integer(8080), "Port the proxy accepts requests from outside on.", "8080"),
    key(
        "proxy.health_path",
        ROUTE_PATH,
        Nothing("no such path"),
        "Path the proxy answers by itself, with 200 while it runs, for a load balancer in front.",
        "\"/-/healthy\"",
    ),
    key(
        "dns",
        Shape::Table,
        Nothing("the defaults of its keys"),
        "Names services reach each other by.",
        "{ suffix = \"svc.internal\" }",
    ),
    later(
        "dns.suffix",
        Shape::Text("a domain name"),
        "Domain below which services are found; `svc.internal` in this version.",
        "\"svc.internal\"",
    ),
    key(
        "security",
        Shape::Table,
        Nothing("the host's mode stays as it is"),
        "What the host lets in; docs/security-modes.md has it in full.",
        "{ mode = \"tunnel\" }",
    ),
    key(
        "security.mode",
        Shape::Choice(MODES),
        Required,
        "`open` leaves the firewall alone; `daemon-port` lets in the proxy's port, and SSH from `ssh`; `tunnel` lets in nothing.",
        "\"daemon-port\"",
    ),
    key(
        "security.ssh",
        Shape::Strings,
        Nothing("no network"),
        "Networks that may reach SSH, in mode `daemon-port` only.",
        "[\"203.0.113.0/24\"]",
    ),
    key(
        "service",
        Shape::Tables,
        Nothing("a stack without services"),
        "One web application or worker; repeat `[[service]]` for each.",
        "[{ name = \"api\", repo = \"https://git.example.com/shop/api\", ref = \"main\", run = \"node server.js\" }]",
    ),
    key(
        "service.name",
        Shape::Text("a DNS label"),
        Required,
        "Unique name, shown by every command; other services will reach it as `http://NAME.svc.internal`, not in this version.",
        "\"api\"",
    ),
    key(
        "service.kind",
        Shape::Choice(KINDS),
        Absent::Text("web"),
        "`web` answers HTTP; `worker` has no port and no route; `static` serves a folder of files, without `run`; `job` runs on a schedule.",
        "\"web\"",
    ),
    key(
        "service.repo",
        Shape::Text("an https, ssh or file URL, or user@host:path"),
        Required,
        "Git repository. Credentials never stand in it: see `git_auth`.",
        "\"https://git.example.com/shop/api\"",
    ),
    key(
        "service.ref",
        Shape::Text("a branch or tag"),
        Nothing("`commit` must be given instead"),
        "Branch or tag that is followed: each new commit is deployed. Either this or `commit`.",
        "\"main\"",
    ),
    key(
        "service.commit",
        Shape::Text("a commit: 40 hexadecimal digits, lower case"),
        Nothing("`ref` must be given instead"),
        "Exact commit to run. Either this or `ref`.",
        "\"5f2b6d0c1e9a4f7d8b3c6a5e4d2f1b0a9c8e7d6f\"",
    ),
    key(
        "service.dir",
        Shape::Text("a folder in the repository, relative and without `..`"),
        Nothing("the root of the repository"),
        "Folder in which `build` and `run` are executed (monorepo).",
        "\"apps/api\"",
    ),
    key(
        "service.git_auth",
        Shape::Text("the name of a credential"),
        Nothing("no credential"),
        "Name of a credential in the host's settings, for repositories that are not public.",
        "\"shop-key\"",
    ),
    key(
        "service.build",
        Shape::Text("a shell command"),
        Nothing("nothing is built"),
        "Shell command that builds a release, once per commit.",
        "\"npm ci\"",
    ),
    key(
        "service.run",
        Shape::Text("a shell command"),
        Nothing("`kind` must be `static` then"),
        "Shell command that runs it. A `static` service has none.",
        "\"node server.js\"",
    ),
    key(
        "service.root",
        Shape::Text("a folder below `dir`, relative and without `..`"),
        Absent::Text("."),
        "Folder a `static` service serves, as it is after `build`. Links that lead out of it are not followed.",
        "\"dist\"",
    ),
    key(
        "service.fallback",
        Shape::Text("a file below `root`"),
        Nothing("what matches no file is answered with 404"),
        "File a `static` service answers with, and 200, where no file matches: for pages that do their own routing.",
        "\"index.html\"",
    ),
    key(
        "service.port",
        PORT,
        Nothing("it must listen on $PORT, and is replaced without downtime"),
        "Fixed port it listens on. It allows one replica; requests are held while a release replaces the last one.",
        "3000",
    ),
    key(
        "service.host",
        HOST_NAME,
        Nothing("any host"),
        "Only requests for this host are routed to it. An exact host beats any host; then the longest path wins.",
        "\"api.example.com\"",
    ),
    key(
        "service.path",
        ROUTE_PATH,
        Nothing("it is reached by other services alone"),
        "Requests from outside whose path starts with this, on whole segments, are routed to it.",
        "\"/api\"",
    ),
    key(
        "service.strip_prefix",
        Shape::Bool,
        Bool(false),
        "Whether `path` is taken off before the request is passed on.",
        "true",
    ),
    key("service.public", Shape::Bool, Bool(true), "`false` keeps `path` but routes nothing from outside.", "false"),
    key(
        "service.replicas",
        Shape::Integer { min: 1, max: widen(REPLICAS_MAX) },
        Integer(1),
        "Instances that run at the same time.",
        "2",
    ),
    key(
        "service.depends_on",
        Shape::Strings,
        Nothing("no other service"),
        "Services that are started before this one and stopped after it.",
        "[\"db-proxy\"]",
    ),
    key(
        "service.env",
        Shape::Environment,
        Nothing("none but the injected ones"),
        "Environment variables. Values are treated as secrets: no command, log or error shows them.",
        "{ LOG_LEVEL = \"info\" }",
    ),
    key(
        "service.env_file",
        Shape::Text("an absolute path on the host"),
        Nothing("no file"),
        "File on the host, mode 0600, with one NAME=value a line.",
        "\"/etc/agentd/shop-api.env\"",
    ),
    key(
        "service.health",
        Shape::Table,
        Nothing("it is ready once its port takes a TCP connection"),
        "How it is found out whether an instance works.",
        "{ path = \"/healthz\" }",
    ),
    key(
        "service.health.path",
        ROUTE_PATH,
        Nothing("the port is tried, no request is sent; other keys than `start_deadline` need it"),
        "GET on this path must answer with a status from 200 to 399.",
        "\"/healthz\"",
    ),
    key(
        "service.health.host",
        HOST_NAME,
        Nothing("127.0.0.1 with the port"),
        "Host header of the check, for frameworks that refuse unknown hosts.",
        "\"api.example.com\"",
    ),
    key(
        "service.health.interval",
        span(100, HOUR_MS),
        Absent::Text("10s"),
        "Time between two checks once it is ready.",
        "\"10s\"",
    ),
    key(
        "service.health.timeout",
        span(100, HOUR_MS),
        Absent::Text("5s"),
        "Time one check may take before it counts as failed.",
        "\"5s\"",
    ),
    key(
        "service.health.start_deadline",
        span(SECOND_MS, DAY_MS),
        Absent::Text("60s"),
        "Time from start to ready; a release that takes longer is not deployed.",
        "\"60s\"",
    ),
    key(
        "service.health.failures",
        Shape::Integer { min: 1, max: 100 },
        Integer(3),
        "Failed checks in a row after which it gets no more requests.",
        "3",
    ),
    key(
        "service.health.restart",
        Shape::Bool,
        Bool(true),
        "Whether an instance that keeps failing its checks is restarted.",
        "false",
    ),
    key(
        "service.restart",
        Shape::Choice(RESTARTS),
        Absent::Text("always"),
        "When an instance that ended is started again; `on-failure` leaves one that exited with 0.",
        "\"always\"",
    ),
    key(
        "service.stop",
        Shape::Table,
        Nothing("the defaults of its keys"),
        "How an instance is stopped.",
        "{ signal = \"SIGTERM\", timeout = \"30s\" }",
    ),
    key(
        "service.stop.signal",
        Shape::Choice(SIGNALS),
        Absent::Text("SIGTERM"),
        "Signal that asks it to end.",
        "\"SIGTERM\"",
    ),
    key(
        "service.stop.timeout",
        span(0, HOUR_MS),
        Absent::Text("30s"),
        "Time after the signal until all of its processes are killed.",
        "\"30s\"",
    ),
    key(
        "service.drain",
        span(0, HOUR_MS),
        Absent::Text("30s"),
        "Time requests in flight may take to finish before the signal is sent.",
        "\"30s\"",
    ),
    key("service.limits", Shape::Table, Nothing("no limits"), "Most it may use.", "{ memory = \"512M\" }"),
    later("service.limits.memory", Shape::Text("a size such as \"512M\""), "Memory of all its processes.", "\"512M\""),
    later("service.limits.cpu", Shape::Number, "Processor time, in cores.", "1.5"),
    later("service.limits.pids", Shape::Integer { min: 1, max: 4_194_304 }, "Processes and threads.", "512"),
    later("service.schedule", Shape::Text("a cron expression"), "When a `job` runs.", "\"*/5 * * * *\""),
];
