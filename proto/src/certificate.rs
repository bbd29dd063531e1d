//! What a PEM certificate says of itself: whose it is, and from when to when it is good. Whether it is
//! to be believed is for TLS to say.
//!
//! Read here, since the TLS library checks dates and does not tell them.

pub mod bundle;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use marquee_domain::doctor::Check;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// A certificate that ends sooner is worth a word.
const EXPIRES_SOON: TimeDelta = TimeDelta::days(14);
/// What cures all that may be wrong with a certificate.
const CURE: &str =
    "issue a new one (docs/deploy.md, \"Start, many hosts\") and restart the daemon that has it";

/// A certificate's subject and dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
}

/// Every certificate of a PEM text, in order. The error says what is wrong with the text.
pub fn read(pem: &str) -> Result<Vec<Certificate>, String> {
    let mut found = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = block.map_err(|error| format!("is no PEM file: {error}"))?;
        let read = certificate(&der).ok_or("holds a certificate that cannot be read")?;
        found.push(read);
    }
    if found.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(found)
}

// DER, as far as it is needed: each value is a tag, a length and as many bytes. Fields of a
// certificate stand in a fixed order (RFC 5280, section 4.1).

const SEQUENCE: u8 = 0x30;
/// The version's, which may be left out.
const CONTEXT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The identifier of a common name within a name: 2.5.4.3.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// Reads a value off the front: its tag, its contents, and what follows it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Long form: the number of bytes that hold the length.
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes say up to 4 GiB, more than any file that was read here; more of them would be
        // shifted out of the number.
        if bytes.len() > 4 {
            return None;
        }
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// The contents of a value that must have this tag, and what follows it.
fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, contents, rest) = value(der)?;
    (tag == wanted).then_some((contents, rest))
}

fn certificate(der: &[u8]) -> Option<Certificate> {
    let (validity, fields) = expect(from_validity(der)?, SEQUENCE)?;
    let (subject, _) = expect(fields, SEQUENCE)?;
    let (tag, from, rest) = value(validity)?;
    let not_before = time(tag, from)?;
    let (tag, until, _) = value(rest)?;
    Some(Certificate {
        subject: common_name(subject).unwrap_or_else(|| "a certificate without a name".into()),
        not_before,
        not_after: time(tag, until)?,
    })
}

/// The fields of a certificate from its issuer on.
fn from_issuer(der: &[u8]) -> Option<&[u8]> {
    let (signed, _) = expect(der, SEQUENCE)?;
    let (fields, _) = expect(signed, SEQUENCE)?;
    let fields = match value(fields)? {
        (CONTEXT_0, _, rest) => rest,
        _ => fields,
    };
    let (_, _, fields) = value(fields)?; // serial number
    let (_, fields) = expect(fields, SEQUENCE)?; // algorithm
    Some(fields)
}

/// The fields of a certificate from its dates on.
fn from_validity(der: &[u8]) -> Option<&[u8]> {
    let (_, fields) = expect(from_issuer(der)?, SEQUENCE)?;
    Some(fields)
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo), by which a join token knows an authority. None: it
/// cannot be read.
#[must_use]
pub fn pin(der: &[u8]) -> Option<[u8; 32]> {
    let (_, fields) = expect(from_validity(der)?, SEQUENCE)?;
    let (_, key) = expect(fields, SEQUENCE)?; // subject
    // With its tag and length, as the authority that made the token hashes it.
    Some(Sha256::digest(whole(key)?).into())
}

/// The names of a certificate's issuer and of its owner, as they are encoded: by the first a certificate says which
/// authority signed it. None: it cannot be read.
#[must_use]
pub fn issuer_and_subject(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, subject) = expect(from_validity(der)?, SEQUENCE)?;
    Some((whole(from_issuer(der)?)?, whole(subject)?))
}

/// The first value, with its tag and its length.
fn whole(der: &[u8]) -> Option<&[u8]> {
    let (_, rest) = expect(der, SEQUENCE)?;
    Some(&der[..der.len() - rest.len()])
}

/// Why this host's own certificate cannot be shown now, with the way out; None: it can. Asked before anything is
/// dialled, since a server that refuses a certificate can hardly say why (in TLS 1.3 the client learns it late, as a
/// connection that broke).
#[must_use]
pub fn unusable(pem: &str, now: DateTime<Utc>) -> Option<String> {
    let own = match read(pem) {
        // The first is the owner's; those after it lead to the authority.
        Ok(mut found) => found.swap_remove(0),
        Err(why) => return Some(format!("the file of this host's own certificate {why}")),
    };
    let subject = &own.subject;
    let at = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S UTC");
    if own.not_after <= now {
        return Some(format!(
            "this host's own certificate ({subject}) expired on {}",
            at(own.not_after)
        ));
    }
    (own.not_before > now).then(|| {
        format!(
            "this host's own certificate ({subject}) is good from {} on, and this host's clock says {}, at least {} behind; set the clock (\"timedatectl set-ntp true\")",
            at(own.not_before),
            at(now),
            span((own.not_before - now).num_seconds())
        )
    })
}

