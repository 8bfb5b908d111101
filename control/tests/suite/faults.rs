//! What goes wrong: replays, races, kills, full disks, old databases, wrong clocks, oversize, and secrets that leak.

use std::collections::BTreeSet;
use std::path::Path;

use crate::server::{Host, Server, Signed, cli, document, enroll, problem, send, settled, slug};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::request::{HOST_LABEL, Signer};
use agentd_protocol::control::trust::Decision;
use reqwest::{Method, StatusCode};
use rusqlite::types::Value as Column;
use rusqlite::{Connection, OpenFlags};

/// Every row of every table of both files.
pub(crate) fn dump(home: &Path) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for file in ["control.db", "journal.db"] {
        let connection = Connection::open_with_flags(home.join(file), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let mut tables = connection.prepare(sql).unwrap();
        let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for name in names {
            let mut select = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = select.column_count();
            let mut found = select.query([]).unwrap();
            while let Some(row) = found.next().unwrap() {
                let cells: Vec<Column> = (0..columns).map(|column| row.get(column).unwrap()).collect();
                rows.insert(format!("{name} {cells:?}"));
            }
        }
    }
    rows
}

#[tokio::test]
async fn repeated_and_reordered_requests_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let join = server.join("shop");
    let mut host = Host::join(&server, &join, "web-1").await;
    let mut reports = Vec::new();
    for number in 0..8 {
        let events = vec![host.event("run.started", "one"), host.event("run.exited", "two")];
        let report = host.next_report(if number % 3 == 0 { Vec::new() } else { events.clone() });
        if number % 3 == 0 {
            host.event_seq -= 2;
        }
        let (status, body) = host.send_report(&report, &[]).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        reports.push(report);
    }
    assert!(server.stop());
    let before = dump(dir.path());
    assert_eq!(before.iter().filter(|row| row.starts_with("events ")).count(), 10);
    let server = Server::start(dir.path());
    host.url.clone_from(&server.url);
    // Three times over, in an order that a fixed step makes look like none.
    let order: Vec<usize> = (0..24).map(|step| (step * 7 + 5) % 24 % reports.len()).collect();
    let read = JoinString::read(&join).unwrap();
    for (turn, index) in order.into_iter().enumerate() {
        let (status, body) = host.send_report(&reports[index], &[]).await;
        let is_last = index + 1 == reports.len();
        assert_eq!(status.is_success(), is_last, "{index}: {}", String::from_utf8_lossy(&body));
        if turn >= 12 {
            // More often a token is not taken at once.
            continue;
        }
        let (status, _) = enroll(&server.url, &read, &host.key, "web-1").await;
        assert_eq!(status, StatusCode::OK);
    }
    assert!(server.stop());
    let after = dump(dir.path());
    // What is new is that somebody was told of a conflict; nothing that was there has changed.
    let is_alarm = |row: &&String| row.starts_with("audit ") && row.contains("host.conflict");
    // A server without an account makes a new link at every start.
    let is_link = |row: &&String| row.starts_with("entry_links ") || row.contains("user.link");
    let marked = |row: &&String| row.starts_with("hosts ") || is_link(row);
    let new: Vec<&String> = after.difference(&before).filter(|row| !is_alarm(row) && !marked(row)).collect();
    let gone: Vec<&String> = before.difference(&after).filter(|row| !marked(row)).collect();
    assert!(new.is_empty() && gone.is_empty(), "new {new:?}, gone {gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_with_one_token_one_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let join = JoinString::read(&server.join("shop")).unwrap();
    let tries = (0..100_u8).map(|number| {
        let (join, url) = (&join, &server.url);
        async move { enroll(url, join, &SecretKey::from_seed(&[number + 1; 32]), &format!("host-{number}")).await }
    });
    let answers = futures_util::future::join_all(tries).await;
    let won = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    let used =
        answers.iter().filter(|(status, body)| *status == StatusCode::GONE && slug(body) == "token-used").count();
    let slowed = answers.iter().filter(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!((won, used + slowed), (1, 99));
    assert!(used > 0 && slowed > 0, "{used} were told that it was used, {slowed} were told to wait");
    // The alarm is written at once, and once: the rest is a number, written at the hour's or the server's end.
    let alarms = |server: &Server| {
        let audit = server.cli(&["audit", "--limit", "500"]);
        let rows = audit["rows"].as_array().unwrap().clone();
        let alarms = rows.into_iter().filter(|row| row["action"] == "token.used-twice" && row["alarm"] == true);
        alarms.map(|row| row["detail"]["count"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(alarms(&server), [None]);
    assert_eq!(server.cli(&["host", "list"]).as_array().unwrap().len(), 1);
    assert!(server.stop());
    let server = Server::start(dir.path());
    assert_eq!(alarms(&server), [u64::try_from(used).ok().filter(|used| *used > 1), None]);
}

/// Each operation that a person or a host waits for, killed in the middle of its transaction and right after it: what
/// was there is there, and what was asked for is there whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_commit_the_old_or_the_new_stands() {
    for stage in ["changed", "committed"] {
        for operation in ["save a draft", "publish a version", "create a token", "create a stack"] {
            let dir = tempfile::tempdir().unwrap();
            let server = Server::start(dir.path());
            server.stack("shop");
            let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
            server.publish("shop", &document(&[("api", '1', "KEY = \"one\"")]));
            let first = host.update().await;
            assert!(server.stop());
            let at = format!("{stage}:{operation}");
            let server = Server::start_with(dir.path(), &[("CONTROLD_TEST_ABORT_AT", &at)]).unwrap();
            let text = document(&[("api", '2', "KEY = \"two\"")]);
            let asks: [(&[&str], &str); 4] = [
                (&["stack", "create", "other"], ""),
                (&["token", "create", "shop"], ""),
                (&["stack", "draft", "shop", "-"], &text),
                (&["stack", "publish", "shop"], ""),
            ];
            let died = asks.iter().any(|(args, input)| server.try_cli(args, input).0 != 0);
            assert!(died, "{at}");
            server.ended();
            let server = Server::start(dir.path());
            host.url.clone_from(&server.url);
            let is_new = stage == "committed" && operation == "publish a version";
            match host.head().await {
                Decision::Current { .. } => assert!(!is_new, "{at}"),
                Decision::Newer { .. } => {
                    assert!(is_new, "{at}");
                    assert_ne!(host.update().await, first);
                }
                Decision::Held { .. } => panic!("{at}"),
            }
            let stacks = server.cli(&["stack", "list"]).as_array().unwrap().len();
            assert_eq!(stacks, if at == "changed:create a stack" { 1 } else { 2 }, "{at}");
            // And it goes on.
            let number = server.publish("shop", &text);
            assert_eq!(number, if is_new { 3 } else { 2 }, "{at}");
            host.update().await;
        }
    }
}

#[tokio::test]
async fn a_killed_server_has_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let events = (0..50).map(|_| host.event("run.started", "x")).collect();
    host.report(events).await;
    server.kill();
    let server = Server::start_with(dir.path(), &[("CONTROLD_TEST_ABORT_AT", "changed:take a report in")]).unwrap();
    host.url.clone_from(&server.url);
    assert_eq!(server.cli(&["events", "--limit", "500"])["events"].as_array().unwrap().len(), 50);
    let event = host.event("run.exited", "y");
    let report = host.next_report(vec![event]);
    let body = serde_json::to_vec(&report).unwrap();
    let signed = Signed { method: Method::POST, path: "/v1/report", body, later_s: 0 };
    let signers = [Signer { label: HOST_LABEL, keyid: &host.id, key: &host.key }];
    let (http, url) = (host.http.clone(), host.url.clone());
    let answer =
        tokio::time::timeout(crate::server::CAP, crate::server::try_send(&http, &url, signed, &signers)).await.unwrap();
    assert!(answer.is_none(), "the server died before it answered");
    server.ended();
    let server = Server::start(dir.path());
    host.url.clone_from(&server.url);
    assert_eq!(server.cli(&["events", "--limit", "500"])["events"].as_array().unwrap().len(), 50);
    // The host sends it once more, and it arrives once.
    assert_eq!(host.send_report(&report, &[]).await.0, StatusCode::OK);
    assert_eq!(host.send_report(&report, &[]).await.0, StatusCode::OK);
    assert_eq!(server.cli(&["events", "--limit", "500"])["events"].as_array().unwrap().len(), 51);
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut host) = settled(dir.path()).await;
    assert!(server.stop());
    let server = Server::start_with(dir.path(), &[("CONTROLD_TEST_PAGES_MAX", "1")]).unwrap();
    host.url.clone_from(&server.url);
    let events = (0..200).map(|_| host.event("run.started", &"x".repeat(500))).collect();
    let report = host.next_report(events);
    let (status, body) = host.send_report(&report, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::INSUFFICIENT_STORAGE, "disk-full"));
    let big = format!("# {}\n{}", "x".repeat(200_000), document(&[("api", '2', "")]));
    let (code, text) = server.try_cli(&["stack", "draft", "shop", "-"], &big);
    assert!(code == 1 && text.contains("the server's disk is full"), "{code} {text}");
    // Hosts still get what was published.
    assert!(matches!(host.head().await, Decision::Current { .. }));
    assert!(server.stop());
    let server = Server::start(dir.path());
    host.url.clone_from(&server.url);
    assert_eq!(host.send_report(&report, &[]).await.0, StatusCode::OK);
    assert_eq!(server.cli(&["events", "--limit", "500"])["events"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn a_restored_database_counts_over_what_hosts_have_seen() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path());
    server.stack("shop");
    let open = server.join("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    server.publish("shop", &document(&[("api", '1', "")]));
    let file = dir.path().join("monday.db");
    let made = server.cli(&["backup", file.to_str().unwrap()]);
    assert_eq!(made["contents"]["key_fits"], true);
    for commit in ['2', '3', '4'] {
        server.publish("shop", &document(&[("api", commit, "")]));
    }
    host.update().await;
    let mut late = Host::join(&server, &server.join("shop"), "web-2").await;
    assert!(server.stop());

    let name = file.to_str().unwrap();
    let key = dir.path().join("controld.key");
    let (code, text) = cli(other.path(), &["restore", "--dry-run", name, "--key-file", key.to_str().unwrap()], "");
    let shown = problem(text.as_bytes());
    assert_eq!((code, &shown["stacks"][0]["version"], &shown["tokens_open"]), (0, &1.into(), &1.into()), "{text}");
    std::fs::copy(&key, other.path().join("controld.key")).unwrap();
    let (code, text) = cli(other.path(), &["restore", name], "");
    assert_eq!(code, 0, "{text}");
    let server = Server::start(other.path());
    host.url.clone_from(&server.url);
    late.url.clone_from(&server.url);
    host.report(Vec::new()).await;
    assert_eq!(server.cli(&["stack", "list"])[0]["ahead"], 4);
    assert_eq!(server.publish("shop", &document(&[("api", '5', "")])), 5);
    host.update().await;
    assert_eq!(host.seen().0, 5);
    // Tokens are ended; a host that the backup does not know waits for a person.
    let read = JoinString::read(&open).unwrap();
    let (status, body) = enroll(&server.url, &read, &SecretKey::from_seed(&[7; 32]), "web-3").await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::UNAUTHORIZED, "token-invalid"));
    let report = late.next_report(Vec::new());
    let (status, body) = late.send_report(&report, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::UNAUTHORIZED, "host-unknown"));
    let mut wish = serde_json::to_value(crate::server::wish(&read, &late.key, "web-2")).unwrap();
    wish["receipt"] = serde_json::to_value(&late.receipt).unwrap();
    let body = serde_json::to_vec(&wish).unwrap();
    let (status, body) = late.call(Method::POST, "/v1/enroll", body, &[]).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&body));
    let code = problem(&body)["code"].as_str().unwrap().to_owned();
    assert_ne!(server.try_cli(&["host", "approve", &late.id, "AAAA-0000"], "").0, 0);
    server.cli(&["host", "approve", &late.id, &code]);
    assert_eq!(late.send_report(&report, &[]).await.0, StatusCode::OK);
}

