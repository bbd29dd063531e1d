//! Who sends a request, by what it shows: a token, a browser's session, a certificate, or an account of this host.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::users::{InvalidToken, Role, Token};
use tokio_util::sync::CancellationToken;
use tonic::Extensions;
use tonic::codegen::http::{HeaderMap, Request, header};
use tonic::transport::CertificateDer;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use super::Users;
use super::book::{Found, Known, Refusal};
use crate::access::Peer;
use crate::certificate;

/// The cookie of a browser's session. With the prefix no page of another port or subdomain can set one, which a
/// browser allows over TLS alone.
const COOKIE: &str = "marquee-session";
const COOKIE_TLS: &str = "__Host-marquee-session";
/// What stands before a token in `authorization`.
const BEARER: &str = "bearer ";
/// Bytes of the headers that are looked at: what is longer holds nothing of ours.
const HEADER_MAX_BYTES: usize = 4_096;
/// What a proxy says of whom it asks for. Its own account is then nobody's.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// On a request that came through the gate for browsers: only there a cookie counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnPage;

/// By what a user showed who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Token,
    Browser,
    Certificate,
    Account,
}

impl Means {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Browser => "browser",
            Self::Certificate => "certificate",
            Self::Account => "account",
        }
    }
}

/// Who asks. Put on each request by the guard; without it nobody is known.
#[derive(Debug, Clone, Default)]
pub(crate) enum Who {
    /// There are no users: whoever was let in may do everything.
    Open,
    /// The coordinator's own account, or root, on its own host.
    Owner,
    /// A certificate or an account that was let in and is no user's, such as a worker's.
    Machine,
    User {
        user: Arc<Known>,
        means: Means,
        /// Of a token, or of that by which the browser was logged in.
        token: Option<(String, DateTime<Utc>)>,
        /// He came by a certificate or an account that was let in, as workers do.
        is_machine: bool,
        over: CancellationToken,
        is_news: bool,
    },
    #[default]
    Nobody,
}

impl Who {
    /// The projects in which he has at least this role. None: in all.
    pub(crate) fn projects(&self, role: Role) -> Option<Vec<String>> {
        match self {
            Self::Open | Self::Owner => None,
            Self::User { user, .. } => user.grants.projects(role),
            Self::Machine | Self::Nobody => Some(Vec::new()),
        }
    }

    /// Whether he has at least this role in a project.
    pub(crate) fn may(&self, role: Role, project: &str) -> bool {
        match self {
            Self::Open | Self::Owner => true,
            Self::User { user, .. } => user.grants.role_in(project) >= Some(role),
            Self::Machine | Self::Nobody => false,
        }
    }

    /// Whether he has a role in any project.
    pub(crate) fn may_look(&self) -> bool {
        self.projects(Role::Viewer)
            .is_none_or(|projects| !projects.is_empty())
    }
}

/// Why what was shown stands for nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKnown {
    #[error(
        "a token came over a connection that is not encrypted, from another host, and may have been read on its way: revoke it, and connect by https"
    )]
    InTheClear,
    #[error("the header \"authorization\" has no \"Bearer\" token")]
    NoBearer,
    #[error("the token cannot be read: {0}")]
    Unreadable(#[from] InvalidToken),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Users {
    /// Who sent a request.
    pub(crate) fn who<B>(&self, request: &Request<B>, now: DateTime<Utc>) -> Result<Who, NotKnown> {
        let kept = self.kept();
        let headers = request.headers();
        // By what was shown on purpose: a token goes before a browser's session, that before a certificate,
        // and the account of a connection, which nobody chose to show, comes last.
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            // Also where there are no users yet: it is somebody's, somewhere.
            if !is_private(request.extensions()) {
                return Err(NotKnown::InTheClear);
            }
            if !kept.book.has_users() {
                return Ok(Who::Open);
            }
            let token = bearer(value.as_bytes())?;
            return Ok(user(kept.book.by_token(&token, now)?, Means::Token));
        }
        if !kept.book.has_users() {
            return Ok(Who::Open);
        }
        if request.extensions().get::<OwnPage>().is_some()
            && let Some(secret) = session_of(headers)
            && let Some(found) = kept.book.by_session(&secret, now)
        {
            return Ok(user(found, Means::Browser));
        }
        if let Some(name) = certificate_of(request) {
            return Ok(match kept.book.by_name(&name) {
                Some(known) => by_name(known, Means::Certificate, true),
                None => Who::Machine,
            });
        }
        let Some(peer) = request.extensions().get::<Peer>() else {
            return Ok(Who::Nobody);
        };
        // The account is then the proxy's, and whoever asked it would get the proxy's rights.
        if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
            return Ok(Who::Nobody);
        }
        Ok(match kept.book.by_name(&peer.account.name) {
            // Also where a user has this account's name: whoever could take the database needs no role, and
            // must be able to mend what roles have shut.
            _ if peer.is_owner => Who::Owner,
            Some(known) => by_name(known, Means::Account, peer.is_let_in),
            None if peer.is_let_in => Who::Machine,
            None => Who::Nobody,
        })
    }

    /// The user of a token, whoever shows it.
    pub(crate) fn of_token(&self, text: &str, now: DateTime<Utc>) -> Result<Found, NotKnown> {
        let token: Token = text.parse()?;
        Ok(self.kept().book.by_token(&token, now)?)
    }

    /// How many browsers a token has logged in.
    pub(crate) fn browsers_of(&self, token: &str) -> u32 {
        u32::try_from(self.kept().book.browsers_of(token)).unwrap_or(u32::MAX)
    }
}

fn user(found: Found, means: Means) -> Who {
    Who::User {
        user: found.user,
        means,
        token: Some((found.token, found.expires_at)),
        is_machine: false,
        over: found.over,
        is_news: found.is_news,
    }
}

