//! Clients of HTTP, by whether they may meet TLS.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

/// For sockets and loopback. Trusts no authority, so that none has to be read, which costs each client some
/// milliseconds and half a MiB.
pub fn plain() -> ClientBuilder {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    ClientBuilder::new().tls_backend_preconfigured(config)
}

/// For servers elsewhere: trusts the authorities of the system, or `authorities` (PEM) alone where there are some.
pub fn with_tls(authorities: Option<&[u8]>) -> Result<ClientBuilder, reqwest::Error> {
    // Fails where one is installed already: that one is ours too.
    let _installed_before = ring::default_provider().install_default();
    let builder = ClientBuilder::new();
    match authorities {
        None => Ok(builder),
        Some(pem) => Ok(builder.tls_certs_only(Certificate::from_pem_bundle(pem)?)),
    }
}

/// Of a connection on which nothing is said: the first question whether the other end is there, those after it, and how
/// many may stay open. A machine that has lost its power is missed after 25 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_BETWEEN: Duration = Duration::from_secs(5);
const KEEPALIVE_OPEN_MAX: u32 = 3;
/// What was sent and is not acknowledged: the same time (tcp(7), TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(25);

/// For calls whose answers may take long: that the other end has gone is seen sooner than by waiting for it.
pub fn watched(builder: ClientBuilder) -> ClientBuilder {
    builder
        .tcp_keepalive(KEEPALIVE_AFTER)
        .tcp_keepalive_interval(KEEPALIVE_BETWEEN)
        .tcp_keepalive_retries(KEEPALIVE_OPEN_MAX)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_can_be_built() {
        assert!(plain().build().is_ok() && watched(plain()).build().is_ok());
        assert!(with_tls(None).unwrap().build().is_ok());
        assert!(
            with_tls(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
                .and_then(ClientBuilder::build)
                .is_err()
        );
    }
}
