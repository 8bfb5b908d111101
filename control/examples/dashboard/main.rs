//! A control server with a small fleet on a bad day, for looking at its pages and for the tests in a real browser:
//! `cargo run -p agentd-control --example dashboard -- DIR [PORT]`. Nothing of it is shipped.
//!
//! It prints one line of JSON: the server's address, the path of the link that makes the owner, and the stack's id. Its
//! hosts are no programs: their reports are made here. A word on standard input moves the fleet on: `heal`, `break`, `deploy`,
//! `deployed`, `clone`, `attack`, `commit`. Where standard input ends at once, the folder is a home for `controld serve`.

mod fleet;

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_control::auth::{Accounts, Gate, Listener, Transport};
use agentd_control::core::{Actor, Control, Settings};
use agentd_control::dashboard::{Face, routes};
use agentd_control::lifecycle;
use agentd_control::seal::Key;
use agentd_control::store::Store;
use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("usage: dashboard DIR [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    std::fs::create_dir_all(&dir)?;
    let key = Key::create(&dir.join("controld.key"))?;
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let url = format!("http://{}", socket.local_addr()?);

    let seeded = {
        let store = Store::open(&dir)?;
        let control = open(&dir, &url, store.clone(), key.clone()).await?;
        fleet::seed(&control, &store, &dir).await?
    };
    // Opened anew, so that what was written about the past is what is known.
    let store = Store::open(&dir)?;
    let control = open(&dir, &url, store.clone(), key).await?;
    let accounts = Accounts::open(store).await;
    let link = accounts.create_link(&Actor::Server).await?;
    let listener = Listener { transport: Transport::Plain, names: Vec::new() };
    let face = Face::new(control.clone(), accounts.clone(), Transport::Plain);
    let router = Gate::new(accounts, listener).guard(routes(face));

    let said = serde_json::json!({ "url": url, "link": link.path, "stack": seeded.stack, "site": seeded.site });
    writeln!(std::io::stdout(), "{said}")?;
    let fleet = Arc::new(tokio::sync::Mutex::new(seeded));
    let orders = lifecycle::spawn_blocking("orders", {
        let runtime = tokio::runtime::Handle::current();
        move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let done = runtime.block_on(async { fleet.lock().await.order(&control, line.trim()).await });
                let said = done.map_or_else(|error| format!("failed: {error:#}"), |()| "done".to_owned());
                if writeln!(std::io::stdout(), "{said}").is_err() {
                    return;
                }
            }
        }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        served = async { axum::serve(socket, service).await } => Ok(served?),
        // Whoever started it has gone.
        _ = orders => Ok(()),
    }
}

async fn open(dir: &Path, url: &str, store: Store, key: Key) -> Result<Control> {
    let git = agentd_git::Asker::new(agentd_git::Config {
        git_program: PathBuf::from("git"),
        state_dir: dir.join("git"),
        credentials: Default::default(),
        known_hosts_file: dir.join("known_hosts"),
        settings_name: "controld.toml",
    })?;
    let settings = Settings { home: dir.to_owned(), public_url: url.to_owned(), packages_dir: dir.join("packages") };
    Ok(Control::open(store, key, settings, git, CancellationToken::new()).await?)
}
