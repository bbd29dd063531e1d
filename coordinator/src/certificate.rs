//! The name that an X.509 certificate gives its owner. Whether the certificate is to be believed is for TLS
//! to say, which has checked it against the authority before anything here is asked.

use marquee_domain::artifact::Digest;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The owner's name: its first URI, else its first DNS name, else its common name.
///
/// A certificate without any of them is named by its digest, so that two of them are never taken for one.
pub(crate) fn name(der: &[u8]) -> String {
    named(der).unwrap_or_else(|| format!("sha256:{}", Digest::of(der)))
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
    let name = uri.or(dns).or(common)?;
    (!name.is_empty()).then(|| name.to_owned())
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
    fn without_a_name_each_certificate_is_its_own() {
        let (one, two) = (certificate(None, vec![]), certificate(Some(""), vec![]));
        assert!(name(&one).starts_with("sha256:"), "{}", name(&one));
        assert!(name(&two).starts_with("sha256:"));
        assert_ne!(name(&one), name(&two));
        assert_ne!(name(b"no certificate"), name(b"another"));
    }
}
