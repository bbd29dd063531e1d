//! Who asks: made once of each request, passed to what the request changes, and stored with its events.
//!
//! Who asks is the user, where there are some (`users`). Otherwise it is the name in the certificate that the client
//! showed, or else the account of this host that made the connection. Where neither is asked for, it is `local`.

use std::fmt;
use std::net::SocketAddr;

use marquee_domain::ids::WorkerId;
use marquee_domain::users::Role;
use tonic::Request;

use crate::access::{Account, Peer};
use crate::certificate::{self, Ours};
use crate::users::{Means, Who};

/// Bytes of a name that are kept: a certificate's fields have no limit of their own.
const NAME_MAX_BYTES: usize = 200;
/// Who asks where nobody has shown who he is.
const LOCAL: &str = "local";

/// Who asks, by what means, from where, and what he may do.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name in the certificate; None: no certificate was asked for.
    identity: Option<String>,
    /// The account of this host; None: nobody looked.
    account: Option<String>,
    /// None where the connection has no address, as in a simulation.
    address: Option<SocketAddr>,
    /// The schedule whose due time it is that asks, and nobody else.
    schedule: Option<String>,
    who: Who,
}

impl Caller {
    /// A schedule, which submits by itself. Who set it is an administrator, and may do everything.
    pub(crate) fn of_schedule(name: &str) -> Self {
        Self {
            identity: None,
            account: None,
            address: None,
            schedule: Some(name.to_owned()),
            who: Who::Owner,
        }
    }

    /// Who sent a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let certificates = request.peer_certs();
        // The first is the client's own; those after it lead to the authority. TLS has checked them.
        let own = certificates.as_ref().and_then(|all| all.first());
        Self {
            identity: own.map(|own| storable(&certificate::name(own))),
            account: account_of(request).map(storable),
            address: request.remote_addr(),
            schedule: None,
            who: request.extensions().get().cloned().unwrap_or_default(),
        }
    }

    /// The worker that the certificate names, where our own authority gave it.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        match certificate::ours(self.identity.as_deref()?)? {
            Ours::Worker(worker) => Some(worker),
            Ours::Unknown => None,
        }
    }

    /// Where the request came from; None where the connection has no address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The user's name; None: it is none that asks.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match &self.who {
            Who::User { user, .. } => Some(user.name.as_str()),
            Who::Open | Who::Owner | Who::Machine | Who::Nobody => None,
        }
    }

    /// Whether he may do everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.projects(Role::Admin).is_none()
    }

    /// The projects in which he has at least this role. None: in all.
    #[must_use]
    pub fn projects(&self, role: Role) -> Option<Vec<String>> {
        self.who.projects(role)
    }

    /// Whether he has at least this role in a project.
    #[must_use]
    pub fn may(&self, role: Role, project: &str) -> bool {
        self.who.may(role, project)
    }

    /// How he is known.
    pub(crate) fn who(&self) -> &Who {
        &self.who
    }

    /// The account of this host or the name in the certificate, where it is no user.
    pub(crate) fn known_as(&self) -> &str {
        let account = || self.account.as_deref();
        self.identity.as_deref().or_else(account).unwrap_or(LOCAL)
    }

    /// The name in the certificate; None without one.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }
}

/// The account of this host that made the connection, where somebody asked for it.
fn account_of<T>(request: &Request<T>) -> Option<&str> {
    let extensions = request.extensions();
    if let Some(account) = extensions.get::<Account>() {
        return Some(&account.name);
    }
    match extensions.get::<Who>()? {
        Who::Open => None,
        Who::Owner | Who::Machine | Who::User { .. } | Who::Nobody => {
            Some(&extensions.get::<Peer>()?.account.name)
        }
    }
}

/// As it is stored: `alice via token 4f0c2a91b6d3 from 10.0.0.7:40112`, `gpu-01 via certificate from 10.0.0.7:40112`,
/// `alice via rpc from 127.0.0.1:40112`, `schedule nightly`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schedule) = &self.schedule {
            return write!(f, "schedule {schedule}");
        }
        match (&self.who, &self.identity) {
            (
                Who::User {
                    user, means, token, ..
                },
                _,
            ) => {
                let means = match means {
                    Means::Account => "rpc",
                    Means::Token | Means::Browser | Means::Certificate => means.as_str(),
                };
                write!(f, "{} via {means}", user.name)?;
                if let Some((id, _)) = token {
                    write!(f, " {id}")?;
                }
            }
            (_, Some(name)) => write!(f, "{name} via certificate")?,
            (_, None) => write!(f, "{} via rpc", self.account.as_deref().unwrap_or(LOCAL))?,
        }
        match self.address {
            Some(address) => write!(f, " from {address}"),
            None => Ok(()),
        }
    }
}

