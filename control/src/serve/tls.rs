//! TLS from two files, read again when they change: certificates live for weeks, servers for longer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::lifecycle;

/// Between two looks at the files' times; SIGHUP looks at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Tls {
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let config = Arc::new(Mutex::new(load(cert, key)?));
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), config })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Until the server ends. What cannot be read leaves the old certificate in use.
    pub(super) async fn keep_current(self, cancel: CancellationToken) {
        let mut hangup = lifecycle::hangup();
        let mut seen = self.times();
        loop {
            let is_asked = tokio::select! {
                () = cancel.cancelled() => return,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let now = self.times();
            if !is_asked && now == seen {
                continue;
            }
            seen = now;
            match load(&self.cert, &self.key) {
                Ok(config) => {
                    *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!("the certificate was read again");
                }
                Err(error) => {
                    let error = agentd_sys::causes::chain(&error);
                    tracing::error!(error, "the certificate was not read; the old one stays in use");
                }
            }
        }
    }

    fn times(&self) -> [Option<SystemTime>; 2] {
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).and_then(|facts| facts.modified()).ok())
    }
}

fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::TlsFile { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(failed(cert))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(Error::Tls)?;
    Ok(Arc::new(config))
}
