//! How this worker dials the coordinator.

use std::time::Duration;

use marquee_domain::backoff::Backoff;
use marquee_domain::limits::FRAME_BYTES;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::member::Tls;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A ping after this long without a sign of life, and how long its answer may take: together below
/// the lease, so that a connection broken in silence is replaced before the worker counts as lost.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// First wait for a coordinator that is away: a restart of it takes about a second, so most tries
/// need one or two.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait: well below the lease, so that a worker is back before it is given up.
const RETRY_CEILING: Duration = Duration::from_secs(3);

/// How long to wait between tries.
pub(crate) const fn backoff() -> Backoff {
    Backoff::new(RETRY_FIRST, RETRY_CEILING)
}

/// How to speak to a coordinator at `url`.
pub(crate) fn endpoint_at(
    url: &str,
    tls: Option<&Tls>,
) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .max_frame_size(FRAME_BYTES)
        // Also while nothing is sent: a coordinator whose host lost its power closes no connection, and its
        // worker would wait.
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let Some(tls) = tls else {
        return Ok(endpoint);
    };
    let mut client = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
    if let Some(name) = &tls.server_name {
        client = client.domain_name(name);
    }
    if let Some((certificate, key)) = &tls.identity {
        client = client.identity(Identity::from_pem(certificate, key));
    }
    endpoint.tls_config(client)
}

/// Why a call failed, in words: a status shows itself with quotes and escapes.
pub(crate) fn why(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => with_causes(cause),
        None => status.message().to_owned(),
    }
}

/// An error with its causes: what tonic says itself is often only "transport error".
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let dates = marquee_proto::certificate::clock_hint(&text);
    match dates.as_deref().or_else(|| hint(&text)) {
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

/// What TLS means by a few of its words, and the way out.
fn hint(text: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 6] = [
        (
            "InvalidContentType",
            "what answers there speaks no TLS: is it the coordinator's address, and should it begin with http://?",
        ),
        (
            "UnknownIssuer",
            "the coordinator's certificate is not of an authority that this host believes (tls.ca): where it is the right coordinator, another authority has taken its place while this host was off; join again with a token for this worker's name (docs/deploy.md, \"Another authority\")",
        ),
        (
            "alert: UnknownCA",
            "the coordinator does not believe the authority of this host's certificate (its tls.client_ca)",
        ),
        (
            "alert: CertificateExpired",
            "by the coordinator's clock this host's certificate has expired, or is not good yet, and by this host's own it is good: one of the two clocks is wrong; compare \"date -u\" on both hosts, the coordinator's log has the dates",
        ),
        (
            "alert: UnsupportedCertificate",
            "this host's certificate is not for clients (extendedKeyUsage clientAuth)",
        ),
        (
            "alert: CertificateRequired",
            "the coordinator wants a certificate, and this host has none to show (tls.cert and tls.key)",
        ),
    ];
    let found = HINTS.iter().find(|(word, _)| text.contains(word));
    found.map(|(_, hint)| *hint)
}
