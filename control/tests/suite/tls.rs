//! Certificates, as a client of TLS finds them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::{CAP, Server};

/// A certificate for this machine, and its key.
fn certify(dir: &Path, name: &str) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(dir.join(format!("{name}.crt")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Whether a client that trusts that certificate alone comes through.
async fn trusts(server: &Server, certificate: &Path) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(server.url.strip_prefix("https://").unwrap()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(config).connect(name, stream).await.is_ok()
}

async fn until_trusts(server: &Server, certificate: &Path) {
    let end = Instant::now() + CAP;
    while !trusts(server, certificate).await {
        assert!(Instant::now() < end, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await; // poll: the files are looked at now and then
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["old", "new"] {
        certify(dir.path(), name);
    }
    let of = |file: &str| dir.path().join(file);
    let (cert, key) = (of("tls.crt"), of("tls.key"));
    std::fs::copy(of("old.crt"), &cert).unwrap();
    std::fs::copy(of("old.key"), &key).unwrap();
    let args = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::launch(home.path(), &[], &args).unwrap();
    assert!(server.url.starts_with("https://"));
    assert!(trusts(&server, &of("old.crt")).await && !trusts(&server, &of("new.crt")).await);
    // Half of the pair: the old one stays in use, and the log says why.
    std::fs::copy(of("new.crt"), &cert).unwrap();
    let end = Instant::now() + CAP;
    while !server.log().contains("the certificate was not read") {
        assert!(Instant::now() < end, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await; // poll: the files are looked at now and then
    }
    assert!(trusts(&server, &of("old.crt")).await);
    std::fs::copy(of("new.key"), &key).unwrap();
    until_trusts(&server, &of("new.crt")).await;
    assert!(!trusts(&server, &of("old.crt")).await);
    assert!(server.stop());
}
