//! The authorities that somebody believes, as they stand in a PEM file: the one that signs first.
//!
//! While one authority follows another there are two of them. Whoever takes news of them adds what is new and drops what
//! he is told to drop, so that an answer that is behind the times shuts nobody out.

use marquee_domain::join_token::hex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{issuer_and_subject, pin};

/// Authorities that are believed at once: two while one follows the other, and room for an operator's own.
pub const AUTHORITIES_MAX: usize = 8;
/// Bytes of their file.
pub const BUNDLE_MAX_BYTES: usize = 64 * 1024;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// SHA-256 of its public key, in hex.
    pub pin: String,
    /// With its lines, and a line feed at its end.
    pub pem: String,
    /// Its name as certificates that it signed have it.
    subject: Vec<u8>,
}

impl Authority {
    /// Whether it signed a certificate, by what that says of itself.
    #[must_use]
    pub fn has_signed(&self, der: &[u8]) -> bool {
        // Names of ours hold the start of their key's digest, so the next one has another name.
        // Whether the signature is right is for TLS to say.
        issuer_and_subject(der).is_some_and(|(issuer, _)| issuer == self.subject)
    }

    /// Its name, encoded.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }
}

/// Reads them. The error says what is wrong with the text.
pub fn read(pem: &str) -> Result<Vec<Authority>, String> {
    if pem.len() > BUNDLE_MAX_BYTES {
        return Err(format!("has more than {BUNDLE_MAX_BYTES} bytes"));
    }
    let mut all: Vec<Authority> = Vec::new();
    let mut rest = pem;
    while let Some(begin) = rest.find(BEGIN) {
        let from = &rest[begin..];
        // Cut out here, since the TLS library gives decoded bytes alone, and what is written back
        // is to be the text as it stood.
        let end = from.find(END).ok_or("holds half a certificate")? + END.len();
        let text = &from[..end];
        rest = &from[end..];
        let der = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|error| format!("is no PEM file: {error}"))?;
        let unreadable = "holds a certificate that cannot be read";
        let own = hex(&pin(&der).ok_or(unreadable)?);
        let (_, subject) = issuer_and_subject(&der).ok_or(unreadable)?;
        if all.iter().any(|known| known.pin == own) {
            continue;
        }
        // Counted without repeats: a file to which the same was appended often can still be read.
        if all.len() == AUTHORITIES_MAX {
            return Err(format!("holds more than {AUTHORITIES_MAX} authorities"));
        }
        all.push(Authority {
            pin: own,
            pem: format!("{text}\n"),
            subject: subject.to_vec(),
        });
    }
    if all.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(all)
}

/// As they stand in a file.
#[must_use]
pub fn text(authorities: &[Authority]) -> String {
    authorities
        .iter()
        .map(|authority| authority.pem.as_str())
        .collect()
}

/// Their pins.
#[must_use]
pub fn pins(authorities: &[Authority]) -> Vec<String> {
    let pins = authorities.iter().map(|authority| authority.pin.clone());
    pins.collect()
}

/// What is believed once `news` has come: those of the news first, and of those before what is not among `dropped`.
#[must_use]
pub fn merged(before: Vec<Authority>, news: Vec<Authority>, dropped: &[String]) -> Vec<Authority> {
    let mut all = news;
    for authority in before {
        let is_there = all.iter().any(|known| known.pin == authority.pin);
        // What finds no room is of before: the news is what the cluster shows now.
        if !is_there && !dropped.contains(&authority.pin) && all.len() < AUTHORITIES_MAX {
            all.push(authority);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the tests of certificates.
    const CA: &str = include_str!("ca.pem");

    fn named(pin: &str) -> Authority {
        Authority {
            pin: pin.into(),
            pem: format!("{pin}\n"),
            subject: pin.into(),
        }
    }

    #[test]
    fn a_file_holds_each_authority_once_whatever_stands_around_it() {
        let one = read(CA).unwrap();
        let twice = read(&format!("# ours\n{CA}\nand again\n{CA}")).unwrap();
        assert_eq!(one, twice);
        assert_eq!(read(&text(&one)).unwrap(), one);
        assert!(read("").unwrap_err().contains("no certificate"));
        assert!(read(&CA[..CA.len() - 20]).unwrap_err().contains("half"));
        assert!(read(&"x".repeat(BUNDLE_MAX_BYTES + 1)).is_err());
        // It signed itself.
        let der = CertificateDer::from_pem_slice(CA.as_bytes()).unwrap();
        assert!(one[0].has_signed(&der));
        assert!(!named("other").has_signed(&der));
        assert!(!one[0].has_signed(b"no certificate"));
    }

    #[test]
    fn what_is_known_stays_until_it_is_dropped_by_name() {
        let after = |dropped: &[&str]| {
            let dropped: Vec<String> = dropped.iter().map(|pin| (*pin).to_owned()).collect();
            let all = merged(
                vec![named("old"), named("own")],
                vec![named("new"), named("old")],
                &dropped,
            );
            pins(&all).join(" ")
        };
        assert_eq!(after(&[]), "new old own");
        assert_eq!(after(&["own"]), "new old");
        // What the news says is believed, even where a list is behind.
        assert_eq!(after(&["old"]), "new old own");
    }
}
