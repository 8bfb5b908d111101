//! Which room may import which. The table is the law; a new arrow is a commit of its own that argues why.

use super::source::{Finding, Source, Token};

/// The row of a file is the one with the longest `place` that its path starts with.
struct Row {
    place: &'static str,
    /// Rooms of the agent (`crate::<room>`), narrowed to a module by `room::module`. A room may always import itself.
    rooms: Rooms,
    /// Crates of this workspace.
    crates: &'static [&'static str],
}

enum Rooms {
    All,
    These(&'static [&'static str]),
}
use Rooms::{All, These};

const PROTOCOL: &str = "agentd_protocol";
const SYS: &str = "agentd_sys";
const DOCUMENT: &str = "agentd_document";
const GIT: &str = "agentd_git";
const LIFECYCLE: &str = "agentd_lifecycle";
const SQLITE: &str = "agentd_sqlite";
/// What `edge/client.rs` offers the manager, by the names the room re-exports it under: the rest of the room is the edge
/// process's own.
const RECONCILE: Rooms = These(&[
    "lifecycle",
    "store",
    "source",
    "supervisor",
    "edge::client",
    "edge::BackendKey",
    "edge::EdgeClient",
    "edge::EdgeProcess",
    "edge::EdgeView",
    "edge::Error",
    "edge::Idleness",
]);
const LEAF: Rooms = These(&["lifecycle"]);

