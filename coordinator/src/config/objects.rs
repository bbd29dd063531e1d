//! The bucket that artifacts lie in, as the settings name it: section `[s3]`.

use std::path::PathBuf;

use marquee_settings::Values;

use super::ConfigError;

/// What a region is called where nobody says: by most servers other than Amazon's, too.
const DEFAULT_REGION: &str = "us-east-1";
/// Bytes of a prefix: keys have 1,024, of which ours take 100.
const PREFIX_MAX_BYTES: usize = 512;

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStore {
    pub bucket: String,
    pub region: String,
    /// `https://host[:port]`; None: Amazon's of the region.
    pub endpoint: Option<String>,
    /// Before every key, without slashes at its ends.
    pub prefix: String,
    /// Whether the bucket stands in the host's name (`https://bucket.host`) and not in the path.
    pub is_virtual: bool,
    /// The file with the credentials; what begins with `credential:` only the service has.
    pub credentials: PathBuf,
    /// PEM file of further authorities for the endpoint's certificate.
    pub ca: Option<PathBuf>,
}

/// The bucket of the settings; None: artifacts lie in a folder.
pub(super) fn object_store(values: &Values) -> Result<Option<ObjectStore>, ConfigError> {
    let bucket = values.parsed(
        "s3.bucket",
        "a bucket's name has 3 to 63 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends",
        |text| is_bucket(text).then(|| text.to_owned()),
    )?;
    let Some(bucket) = bucket else {
        // Half a section is a slip, and going on in a folder would be another cluster than is believed.
        let others = [
            "s3.endpoint",
            "s3.region",
            "s3.prefix",
            "s3.credentials",
            "s3.addressing",
            "s3.ca",
        ];
        return match others.into_iter().find(|key| values.text(key).is_some()) {
            Some(beside) => Err(ConfigError::NoBucket { beside }),
            None => Ok(None),
        };
    };
    let endpoint = endpoint(values)?;
    let addressing = values.word("s3.addressing", &[("path", false), ("virtual", true)])?;
    let must_be = "parts of letters, digits, \"-\", \"_\", \".\" and \"=\" with one \"/\" between them, 512 bytes in all: anything else some servers and proxies change on the way";
    let prefix = values.parsed("s3.prefix", must_be, |text| {
        is_prefix(text).then(|| text.to_owned())
    })?;
    let must_be = "a region's name, such as \"eu-central-1\"";
    let region = values.parsed("s3.region", must_be, |text| {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_fine = !text.is_empty() && text.len() <= 64 && text.bytes().all(is_fine);
        is_fine.then(|| text.to_owned())
    })?;
    let Some(credentials) = values.path("s3.credentials") else {
        return Err(ConfigError::NoObjectCredentials);
    };
    Ok(Some(ObjectStore {
        // Certificates of Amazon's are for one part before the dot.
        is_virtual: addressing.unwrap_or(endpoint.is_none() && !bucket.contains('.')),
        bucket,
        region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        endpoint,
        prefix: prefix.unwrap_or_default(),
        credentials,
        ca: values.path("s3.ca"),
    }))
}

fn endpoint(values: &Values) -> Result<Option<String>, ConfigError> {
    let must_be = "the server's address without a path, user or bucket, such as \"https://s3.example.org:9000\"";
    let endpoint = values.parsed("s3.endpoint", must_be, |text| {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (scheme, host) = text.split_once("://")?;
        let is_fine = matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host.len() <= super::ADDRESS_MAX_BYTES
            && !host
                .contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@\\%".contains(c));
        is_fine.then(|| text.to_owned())
    })?;
    let may_be_plain = values.word("s3.plain_http", &super::TRUTH)? == Some(true);
    if let Some(text) = &endpoint
        && let Some(host) = text.strip_prefix("http://")
        && !may_be_plain
        && !is_loopback(host)
    {
        let problem = "without TLS everybody on the way can read and change artifacts, which workers run; use https://, or say s3.plain_http = true for a network on which you trust everybody";
        return Err(ConfigError::Settings(values.wrong(
            "s3.endpoint",
            text,
            problem,
        )));
    }
    Ok(endpoint)
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        Some(_) | None => host,
    };
    // An IPv6 address stands in brackets there.
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn is_bucket(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().next_back()];
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| is_plain(b) || b == b'-' || b == b'.')
        && ends.into_iter().flatten().all(is_plain)
        && !name.contains("..")
}