/// Until not even a row of the audit fits in: then people still get in, look around, and are told what is wrong.
#[tokio::test]
async fn with_a_full_disk_people_get_in_and_look() {
    const PASSWORD: &str = "correct horse battery staple";
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let link = server.cli(&["user", "create-link"])["url"].as_str().unwrap().to_owned();
    let http = agentd_sys::http::plain().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let post = async |url: String, fields: &[(&str, &str)]| {
        let coded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let body: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", coded(value))).collect();
        let request = http.post(url).header("content-type", "application/x-www-form-urlencoded");
        request.body(body.join("&")).send().await.unwrap()
    };
    let secret = link.split_once("link=").unwrap().1;
    let fields = [("link", secret), ("name", "owner"), ("password", PASSWORD)];
    assert_eq!(post(format!("{}/setup", server.url), &fields).await.status(), StatusCode::SEE_OTHER);
    assert!(server.stop());
    let server = Server::start_with(dir.path(), &[("CONTROLD_TEST_PAGES_MAX", "1")]).unwrap();
    let mut said = String::new();
    for _ in 0..300 {
        let (code, text) = server.try_cli(&["user", "create-link"], "");
        if code != 0 {
            said = text;
            break;
        }
    }
    assert!(said.contains("the server's disk is full"), "{said}");
    let entered = post(format!("{}/login", server.url), &[("name", "owner"), ("password", PASSWORD)]).await;
    assert_eq!(entered.status(), StatusCode::SEE_OTHER, "{}", server.log());
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    for path in ["/", "/hosts", "/events", "/audit", "/api/v1/stacks"] {
        let page = http.get(format!("{}{path}", server.url)).header("cookie", &cookie).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{path}");
    }
    let wrong = post(format!("{}/login", server.url), &[("name", "owner"), ("password", "wrong")]).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "a wrong password is one on a full disk too");
    let create = http.post(format!("{}/api/v1/stacks", server.url)).header("cookie", &cookie).body("{\"name\": \"b\"}");
    let refused = create.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(slug(&refused.bytes().await.unwrap()), "disk-full");
}

