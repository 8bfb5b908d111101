//! A small fleet as it looks on a bad day, for tests: every text that a host or a person can send goes through `say`.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::model::{
    AuditPage, Diff, Draft, EventRow, HostDetail, Preview, ServiceDetail, StackDetail, TokenRow, VersionDetail,
};

pub(crate) const NOW_MS: u64 = 1_788_264_000_000;
pub(crate) const STACK: &str = "stk_shopaaaa";

/// What a text of the sample becomes.
pub(crate) type Say = fn(&str) -> String;

pub(crate) fn plain(text: &str) -> String {
    text.to_owned()
}

/// What an attacker would put there instead.
pub(crate) fn hostile(_: &str) -> String {
    "\u{1b}[31m\"><script>alert('x')</script><img src=x onerror=alert(1)>'{{7*7}}\u{202e}&lt;b&gt; javascript:alert(1)"
        .to_owned()
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the sample fits the model")
}

fn ago(minutes: u64) -> u64 {
    NOW_MS - minutes * 60_000
}

const COMMIT_OLD: &str = "4f0c2d9be13ac29d0c1a7f53ee01ab6c2d8e9f10";
const COMMIT_NEW: &str = "b81e77a3c4d2f6e0918273645546372819aabbcc";

fn version_row(say: Say, number: u64, minutes: u64, by: &str, reason: &str, kind: Value) -> Value {
    json!({
        "number": number, "note": kind, "by": say(by), "reason": say(reason), "created_unix_ms": ago(minutes),
        "sha256": "ab".repeat(32), "summary": [say("api: main → b81e77a"), say("worker: replicas 1 → 2")],
    })
}

fn overview(say: Say) -> Value {
    json!({
        "id": STACK, "name": say("shop"), "environment": say("production"), "version": 58, "held": false,
        "created_unix_ms": ago(90_000), "last": version_row(say, 58, 7, "martha", "checkout: new payment provider", json!({"is": "deploy"})),
        "hosts": {"active": 4, "pending": 1, "revoked": 1, "applied": 2, "behind": 1, "degraded": 1, "silent": 1, "refused": 0},
        "health": "broken", "problem": say("api on web-2: not ready within 60 s, HTTP 500 from /healthz; release 11 serves on"),
        "fresh_until_unix_ms": NOW_MS + 80_000_000, "poll_interval_s": 15, "draft_differs": true, "ahead": null,
    })
}

fn host_row(say: Say, id: &str, name: &str, fields: Value) -> Value {
    let mut row = json!({
        "id": format!("hst_{id}"), "stack": STACK, "stack_name": say("shop"), "name": say(name),
        "labels": {say("role"): say("web")}, "standing": {"is": "active"},
        "presence": {"is": "reporting", "last_unix_ms": NOW_MS - 12_000}, "rollout": {"is": "applied"}, "seen": 58, "applied": 58,
        "verdict": "applied", "problem": null, "agent": say("0.1.0"), "security_mode": "tunnel", "exposure": "none",
        "services_ready": 4, "services": 4,
    });
    for (key, value) in fields.as_object().expect("fields are an object") {
        row[key] = value.clone();
    }
    row
}

fn host_rows(say: Say) -> Vec<Value> {
    vec![
        host_row(say, "web1aaaa", "web-1", json!({})),
        host_row(
            say,
            "web2aaaa",
            "web-2",
            json!({
                "rollout": {"is": "behind"}, "applied": 57, "verdict": "degraded", "services_ready": 3,
                "problem": say("api: not ready within 60 s, HTTP 500 from /healthz"),
            }),
        ),
        host_row(
            say,
            "web3aaaa",
            "web-3",
            json!({
                "presence": {"is": "silent", "since_unix_ms": ago(46)}, "rollout": {"is": "behind"}, "seen": 57, "applied": 57,
            }),
        ),
        host_row(say, "edge1aaa", "edge-1", json!({"security_mode": "daemon-port", "exposure": "daemon-port"})),
        host_row(
            say,
            "new1aaaa",
            "web-4",
            json!({
                "standing": {"is": "pending", "code": say("WXQR-4821")}, "presence": {"is": "never-reported"},
                "rollout": {"is": "nothing-published"}, "seen": 0, "applied": 0, "verdict": null,
            }),
        ),
        host_row(
            say,
            "old1aaaa",
            "old-1",
            json!({
                "standing": {"is": "revoked", "at_unix_ms": ago(9_000), "reason": say("sold")},
                "presence": {"is": "silent", "since_unix_ms": ago(9_100)}, "rollout": {"is": "behind"}, "applied": 31, "seen": 31,
            }),
        ),
    ]
}

