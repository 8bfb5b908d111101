//! Pages and API as a browser, a program or an attacker meets them: over a socket, with headers of their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use agentd_control::auth::{Accounts, Gate, Listener, NewApiToken, Scope, Transport};
use agentd_control::core::{Actor, Control, Settings};
use agentd_control::dashboard::{Face, routes};
use agentd_control::lifecycle;
use agentd_control::model::{DraftFormat, NewStack, Publish};
use agentd_control::seal::Key;
use agentd_control::store::Store;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio_util::sync::CancellationToken;

const PASSWORD: &str = "correct horse battery staple";
const DOCUMENT: &str = "schema = 1\n[stack]\nname = \"shop\"\n[[service]]\nname = \"api\"\nrepo = \"https://git.example.com/a\"\n\
     commit = \"4f0c2d9be13ac29d0c1a7f53ee01ab6c2d8e9f10\"\nrun = \"./api\"\nenv = { KEY = \"sealed-value-7731\" }\n";

struct Site {
    base: String,
    client: reqwest::Client,
    control: Control,
    accounts: Accounts,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn start(transport: Transport) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let git = agentd_git::Asker::new(agentd_git::Config {
            git_program: PathBuf::from("git"),
            state_dir: dir.path().join("git"),
            credentials: Default::default(),
            known_hosts_file: dir.path().join("known_hosts"),
            settings_name: "controld.toml",
        })
        .unwrap();
        let key = Key::create(&dir.path().join("key")).unwrap();
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", socket.local_addr().unwrap());
        let settings = Settings {
            home: dir.path().to_owned(),
            public_url: base.clone(),
            packages_dir: dir.path().join("packages"),
        };
        let control = Control::open(store.clone(), key, settings, git, CancellationToken::new()).await.unwrap();
        let accounts = Accounts::open(store).await;
        let face = Face::new(control.clone(), accounts.clone(), transport);
        let whoami = axum::Router::new()
            .route("/api/v1/whoami", axum::routing::any(|actor: Actor| async move { actor.to_string() }));
        let listener = Listener { transport, names: vec!["ctl.example.com".into()] };
        let router = Gate::new(accounts.clone(), listener).guard(routes(face).merge(whoami));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        lifecycle::spawn("site", async move { axum::serve(socket, service).await.unwrap() });
        let client = agentd_sys::http::plain().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { base, client, control, accounts, _dir: dir }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn get(&self, path: &str, cookie: &str) -> Response {
        self.ask(Method::GET, path).header("cookie", cookie).send().await.unwrap()
    }

    async fn post(&self, path: &str, cookie: &str, form: &[(&str, &str)]) -> Response {
        let body: Vec<String> = form.iter().map(|(key, value)| format!("{key}={}", coded(value))).collect();
        let request = self.ask(Method::POST, path).header("cookie", cookie).header("sec-fetch-site", "same-origin");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(body.join("&")).send().await.unwrap()
    }

    /// The owner, made through the link; the cookie.
    async fn set_up(&self) -> String {
        let link = self.accounts.create_link(&Actor::Server).await.unwrap();
        let secret = link.path.split_once("link=").unwrap().1.to_owned();
        let made = self.post("/setup", "", &[("link", &secret), ("name", "owner"), ("password", PASSWORD)]).await;
        assert_eq!(made.status(), StatusCode::SEE_OTHER);
        cookie(&made)
    }

    async fn login(&self, name: &str, password: &str) -> Response {
        self.post("/login", "", &[("name", name), ("password", password)]).await
    }
}