#[test]
fn a_backup_of_somebody_else_is_refused() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let theirs = other.path().join("b.bundle");
    let server = Server::start(other.path());
    server.stack("shop");
    server.cli(&["backup", theirs.to_str().unwrap()]);
    drop(server);
    let server = Server::start(mine.path());
    server.stack("shop");
    let own = mine.path().join("b.bundle");
    let made = server.cli(&["backup", own.to_str().unwrap()]);
    assert_eq!((&made["contents"]["key_fits"], &made["contents"]["authentic"]), (&true.into(), &true.into()));
    assert!(server.stop());
    let key = mine.path().join("controld.key");
    let with_key = |file: &Path| {
        let args = ["restore", "--dry-run", file.to_str().unwrap(), "--key-file", key.to_str().unwrap()];
        cli(other.path(), &args, "")
    };
    assert_eq!(with_key(&own).0, 0);
    let (code, text) = with_key(&theirs);
    assert!(code != 0 && text.contains("is not the key file that"), "{code} {text}");
    // One that an earlier program made, or from which somebody took the seal.
    let connection = Connection::open(&own).unwrap();
    connection.execute("UPDATE meta SET value = json_remove(value, '$.proof') WHERE key = 'backup'", []).unwrap();
    drop(connection);
    let home = tempfile::tempdir().unwrap();
    std::fs::copy(&key, home.path().join("controld.key")).unwrap();
    for file in [&own, &theirs] {
        let (code, text) = cli(home.path(), &["restore", file.to_str().unwrap()], "");
        assert!(code != 0, "{text}");
        assert!(text.contains("seal of a key file") || text.contains("is not the key file"), "{text}");
        let left = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("control.db")), "nothing of it stays");
    }
}