const TABLE: &[Row] = &[
    Row { place: "protocol/", rooms: All, crates: &[PROTOCOL] },
    Row { place: "document/", rooms: All, crates: &[PROTOCOL, DOCUMENT] },
    Row { place: "sys/", rooms: All, crates: &[PROTOCOL, SYS] },
    Row { place: "git/", rooms: All, crates: &[PROTOCOL, SYS, GIT] },
    Row { place: "lifecycle/", rooms: All, crates: &[LIFECYCLE] },
    Row { place: "sqlite/", rooms: All, crates: &[PROTOCOL, SQLITE] },
    Row { place: "shim/", rooms: All, crates: &[PROTOCOL, SYS] },
    Row { place: "agentctl/", rooms: All, crates: &[PROTOCOL, DOCUMENT, SYS] },
    Row { place: "control/", rooms: All, crates: &[PROTOCOL, DOCUMENT, GIT, LIFECYCLE, SQLITE, SYS] },
    Row { place: "tests/", rooms: All, crates: &[PROTOCOL, SYS] },
    Row { place: "benches/", rooms: All, crates: &[PROTOCOL, SYS] },
    Row { place: "fuzz/", rooms: All, crates: &[PROTOCOL] },
    Row { place: "xtask/", rooms: All, crates: &[] },
    // The agent. What wires the rooms sees all of them.
    Row { place: "agent/src/main.rs", rooms: All, crates: &[PROTOCOL, SYS, DOCUMENT] },
    Row { place: "agent/src/app.rs", rooms: All, crates: &[PROTOCOL, SYS, DOCUMENT] },
    Row { place: "agent/src/app/", rooms: All, crates: &[PROTOCOL, SYS, DOCUMENT] },
    Row { place: "agent/src/lib.rs", rooms: All, crates: &[] },
    Row { place: "agent/tests/", rooms: All, crates: &[PROTOCOL, SYS, DOCUMENT] },
    Row { place: "agent/build.rs", rooms: These(&[]), crates: &[] },
    // Wiring that would make app.rs too long to read.
    Row {
        place: "agent/src/edge_launch",
        // A new edge takes over when the client hears that it routes.
        rooms: These(&["config", "supervisor", "edge::EdgeProcess", "edge::EdgeView"]),
        crates: &[PROTOCOL, SYS],
    },
    // The owner's word on documents: one file, read by whoever judges one and by whoever starts the firewall.
    Row {
        place: "agent/src/policy.rs",
        rooms: These(&["config", "firewall::DocumentMay", "firewall::OwnerRules"]),
        crates: &[PROTOCOL],
    },
    // Two verbs of a person's, which work without a manager.
    Row { place: "agent/src/join_cli.rs", rooms: These(&["config", "store", "sync"]), crates: &[PROTOCOL, SYS] },
    Row {
        place: "agent/src/firewall_launch.rs",
        rooms: These(&["app", "config", "firewall", "policy", "reconcile"]),
        crates: &[PROTOCOL, SYS],
    },
    // A room's verbs: one enum, one error.
    Row {
        place: "agent/src/firewall_cli.rs",
        rooms: These(&["firewall", "firewall_look", "firewall_preview"]),
        crates: &[PROTOCOL, SYS],
    },
    // What the manager would make of document and owner's settings, without it.
    Row {
        place: "agent/src/firewall_preview.rs",
        rooms: These(&["config", "firewall", "firewall_launch"]),
        crates: &[PROTOCOL, SYS, DOCUMENT],
    },
    Row { place: "agent/src/firewall_look.rs", rooms: These(&["firewall"]), crates: &[PROTOCOL, SYS] },
    Row {
        place: "agent/src/tunnel_launch.rs",
        rooms: These(&["lifecycle", "supervisor", "tunnel"]),
        crates: &[PROTOCOL, SYS],
    },
    Row {
        place: "agent/src/run_as.rs",
        rooms: These(&["config", "reconcile", "source::Ids", "store", "supervisor::Tmp"]),
        crates: &[PROTOCOL],
    },
    Row { place: "agent/src/logging.rs", rooms: These(&["app"]), crates: &[] },
    // The host's settings hold the credentials as source wants them, and the tunnel as its room does; a second type for
    // them would be a copy.
    Row {
        place: "agent/src/config.rs",
        rooms: These(&["source::Credential", "tunnel::Section", "tunnel::Tunnel"]),
        crates: &[PROTOCOL, SYS, DOCUMENT],
    },
    // Leaves.
    Row { place: "agent/src/lifecycle/", rooms: These(&[]), crates: &[LIFECYCLE] },
    Row { place: "agent/src/store/", rooms: LEAF, crates: &[PROTOCOL, SQLITE, SYS] },
    Row { place: "agent/src/source/", rooms: LEAF, crates: &[PROTOCOL, SYS, GIT] },
    Row { place: "agent/src/supervisor/", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    Row { place: "agent/src/proxy/", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    Row { place: "agent/src/static_site/", rooms: LEAF, crates: &[] },
    Row { place: "agent/src/dns/", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    Row { place: "agent/src/firewall/", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    // Not firewall, ever: a tunnel that is lost must not open the host.
    Row { place: "agent/src/tunnel/", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    // The edge process wires the data plane; the manager's side of it must not.
    Row { place: "agent/src/edge/", rooms: These(&["lifecycle", "proxy", "dns"]), crates: &[PROTOCOL, SYS] },
    Row { place: "agent/src/edge/client", rooms: LEAF, crates: &[PROTOCOL, SYS] },
    // Deciding and driving.
    Row {
        place: "agent/src/sync/",
        rooms: These(&["lifecycle", "store", "reconcile"]),
        crates: &[PROTOCOL, SYS, DOCUMENT],
    },
    Row { place: "agent/src/reconcile/", rooms: RECONCILE, crates: &[PROTOCOL, SYS] },
    Row { place: "agent/src/reconcile/plan", rooms: These(&[]), crates: &[PROTOCOL] },
    Row { place: "agent/src/api/", rooms: These(&["lifecycle", "reconcile", "firewall"]), crates: &[PROTOCOL, SYS] },
];

/// Libraries that one place alone may name, so that replacing them stays the work of one room.
const OWNED: &[(&str, &[&str])] = &[
    ("rusqlite", &["agent/src/store/", "control/src/store/", "control/tests/", "sqlite/", "tests/"]),
    ("pingora", &["agent/src/proxy/"]),
    ("hickory", &["agent/src/dns/wire.rs", "agentctl/", "tests/"]),
    ("tokio", &["agent/", "agentctl/", "benches/", "control/", "git/", "lifecycle/", "tests/"]),
    (
        "anyhow",
        &[
            "agent/src/main.rs",
            "agent/src/app.rs",
            "agent/src/app/",
            "agent/build.rs",
            "agentctl/",
            "benches/",
            "control/examples/",
            "tests/",
            "xtask/",
        ],
    ),
];

/// Names that would make the protocol touch the world: it has no clock, no socket, no file.
const IMPURE: &[&str] =
    &["SystemTime", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "OpenOptions"];
const IMPURE_PATHS: &[[&str; 2]] = &[["std", "fs"], ["std", "thread"], ["Instant", "now"], ["unix", "net"]];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let tokens = source.tokens();
    let mut findings = owned_libraries(source, &tokens);
    if source.path.starts_with("protocol/src/") {
        findings.extend(impurities(source, &tokens));
    }
    let Some(row) = row_of(&source.path) else {
        let cure = "add a row that says what it may import, in a commit that argues why";
        findings.push(source.finding(0, "no row in the table of arrows (xtask/src/tidy/arrows.rs)", cure));
        return findings;
    };
    findings.extend(wrong_crates(source, &tokens, row));
    if let (These(allowed), true) = (&row.rooms, source.path.starts_with("agent/src/")) {
        findings.extend(wrong_rooms(source, &tokens, allowed));
    }
    findings
}

fn row_of(path: &str) -> Option<&'static Row> {
    TABLE.iter().filter(|row| path.starts_with(row.place)).max_by_key(|row| row.place.len())
}

fn owned_libraries(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let owner = |name: &str| {
        OWNED.iter().find(|(library, _)| {
            name == *library || name.strip_prefix(library).is_some_and(|rest| rest.starts_with('_'))
        })
    };
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some((library, places)) = owner(token.text) else { continue };
        let is_path = tokens.get(index + 1).is_some_and(|next| matches!(next.text, ":" | ";" | "," | "}"))
            && index.checked_sub(1).is_none_or(|before| tokens[before].text != ".");
        if is_path && names_crate(tokens, index) && !places.iter().any(|place| source.path.starts_with(place)) {
            let cure = format!("only {} may; go through what it offers", places.join(", "));
            findings.push(source.finding(source.line_of(token.at), format!("names {library}"), cure));
        }
    }
    findings
}

/// Whether the word at `index` stands as the first part of a path, or alone in a `use`.
fn names_crate(tokens: &[Token<'_>], index: usize) -> bool {
    let follows = |offset: usize, text: &str| tokens.get(index + offset).is_some_and(|token| token.text == text);
    let after_use = index.checked_sub(1).is_some_and(|before| tokens[before].text == "use");
    after_use || (follows(1, ":") && follows(2, ":"))
}

fn impurities(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    const CURE: &str = "the protocol is pure: pass time as a number and bytes as a slice";
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let pair = |path: &[&str; 2]| {
            token.text == path[0]
                && tokens.get(index + 1).is_some_and(|next| next.text == ":")
                && tokens.get(index + 3).is_some_and(|next| next.text == path[1])
        };
        if IMPURE.contains(&token.text) {
            findings.push(source.finding(source.line_of(token.at), format!("names {}", token.text), CURE));
        } else if let Some(path) = IMPURE_PATHS.iter().find(|path| pair(path)) {
            findings.push(source.finding(source.line_of(token.at), format!("names {}", path.join("::")), CURE));
        }
    }
    findings
}

fn wrong_crates(source: &Source, tokens: &[Token<'_>], row: &Row) -> Vec<Finding> {
    let known = [PROTOCOL, SYS, DOCUMENT, GIT, "agentd", "agentd_shim", "agentd_tests", "agentctl"];
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        if !known.contains(&token.text) || !names_crate(tokens, index) || row.crates.contains(&token.text) {
            continue;
        }
        let own = source.path.starts_with("agent/") && token.text == "agentd";
        let own = own || (source.path.starts_with("tests/") && token.text == "agentd_tests");
        if !own {
            let cure = "hand over a protocol type, or argue for a new row in xtask/src/tidy/arrows.rs";
            findings.push(source.finding(
                source.line_of(token.at),
                format!("{} may not import {}", row.place, token.text),
                cure,
            ));
        }
    }
    findings
}

fn wrong_rooms(source: &Source, tokens: &[Token<'_>], allowed: &[&str]) -> Vec<Finding> {
    let own: Vec<String> = module_path(&source.path);
    let own_room = own.first().map_or("", String::as_str);
    let mut findings = Vec::new();
    for (at, path) in crate_paths(tokens, &own) {
        let Some(room) = path.first() else { continue };
        let covers = |target: &&str| path.starts_with(&parts(target));
        if *room == own_room || matches!(*room, "*" | "self") || allowed.iter().any(covers) {
            continue;
        }
        let may = if allowed.is_empty() { "no room".to_owned() } else { allowed.join(", ") };
        let cure = format!("it may import {may}; hand over a protocol type through app.rs, or argue for a new arrow");
        findings.push(source.finding(
            source.line_of(at),
            format!("wrong arrow: {own_room} -> {}", path.join("::")),
            cure,
        ));
    }
    findings
}

fn parts(target: &str) -> Vec<&str> {
    target.split("::").collect()
}

/// Module path of a file of the agent: `agent/src/a/b.rs` is `a::b`, `agent/src/a/mod.rs` is `a`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("agent/src/").unwrap_or(path);
    let inner = inner.strip_suffix("/mod.rs").or_else(|| inner.strip_suffix(".rs")).unwrap_or(inner);
    inner.split('/').map(str::to_owned).collect()
}

/// Every path from the crate's root that the code names, groups expanded to two parts, with where it stands.
fn crate_paths<'a>(tokens: &[Token<'a>], own: &[String]) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    // Brace depths at which an inline module was opened: `super` climbs out of those first.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        let word = |back: usize| index.checked_sub(back).map_or("", |before| tokens[before].text);
        match token.text {
            "{" => {
                depth += 1;
                if word(2) == "mod" {
                    inline.push(depth);
                }
            }
            "}" => {
                inline.retain(|opened| *opened < depth);
                depth = depth.saturating_sub(1);
            }
            "crate" | "agentd" if !(word(1) == ":" && word(2) == ":") => {
                expand(tokens, index + 1, &[], &mut found);
            }
            "super" if word(1) != ":" => {
                let supers = count_supers(tokens, index);
                if supers == own.len() + inline.len() {
                    expand(tokens, index + 3 * (supers - 1) + 1, &[], &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

fn count_supers(tokens: &[Token<'_>], from: usize) -> usize {
    let again = |count: usize| tokens.get(from + 3 * count).is_some_and(|token| token.text == "super");
    let linked = |count: usize| tokens.get(from + 3 * count - 1).is_some_and(|token| token.text == ":");
    let mut count = 1;
    while linked(count) && again(count) {
        count += 1;
    }
    count
}

/// Follows `::a`, `::{a, b::{c}}` from `at`, and records each path found after `prefix`.
fn expand<'a>(tokens: &[Token<'a>], at: usize, prefix: &[&'a str], found: &mut Vec<(usize, Vec<&'a str>)>) {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text);
    let place = tokens.get(at + 2).map_or(0, |token| token.at);
    if !(text(at) == ":" && text(at + 1) == ":") {
        if !prefix.is_empty() {
            found.push((tokens.get(at.saturating_sub(1)).map_or(0, |token| token.at), prefix.to_vec()));
        }
        return;
    }
    if text(at + 2) != "{" {
        let mut path = prefix.to_vec();
        path.push(text(at + 2));
        if path.len() == 2 {
            found.push((place, path));
        } else {
            expand(tokens, at + 3, &path, found);
        }
        return;
    }
    let mut depth = 0_usize;
    for index in at + 2..tokens.len() {
        match text(index) {
            "{" => depth += 1,
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            _ => {}
        }
        let opens_item = depth == 1 && matches!(text(index), "{" | ",");
        if opens_item && !matches!(text(index + 1), "}" | "") {
            let mut path = prefix.to_vec();
            path.push(text(index + 1));
            if path.len() == 2 {
                found.push((tokens[index + 1].at, path));
            } else {
                expand(tokens, index + 2, &path, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_leaf_imports_protocol_sys_and_lifecycle_alone() {
        let good = "use agentd_protocol::ids::Commit;\nuse agentd_sys::file;\nuse crate::lifecycle;\nuse crate::store::Error;\n";
        assert_eq!(whats("agent/src/store/rows.rs", good), [""; 0]);
        assert_eq!(
            whats("agent/src/store/rows.rs", "use crate::source::Release;\n"),
            ["wrong arrow: store -> source::Release"]
        );
        assert_eq!(whats("agent/src/source/a.rs", "fn f() { crate::app::g() }\n"), ["wrong arrow: source -> app::g"]);
        assert_eq!(
            whats("agent/src/source/a.rs", "use agentd_document::x;\n"),
            ["agent/src/source/ may not import agentd_document"]
        );
        assert_eq!(
            whats("agent/src/lifecycle/a.rs", "use agentd_protocol::x;\n"),
            ["agent/src/lifecycle/ may not import agentd_protocol"]
        );
    }

    #[test]
    fn groups_and_supers_are_followed() {
        let group = "use crate::{\n    lifecycle,\n    edge::{client::Handle, snapshot},\n};\n";
        assert_eq!(whats("agent/src/reconcile/apply.rs", group), ["wrong arrow: reconcile -> edge::snapshot"]);
        assert_eq!(
            whats("agent/src/api/a.rs", "use super::super::store::Store;\n"),
            ["wrong arrow: api -> store::Store"]
        );
        let tests =
            "mod tests {\n    use super::*;\n    use super::super::Error;\n    use super::super::super::edge::x;\n}\n";
        assert_eq!(whats("agent/src/api/a.rs", tests), ["wrong arrow: api -> edge::x"]);
        assert_eq!(
            whats(
                "agent/src/api/a.rs",
                "use super::Error;\npub(crate) struct A;\nfn f(a: &crate::reconcile::Handle) {}\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn the_plan_and_the_edges_client_are_stricter_than_their_rooms() {
        assert_eq!(
            whats("agent/src/reconcile/plan.rs", "use crate::store::Row;\n"),
            ["wrong arrow: reconcile -> store::Row"]
        );
        assert_eq!(
            whats("agent/src/reconcile/plan/tests.rs", "use agentd_sys::x;\n"),
            ["agent/src/reconcile/plan may not import agentd_sys"]
        );
        assert_eq!(whats("agent/src/edge/wire.rs", "use crate::proxy::Routes;\n"), [""; 0]);
        assert_eq!(
            whats("agent/src/edge/client.rs", "use crate::proxy::Routes;\n"),
            ["wrong arrow: edge -> proxy::Routes"]
        );
    }

    #[test]
    fn libraries_have_one_owner() {
        assert_eq!(whats("agent/src/store/a.rs", "use rusqlite::Connection;\n"), [""; 0]);
        assert_eq!(whats("agent/src/api/a.rs", "fn f(e: rusqlite::Error) {}\n"), ["names rusqlite"]);
        assert_eq!(whats("agent/src/edge/a.rs", "use pingora_core::server::Server;\n"), ["names pingora"]);
        assert_eq!(whats("agent/src/edge/a.rs", "let tokio = 1; // rusqlite::x\nlet s = \"pingora::x\";\n"), [""; 0]);
        assert_eq!(whats("agent/src/api/a.rs", "use anyhow::Result;\n"), ["names anyhow"]);
    }

    #[test]
    fn the_protocol_is_pure() {
        assert_eq!(whats("protocol/src/a.rs", "use std::net::SocketAddr;\nuse std::process::ExitCode;\n"), [""; 0]);
        assert_eq!(
            whats(
                "protocol/src/a.rs",
                "use std::time::SystemTime;\nuse std::net::TcpStream;\nuse std::fs;\nuse tokio::io;\n"
            ),
            ["names tokio", "names SystemTime", "names TcpStream", "names std::fs"]
        );
    }

    #[test]
    fn a_new_room_needs_a_row() {
        let found = whats("agent/src/telemetry/mod.rs", "");
        assert_eq!(found, ["no row in the table of arrows (xtask/src/tidy/arrows.rs)"]);
    }
}
