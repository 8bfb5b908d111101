//! What one host, one stranger, one file may cost the others.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::server::{CAP, Host, Server, cli, damage_journal, document, problem, settle, slug};
use crate::visitor::Visitor;
use agentd_protocol::control::{BOOT_MAX, BOOT_PLAUSIBLE_MAX};
use reqwest::StatusCode;
use rusqlite::{Connection, OpenFlags};

#[tokio::test]
async fn a_host_that_floods_is_slowed_and_others_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut flood = Host::join(&server, &server.join("shop"), "web-1").await;
    let mut calm = Host::join(&server, &server.join("shop"), "web-2").await;
    let mut refused = None;
    let mut taken = 0;
    while refused.is_none() && taken < 20_000 {
        // Many at once, as a flood is: what comes out of order is no fault of its own.
        let reports: Vec<_> = (0..32).map(|_| flood.next_report(Vec::new())).collect();
        let answers = futures_util::future::join_all(reports.iter().map(|report| flood.send_report(report, &[]))).await;
        let answered = answers.into_iter().find(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS);
        refused = answered.map(|(_, body)| slug(&body));
        taken += reports.len();
    }
    assert_eq!(refused.as_deref(), Some("rate-limited"), "at last it is too many");
    assert!(taken >= 600, "{taken}");
    (flood.boot, flood.seq) = (2, 0);
    let report = flood.next_report(Vec::new());
    calm.report(Vec::new()).await;
    // And it is heard itself, when it is calm again.
    let end = Instant::now() + CAP;
    while flood.send_report(&report, &[]).await.0 != StatusCode::OK {
        assert!(Instant::now() < end, "it is heard again");
        tokio::time::sleep(Duration::from_millis(300)).await; // poll: the bucket fills
    }
}

/// Somebody with a copied key counts as far as he is let, again and again; the host itself is heard at its next try.
#[tokio::test]
async fn numbers_that_a_thief_pushed_up_do_not_shut_the_host_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    host.report(Vec::new()).await;
    let mut report = host.next_report(Vec::new());
    let mut pushed = 0;
    for boot in [u64::MAX, 1 << 63, (1 << 63) - 1, BOOT_MAX, 1 << 33, BOOT_PLAUSIBLE_MAX, BOOT_PLAUSIBLE_MAX + 1] {
        for seq in [(1 << 63) - 1, u64::MAX] {
            (report.boot, report.seq, report.rid) = (boot, seq, format!("{boot}-{seq}"));
            let (status, body) = host.send_report(&report, &[]).await;
            match status {
                StatusCode::OK => {
                    assert!(boot <= BOOT_PLAUSIBLE_MAX + 1, "{boot}");
                    pushed = boot;
                }
                StatusCode::BAD_REQUEST => assert_eq!(slug(&body), "bad-request"),
                // Beyond what can be: told what is known, and not counted as a host that went back in time.
                _ => assert_eq!(
                    (slug(&body).as_str(), &problem(&body)["boot"]),
                    ("state-regressed", &pushed.max(1).into())
                ),
            }
        }
    }
    assert_eq!(pushed, BOOT_PLAUSIBLE_MAX + 1);
    let own = host.next_report(Vec::new());
    let (status, body) = host.send_report(&own, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::CONFLICT, "state-regressed"));
    (host.boot, host.seq) = (problem(&body)["boot"].as_u64().unwrap() + 1, 0);
    host.report(Vec::new()).await;
    // So it is after a restart of the server.
    until_noted(dir.path(), 1).await;
    assert!(server.stop());
    let server = Server::start(dir.path());
    host.url = server.url.clone();
    host.report(Vec::new()).await;
}

#[tokio::test]
async fn long_texts_are_cut_and_pages_are_short() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let long = host.event("run.started", &"é".repeat(50_000));
    host.report(vec![long]).await;
    let page = server.cli(&["events", "--limit", "10"]);
    let text = page["events"][0]["event"]["text"].as_str().unwrap_or_else(|| panic!("{page}"));
    assert!(text.len() <= 4_096 && text.contains("[cut off: "), "{} {text:.80}", text.len());
    for _ in 0..3 {
        let events = (0..500).map(|_| host.event("run.started", "x")).collect();
        host.report(events).await;
    }
    let page = server.cli(&["events", "--limit", "1000000"]);
    assert_eq!((page["events"].as_array().unwrap().len(), &page["more"]), (1_000, &true.into()));
}

/// Bytes of a database and of its log.
fn bytes(home: &Path, file: &str) -> u64 {
    let size = |ending: &str| std::fs::metadata(home.join(format!("{file}{ending}"))).map_or(0, |facts| facts.len());
    size("") + size("-wal")
}