#[test]
fn a_damaged_backup_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let file = dir.path().join("b.db");
    server.cli(&["backup", file.to_str().unwrap()]);
    let connection = Connection::open(&file).unwrap();
    connection.execute("UPDATE stacks SET environment = 'changed'", []).unwrap();
    drop(connection);
    let (code, text) = cli(dir.path(), &["restore", "--dry-run", file.to_str().unwrap()], "");
    assert!(code == 8 && text.contains("manifest"), "{code} {text}");
    assert_ne!(server.try_cli(&["backup", file.to_str().unwrap()], "").0, 0, "nothing is overwritten");
}

#[tokio::test]
async fn clocks_that_are_years_off_are_told_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    for years in [-20, -1, 3] {
        let body = serde_json::to_vec(&host.next_report(Vec::new())).unwrap();
        let signed = Signed { method: Method::POST, path: "/v1/report", body, later_s: years * 365 * 24 * 3_600 };
        let signers = [Signer { label: HOST_LABEL, keyid: &host.id, key: &host.key }];
        let (status, body) = send(&host.http, &host.url, signed, &signers, &[]).await;
        assert_eq!((status, slug(&body).as_str()), (StatusCode::UNAUTHORIZED, "clock-skew"));
        let time: agentd_protocol::control::time::Time =
            serde_json::from_value(problem(&body)["time"].clone()).unwrap();
        assert!((time.unix_secs() - crate::server::now().clock.unix_secs()).abs() < 60);
    }
}

