//! Whether the control server answers now, over a connection of its own: for whoever changes what this host lets in.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::control::HEAD_BYTES_MAX;
use futures_util::future::BoxFuture;
use reqwest::Method;

use super::client::{Call, Client, host_signer};
use super::{Identity, unix_secs};

/// As long as the other checks of a change may take, and a handshake of TLS more.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// Asks; the error is a sentence fragment.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Any answer will do: that the server does not take this host is another question.
pub fn probe(identity: Arc<Identity>) -> Probe {
    Arc::new(move || {
        let identity = Arc::clone(&identity);
        Box::pin(async move {
            // A client of its own: a connection that was open before the change proves nothing.
            let client = Client::new(&identity.reach).map_err(|error| error.to_string())?;
            let path = format!("/s/{}/head.json", identity.stack);
            let call = Call {
                method: Method::GET,
                path: &path,
                body: Vec::new(),
                headers: Vec::new(),
                bytes_max: HEAD_BYTES_MAX,
                limit: PROBE_LIMIT,
            };
            let signer = host_signer(identity.host.as_str(), &identity.key);
            let url = &identity.reach.url;
            match client.send(call, unix_secs(), &[signer]).await {
                Ok(_) => Ok(format!("{url} answers")),
                Err(none) => Err(format!("{url}: {none}")),
            }
        })
    })
}
