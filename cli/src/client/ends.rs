//! How a request ended: which failures are about the connection, which may pass, and what is said about them.

use std::error::Error as _;

use marquee_proto::error::PublicError;
use tonic::{Code, Status};

use crate::context::Place;

/// What a request may do to the coordinator when it is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only reads, or carries a `request_id`: sent twice it does the same as sent once.
    Safe,
    /// Sent twice it might act twice: it is sent again only when it cannot have arrived.
    Unsafe,
}

/// What the coordinator at `addr` refused, in words. One that does not know a request says nothing at all.
pub(super) fn refusal(status: &Status, addr: &str) -> PublicError {
    let mut refused = PublicError::from(status);
    if refused.code.is_none() && status.code() == Code::Unimplemented {
        refused.message = format!(
            "{addr} does not know this request: the coordinator there is older than this command line ({}), or \
             something else listens there; update it, or use the marquee that came with it",
            env!("CARGO_PKG_VERSION")
        );
    } else if refused.message.is_empty() {
        refused.message = format!("{addr} refused and did not say why ({})", status.code());
    }
    refused
}

/// Whether a status is about the connection and not about the request: it was made on our side of the
/// connection, or it is a plain "unavailable" without one of Marquee's codes.
pub(crate) fn is_transport(status: &Status) -> bool {
    let is_ours = PublicError::from(status).code.is_some();
    !is_ours && (status.source().is_some() || status.code() == Code::Unavailable)
}

/// Whether the same request may succeed when it is sent again later.
pub(super) fn is_passing(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_transport(status)
}

pub(super) fn may_repeat(status: &Status, repeat: Repeat) -> bool {
    match repeat {
        Repeat::Safe => is_passing(status),
        // What broke on its way has other codes, and may have been carried out.
        Repeat::Unsafe => status.code() == Code::Unavailable,
    }
}

/// The innermost cause: "Connection refused", rather than the layers that pass it on.
pub(crate) fn cause(status: &Status) -> String {
    let mut source = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        let inner = error.to_string();
        if !inner.is_empty() {
            text = inner;
        }
        source = error.source();
    }
    text
}

pub(super) fn hints(place: &Place, status: &Status) -> Vec<String> {
    let mut hints = Vec::new();
    // First: nobody listens there then, and what the others advise would not help.
    if place.stale {
        hints.push(
            "the \"marquee up\" that wrote this context does not run any more; start it again"
                .to_owned(),
        );
    }
    let cause = cause(status);
    if let Some(dates) = marquee_proto::certificate::clock_hint(&cause) {
        hints.push(dates);
    }
    if cause.contains("UnknownIssuer") {
        hints.push(
            "its certificate is of no authority that this host believes ([tls] ca in the context); was another one put in \
             its place? Copy it anew from the coordinator's host: \"marquee-coordinator ca\" prints it"
                .into(),
        );
    }
    // Where nobody listens it is "unavailable"; a port with TLS answers with something that is no HTTP/2.
    if place.addr.starts_with("http://") && status.code() != Code::Unavailable {
        hints.push("does it expect TLS? then write https:// and give [tls] in the context".into());
    }
    hints.push(
        "start everything on this machine with \"marquee up\", or say where the coordinator is: \
         --addr, MARQUEE_ADDR or the context file"
            .to_owned(),
    );
    hints
}

#[cfg(test)]
mod tests {
    use marquee_proto::error::{ErrorCode, not_leading};

    use super::*;

    #[test]
    fn a_refusal_without_words_is_given_some() {
        let older = refusal(&Status::unimplemented(""), "http://head:7700");
        assert!(
            older.message.contains("http://head:7700") && older.message.contains("older"),
            "{older:?}"
        );
        let silent = refusal(&Status::internal(""), "http://head:7700");
        assert!(silent.message.contains("did not say why"), "{silent:?}");
        let said = ErrorCode::JobNotFound.status("there is no job 7");
        assert_eq!(refusal(&said, "x").message, "there is no job 7");
    }

    #[test]
    fn a_request_that_may_have_arrived_is_repeated_only_where_that_is_safe() {
        let lost = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(may_repeat(&lost, Repeat::Safe));
        assert!(!may_repeat(&lost, Repeat::Unsafe));
        let refused = ErrorCode::JobNotFound.status("there is no job 7");
        assert!(!may_repeat(&refused, Repeat::Safe));
        let down = ErrorCode::StorageUnavailable.status("postgres is away");
        assert!(may_repeat(&down, Repeat::Unsafe));
        assert!(!is_transport(&down));
    }

    #[test]
    fn each_end_of_a_try_is_one_of_a_kind() {
        let ours = Status::from_error(Box::new(std::io::Error::other("reset")));
        // The status; whether the connection broke; whether to ask again where that is safe, and
        // where it is not.
        for (status, transport, safe, not_safe) in [
            (ours, true, true, false),
            (Status::unavailable("gone"), true, true, true),
            (ErrorCode::StorageUnavailable.status("x"), false, true, true),
            (not_leading("x", None), false, true, true),
            (Status::deadline_exceeded("late"), false, false, false),
            (Status::unknown("?"), false, false, false),
            (Status::internal("?"), false, false, false),
            (Status::aborted("?"), false, false, false),
            (ErrorCode::LimitReached.status("x"), false, false, false),
        ] {
            let is = (
                is_transport(&status),
                may_repeat(&status, Repeat::Safe),
                may_repeat(&status, Repeat::Unsafe),
            );
            assert_eq!(is, (transport, safe, not_safe), "{status:?}");
        }
    }

    #[test]
    fn the_innermost_cause_is_told() {
        assert_eq!(cause(&Status::unavailable("plain")), "plain");
        let inner = std::io::Error::other("Connection refused");
        let status = Status::from_error(Box::new(std::io::Error::other(inner)));
        assert_eq!(cause(&status), "Connection refused");
    }
}