#[tokio::test]
async fn what_is_too_large_or_no_request_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let id = server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let mut refused = Vec::new();
    refused.push(host.call(Method::POST, "/v1/report", vec![b' '; 3 * 1024 * 1024], &[]).await);
    let events = (0..501).map(|_| host.event("run.started", "x")).collect();
    let many = host.next_report(events);
    refused.push(host.send_report(&many, &[]).await);
    let mut fat = host.event("run.started", "x");
    fat.data.insert("a".into(), "x".repeat(5_000).into());
    let fat = host.next_report(vec![fat]);
    refused.push(host.send_report(&fat, &[]).await);
    let answers: Vec<(u16, String)> = refused.iter().map(|(status, body)| (status.as_u16(), slug(body))).collect();
    let expected = [(413, "body-too-large"), (413, "too-many-events"), (413, "too-many-events")];
    assert_eq!(answers, expected.map(|(status, slug)| (status, slug.to_owned())));
    for (path, body) in [("/v1/report", "{}"), ("/v1/report", "\u{0}"), ("/v1/report", "[[[[[[")] {
        let (status, body) = host.call(Method::POST, path, body.as_bytes().to_vec(), &[]).await;
        assert_eq!((status, slug(&body).as_str()), (StatusCode::BAD_REQUEST, "bad-request"));
    }
    let huge = format!("# {}\n", "x".repeat(5 * 1024 * 1024));
    assert_eq!(server.try_cli(&["stack", "draft", "shop", "-"], &huge).0, 1);
    assert_ne!(server.try_cli(&["stack", "create", &"x".repeat(70)], "").0, 0);
    // Files: names that lead elsewhere lead nowhere.
    std::fs::write(dir.path().join("packages/a.deb"), b"package").unwrap();
    let get = async |path: &str| {
        let answer = host.http.get(format!("{}{path}", server.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/packages/a.deb").await, (200, "package".to_owned()));
    for path in ["/packages/..%2fcontrold.key", "/packages/%2e%2e/controld.key", "/packages/", "/packages/nothing"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    let (status, _) = host.get("../../controld.key").await;
    assert!(!status.is_success());
    assert_eq!(get(&format!("/s/{id}/head.json")).await.0, 401);
}

/// Known secrets of a whole life, looked for in every byte the server has written or answered.
#[tokio::test]
async fn no_secret_is_written_down_or_answered() {
    const VALUES: [&str; 3] = ["hunter2-is-secret", "a-second-secret-value", "kept-then-gone-secret"];
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut answers = String::new();
    let id = server.stack("shop");
    let join = server.join("shop");
    let mut host = Host::join(&server, &join, "web-1").await;
    let text = document(&[("api", '1', &format!("A = \"{}\", B = \"{}\"", VALUES[0], VALUES[2]))]);
    let mut say = |args: &[&str], input: &str| answers.push_str(&server.try_cli(args, input).1);
    say(&["stack", "draft", "shop", "-"], &text);
    say(&["stack", "publish", "shop", "--reason", "first"], "");
    say(&["stack", "draft", "shop", "-"], &document(&[("api", '2', &format!("A = \"{}\"", VALUES[1]))]));
    say(&["stack", "publish", "shop"], "");
    say(&["stack", "draft", "shop", "-"], &format!("{text}\nenv = '{}", VALUES[0]));
    say(&["stack", "rollback", "shop", "1"], "");
    for args in [
        &["stack", "draft", "shop"][..],
        &["stack", "diff", "shop", "1", "2"],
        &["stack", "show", "shop"],
        &["stack", "versions", "shop"],
        &["token", "list", "shop"],
        &["host", "show", "web-1"],
        &["events"],
        &["audit"],
    ] {
        say(args, "");
    }
    host.update().await;
    host.report(Vec::new()).await;
    for path in ["/healthz", "/api/v1/stacks", &format!("/s/{id}/head.json")] {
        answers.push_str(&host.http.get(format!("{}{path}", server.url)).send().await.unwrap().text().await.unwrap());
    }
    let backup = dir.path().join("backup.db");
    server.cli(&["backup", backup.to_str().unwrap()]);
    answers.push_str(&server.log());
    let mut places = vec![("answers and log".to_owned(), answers.into_bytes())];
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("controld.key") {
            places.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    assert!(places.iter().any(|(name, _)| name.ends_with("control.db-wal")), "the log of the database is looked at");
    let read = JoinString::read(&join).unwrap();
    let seed = read.key.seed();
    use base64::Engine;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(seed.as_slice());
    let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut secrets: Vec<(&str, Vec<u8>)> = VALUES.iter().map(|value| ("a value", value.as_bytes().to_vec())).collect();
    secrets.extend([
        ("a token's seed", seed.to_vec()),
        ("a token's seed", encoded.into_bytes()),
        ("a token's seed", hex.into_bytes()),
        ("a join string", join.into_bytes()),
    ]);
    for (name, bytes) in &places {
        for (what, secret) in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_slice());
            assert!(!found, "{what} stands in {name}");
        }
    }
    assert!(server.stop());
}