/// What an error of the TLS library says of the dates of a certificate that was shown, with both clocks that it may be,
/// and by how much at least. None: it is about something else.
#[must_use]
pub fn clock_hint(text: &str) -> Option<String> {
    let number = |after: &str| -> Option<i64> {
        let (_, rest) = text.split_once(after)?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().ok()
    };
    let at = |seconds: i64| {
        let at = DateTime::from_timestamp(seconds, 0)?;
        Some(at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
    };
    // In the words of rustls: an error has come through other layers as text when this is asked.
    let now = number("verification time ")?;
    let here = at(now)?;
    const CURE: &str =
        "compare \"date -u\" on both hosts and set the wrong one (\"timedatectl set-ntp true\")";
    if let Some(from) = number("not valid before ") {
        return Some(format!(
            "the certificate that was shown is good from {} on, and the clock here says {here}: this host's clock is at least {} behind, or that of the coordinator's host, where certificates are made, was ahead; {CURE}",
            at(from)?,
            span(from.checked_sub(now)?)
        ));
    }
    let until = number("not valid after ")?;
    Some(format!(
        "the certificate that was shown was good until {}, and the clock here says {here}: it was not renewed in time, or this host's clock is at least {} ahead; {CURE}",
        at(until)?,
        span(now.checked_sub(until)?)
    ))
}

/// `3 d 4 h`, `12 min 5 s`, `40 s`: the two largest parts.
fn span(seconds: i64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let told = parts[first..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0);
    let told: Vec<String> = told
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if told.is_empty() {
        "0 s".to_owned()
    } else {
        told.join(" ")
    }
}

/// `260131120000Z` or `20600131120000Z`. Two digits of a year are those of 1950 to 2049.
fn time(tag: u8, text: &[u8]) -> Option<DateTime<Utc>> {
    let text = std::str::from_utf8(text).ok()?;
    let full = match tag {
        UTC_TIME => {
            let century = if text.get(..2)? < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = NaiveDateTime::parse_from_str(&full, "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc())
}

fn common_name(subject: &[u8]) -> Option<String> {
    // A search for the bytes and no walk through the name: the name is shown to people, and decides
    // nothing.
    let at = subject
        .windows(COMMON_NAME.len())
        .position(|window| window == COMMON_NAME)?;
    let (_, name, _) = value(&subject[at + COMMON_NAME.len()..])?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// A verdict on the dates of the certificates in a PEM text, which settings name as `key`.
#[must_use]
pub fn check(key: &str, pem: &str, now: DateTime<Utc>) -> Check {
    let found = match read(pem) {
        Ok(found) => found,
        Err(why) => return Check::failed(key, format!("the file {why}"), CURE),
    };
    // Before any end is looked at: with a clock that is wrong the ends mean nothing.
    if let Some(early) = found.iter().find(|found| found.not_before > now) {
        let from = early.not_before.format("%Y-%m-%d %H:%M UTC");
        let found = format!("{} is good from {from} on only", early.subject);
        return Check::failed(key, found, "set this host's clock, or issue a new one");
    }
    // The first to end ends the chain.
    let Some(first) = found.iter().min_by_key(|found| found.not_after) else {
        return Check::failed(key, "the file holds no certificate", CURE);
    };
    let (subject, end) = (&first.subject, first.not_after.format("%Y-%m-%d"));
    if first.not_after <= now {
        Check::failed(key, format!("{subject} expired on {end}"), CURE)
    } else if first.not_after - now < EXPIRES_SOON {
        Check::warning(key, format!("{subject} expires on {end}"), CURE)
    } else {
        Check::ok(key, format!("{subject}, good until {end}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::doctor::Verdict;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30
    /// -subj "/CN=Marquee CA"`, made for this test; its key was thrown away.
    const CA: &str = include_str!("certificate/ca.pem");

    #[test]
    fn a_certificate_is_judged_by_its_dates() {
        let ca = read(CA).unwrap().remove(0);
        assert_eq!(ca.subject, "Marquee CA");
        let verdict = |now| check("tls.ca", CA, now).verdict;
        let day = TimeDelta::days(1);
        assert_eq!(verdict(ca.not_before - day), Verdict::Failed);
        assert_eq!(verdict(ca.not_before + day), Verdict::Ok);
        assert_eq!(verdict(ca.not_after - day), Verdict::Warning);
        assert_eq!(verdict(ca.not_after), Verdict::Failed);
        assert_eq!(unusable(CA, ca.not_after - day), None);
        let expired = unusable(CA, ca.not_after).unwrap();
        assert!(expired.contains("expired on 20"), "{expired}");
        let early = unusable(CA, ca.not_before - day).unwrap();
        assert!(early.contains("set the clock"), "{early}");
        let expired = check("tls.ca", CA, ca.not_after + day);
        assert!(
            expired.found.contains("Marquee CA expired on"),
            "{expired:?}"
        );
    }

    #[test]
    fn an_error_about_dates_says_whose_clock_and_by_how_much() {
        // As rustls says it.
        let early = "invalid peer certificate: certificate not valid yet: verification time 1800000000 (UNIX), but certificate is not valid before 1800004205 (4205 seconds in future)";
        let early = clock_hint(early).unwrap();
        assert!(early.contains("at least 1 h 10 min behind"), "{early}");
        assert!(early.contains("2027-01-15 08:00:00 UTC"), "{early}");
        let late = "certificate expired: verification time 1800000045 (UNIX), but certificate is not valid after 1800000000 (45 seconds ago)";
        let late = clock_hint(late).unwrap();
        assert!(late.contains("at least 45 s ahead"), "{late}");
        for other in [
            "",
            "invalid peer certificate: UnknownIssuer",
            "verification time 99999999999999999999 (UNIX), but certificate is not valid after 3",
            "verification time 5 (UNIX), but certificate is not valid after x",
        ] {
            assert_eq!(clock_hint(other), None, "{other}");
        }
        for (seconds, text) in [
            (0, "0 s"),
            (86_400, "1 d"),
            (273_600, "3 d 4 h"),
            (725, "12 min 5 s"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        assert_eq!(read("").unwrap_err(), "holds no certificate");
        let cut = CA.replace("BgN", "AAA").replace("MIIB", "MIIC");
        assert!(read(&cut).is_err());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(read(broken).unwrap_err().contains("cannot be read"));
    }
}
