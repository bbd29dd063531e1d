//! What the errors of an object store mean, in words that say the way out and hold no secret.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::credentials::CREDENTIALS;
use crate::place::Place;

/// What kind of trouble it is: what a caller does about it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may pass by itself: no answer, half an answer, too many requests.
    Away,
    /// A person has to change something: credentials, the bucket, the settings, the clock.
    Refused,
    /// There is no room for more.
    Full,
}

/// Why a request did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub kind: Kind,
    text: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Trouble {}

/// What was asked for.
pub(crate) type Doing = &'static str;

impl Trouble {
    pub(crate) fn new(place: &Place, kind: Kind, doing: Doing, why: &str) -> Self {
        Self {
            kind,
            text: format!("could not {doing} in {place}: {why}"),
        }
    }

    /// Nothing came for that long.
    pub(crate) fn silence(place: &Place, doing: Doing, within: Duration) -> Self {
        let why = format!(
            "no whole answer within {} s; is the server at work, and the network?",
            within.as_secs().max(1)
        );
        Self::new(place, Kind::Away, doing, &why)
    }

    /// Says what an error means.
    pub(crate) fn of(place: &Place, doing: Doing, error: &object_store::Error) -> Self {
        if let object_store::Error::Generic { store, source } = error
            && *store == CREDENTIALS
        {
            // No server was asked, and the text is our own: it is whole, and waiting mends nothing.
            return Self::new(place, Kind::Refused, doing, &source.to_string());
        }
        let said = Said::of(error);
        let (kind, why) = said.meaning(place, doing);
        Self::new(place, kind, doing, &why)
    }

    /// What an answer means that was asked for without the crate.
    pub(crate) fn answer(place: &Place, doing: Doing, status: u16, body: &str) -> Self {
        let said = Said {
            status: Some(status),
            body: body.to_owned(),
            deepest: String::new(),
        };
        let (kind, why) = said.meaning(place, doing);
        Self::new(place, kind, doing, &why)
    }
}

/// What a server said, taken out of an error. The rest of the error is not for anybody's eyes: servers repeat what they
/// were sent.
struct Said {
    status: Option<u16>,
    body: String,
    /// Of the error's causes, the one that all others come from: where no server answered.
    deepest: String,
}

impl Said {
    fn of(error: &object_store::Error) -> Self {
        let body = error.to_string();
        // The crate does not show its error's own type.
        let status = body.split_once("status code: ").and_then(|(_, rest)| {
            let digits = rest.get(..3)?;
            digits.parse().ok()
        });
        let mut deepest: &dyn Error = error;
        while let Some(cause) = deepest.source() {
            deepest = cause;
        }
        Self {
            status,
            deepest: deepest.to_string(),
            body,
        }
    }

    /// The text of an XML element.
    fn element(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once("</")?;
        // What a server says is shown, but no more of it than a name.
        let is_name = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
        is_name.then_some(text)
    }