/// The name without what a terminal or a log would act on, and without blanks, so that what is stored is read
/// back in one way; cut where it is too long.
fn storable(name: &str) -> String {
    // Marks that turn a line around, or are not seen, are no letters of a name either.
    let is_mark = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let plain = |c: char| {
        if c.is_control() || c.is_whitespace() || is_mark(c) {
            '_'
        } else {
            c
        }
    };
    let mut kept = String::new();
    for c in name.chars().map(plain) {
        if kept.len() + c.len_utf8() > NAME_MAX_BYTES {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_says_who_by_what_means_and_from_where() {
        let address = Some("10.0.0.7:40112".parse().unwrap());
        let caller = |identity: Option<&str>| Caller {
            identity: identity.map(storable),
            account: None,
            address,
            schedule: None,
            who: Who::Open,
        };
        assert_eq!(
            caller(None).to_string(),
            "local via rpc from 10.0.0.7:40112"
        );
        assert_eq!(
            caller(Some("gpu-01")).to_string(),
            "gpu-01 via certificate from 10.0.0.7:40112"
        );
        assert_eq!(Caller::of(&Request::new(())).to_string(), "local via rpc");
        let mut request = Request::new(());
        let name = "alice".to_owned();
        request.extensions_mut().insert(Account { uid: 1000, name });
        assert_eq!(Caller::of(&request).to_string(), "alice via rpc");
    }

    #[test]
    fn a_name_cannot_pass_for_the_rest_of_the_line() {
        assert_eq!(storable("root via rpc\n\u{1b}[2J"), "root_via_rpc__[2J");
        let long = storable(&"\u{20ac}".repeat(NAME_MAX_BYTES));
        assert!(long.len() <= NAME_MAX_BYTES && long.len() > NAME_MAX_BYTES - 3);
    }

    #[test]
    fn a_name_cannot_turn_the_line_around_or_hide_in_it() {
        // Marks that reverse what stands behind them, or are not seen, would let one name look like another.
        for mark in [
            '\u{202e}', '\u{2066}', '\u{200e}', '\u{feff}', '\u{2028}', '\u{85}', '\u{7f}',
        ] {
            let name = storable(&format!("gpu{mark}-01"));
            assert_eq!(name, "gpu_-01", "{mark:?}");
        }
        // Letters of any script are letters.
        assert_eq!(storable("Jos\u{e9}\u{4e2d}"), "Jos\u{e9}\u{4e2d}");
        assert_eq!(storable(""), "");
    }

    #[test]
    fn a_schedule_asks_as_itself_and_may_do_everything() {
        let schedule = Caller::of_schedule("nightly");
        assert_eq!(schedule.to_string(), "schedule nightly");
        assert!(schedule.is_admin() && schedule.may(Role::Admin, "vision"));
        assert_eq!(
            (schedule.user(), schedule.worker(), schedule.address()),
            (None, None, None)
        );
        assert_eq!(schedule.known_as(), LOCAL);
    }

    #[test]
    fn a_user_is_named_with_his_token_and_may_do_what_his_roles_allow() {
        use std::sync::Arc;

        use marquee_domain::users::Grants;
        use tokio_util::sync::CancellationToken;

        use crate::users::Known;

        let vision = || Some("vision".parse().unwrap());
        let grants = Grants::of([(vision(), Role::Submitter)]);
        let known = Arc::new(Known::new("ada".parse().unwrap(), grants));
        let token = ("4f0c2a91b6d3".to_owned(), chrono::DateTime::UNIX_EPOCH);
        let user = |means, token| Caller {
            identity: Some("gpu-01".into()),
            account: Some("root".into()),
            address: None,
            schedule: None,
            who: Who::User {
                user: known.clone(),
                means,
                token,
                is_machine: false,
                over: CancellationToken::new(),
                is_news: false,
            },
        };
        let by_token = user(Means::Token, Some(token));
        assert_eq!(by_token.to_string(), "ada via token 4f0c2a91b6d3");
        // The account that made the connection is how, not who.
        assert_eq!(user(Means::Account, None).to_string(), "ada via rpc");
        assert_eq!(
            user(Means::Certificate, None).to_string(),
            "ada via certificate"
        );
        assert_eq!(by_token.user(), Some("ada"));
        assert!(!by_token.is_admin());
        assert!(by_token.may(Role::Submitter, "vision") && by_token.may(Role::Viewer, "vision"));
        assert!(!by_token.may(Role::Admin, "vision") && !by_token.may(Role::Viewer, "speech"));
        assert_eq!(
            by_token.projects(Role::Viewer),
            Some(vec!["vision".to_owned()])
        );
        assert_eq!(by_token.projects(Role::Admin), Some(vec![]));
    }
}
