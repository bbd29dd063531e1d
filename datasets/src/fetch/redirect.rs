//! Where a redirect leads, and whether it is followed.
//!
//! Invariant: what is asked with a credential is asked of one origin (scheme, host and port) alone,
//! whatever an answer says.

use reqwest::Url;

/// Redirects that one try follows, one after the other.
pub(super) const REDIRECTS_MAX: usize = 5;

/// How far a redirect may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Pictures and exports are asked for without a credential: their stores may send us on.
    Anywhere,
    /// The API's own origin: elsewhere the credential would be in other hands.
    SameOrigin,
}

/// Where an answer sends whoever asked for `from`. None: it is no redirect. An error is for people, and
/// says no more of the place than its origin: a service may repeat the key there.
pub(super) fn target(
    status: u16,
    location: Option<&str>,
    from: &Url,
    scope: Scope,
) -> Option<Result<Url, String>> {
    // Not 300, which leaves the choice to people, nor 304, which is an answer to our condition.
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let Ok(mut to) = from.join(location?) else {
        return Some(Err(format!("HTTP {status} to what is no URL")));
    };
    if !matches!(to.scheme(), "http" | "https") {
        let scheme = to.scheme();
        return Some(Err(format!(
            "HTTP {status} to a place of the kind \"{scheme}:\"; only http and https are followed"
        )));
    }
    if scope == Scope::SameOrigin && to.origin() != from.origin() {
        let origin = to.origin().ascii_serialization();
        return Some(Err(format!(
            "HTTP {status} to {origin}: not followed, since another origin would get the credential; if it \
             is the service, name it in api_url"
        )));
    }
    // A name and password that a stranger's answer holds are none that we would send. Neither call can
    // fail on a URL with a host.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    Some(Ok(to))
}

/// `url` without a key in its query, should a redirect have repeated the one that we sent.
pub(super) fn without(url: &Url, name: &str) -> Url {
    let mut clean = url.clone();
    if url.query_pairs().any(|(key, _)| key == name) {
        let others = url.query_pairs().filter(|(key, _)| key != name);
        clean.query_pairs_mut().clear().extend_pairs(others);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(status: u16, location: &str, scope: Scope) -> Option<Result<String, String>> {
        let from = Url::parse("https://api.example.org/3/movie/11").unwrap();
        target(status, Some(location), &from, scope).map(|to| to.map(String::from))
    }

    #[test]
    fn the_api_is_followed_within_its_origin_and_nowhere_else() {
        for (location, to) in [
            ("?again=1", "https://api.example.org/3/movie/11?again=1"),
            ("/4/movie/11", "https://api.example.org/4/movie/11"),
            ("//api.example.org/3/x", "https://api.example.org/3/x"),
            (
                "HTTPS://API.example.org:443/3/y",
                "https://api.example.org/3/y",
            ),
            (
                "https://u:p@api.example.org/3/z",
                "https://api.example.org/3/z",
            ),
        ] {
            let found = lead(302, location, Scope::SameOrigin).unwrap();
            assert_eq!(found.as_deref(), Ok(to), "{location}");
        }
        for location in [
            "https://evil.example/3?api_key=secret",
            "http://api.example.org/3/movie/11",
            "https://api.example.org:444/3/movie/11",
            "https://api.example.org.evil.example/",
            "https://sub.api.example.org/",
            "https://api.example.org@evil.example/secret",
        ] {
            let refused = lead(301, location, Scope::SameOrigin).unwrap().unwrap_err();
            assert!(refused.contains("would get the credential"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
            assert!(lead(301, location, Scope::Anywhere).unwrap().is_ok());
        }
    }

    #[test]
    fn what_is_no_redirect_or_leads_out_of_the_web_is_not_followed() {
        for status in [200, 300, 304, 305, 404] {
            assert_eq!(lead(status, "/x", Scope::Anywhere), None, "{status}");
        }
        let from = Url::parse("http://h/").unwrap();
        assert_eq!(target(302, None, &from, Scope::Anywhere), None);
        for location in [
            "file:///etc/passwd",
            "data:text/plain,x",
            "ftp://h/x",
            "http://",
        ] {
            assert!(
                lead(302, location, Scope::Anywhere).unwrap().is_err(),
                "{location}"
            );
        }
    }

    #[test]
    fn a_repeated_key_is_taken_out_and_the_rest_of_the_query_stays() {
        let url = Url::parse("http://h/3?page=2&api_key=1&api_key=2&x=a%26b").unwrap();
        assert_eq!(
            without(&url, "api_key").as_str(),
            "http://h/3?page=2&x=a%26b"
        );
        let plain = Url::parse("http://h/3?a=%7E").unwrap();
        assert_eq!(without(&plain, "api_key"), plain);
    }
}
