//! Where the service is, and whether it may be asked at all.

use std::net::IpAddr;

use marquee_domain::spec::Rights;
use reqwest::Url;

use crate::job::JobError;

/// TMDb's own domains.
const TMDB_DOMAINS: [&str; 2] = ["themoviedb.org", "tmdb.org"];
/// The notice that TMDb asks of everyone who shows its data.
const TMDB_ATTRIBUTION: &str =
    "This product uses the TMDB API but is not endorsed or certified by TMDB.";

/// A base URL: paths are appended to it.
#[derive(Debug, Clone)]
pub(super) struct Base(Url);

impl Base {
    pub(super) fn parse(field: &str, text: &str) -> Result<Self, JobError> {
        let wrong = |problem: &str| {
            JobError::user(format!(
                "{field} {:?} {problem}; write a URL such as https://api.example.org/3",
                without_userinfo(text)
            ))
        };
        let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is neither http nor https"));
        }
        // Paths are appended to it: a query or a fragment would be lost without a word.
        if url.host_str().is_none() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must be a host with a path and nothing else"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "holds a user name or password, which would end up in logs",
            ));
        }
        Ok(Self(url))
    }

    /// The URL of `path` below this base, with single slashes whatever both bring.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let parts = |text: &str| -> Vec<String> {
            text.split('/')
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let all = [parts(self.0.path()), parts(path)].concat();
        url.set_path(&all.join("/"));
        url
    }

    /// The same host with another path.
    pub(super) fn sibling(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(path);
        Self(url)
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the host is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self
            .0
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// The host's name, for messages and tables.
    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    fn is_tmdb(&self) -> bool {
        // A host's name with a dot at its end is the same host.
        let host = self.0.host_str().unwrap_or_default().trim_end_matches('.');
        TMDB_DOMAINS.iter().any(|domain| {
            host.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())
    }
}

fn without_userinfo(text: &str) -> &str {
    // From the last "@": a password may hold one, and no part of it is to be shown.
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// Refuses TMDb's own hosts unless the user has stated that they hold the rights, and gives the
/// text that then has to be shown.
pub(super) fn check_rights(
    bases: &[&Base],
    rights: Option<&Rights>,
) -> Result<Option<String>, JobError> {
    let Some(base) = bases.iter().find(|base| base.is_tmdb()) else {
        return Ok(None);
    };
    match rights {
        Some(_) => Ok(Some(TMDB_ATTRIBUTION.to_owned())),
        None => Err(JobError::user(format!(
            "{base} is TMDb, whose terms do not allow machine learning without a written agreement; \
             if you have one, say so in the source's rights (holder, date, note)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Base {
        Base::parse("api_url", text).unwrap()
    }

    #[test]
    fn paths_join_with_single_slashes() {
        for (start, path) in [
            ("http://h:1/3", "movie/11"),
            ("http://h:1/3/", "/movie/11"),
            ("http://h:1//3//", "//movie//11"),
        ] {
            assert_eq!(base(start).join(path).as_str(), "http://h:1/3/movie/11");
        }
        assert_eq!(
            base("http://h/t/p").join("a b?c#d").as_str(),
            "http://h/t/p/a%20b%3Fc%23d"
        );
    }

    #[test]
    fn tmdb_is_refused_without_rights_under_all_its_names() {
        let rights = Rights {
            holder: "us".into(),
            date: "2026-01-01".into(),
            note: String::new(),
        };
        for host in [
            "api.themoviedb.org",
            "api.tmdb.org",
            "TMDB.org",
            "image.tmdb.org.",
        ] {
            let tmdb = base(&format!("https://{host}/3"));
            assert!(check_rights(&[&tmdb], None).is_err(), "{host}");
            assert!(check_rights(&[&tmdb], Some(&rights)).unwrap().is_some());
        }
        let other = base("https://nottmdb.org/3");
        assert_eq!(check_rights(&[&other], None), Ok(None));
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (text, is_loopback) in [
            ("http://localhost:1/", true),
            ("http://127.0.0.9/", true),
            ("http://[::1]:80/", true),
            ("http://localhost.evil.example/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(base(text).is_loopback(), is_loopback, "{text}");
        }
    }

    #[test]
    fn a_url_that_could_leak_or_mislead_is_refused() {
        for text in [
            "ftp://h/",
            "h/3",
            "http://h/3?api_key=1",
            "http://u:secret@h/3",
            "",
        ] {
            let Err(JobError::Failed(failure)) = Base::parse("api_url", text) else {
                panic!("{text} was taken");
            };
            assert!(!failure.message.contains("secret"), "{}", failure.message);
        }
    }
}
