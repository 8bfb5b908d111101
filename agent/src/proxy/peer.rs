//! How a connection to a backend is made and kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pingora::upstreams::peer::HttpPeer;

/// Backends are on this host: a connect that takes longer means a full accept queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Below the 5 s after which Node and uvicorn close an idle connection, so that we close first.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// One write to a backend that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Part of the connection pool's key, so that a new process on a used port never gets an old socket.
static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

pub(super) fn template(address: SocketAddr) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.group_key = NEXT_POOL.fetch_add(1, Ordering::Relaxed);
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.idle_timeout = Some(POOL_IDLE_TIMEOUT);
    peer.options.write_timeout = Some(WRITE_TIMEOUT);
    peer
}