fn service_report(say: Say, name: &str, fields: Value) -> Value {
    let mut report = json!({
        "name": name, "state": "ready", "release": 12, "commit": COMMIT_NEW, "pinned": null, "ready": 2, "wanted": 2,
        "restarts": 0, "since_unix_ms": ago(6), "url": say("https://shop.example.com/api"), "cpu_millicores": 140,
        "memory_bytes": 187_000_000_u64, "last_error": null, "last_error_unix_ms": null, "warnings": [],
    });
    for (key, value) in fields.as_object().expect("fields are an object") {
        report[key] = value.clone();
    }
    report
}

fn broken_api(say: Say) -> Value {
    service_report(
        say,
        "api",
        json!({
            "state": "partial", "release": 11, "commit": COMMIT_OLD, "ready": 1, "restarts": 4, "since_unix_ms": ago(5),
            "last_error": say("not ready within 60 s: HTTP 500 from /healthz"), "last_error_unix_ms": ago(5),
            "warnings": [say("run.public-bind: listens on 0.0.0.0:3000")],
        }),
    )
}

fn cells(say: Say, name: &str) -> Vec<Value> {
    let report = |fields: Value| service_report(say, name, fields);
    let cell = |id: &str, host: &str, silent: bool, report: Value| json!({"host": format!("hst_{id}"), "host_name": say(host), "silent": silent, "report": report});
    vec![
        cell("web1aaaa", "web-1", false, report(json!({}))),
        cell("web2aaaa", "web-2", false, if name == "api" { broken_api(say) } else { report(json!({})) }),
        cell(
            "web3aaaa",
            "web-3",
            true,
            report(json!({"release": 11, "commit": COMMIT_OLD, "since_unix_ms": ago(4_000)})),
        ),
        cell("edge1aaa", "edge-1", false, report(json!({"restarts": 1}))),
    ]
}

fn published(say: Say, name: &str) -> Value {
    json!({"name": name, "repo": say(&format!("https://git.example.com/shop/{name}")), "from": say("main"), "commit": COMMIT_NEW})
}

fn service_row(say: Say, name: &str) -> Value {
    json!({"name": name, "published": published(say, name), "cells": cells(say, name)})
}

pub(crate) fn stack(say: Say) -> StackDetail {
    let services: Vec<Value> = ["web", "api", "worker", "docs"].iter().map(|name| service_row(say, name)).collect();
    read(json!({"overview": overview(say), "hosts": host_rows(say), "services": services}))
}

pub(crate) fn service(say: Say) -> ServiceDetail {
    let history = vec![
        version_row(say, 58, 7, "martha", "checkout: new payment provider", json!({"is": "deploy"})),
        version_row(say, 55, 3_000, "bob", "back out of the new search", json!({"is": "rollback", "of": 53})),
    ];
    let env = [say("DATABASE_URL"), say("LOG_LEVEL"), say("PAYMENT_KEY")];
    read(json!({"row": service_row(say, "api"), "env": env, "history": history}))
}