    fn meaning(&self, place: &Place, doing: Doing) -> (Kind, String) {
        let Place {
            bucket,
            region,
            credentials,
            ..
        } = place;
        let code = self.element("Code").unwrap_or_default();
        // By the word before the number: a wrong clock, an unknown key and a missing right are all
        // 403. Each says who has to change what, so that nobody has to look the word up.
        let why = match (code, self.status) {
            ("RequestTimeTooSkewed", _) => {
                "the clock of this host is more than 15 minutes off the server's, which refuses signatures of such a time; set it (timedatectl)".to_owned()
            }
            ("ExpiredToken" | "TokenRefreshRequired", _) => format!(
                "the credentials in {credentials:?} have expired; write new ones there, they are read at once"
            ),
            ("InvalidAccessKeyId" | "InvalidClientTokenId" | "InvalidToken", _) => format!(
                "the server does not know the access key in {credentials:?}; write a valid one there, it is read at once"
            ),
            ("SignatureDoesNotMatch", _) => format!(
                "the secret in {credentials:?} is not the one of its access key, or something between here and the server changes requests; write the right one there, it is read at once"
            ),
            ("NoSuchBucket", _) => {
                "there is no such bucket; make it, or correct s3.bucket".to_owned()
            }
            ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) => format!(
                "the credentials in {credentials:?} are not allowed to; they need s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads for bucket {bucket:?}"
            ),
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException", _)
            | ("", Some(301 | 302 | 307 | 308)) => match self.element("Region") {
                Some(right) => format!("the bucket is in region {right:?} and s3.region says {region:?}; correct that"),
                None => format!(
                    "the server sends elsewhere, which it does where the region is wrong (s3.region is {region:?}) or the address (s3.endpoint); no redirect is followed"
                ),
            },
            ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "NotEnoughSpace", _)
            | (_, Some(507)) => {
                return (
                    Kind::Full,
                    "its quota or its disks are full; make room there, such as with \"marquee rm\"".to_owned(),
                );
            }
            ("SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "RequestLimitExceeded", _)
            | (_, Some(429 | 503)) => {
                return (Kind::Away, "the server has too much to do and asks for patience".to_owned());
            }
            ("NotImplemented", _) | (_, Some(501)) => {
                "the server does not know such requests".to_owned()
            }
            // An answer to a HEAD has no words.
            ("", Some(status @ (400 | 401 | 403))) => format!(
                "it answers {status}, which is what wrong, expired or insufficient credentials ({credentials:?}) get, a wrong region and a wrong clock; \"marquee-coordinator config check\" finds out which"
            ),
            ("", Some(404)) => format!(
                "it answers 404: there is no such object, or no bucket {bucket:?} any more"
            ),
            (_, Some(status @ 500..=599)) => {
                return (Kind::Away, format!("the server answers {status} {code}"));
            }
            (_, Some(status)) => format!("the server answers {status} {code}"),
            // No server answered from here on: the deepest cause is the one that a person can do
            // something about.
            (_, None) if self.deepest.contains("certificate") => format!(
                "its certificate is not one to believe ({}); name the file of its authority with s3.ca",
                self.deepest
            ),
            (_, None) if self.body.contains("BareRedirect") || self.body.contains("without LOCATION") => format!(
                "the server sends elsewhere, which it does where the region is wrong (s3.region is {region:?})"
            ),
            (_, None) => return (Kind::Away, format!("{} ({doing})", shown(&self.deepest))),
        };
        (Kind::Refused, why)
    }
}

/// No more of a cause than one line.
fn shown(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.char_indices()
        .nth(200)
        .map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Addressing;

    fn place() -> Place {
        Place {
            bucket: "films".into(),
            region: "us-east-1".into(),
            endpoint: None,
            prefix: String::new(),
            addressing: Addressing::Path,
            credentials: "/etc/s3".into(),
            ca: None,
        }
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let answers = [
            (403, "RequestTimeTooSkewed", "timedatectl"),
            (400, "ExpiredToken", "write new ones there"),
            (403, "InvalidAccessKeyId", "access key in \"/etc/s3\""),
            (403, "SignatureDoesNotMatch", "the secret in \"/etc/s3\""),
            (403, "AccessDenied", "s3:AbortMultipartUpload"),
            (404, "NoSuchBucket", "correct s3.bucket"),
            (301, "PermanentRedirect", "s3.region is \"us-east-1\""),
            (501, "NotImplemented", "does not know such requests"),
            (418, "Teapot", "418 Teapot"),
        ];
        for (status, code, says) in answers {
            let body = format!(
                "<Error><Code>{code}</Code><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId></Error>"
            );
            let trouble = Trouble::answer(&place(), "look", status, &body);
            assert_eq!(trouble.kind, Kind::Refused, "{trouble}");
            let text = trouble.to_string();
            assert!(text.contains(says) && !text.contains("AKIA"), "{text}");
            assert!(
                text.starts_with("could not look in bucket \"films\" at"),
                "{text}"
            );
        }
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-2</Region></Error>";
        let trouble = Trouble::answer(&place(), "look", 400, body);
        assert!(
            trouble.to_string().contains("in region \"eu-2\""),
            "{trouble}"
        );
        let trouble = Trouble::answer(&place(), "look", 403, "");
        assert!(trouble.to_string().contains("config check"), "{trouble}");
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays_and_from_a_full_store() {
        for (status, code, kind) in [
            (503, "SlowDown", Kind::Away),
            (500, "InternalError", Kind::Away),
            (429, "", Kind::Away),
            (507, "", Kind::Full),
            (403, "QuotaExceeded", Kind::Full),
            (403, "", Kind::Refused),
        ] {
            let body = format!("<Error><Code>{code}</Code></Error>");
            assert_eq!(
                Trouble::answer(&place(), "look", status, &body).kind,
                kind,
                "{code}"
            );
        }
        // What a server writes in place of a code is not repeated.
        let body = format!("<Code>{}</Code>", "x".repeat(65));
        assert!(
            !Trouble::answer(&place(), "look", 400, &body)
                .to_string()
                .contains("xxx")
        );
    }
}