fn is_prefix(prefix: &str) -> bool {
    let is_part = |part: &str| {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.=".contains(&b);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_fine)
    };
    prefix.is_empty() || prefix.len() <= PREFIX_MAX_BYTES && prefix.split('/').all(is_part)
}

/// What is in force for a key of the section that nobody wrote.
pub(super) fn in_force(store: &ObjectStore, key: &str) -> Option<String> {
    match key {
        "s3.region" => Some(store.region.clone()),
        "s3.addressing" => Some(if store.is_virtual { "virtual" } else { "path" }.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::{Config, Flags};

    fn load(set: &[(&str, &str)]) -> Result<Option<ObjectStore>, String> {
        let mut variables: HashMap<String, String> = set
            .iter()
            .map(|(key, value)| {
                let name = format!("MARQUEE_COORDINATOR__S3__{}", key.to_uppercase());
                (name, (*value).to_owned())
            })
            .collect();
        variables.insert("MARQUEE_COORDINATOR__DATA_DIR".into(), "/nowhere".into());
        let config = Config::load(&Flags::default(), variables);
        config
            .map(|config| config.object_store)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_bucket_and_its_credentials_are_enough() {
        assert_eq!(load(&[]), Ok(None));
        let store = load(&[("bucket", "films"), ("credentials", "/etc/s3")]);
        let store = store.unwrap().unwrap();
        assert_eq!(
            (store.region.as_str(), store.prefix.as_str()),
            ("us-east-1", "")
        );
        assert!(store.is_virtual && store.endpoint.is_none());
        let store = load(&[
            ("bucket", "films"),
            ("credentials", "/etc/s3"),
            ("endpoint", "https://s3.example.org:9000/"),
            ("prefix", "a/b-c=1"),
        ]);
        let store = store.unwrap().unwrap();
        assert_eq!(
            store.endpoint.as_deref(),
            Some("https://s3.example.org:9000")
        );
        assert!(!store.is_virtual && store.prefix == "a/b-c=1");
    }

    #[test]
    fn what_makes_no_sense_names_its_key_and_the_way_out() {
        let fine = [("bucket", "films"), ("credentials", "/etc/s3")];
        let long = "a".repeat(PREFIX_MAX_BYTES + 1);
        for (key, value, says) in [
            ("bucket", "Films", "3 to 63 lower-case"),
            ("bucket", "ab", "3 to 63 lower-case"),
            ("bucket", "a..b", "3 to 63 lower-case"),
            ("bucket", "-films", "3 to 63 lower-case"),
            ("prefix", "/a", "one \"/\" between"),
            ("prefix", "a/../b", "one \"/\" between"),
            ("prefix", "a b", "one \"/\" between"),
            ("prefix", "ä", "one \"/\" between"),
            ("prefix", "a%2Fb", "one \"/\" between"),
            ("prefix", &long, "512 bytes"),
            ("endpoint", "s3.example.org", "such as \"https://"),
            ("endpoint", "https://u:p@h", "such as \"https://"),
            ("endpoint", "https://h/bucket", "such as \"https://"),
            ("endpoint", "http://10.0.0.1:9000", "s3.plain_http = true"),
            ("addressing", "dns", "\"path\" or \"virtual\""),
            ("region", "eu central", "such as \"eu-central-1\""),
            ("buckets", "x", "did you mean \"s3.bucket\""),
        ] {
            let mut set = fine.to_vec();
            set.retain(|(other, _)| *other != key);
            set.push((key, value));
            let error = load(&set).unwrap_err();
            assert!(
                error.contains(&format!("s3.{key}")) && error.contains(says),
                "{error}"
            );
        }
        let error = load(&fine[..1]).unwrap_err();
        assert!(error.contains("s3.credentials"), "{error}");
        let error = load(&fine[1..]).unwrap_err();
        assert!(error.contains("\"s3.bucket\" is missing"), "{error}");
    }

    #[test]
    fn plain_http_is_for_this_host_or_for_whom_the_settings_allow_it() {
        for (endpoint, plain) in [
            ("http://127.0.0.1:9000", "false"),
            ("http://localhost", "false"),
            ("http://[::1]:9000", "false"),
            ("http://10.0.0.1:9000", "true"),
        ] {
            let store = load(&[
                ("bucket", "films"),
                ("credentials", "/etc/s3"),
                ("endpoint", endpoint),
                ("plain_http", plain),
            ]);
            assert!(store.is_ok(), "{store:?}");
        }
    }
}