fn by_name(known: Arc<Known>, means: Means, is_machine: bool) -> Who {
    Who::User {
        over: known.over(),
        user: known,
        means,
        token: None,
        is_machine,
        is_news: false,
    }
}

fn bearer(value: &[u8]) -> Result<Token, NotKnown> {
    let start = value.get(..BEARER.len()).ok_or(NotKnown::NoBearer)?;
    if !start.eq_ignore_ascii_case(BEARER.as_bytes()) {
        return Err(NotKnown::NoBearer);
    }
    let text = std::str::from_utf8(&value[BEARER.len()..]).map_err(|_| InvalidToken::Digits)?;
    Ok(text.trim().parse::<Token>()?)
}

/// The digest of the secret in a browser's cookie. None where there are several: our page sets one, and a second one
/// was put there by somebody else.
pub(crate) fn session_of(headers: &HeaderMap) -> Option<Digest> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.len() <= HEADER_MAX_BYTES)?;
        for pair in text.split(';') {
            let (name, secret) = pair.trim().split_once('=')?;
            if (name == COOKIE || name == COOKIE_TLS) && found.replace(secret).is_some() {
                return None;
            }
        }
    }
    let secret: Digest = found?.parse().ok()?;
    Some(Digest::of(secret.as_str().as_bytes()))
}

/// The cookie that stands for a session, or that takes it away.
pub(crate) fn cookie(secret: &str, lives_s: i64, is_tls: bool) -> String {
    let (name, secure) = if is_tls {
        (COOKIE_TLS, "; Secure")
    } else {
        (COOKIE, "")
    };
    format!("{name}={secret}; Path=/; Max-Age={lives_s}; HttpOnly; SameSite=Strict{secure}")
}

/// The name in the certificate that a request's connection showed.
fn certificate_of<B>(request: &Request<B>) -> Option<String> {
    let tls = request
        .extensions()
        .get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let certificates: Arc<Vec<CertificateDer<'static>>> = tls.peer_certs()?;
    certificates.first().map(|own| certificate::name(own))
}

/// Whether nobody on the way could read what was sent.
pub(crate) fn is_private(extensions: &Extensions) -> bool {
    let remote = || extensions.get::<TcpConnectInfo>()?.remote_addr();
    is_tls(extensions) || remote().is_some_and(is_loopback)
}

/// Whether a request's connection is encrypted, by us.
pub(crate) fn is_tls(extensions: &Extensions) -> bool {
    extensions.get::<TlsConnectInfo<TcpConnectInfo>>().is_some()
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_is_read_once_or_not_at_all() {
        let secret = Digest::of(b"secret");
        let hash = Digest::of(secret.as_str().as_bytes());
        let of = |values: &[&str]| session_of(&headers(header::COOKIE, values));
        let ours = format!("marquee-session={secret}");
        assert_eq!(of(&[&ours]), Some(hash.clone()));
        assert_eq!(of(&[&format!("a=b; __Host-{ours}; c=d")]), Some(hash));
        let twice = format!("{ours}; {ours}");
        let long = format!("{ours}; x={}", "x".repeat(HEADER_MAX_BYTES));
        for odd in [
            "",
            "a=b",
            "marquee-session",
            "marquee-session=short",
            &twice,
            &long,
        ] {
            assert_eq!(of(&[odd]), None, "{odd}");
        }
        assert_eq!(of(&[&ours, &ours]), None);
    }

    #[test]
    fn the_cookie_is_for_the_browser_alone_and_for_this_site_alone() {
        let plain = cookie("abc", 60, false);
        assert_eq!(
            plain,
            "marquee-session=abc; Path=/; Max-Age=60; HttpOnly; SameSite=Strict"
        );
        let tls = cookie("abc", 60, true);
        assert!(tls.starts_with("__Host-marquee-session=abc; ") && tls.ends_with("; Secure"));
    }

    #[test]
    fn what_is_no_bearer_token_is_said_without_its_words() {
        let token = Token::new(&Digest::of(b"id"), &Digest::of(b"secret"));
        let text = token.reveal();
        for good in [format!("Bearer {text}"), format!("bearer  {text} ")] {
            assert_eq!(bearer(good.as_bytes()).unwrap(), token);
        }
        for bad in [
            "",
            "Basic hunter2hunter2",
            "Bearer hunter2hunter2",
            &text,
            "Bearer \u{e9}",
        ] {
            let why = bearer(bad.as_bytes()).unwrap_err().to_string();
            assert!(
                !why.contains("hunter2") && !why.contains(&text[20..40]),
                "{why}"
            );
        }
        assert!(bearer(&[0xff; 90]).is_err());
    }

    #[test]
    fn a_token_in_the_clear_from_another_host_is_refused_users_or_not() {
        let asks = |from: &str| {
            let mut request = Request::builder()
                .header("authorization", "Bearer whatever")
                .body(())
                .unwrap();
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(from.parse().unwrap()),
            });
            Users::default().who(&request, DateTime::UNIX_EPOCH)
        };
        for open in ["10.0.0.7:1", "[fd00::7]:1", "[::ffff:10.0.0.7]:1"] {
            assert_eq!(asks(open).unwrap_err(), NotKnown::InTheClear, "{open}");
        }
        for own in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(matches!(asks(own), Ok(Who::Open)), "{own}");
        }
        // Where nobody knows from where it came it is not taken for this host.
        let request = Request::builder().header("authorization", "Bearer x");
        let who = Users::default().who(&request.body(()).unwrap(), DateTime::UNIX_EPOCH);
        assert_eq!(who.unwrap_err(), NotKnown::InTheClear);
    }
}