/// Waits until the database knows that a host has reported that often.
async fn until_noted(home: &Path, seq: u64) {
    let end = Instant::now() + CAP;
    loop {
        let connection =
            Connection::open_with_flags(home.join("journal.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let noted: i64 = connection.query_row("SELECT coalesce(max(seq), 0) FROM live", [], |row| row.get(0)).unwrap();
        if u64::try_from(noted).unwrap() >= seq {
            return;
        }
        assert!(Instant::now() < end, "{noted} of {seq}");
        tokio::time::sleep(Duration::from_millis(50)).await; // poll: what is noted every few seconds
    }
}

#[tokio::test]
async fn a_report_without_news_is_noted_with_others_and_not_by_itself() {
    /// A row of a few hundred bytes is a page, and with it its frame's head.
    const PAGE: u64 = 4_096 + 24;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let event = host.event("run.started", "x");
    host.report(vec![event]).await;
    host.report(Vec::new()).await;
    until_noted(dir.path(), 2).await;
    let (control, journal, begun) = (bytes(dir.path(), "control.db"), bytes(dir.path(), "journal.db"), Instant::now());
    for turn in 0..60 {
        let mut report = host.next_report(Vec::new());
        // The whole snapshot comes now and then, and is the same.
        report.snapshot = report.snapshot.filter(|_| turn % 10 == 0);
        assert_eq!(host.send_report(&report, &[]).await.0, StatusCode::OK);
    }
    until_noted(dir.path(), 62).await;
    let turns = begun.elapsed().as_secs() / 5 + 2;
    assert_eq!(bytes(dir.path(), "control.db"), control, "what is precious is not touched");
    let grown = bytes(dir.path(), "journal.db") - journal;
    assert!(grown <= turns * 2 * PAGE, "{grown} bytes in {turns} turns for 60 reports");
    assert!(grown < 60 * PAGE, "not a page for each");
}

#[tokio::test]
async fn a_damaged_journal_stops_nobody_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    server.publish("shop", &document(&[("api", '1', "")]));
    let events = (0..5).map(|_| host.event("run.started", "x")).collect();
    host.report(events).await;
    let newest = server.cli(&["events"])["newest"].as_u64().unwrap();
    assert!(server.stop());
    let file = damage_journal(dir.path());

    let server = Server::start(dir.path());
    host.url.clone_from(&server.url);
    assert!(server.log().contains("the journal was damaged"), "{}", server.log());
    let kept: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("journal.db.damaged-"))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(std::fs::read(dir.path().join(&kept[0])).unwrap(), file, "kept as it was");
    let audit = server.cli(&["audit"]);
    let is_alarm = |row: &&serde_json::Value| row["action"] == "journal.damaged" && row["alarm"] == true;
    assert_eq!(audit["rows"].as_array().unwrap().iter().filter(is_alarm).count(), 1, "{audit}");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_controld"));
    let said = { output }.arg("--home").arg(dir.path()).args(["stack", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains(&kept[0]), "{said:?}");
    let owner = Visitor::set_up(&server).await;
    for path in ["/", "/hosts", "/events"] {
        let page = owner.get(path).await.text().await.unwrap();
        assert!(page.contains("server-notice") && page.contains(&kept[0]), "{path}: {page}");
    }
    // The hole is seen by the host, and what follows arrives, above all that was ever numbered.
    let event = host.event("run.exited", "y");
    let report = host.next_report(vec![event]);
    let (status, body) = host.send_report(&report, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::CONFLICT, "outbox-gap"));
    (host.stream, host.event_seq) = ("stream2".into(), 0);
    let event = host.event("run.exited", "y");
    host.report(vec![event]).await;
    assert!(server.cli(&["events"])["newest"].as_u64().unwrap() > newest);
    host.update().await;
    assert!(server.stop());
    let server = Server::start(dir.path());
    assert!(!server.log().contains("the journal was damaged"), "once is enough");
}

#[test]
fn a_damaged_database_stops_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    assert!(server.stop());
    let path = dir.path().join("control.db");
    settle(&path);
    let whole = std::fs::read(&path).unwrap();
    let mut header = whole.clone();
    header[16..100].fill(0xff);
    let mut page = whole.clone();
    page.chunks_mut(4_096).skip(1).for_each(|page| page[..512].fill(0xa5));
    for (name, bytes) in [("header", header), ("page", page), ("half", whole[..whole.len() / 2].to_vec())] {
        std::fs::write(&path, &bytes).unwrap();
        let (code, text) = cli(dir.path(), &["serve", "--listen", "127.0.0.1:0"], "");
        assert!(code > 0 && text.contains("controld restore"), "{name}: {code} {text}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}: it is left as it is");
    }
}
