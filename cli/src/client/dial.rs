//! How a coordinator is dialled: keepalive, and TLS where its address says so.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use marquee_domain::limits;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::context::{Place, Tls};
use crate::error::{CliError, Result};

/// For one TCP and TLS handshake, which takes less than a second even across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life this often ...
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// ... and given up when none comes for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to speak to the coordinator at `addr`, one of a place's.
pub(super) fn endpoint(place: &Place, addr: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(addr.to_owned()).map_err(|error| {
        CliError::Usage(format!(
            "\"{addr}\" ({}) is no address: {error}; write host:port, as in 127.0.0.1:7700",
            place.origin
        ))
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        // The usual frames of 16 KiB would cut each chunk of an artifact into seventeen.
        .max_frame_size(limits::FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // A watch is silent for hours while a job queues, and a dead connection would look the same.
        .keep_alive_while_idle(true);
    if !addr.starts_with("https://") {
        return Ok(endpoint);
    }
    let Some(tls) = &place.tls else {
        return Err(CliError::Usage(format!(
            "{addr} needs a table [tls] with `ca` in the context file: without it nothing says whom \
             to trust"
        )));
    };
    Ok(endpoint
        .tls_config(tls_config(tls)?)
        .context("the certificates in [tls] do not work")?)
}

fn tls_config(tls: &Tls) -> Result<ClientTlsConfig> {
    let read = |path: &std::path::Path| {
        fs::read(path).with_context(|| format!("cannot read {} of [tls]", path.display()))
    };
    // Read once for a command: a file that is replaced counts from the next command on.
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        (None, None) => {}
        // Half of it is not passed over: the coordinator would refuse whoever shows none, and could
        // name no file.
        (Some(_), None) | (None, Some(_)) => {
            return Err(CliError::Usage(
                "[tls] has `cert` or `key` alone; give both".into(),
            ));
        }
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use crate::client::Remote;

    use super::*;

    #[test]
    fn half_an_identity_and_files_that_are_none_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "no certificate").unwrap();
            path
        };
        let tls = Tls {
            ca: file("ca.pem"),
            cert: Some(file("cert.pem")),
            key: None,
            domain: None,
        };
        let place = |tls: &Tls| Place {
            addr: "https://head:1".into(),
            tls: Some(tls.clone()),
            ..Place::local("head:1")
        };
        let error = Remote::new(place(&tls)).unwrap_err();
        assert!(error.to_string().contains("give both"), "{error}");
        let gone = Tls {
            ca: folder.path().join("gone.pem"),
            cert: None,
            ..tls
        };
        let error = Remote::new(place(&gone)).unwrap_err().render(false);
        assert!(error.contains("gone.pem"), "{error}");
    }

    #[test]
    fn https_without_certificates_is_refused_with_the_way_out() {
        let place = Place {
            addr: "https://head:1".into(),
            others: Vec::new(),
            origin: "x".into(),
            tls: None,
            stale: false,
            token: None,
        };
        let error = Remote::new(place).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("[tls]"));
    }
}