fn coded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn cookie(response: &Response) -> String {
    let set = response.headers().get("set-cookie").expect("a cookie").to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_link_makes_one_owner_and_works_once() {
    let site = Site::start(Transport::Plain).await;
    assert!(site.accounts.is_new().await.unwrap());
    let older = site.accounts.create_link(&Actor::Server).await.unwrap();
    let link = site.accounts.create_link(&Actor::Server).await.unwrap();
    assert_eq!(site.get(&older.path, "").await.status(), StatusCode::UNAUTHORIZED, "a newer one was made");
    assert_eq!(site.get(&link.path, "").await.status(), StatusCode::OK);
    let secret = link.path.split_once("link=").unwrap().1.to_owned();
    let weak = site.post("/setup", "", &[("link", &secret), ("name", "owner"), ("password", "owner")]).await;
    assert_eq!(weak.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(weak.text().await.unwrap().contains("fewer than 14 characters"));
    let form = [("link", secret.as_str()), ("name", "owner"), ("password", PASSWORD)];
    let made = site.post("/setup", "", &form).await;
    assert_eq!(made.status(), StatusCode::SEE_OTHER);
    let set = made.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Path=/"), "{set}");
    assert_eq!(site.get("/", &cookie(&made)).await.status(), StatusCode::OK);
    assert_eq!(site.post("/setup", "", &form).await.status(), StatusCode::UNAUTHORIZED, "it was used");
    assert!(!site.accounts.is_new().await.unwrap());
    // A later link sets another password, and ends what was begun with the old one.
    let again = site.accounts.create_link(&Actor::Local { uid: 0 }).await.unwrap();
    let secret = again.path.split_once("link=").unwrap().1.to_owned();
    let form = [("link", secret.as_str()), ("name", "mallory"), ("password", "another horse battery staple")];
    assert_eq!(site.post("/setup", "", &form).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.accounts.users().await.unwrap()[0].name, "owner");
    assert_eq!(site.get("/", &cookie(&made)).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.login("owner", PASSWORD).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pages_are_for_those_who_are_in() {
    let site = Site::start(Transport::Plain).await;
    let own = site.set_up().await;
    let paths = ["/", "/hosts", "/events", "/audit", "/account", "/stacks/stk_abcdef", "/hosts/hst_abcdef", "/live"];
    for path in paths {
        let answer = site.get(path, "").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        let to = answer.headers()["location"].to_str().unwrap().to_owned();
        assert!(to.starts_with("/login?next=%2F"), "{path}: {to}");
    }
    assert_eq!(site.post("/stacks", "", &[("name", "shop")]).await.status(), StatusCode::SEE_OTHER);
    assert!(site.control.stacks().await.unwrap().is_empty(), "nobody made a stack");
    for path in
        ["/stacks/stk_abcdef", "/hosts/hst_abcdef", "/stacks/../../etc", "/nowhere", "/stacks/stk_abcdef/versions/x"]
    {
        assert_eq!(site.get(path, &own).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let forged = format!("agentd-plain={}", "A".repeat(43));
    assert_eq!(site.get("/", &forged).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        site.get("/", &format!("{own}; {own}")).await.status(),
        StatusCode::SEE_OTHER,
        "one of the two was planted"
    );
}

#[tokio::test]
async fn a_session_is_new_with_each_login_and_ends_when_told() {
    let site = Site::start(Transport::Plain).await;
    let first = site.set_up().await;
    let second = cookie(&site.login("owner", PASSWORD).await);
    assert_ne!(first, second);
    let form = [("name", "owner"), ("password", PASSWORD), ("next", "//evil.example")];
    let third = site.post("/login", &second, &form).await;
    assert_eq!(third.headers()["location"], "/");
    let third = cookie(&third);
    assert_eq!(site.get("/", &second).await.status(), StatusCode::SEE_OTHER, "it was replaced");
    assert_eq!(site.post("/logout", &third, &[]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.get("/", &third).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.get("/", &first).await.status(), StatusCode::OK, "others go on");
    let other = cookie(&site.login("owner", PASSWORD).await);
    assert_eq!(site.post("/account/logout-all", &other, &[]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.get("/", &first).await.status(), StatusCode::SEE_OTHER);
    let own = cookie(&site.login("owner", PASSWORD).await);
    let beside = cookie(&site.login("owner", PASSWORD).await);
    let change = [("old", PASSWORD), ("password", "another horse battery staple")];
    assert_eq!(site.post("/account/password", &own, &change).await.headers()["location"], "/account?did=password");
    assert_eq!(site.get("/", &own).await.status(), StatusCode::OK);
    assert_eq!(site.get("/", &beside).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(site.login("owner", PASSWORD).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_names_are_not_told() {
    let site = Site::start(Transport::Plain).await;
    site.set_up().await;
    let (known, unknown) = (site.login("owner", "wrong horse").await, site.login("nobody", "wrong horse").await);
    assert_eq!((known.status(), unknown.status()), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    let strip =
        |text: String| text.replace("owner", "").replace("nobody", "").replace(|c: char| c.is_ascii_digit(), "");
    assert_eq!(strip(known.text().await.unwrap()), strip(unknown.text().await.unwrap()));
    let mut refused = None;
    for _ in 0..20 {
        let answer = site.login("owner", "wrong horse").await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("at last it is too many");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(site.login("owner", PASSWORD).await.status(), StatusCode::TOO_MANY_REQUESTS, "also for the right one");
    let audit = site.control.audit(None, 50).await.unwrap();
    assert!(audit.rows.iter().any(|row| row.action == "user.login-refused"));
    assert!(!serde_json::to_string(&audit).unwrap().contains("horse"));
}

#[tokio::test]
async fn other_sites_cannot_act_through_a_browser() {
    let site = Site::start(Transport::Plain).await;
    let own = site.set_up().await;
    let send = |headers: Vec<(&'static str, String)>| {
        let mut request = site.ask(Method::POST, "/stacks").header("cookie", &own);
        request = request.header("content-type", "application/x-www-form-urlencoded").body("name=shop");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send()
    };
    for headers in [
        vec![("sec-fetch-site", "cross-site".to_owned())],
        vec![("sec-fetch-site", "same-site".to_owned())],
        vec![("origin", "https://evil.example".to_owned())],
        vec![("origin", "null".to_owned())],
    ] {
        let said = format!("{headers:?}");
        assert_eq!(send(headers).await.unwrap().status(), StatusCode::FORBIDDEN, "{said}");
    }
    assert!(site.control.stacks().await.unwrap().is_empty());
    let rebound = site.ask(Method::GET, "/").header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN, "a name that is not ours");
    let named = site.ask(Method::GET, "/login").header("host", "ctl.example.com").send().await.unwrap();
    assert_eq!(named.status(), StatusCode::OK);
    assert_eq!(send(vec![("origin", site.base.clone())]).await.unwrap().status(), StatusCode::SEE_OTHER);
    assert_eq!(site.control.stacks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_answer_carries_the_headers() {
    for transport in [Transport::Plain, Transport::Tls] {
        let site = Site::start(transport).await;
        for path in ["/", "/login", "/nowhere", "/assets/app.css", "/assets/no", "/setup", "/api/v1/whoami"] {
            let answer = site.get(path, "").await;
            let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let csp = header("content-security-policy");
            assert!(
                csp.starts_with("default-src 'none'; script-src 'self'; style-src 'self'")
                    && csp.ends_with("frame-ancestors 'none'"),
                "{path}: {csp}"
            );
            assert!(!csp.contains("unsafe"), "{path}");
            assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
            assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{path}");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
            assert_eq!(!header("strict-transport-security").is_empty(), transport == Transport::Tls, "{path}");
            let cached = path == "/assets/app.css";
            assert_eq!(header("cache-control"), if cached { "no-cache" } else { "no-store" }, "{path}");
        }
    }
    let site = Site::start(Transport::Tls).await;
    let own = site.set_up().await;
    assert!(own.starts_with("__Host-agentd="), "{own}");
}

#[tokio::test]
async fn api_tokens_open_what_they_may_and_no_pages() {
    let site = Site::start(Transport::Plain).await;
    let local = Actor::Local { uid: 0 };
    let make = |scope: Scope| {
        let new = NewApiToken { name: "ci".into(), scope, days: 1 };
        site.accounts.create_api_token(&local, new)
    };
    let (read, write) = (make(Scope::Read).await.unwrap(), make(Scope::Write).await.unwrap());
    assert!(read.token.starts_with("agp_"));
    let call = |method: Method, token: &str| {
        site.ask(method, "/api/v1/whoami").header("authorization", format!("Bearer {token}")).send()
    };
    assert_eq!(call(Method::GET, &read.token).await.unwrap().status(), StatusCode::OK);
    assert_eq!(call(Method::POST, &read.token).await.unwrap().status(), StatusCode::FORBIDDEN);
    let answer = call(Method::POST, &write.token).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), format!("api token {} ci", write.row.id));
    assert_eq!(call(Method::GET, "agp_nonsense").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let page =
        site.ask(Method::GET, "/").header("authorization", format!("Bearer {}", write.token)).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::SEE_OTHER, "pages are for people");
    site.accounts.revoke_api_token(&local, &write.row.id).await.unwrap();
    assert_eq!(call(Method::GET, &write.token).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let own = site.set_up().await;
    let made = site.post("/account/tokens", &own, &[("name", "laptop"), ("scope", "read"), ("days", "7")]).await;
    assert!(made.text().await.unwrap().contains("agp_"), "shown once");
    let later = site.get("/account", &own).await.text().await.unwrap();
    assert!(later.contains("laptop") && !later.contains("agp_"));
    let mut status = StatusCode::OK;
    for _ in 0..80 {
        status = call(Method::GET, "agp_nonsense").await.unwrap().status();
    }
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "who tries them all is slowed down");
}

#[tokio::test]
async fn a_document_is_written_published_and_rolled_back_by_forms_alone() {
    let site = Site::start(Transport::Plain).await;
    let own = site.set_up().await;
    let made = site.post("/stacks", &own, &[("name", "shop"), ("environment", "production")]).await;
    let stack = site.control.stacks().await.unwrap().remove(0).id;
    assert_eq!(made.headers()["location"].to_str().unwrap(), format!("/stacks/{stack}/draft?did=created"));
    let at = |rest: &str| format!("/stacks/{stack}{rest}");
    let revision = site.control.draft(&stack).await.unwrap().revision.to_string();
    let text = DOCUMENT.replace('\n', "\r\n");
    let save = [("revision", revision.as_str()), ("format", "toml"), ("text", text.as_str())];
    assert_eq!(
        site.post(&at("/draft"), &own, &save).await.headers()["location"].to_str().unwrap(),
        at("/draft?did=saved")
    );
    let behind = site.post(&at("/draft"), &own, &save).await;
    assert_eq!(behind.status(), StatusCode::CONFLICT);
    assert!(behind.text().await.unwrap().contains("what you typed stands below"));
    let page = site.get(&at("/draft"), &own).await.text().await.unwrap();
    assert!(!page.contains("sealed-value-7731") && page.contains("&#60;kept&#62;"), "a value is shown by nobody");
    let revision = site.control.draft(&stack).await.unwrap().revision.to_string();
    let publish = [("revision", revision.as_str()), ("reason", "first"), ("key", "form-1")];
    let published = site.post(&at("/publish"), &own, &publish).await;
    assert_eq!(published.headers()["location"].to_str().unwrap(), at("/versions/1?did=published"));
    assert_eq!(
        site.post(&at("/publish"), &own, &publish).await.headers()["location"].to_str().unwrap(),
        at("/versions/1?did=published"),
        "twice is once"
    );
    let changed = site.control.draft(&stack).await.unwrap().text.replace("./api", "./api --new");
    let actor = Actor::Local { uid: 0 };
    let revision: u64 = revision.parse().unwrap();
    let draft = site.control.save_draft(&actor, &stack, revision, DraftFormat::Toml, changed).await.unwrap();
    site.control
        .publish(&actor, &stack, draft.revision, &Publish { reason: "second".into(), ..Publish::default() }, None)
        .await
        .unwrap();
    let shown = site.get(&at("/versions/1/rollback"), &own).await.text().await.unwrap();
    assert!(
        shown.contains("./api --new") && shown.contains("data-testid=\"rollback\""),
        "the difference stands above the button"
    );
    let stale = site.post(&at("/versions/1/rollback"), &own, &[("from", "1"), ("reason", "back")]).await;
    assert_eq!(stale.status(), StatusCode::CONFLICT, "another difference than the one that was shown");
    for _ in ["once", "and again, as its answer was lost"] {
        let form = [("from", "2"), ("reason", "back"), ("key", "form-3")];
        let back = site.post(&at("/versions/1/rollback"), &own, &form).await;
        assert_eq!(back.headers()["location"].to_str().unwrap(), at("/versions/3?did=rolled-back"));
    }
    for path in ["", "/versions", "/versions/3", "/join", "/services/api", "/draft"] {
        let answer = site.get(&at(path), &own).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert!(!answer.text().await.unwrap().contains("sealed-value-7731"), "{path}");
    }
    let made = site.post(&at("/tokens"), &own, &[("note", "rack 3"), ("ttl_s", "900"), ("key", "form-2")]).await;
    assert!(made.text().await.unwrap().contains("agj1_"), "the command is shown once");
    assert!(!site.get(&at("/join"), &own).await.text().await.unwrap().contains("agj1_"));
}

#[tokio::test]
async fn names_that_are_attacks_are_shown_as_text() {
    let site = Site::start(Transport::Plain).await;
    let own = site.set_up().await;
    let actor = Actor::Local { uid: 0 };
    let hostile = "<script>alert(1)</script>".to_owned();
    // Where the server takes no such name, there is nothing to show.
    let new = NewStack { name: "shop".into(), environment: hostile.clone() };
    if let Ok(stack) = site.control.create_stack(&actor, new).await {
        let html = site.get(&format!("/stacks/{}", stack.id), &own).await.text().await.unwrap();
        assert!(!html.contains("<script>alert"), "{html}");
    }
    for path in [
        "/events?kind=%3Cscript%3Ealert(1)%3C/script%3E&service=%22%3E%3Cscript%3E",
        "/login?next=%22%3E%3Cscript%3E",
        "/?did=%3Cscript%3E",
    ] {
        let html = site.get(path, &own).await.text().await.unwrap();
        assert!(!html.contains("<script>alert") && !html.contains("\"><script>"), "{path}");
    }
}