fn problem(say: Say) -> Value {
    let probe = |seconds: u64, outcome: Value| json!({"at_unix_ms": NOW_MS - 300_000 + seconds * 1_000, "latency_ms": 14, "outcome": outcome});
    json!({
        "service": "api", "phase": "health", "cause": say("not ready within 60 s: HTTP 500 from /healthz"), "commit": COMMIT_NEW,
        "release": 12, "since_unix_ms": ago(5),
        "probes": [
            probe(1, json!("refused")),
            probe(2, json!({"status": {"status": 500}})),
            probe(3, json!({"failed": {"error": say("connection reset by peer")}})),
        ],
        "log_tail": [
            say("2026-09-01T11:55:01Z listening on 127.0.0.1:20143"),
            say("Error: connect ECONNREFUSED 10.0.0.7:5432"),
            say("    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1555:16)"),
            say("GET /healthz 500 3.1 ms"),
        ],
        "why": {
            "exit": {"not-executed": {"error": say("no such file")}},
            "meaning": say("the program runs, but cannot reach its database at 10.0.0.7:5432"),
            "key_lines": [say("Error: connect ECONNREFUSED 10.0.0.7:5432")],
            "changes": {
                "since": 11, "from": COMMIT_OLD, "to": COMMIT_NEW, "commits": [say("b81e77a use the new payment provider"), say("90cc1d2 move database settings")],
                "more_commits": false, "keys": [say("health.path")], "env_added": [say("PAYMENT_KEY")], "env_removed": [], "env_changed": [say("DATABASE_URL")],
            },
            "next": [say("agentctl logs api --since 10m")],
        },
    })
}

fn snapshot(say: Say) -> Value {
    json!({
        "host": {
            "agent": say("0.1.0"), "os": say("debian 13"), "arch": say("x86_64"), "agent_started_unix_ms": ago(10_000),
            "security": {"mode": "tunnel", "exposure": "none", "enforcement": say("nftables"), "is_kept": false, "notice": say("a trial of tunnel ends in 40 s")},
            "tunnel": {"state": "degraded", "since_unix_ms": ago(80), "connections": 2, "managed": true, "metrics": "127.0.0.1:20241", "cause": say("one connection keeps being lost"), "config_drift": say("api.example.com leads elsewhere")},
            "dns": {"address": "127.0.0.153:53", "suffix": say("svc.internal")},
            "usage": {"cpus": 4, "load_1m_milli": 1_310, "load_5m_milli": 900, "load_15m_milli": 720, "memory_total_bytes": 8_200_000_000_u64, "memory_available_bytes": 3_100_000_000_u64, "disk_total_bytes": 40_000_000_000_u64, "disk_free_bytes": 2_900_000_000_u64},
            "limitations": [say("no cgroup v2: limits are not enforced")],
            "refused": null, "clock_skew_ms": -95_000,
        },
        "stack": {"name": "shop", "verdict": "degraded", "since_unix_ms": ago(5), "version": 58, "applied_version": 57, "file_problem": say("the document cannot be used"), "problems": [problem(say)]},
        "services": [broken_api(say), service_report(say, "web", json!({}))],
        "outbox": {"records": 3, "bytes": 900, "lost": 12},
    })
}

pub(crate) fn host(say: Say) -> HostDetail {
    let mut row = host_rows(say).remove(1);
    row["rollout"] = json!({"is": "refused", "refusal": {"version": 58, "kind": say("config.rejected"), "reasons": [say("git host git.evil.example is not allowed by policy.toml")], "since_unix_ms": ago(5)}});
    read(json!({
        "row": row, "os": say("debian 13"), "arch": say("x86_64"), "enrolled_unix_ms": ago(80_000), "approved_by": say("martha"),
        "token": "adt_k7f3q2aa", "key_id": say("ed25519:k7f3…"), "snapshot": snapshot(say), "snapshot_unix_ms": NOW_MS - 12_000, "conflict_unix_ms": ago(3),
    }))
}

