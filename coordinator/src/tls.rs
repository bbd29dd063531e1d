//! The certificate that the coordinator shows, and the authority of those it accepts.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::config::TlsFiles;

/// How long a client may take for its handshake: one that sends nothing must not hold a place.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Reads the PEM files that the settings name.
pub fn server_config(files: &TlsFiles) -> anyhow::Result<ServerTlsConfig> {
    let identity = Identity::from_pem(read("tls.cert", &files.cert)?, read("tls.key", &files.key)?);
    let config = ServerTlsConfig::new()
        .identity(identity)
        .timeout(HANDSHAKE_WITHIN);
    let config = match &files.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(read("tls.client_ca", ca)?)),
        None => config,
    };
    // Whether the key is the certificate's is found out here, before anything is started.
    Server::builder()
        .tls_config(config.clone())
        .context("the certificate files of [tls] do not work together")?;
    Ok(config)
}

fn read(key: &str, file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("could not read {file:?}, which key {key:?} names"))?;
    anyhow::ensure!(
        text.contains("-----BEGIN "),
        "{file:?}, which key {key:?} names, is no PEM file: it has no line \"-----BEGIN ...\""
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_wrong_file_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let key = folder.path().join("key.der");
        let files = TlsFiles {
            cert,
            key: key.clone(),
            client_ca: None,
        };
        let error = format!("{:#}", server_config(&files).unwrap_err());
        assert!(
            error.contains("key.der") && error.contains("\"tls.key\""),
            "{error}"
        );
        std::fs::write(&key, "not pem").unwrap();
        let error = format!("{:#}", server_config(&files).unwrap_err());
        assert!(error.contains("is no PEM file"), "{error}");
    }
}
