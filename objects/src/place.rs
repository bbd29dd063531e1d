//! Where a bucket is, as the settings say it.

use std::fmt;
use std::path::PathBuf;

/// How a bucket stands in its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Virtual,
}

/// A bucket, and the file with the credentials for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub bucket: String,
    pub region: String,
    /// `https://host[:port]`; None: Amazon's of the region.
    pub endpoint: Option<String>,
    /// Before every key, without slashes at its ends; empty: nothing. Of letters, digits and `-_.=/` alone, which every server
    /// and the signature take as they are.
    pub prefix: String,
    pub addressing: Addressing,
    /// In the form of `~/.aws/credentials`.
    pub credentials: PathBuf,
    /// PEM file of further authorities for the endpoint's certificate.
    pub ca: Option<PathBuf>,
}

impl Place {
    /// The URL of the bucket, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        let bucket = &self.bucket;
        match (&self.endpoint, self.addressing) {
            (None, Addressing::Path) => {
                format!("https://s3.{}.amazonaws.com/{bucket}", self.region)
            }
            (None, Addressing::Virtual) => {
                format!("https://{bucket}.s3.{}.amazonaws.com", self.region)
            }
            (Some(endpoint), Addressing::Path) => format!("{endpoint}/{bucket}"),
            (Some(endpoint), Addressing::Virtual) => match endpoint.split_once("://") {
                Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
                None => format!("{endpoint}/{bucket}"),
            },
        }
    }

    /// A key of ours as the server knows it.
    pub(crate) fn key(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}

/// `bucket "b" at https://s3.example.org, prefix "p"`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amazon = format!("Amazon's {}", self.region);
        let at = self.endpoint.as_deref().unwrap_or(&amazon);
        write!(f, "bucket {:?} at {at}", self.bucket)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, ", prefix {prefix:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_in_the_path_or_in_the_name_of_the_host() {
        let mut place = Place {
            bucket: "b1b".into(),
            region: "eu-1".into(),
            endpoint: Some("http://127.0.0.1:9000".into()),
            prefix: "p/q".into(),
            addressing: Addressing::Path,
            credentials: PathBuf::new(),
            ca: None,
        };
        assert_eq!(place.url(), "http://127.0.0.1:9000/b1b");
        assert_eq!(place.key("k"), "p/q/k");
        place.addressing = Addressing::Virtual;
        assert_eq!(place.url(), "http://b1b.127.0.0.1:9000");
        place.endpoint = None;
        assert_eq!(place.url(), "https://b1b.s3.eu-1.amazonaws.com");
        assert_eq!(
            place.to_string(),
            "bucket \"b1b\" at Amazon's eu-1, prefix \"p/q\""
        );
    }
}
