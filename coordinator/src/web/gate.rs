//! Which requests of a browser are ours to answer: those of our own page. Any page that somebody visits may send
//! requests here, to a coordinator on loopback too; it must neither be answered nor change anything.

use std::net::IpAddr;

use tonic::codegen::http::{HeaderMap, Method, Request, StatusCode, header};

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the request says no host, or several; name the coordinator's address in the header \"Host\""
    )]
    NoHost,
    /// A name that whoever owns it can point at us, and then its page would be of our origin.
    #[error(
        "this coordinator is not called {0:?}: without TLS it answers to its IP address and to \"localhost\" alone, so that no other site can speak with it through a name of its own"
    )]
    OtherHost(String),
    #[error("the request comes from a page of {0:?}, not from the coordinator's own")]
    OtherOrigin(String),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::OtherHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::OtherOrigin(_) => StatusCode::FORBIDDEN,
        }
    }
}

/// Checks who the request says we are, and where it comes from. With TLS our certificate has vouched for the name.
pub(super) fn check<B>(request: &Request<B>, is_tls: bool) -> Result<(), Refusal> {
    let host = authority(request).ok_or(Refusal::NoHost)?;
    if !is_tls && !is_ours(host) {
        return Err(Refusal::OtherHost(shown(host)));
    }
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    if is_read {
        // A link from anywhere may lead here: the answer is for the eyes of who follows it.
        return Ok(());
    }
    came_from(request.headers(), host)
}

/// The authority of the request: of the URI in HTTP/2, else the header.
fn authority<B>(request: &Request<B>) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

/// An address is nobody else's name, and "localhost" browsers resolve themselves.
fn is_ours(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.to_ascii_lowercase();
    host.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

/// Only our own page, or a program that is no browser, may ask for something that acts.
fn came_from(headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(origin) = text("origin") {
        // Before us may stand something that ends TLS: the scheme is its.
        let own = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return Err(Refusal::OtherOrigin(shown(origin)));
        }
    }
    match text("sec-fetch-site") {
        None | Some("same-origin") => Ok(()),
        Some(other) => Err(Refusal::OtherOrigin(shown(other))),
    }
}

/// Short enough for an error.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder()
            .method(method)
            .uri("/marquee.v1.Jobs/CancelJob");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn names_that_somebody_else_can_own_are_refused_without_tls() {
        for host in [
            "127.0.0.1:7700",
            "[::1]:7700",
            "localhost",
            "LOCALHOST:80",
            "a.localhost:7700",
            "10.0.0.7",
        ] {
            let request = request(Method::GET, &[("host", host)]);
            assert_eq!(check(&request, false), Ok(()), "{host}");
        }
        for host in [
            "evil.example:7700",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[evil]:1",
        ] {
            let refused = |is_tls| check(&request(Method::GET, &[("host", host)]), is_tls);
            assert!(
                matches!(refused(false), Err(Refusal::OtherHost(_))),
                "{host}"
            );
            assert_eq!(
                refused(true),
                Ok(()),
                "{host}: its certificate says who it is"
            );
        }
        assert_eq!(
            check(&request(Method::GET, &[]), false),
            Err(Refusal::NoHost)
        );
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(
            check(&request(Method::GET, &two), false),
            Err(Refusal::NoHost)
        );
    }

    #[test]
    fn what_acts_must_come_from_our_own_page_or_from_no_browser() {
        let host = ("host", "localhost:7700");
        let post = |more: &[(&str, &str)]| {
            let all: Vec<_> = std::iter::once(&host).chain(more).copied().collect();
            check(&request(Method::POST, &all), false)
        };
        assert_eq!(post(&[]), Ok(()));
        assert_eq!(post(&[("origin", "http://localhost:7700")]), Ok(()));
        assert_eq!(
            post(&[
                ("origin", "https://LOCALHOST:7700"),
                ("sec-fetch-site", "same-origin")
            ]),
            Ok(())
        );
        for foreign in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:8000"),
            ("origin", "localhost:7700"),
            ("origin", "http://localhost:7700.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(
                matches!(post(&[foreign]), Err(Refusal::OtherOrigin(_))),
                "{foreign:?}"
            );
        }
        let read = request(Method::GET, &[host, ("origin", "http://evil.example")]);
        assert_eq!(check(&read, false), Ok(()), "a link leads here");
    }
}
