//! Who joined the cluster, by what, and whether he is still trusted.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::v1::{Authority, JoinToken, Member};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::units;

/// A worker's certificate that ends sooner was not renewed when it should have been.
const RENEWED_BEFORE: TimeDelta = TimeDelta::days(7);

/// Workers that joined, one row each.
#[derive(Debug)]
pub struct Members<'a>(pub &'a [Member]);

impl View for Members<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let heads = [
            left("NAME"),
            left("TRUSTED"),
            left("JOINED (UTC)"),
            left("BY"),
            left("CERTIFIED UNTIL (UTC)"),
        ];
        page.table(
            heads,
            self.0.iter().map(|member| row(member, now)).collect(),
        );
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let member = |member: &Member| {
            json!({
                "worker_id": member.worker_id,
                "name": member.name,
                "joined_at": rfc3339(member.joined_at.as_ref()),
                "joined_by": member.joined_by,
                "certified_until": rfc3339(member.certified_until.as_ref()),
                "revoked_at": rfc3339(member.revoked_at.as_ref()),
                "revoked_by": member.revoked_by,
                "revoked_reason": member.revoked_reason,
            })
        };
        self.0.iter().map(member).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|member| member.name.clone()).collect()
    }
}

fn row(member: &Member, now: DateTime<Utc>) -> Vec<Cell> {
    let until = units::time(member.certified_until.as_ref());
    // Before its dates: a worker that is revoked is out, however long its certificate is good.
    let trusted = match units::time(member.revoked_at.as_ref()) {
        Some(at) => {
            let mut text = format!("revoked {}", at.format("%Y-%m-%d %H:%M"));
            if !member.revoked_reason.is_empty() {
                text = format!("{text}: {}", member.revoked_reason);
            }
            toned(text, Tone::Bad)
        }
        // Expired comes first: that worker is out already, one that was not renewed still works.
        None if until.is_some_and(|until| until <= now) => toned("certificate expired", Tone::Bad),
        None if until.is_some_and(|until| until - now < RENEWED_BEFORE) => {
            toned("not renewed", Tone::Warn)
        }
        None => toned("yes", Tone::Good),
    };
    vec![
        toned(member.name.as_str(), Tone::Strong),
        trusted,
        minute(units::time(member.joined_at.as_ref())).into(),
        member.joined_by.as_str().into(),
        minute(until).into(),
    ]
}

/// Join tokens, one row each.
#[derive(Debug)]
pub struct JoinTokens<'a>(pub &'a [JoinToken]);

impl View for JoinTokens<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let heads = [
            left("ID"),
            left("STATE"),
            right("USED"),
            left("FOR"),
            left("EXPIRES (UTC)"),
            left("BY"),
        ];
        let row = |token: &JoinToken| -> Vec<Cell> {
            let tone = if token.state == "usable" {
                Tone::Good
            } else {
                Tone::Faint
            };
            let name = match token.name.as_str() {
                "" => "any worker",
                name => name,
            };
            vec![
                toned(token.id.as_str(), Tone::Strong),
                toned(token.state.as_str(), tone),
                format!("{} of {}", token.used, token.uses).into(),
                name.into(),
                minute(units::time(token.expires_at.as_ref())).into(),
                token.created_by.as_str().into(),
            ]
        };
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(token_json).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|token| token.id.clone()).collect()
    }
}

fn token_json(token: &JoinToken) -> Value {
    json!({
        "id": token.id,
        "state": token.state,
        "role": token.role,
        "name": token.name,
        "uses": token.uses,
        "used": token.used,
        "created_at": rfc3339(token.created_at.as_ref()),
        "created_by": token.created_by,
        "expires_at": rfc3339(token.expires_at.as_ref()),
        "revoked_at": rfc3339(token.revoked_at.as_ref()),
    })
}

/// A token that was just made: its text is for whoever asked, this once.
#[derive(Debug)]
pub struct NewJoinToken<'a> {
    pub token: &'a JoinToken,
    pub text: &'a str,
}

impl View for NewJoinToken<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        // Alone, so that it can go into a file.
        page.line(self.text.to_owned());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({ "text": self.text, "token": token_json(self.token) })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.token.id.clone()]
    }
}

/// The authority behind the cluster's certificates.
#[derive(Debug)]
pub struct AuthorityOf<'a>(pub &'a Authority);

impl View for AuthorityOf<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let until = minute(units::time(self.0.not_after.as_ref()));
        page.line(format!(
            "fingerprint (sha256 of its public key): {}",
            self.0.pin
        ));
        page.line(format!("good until {until} UTC"));
        page.line(if self.0.can_sign {
            "its key is there: workers can join and renew".to_owned()
        } else {
            "its key is not there, or cannot be used: nobody can join or renew (docs/errors/MQ0378.md)".to_owned()
        });
        for line in self.0.certificates.lines() {
            page.line(line.to_owned());
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "pin": self.0.pin,
            "not_after": rfc3339(self.0.not_after.as_ref()),
            "can_sign": self.0.can_sign,
            "certificates": self.0.certificates,
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.pin.clone()]
    }
}

fn minute(at: Option<DateTime<Utc>>) -> String {
    at.map(|at| at.format("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

fn rfc3339(at: Option<&prost_types::Timestamp>) -> Option<String> {
    units::time(at).map(units::rfc3339)
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    #[test]
    fn a_worker_is_trusted_or_it_is_said_why_not() {
        let now: DateTime<Utc> = "2026-11-30T12:00:00Z".parse().unwrap();
        let member = |days: i64| Member {
            name: "gpu-01".into(),
            certified_until: Some(timestamp(now + TimeDelta::days(days))),
            ..Member::default()
        };
        let trusted = |member: &Member| format!("{:?}", row(member, now)[1]);
        assert!(trusted(&member(20)).contains("yes"));
        assert!(trusted(&member(3)).contains("not renewed"));
        assert!(trusted(&member(-1)).contains("expired"));
        let revoked = Member {
            revoked_at: Some(timestamp(now)),
            revoked_reason: "sold".into(),
            ..member(20)
        };
        assert!(trusted(&revoked).contains("revoked 2026-11-30 12:00: sold"));
    }
}
