//! The verbs that act on one service: `stop`, `start`, `restart`, `rollback`, `unpin`, `prune`.

use agentd_protocol::api::Accepted;

use crate::client::{Client, Error};

/// Returns when it has been done; the manager's sentence to print.
pub(crate) async fn run(client: &Client, name: &str, verb: &str) -> Result<String, Error> {
    let done: Accepted = client.post(&format!("/v1/services/{name}/{verb}")).await?;
    Ok(done.message + "\n")
}

pub(crate) async fn rollback(client: &Client, name: &str, release: Option<u64>) -> Result<String, Error> {
    let query = release.map(|release| format!("?release={release}")).unwrap_or_default();
    let done: Accepted = client.post(&format!("/v1/services/{name}/rollback{query}")).await?;
    Ok(done.message + "\n")
}
