//! The name that an X.509 certificate gives its owner. Whether the certificate is to be believed is for TLS
//! to say, which has checked it against the authority before anything here is asked.

use std::net::IpAddr;

use marquee_domain::artifact::Digest;
use marquee_domain::ids::WorkerId;
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The owner's name: its first URI, else its first DNS name, else its common name.
///
/// A certificate without any of them is named by its digest, so that two of them are never taken for one.
pub(crate) fn name(der: &[u8]) -> String {
    named(der).unwrap_or_else(|| format!("sha256:{}", Digest::of(der)))
}

/// The name in the certificate of a worker that joined: `marquee://CLUSTER/worker/ID`.
pub(crate) fn name_of_worker(cluster: Uuid, worker: WorkerId) -> String {
    format!("{OURS}{cluster}/worker/{worker}")
}

/// What the names in our own authority's certificates begin with.
const OURS: &str = "marquee://";

/// Whose a name is, where it is one that our own authority gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ours {
    Worker(WorkerId),
    /// Of a later version: nothing that is known here.
    Unknown,
}

/// Reads a name that our own authority gives; None: it is another's.
pub(crate) fn ours(name: &str) -> Option<Ours> {
    let rest = name.strip_prefix(OURS)?;
    let worker = || -> Option<WorkerId> {
        let (cluster, rest) = rest.split_once('/')?;
        cluster.parse::<Uuid>().ok()?;
        rest.strip_prefix("worker/")?.parse().ok()
    };
    Some(worker().map_or(Ours::Unknown, Ours::Worker))
}

fn named(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.map(|extension| &extension.value.general_names);
    let names = || alternatives.into_iter().flatten();
    let uri = names().find_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        Some(*uri)
    });
    let dns = names().find_map(|name| {
        let GeneralName::DNSName(dns) = name else {
            return None;
        };
        Some(*dns)
    });
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok());
    // The URI first: our own authority puts there which worker it is, and into the common name what
    // people call it.
    let name = uri.or(dns).or(common)?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The DNS names and addresses that a certificate is for.
pub(crate) fn alternatives(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.map(|extension| &extension.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    names.into_iter().flatten().filter_map(text).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: Option<&str>, alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = alternatives;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_uri_goes_before_a_dns_name_and_that_before_the_common_name() {
        let dns = || SanType::DnsName("gpu-01.example.org".try_into().unwrap());
        let uri = || SanType::URI("spiffe://example.org/gpu-01".try_into().unwrap());
        let ip = || SanType::IpAddress("10.0.0.7".parse().unwrap());
        let all = certificate(Some("gpu-01"), vec![ip(), dns(), uri()]);
        assert_eq!(name(&all), "spiffe://example.org/gpu-01");
        let dns = certificate(Some("gpu-01"), vec![ip(), dns()]);
        assert_eq!(name(&dns), "gpu-01.example.org");
        assert_eq!(name(&certificate(Some("gpu-01"), vec![ip()])), "gpu-01");
    }

    #[test]
    fn a_worker_that_joined_is_known_by_its_name() {
        let (cluster, worker) = (Uuid::from_u128(1), WorkerId(Uuid::from_u128(2)));
        let name = name_of_worker(cluster, worker);
        assert_eq!(ours(&name), Some(Ours::Worker(worker)));
        for odd in [
            "marquee://",
            "marquee://x/worker/y",
            "marquee://x/user/alice",
        ] {
            assert_eq!(ours(odd), Some(Ours::Unknown), "{odd}");
        }
        let longer = format!("{name}/more");
        assert_eq!(ours(&longer), Some(Ours::Unknown));
        assert_eq!(ours("gpu-01"), None);
    }

    #[test]
    fn without_a_name_each_certificate_is_its_own() {
        let (one, two) = (certificate(None, vec![]), certificate(Some(""), vec![]));
        assert!(name(&one).starts_with("sha256:"), "{}", name(&one));
        assert!(name(&two).starts_with("sha256:"));
        assert_ne!(name(&one), name(&two));
        assert_ne!(name(b"no certificate"), name(b"another"));
    }
}
