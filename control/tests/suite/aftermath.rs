//! What is told, and what holds, after a person or a kill came in between.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::server::{Host, Server, damage_journal, settled, slug};
use crate::visitor::Visitor;
use agentd_control::clock::now_unix_ms;
use agentd_protocol::control::report::Report;
use agentd_protocol::digest::Digest;
use reqwest::StatusCode;
use rusqlite::Connection;

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_held_does_not_outlive_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut host) = settled(dir.path()).await;
    let report = host.next_report(Vec::new());
    let held = host.send_report(&report, &[("prefer", "wait=50")]);
    let revoke = async {
        tokio::time::sleep(Duration::from_millis(1_000)).await; // poll: the report has to be held for some time first
        tokio::task::block_in_place(|| server.cli(&["host", "revoke", "web-1", "--reason", "stolen"]));
    };
    let ((status, body), ()) = tokio::join!(held, revoke);
    assert_eq!((status, slug(&body).as_str()), (StatusCode::FORBIDDEN, "host-revoked"));
}

#[tokio::test]
async fn a_damaged_journal_is_told_though_the_start_that_found_it_was_killed() {
    for stage in ["changed", "committed"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        server.stack("shop");
        let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
        let event = host.event("run.started", "x");
        host.report(vec![event]).await;
        assert!(server.stop());
        damage_journal(dir.path());
        let at = format!("{stage}:put the journal aside");
        assert!(Server::start_with(dir.path(), &[("CONTROLD_TEST_ABORT_AT", &at)]).is_none(), "{stage}");
        for told in [true, false] {
            let server = Server::start(dir.path());
            assert_eq!(server.log().contains("the journal was damaged"), told, "{stage}: {}", server.log());
            let audit = server.cli(&["audit"]);
            let rows = audit["rows"].as_array().unwrap();
            let alarms = rows.iter().filter(|row| row["action"] == "journal.damaged" && row["alarm"] == true);
            assert_eq!(alarms.count(), 1, "{stage}: {audit}");
            host.url.clone_from(&server.url);
            (host.stream, host.event_seq) = (format!("stream-{told}"), 0);
            let event = host.event("run.exited", "y");
            host.report(vec![event]).await;
            let newest = server.cli(&["events"])["newest"].as_u64().unwrap();
            assert!(newest > 1_700_000_000_000, "{stage}: {newest} may have been given before");
            assert!(server.stop());
        }
    }
}

/// As a person sees it, on both streams.
fn said(home: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_controld"));
    let output = command.arg("--home").arg(home).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn a_restore_says_whom_it_lets_in_again() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut kept = Host::join(&server, &server.join("shop"), "web-1").await;
    let mut sold = Host::join(&server, &server.join("shop"), "web-2").await;
    let gone = Host::join(&server, &server.join("shop"), "web-3").await;
    server.cli(&["host", "revoke", &gone.id, "--reason", "broken"]);
    let file = dir.path().join("monday.db");
    let name = file.to_str().unwrap();
    server.cli(&["backup", name]);
    server.cli(&["host", "revoke", &sold.id, "--reason", "sold"]);
    assert!(!said(dir.path(), &["stack", "list"]).contains("restored"));
    assert!(server.stop());

    std::fs::copy(dir.path().join("controld.key"), other.path().join("controld.key")).unwrap();
    for args in [&["restore", "--dry-run", name][..], &["restore", name]] {
        let text = said(other.path(), args);
        for part in ["Hosts revoked since", "revoke them anew", "web-1", "web-2", "shop", &kept.id, &sold.id] {
            assert!(text.contains(part), "{args:?}, {part}: {text}");
        }
        assert!(!text.contains("web-3"), "{text}");
    }
    let server = Server::start(other.path());
    (kept.url, sold.url) = (server.url.clone(), server.url.clone());
    kept.report(Vec::new()).await;
    sold.report(Vec::new()).await;
    assert!(said(other.path(), &["stack", "list"]).contains("restored"));
    let owner = Visitor::set_up(&server).await;
    for path in ["/", "/hosts", "/events"] {
        let page = owner.get(path).await.text().await.unwrap();
        assert!(page.contains("server-notice") && page.contains("revoke them anew"), "{path}: {page}");
    }
}

/// The audit is kept for ever, and two hosts with one key go on asking for ever.
#[tokio::test]
async fn a_conflict_that_goes_on_is_one_alarm_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    for (hours_ago, alarms) in [(0.0, 1), (0.5, 1), (23.0, 1), (25.0, 2)] {
        assert!(server.stop());
        let connection = Connection::open(dir.path().join("control.db")).unwrap();
        let ago_ms = hours_ago * 3_600_000.0;
        connection.execute("UPDATE hosts SET conflict_at = CAST(conflict_at - ?1 AS INTEGER)", [ago_ms]).unwrap();
        drop(connection);
        server = Server::start(dir.path());
        host.url.clone_from(&server.url);
        let other = Report { machine: Digest::of(b"another"), ..host.next_report(Vec::new()) };
        let begun = now_unix_ms();
        assert_eq!(host.send_report(&other, &[]).await.0, StatusCode::CONFLICT);
        let audit = server.cli(&["audit"]);
        let rows = audit["rows"].as_array().unwrap();
        assert_eq!(rows.iter().filter(|row| row["action"] == "host.conflict").count(), alarms, "{hours_ago}: {audit}");
        let connection = Connection::open(dir.path().join("control.db")).unwrap();
        let newest: i64 = connection.query_row("SELECT conflict_at FROM hosts", [], |row| row.get(0)).unwrap();
        assert!(u64::try_from(newest).unwrap() >= begun, "{hours_ago}");
    }
}