pub(crate) fn events(say: Say) -> Vec<EventRow> {
    let event = |id: u64, host: &str, seconds: u64, kind: &str, severity: &str, service: Value, text: &str| {
        json!({
            "id": id, "stack": STACK, "host": host, "host_name": say("web-2"), "received_unix_ms": NOW_MS,
            "event": {"eid": "0198aaaa-0000-7000-8000-000000000000", "seq": id, "at_unix_ms": NOW_MS - seconds * 1_000, "kind": say(kind), "severity": severity,
                      "service": service, "release": 12, "suppressed": 2, "data": {say("key"): say("value")}, "text": say(text)},
        })
    };
    vec![
        read(event(
            9,
            "hst_web2aaaa",
            300,
            "config.degraded",
            "error",
            Value::Null,
            "version 58 is degraded: api is not ready",
        )),
        read(event(
            8,
            "hst_web2aaaa",
            301,
            "deploy.failed",
            "error",
            json!("api"),
            "deploy failed in health after 60.0 s: HTTP 500 from /healthz; release 11 serves on",
        )),
        read(event(7, "hst_web1aaaa", 371, "config.applied", "info", Value::Null, "version 58 is applied")),
        read(event(
            6,
            "hst_web1aaaa",
            380,
            "deploy.done",
            "info",
            json!("api"),
            "deployed in 4.1 s, instead of release 11",
        )),
        read(event(
            5,
            "hst_web2aaaa",
            420,
            "crash.exited",
            "warn",
            json!("worker"),
            "crashed after 3 min 2 s: exit code 1; starts again at once",
        )),
    ]
}

pub(crate) fn draft(say: Say) -> Draft {
    read(json!({
        "stack": STACK, "revision": 31, "format": "toml", "by": say("martha"), "saved_unix_ms": ago(2),
        "text": format!("# {}\nschema = 1\n[stack]\nname = \"shop\"\n", say("the shop")),
        "problems": [{"line": 1, "column": 1, "pointer": "/service/0/health/pth", "key": say("service.health.pth"), "text": say("unknown key"), "nearest": say("path")}],
        "diff": null,
    }))
}

pub(crate) fn diff(say: Say) -> Diff {
    read(json!({
        "stack": [{"key": say("stack.poll_interval"), "from": say("15s"), "to": say("30s")}],
        "services": [{"name": "api", "change": "changed", "keys": [{"key": say("commit"), "from": say("4f0c2d9"), "to": say("b81e77a")}, {"key": say("replicas"), "from": null, "to": say("2")}],
                      "env": [{"name": say("PAYMENT_KEY"), "change": "added"}]}],
    }))
}

pub(crate) fn version(say: Say) -> VersionDetail {
    read(json!({
        "row": version_row(say, 58, 7, "martha", "checkout: new payment provider", json!({"is": "deploy"})),
        "services": [published(say, "api")], "document": {"stack": {"name": say("shop")}}, "hosts": host_rows(say),
    }))
}

pub(crate) fn tokens(say: Say) -> Vec<TokenRow> {
    let token = |id: &str, state: Value| json!({"id": id, "stack": STACK, "note": say("rack 3"), "labels": {say("role"): say("web")}, "approval": "person", "state": state, "by": say("martha"), "created_unix_ms": ago(10), "expires_unix_ms": NOW_MS + 3_000_000});
    vec![
        read(token("adt_openaaaa", json!({"is": "open"}))),
        read(token("adt_usedaaaa", json!({"is": "used", "by": "hst_web2aaaa", "at_unix_ms": ago(9)}))),
    ]
}

pub(crate) fn audit(say: Say) -> AuditPage {
    read(json!({
        "rows": [
            {"id": 2, "at_unix_ms": ago(3), "actor": say("user martha"), "action": say("token.used-twice"), "target": say("adt_usedaaaa"), "detail": {say("from"): say("192.0.2.7")}, "alarm": true},
            {"id": 1, "at_unix_ms": ago(7), "actor": say("user martha"), "action": say("version.publish"), "target": say("shop"), "detail": say("58"), "alarm": false},
        ],
        "more": true,
    }))
}

pub(crate) fn preview(say: Say) -> Preview {
    let follows = |service: &str, now: Value| json!({"service": service, "repo": say("https://git.example.com/a"), "reference": say("main"), "published": COMMIT_OLD, "now": now});
    read(json!({
        "follows": [
            follows("api", json!({"is": "commit", "commit": COMMIT_NEW})),
            follows("web", json!({"is": "commit", "commit": COMMIT_OLD})),
            follows("worker", json!({"is": "unknown", "why": say("no answer within 4 s")})),
        ],
        "diff": diff(say),
    }))
}
