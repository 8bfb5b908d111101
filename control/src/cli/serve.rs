//! `controld serve`.

use std::path::PathBuf;

use agentd_protocol::exit_code::Exit;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Error;
use super::options::Serve;
use crate::lifecycle::service;
use crate::serve::{Options, run};

pub(super) async fn serve(home: PathBuf, options: Serve) -> Result<Exit, Error> {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    if service::logs_to_journal() {
        registry.with(lines.without_time()).init();
    } else {
        registry.with(lines).init();
    }
    let Serve { listen, tls_cert, tls_key, public_url, key_file, insecure_listen } = options;
    run(Options { home, listen, tls_cert, tls_key, public_url, key_file, insecure_listen }).await?;
    Ok(Exit::Ok)
}
