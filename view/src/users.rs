//! Users with their roles, tokens, and who asks.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{Grant, Identity, Setting, Token, User, UserChanged};
use serde_json::{Value, json};

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::units;

/// `submitter in vision, viewer everywhere`.
#[must_use]
pub fn roles(grants: &[Grant]) -> String {
    let words: Vec<String> = grants
        .iter()
        .map(|Grant { project, role }| match project.as_str() {
            "" => format!("{role} everywhere"),
            project => format!("{role} in {project}"),
        })
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

fn roles_json(grants: &[Grant]) -> Value {
    let one = |grant: &Grant| {
        let project = Some(&grant.project).filter(|project| !project.is_empty());
        json!({ "project": project, "role": grant.role })
    };
    grants.iter().map(one).collect()
}

fn at(time: Option<&prost_types::Timestamp>) -> Option<String> {
    units::time(time).map(units::rfc3339)
}

/// `3 h ago`, `never`.
fn ago(time: Option<&prost_types::Timestamp>, now: DateTime<Utc>) -> String {
    match units::time(time) {
        Some(at) => format!("{} ago", units::about(units::between(at, now))),
        None => "never".to_owned(),
    }
}

/// Who asks.
#[derive(Debug)]
pub struct Who<'a>(pub &'a Identity);

impl View for Who<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let who = self.0;
        if !who.has_users {
            page.line("this cluster has no users: whoever may connect may do everything");
            page.line("\"marquee admin user add NAME --role admin\" makes the first");
        }
        let by = match (who.means.as_str(), who.token_id.as_str()) {
            ("", _) => "nobody that this cluster knows: log in (\"marquee login\")".to_owned(),
            (means, "") => means.to_owned(),
            (means, id) => format!("{means} {id}"),
        };
        let roles = match (who.is_admin, who.grants.is_empty()) {
            // The account that runs the coordinator is no user and has no roles, and may do all the
            // same.
            (true, true) => "everything".to_owned(),
            _ => roles(&who.grants),
        };
        let until = units::time(who.expires_at.as_ref()).map(|end| {
            let left = units::about(units::between(now, end));
            format!("{} (in {left})", units::rfc3339(end))
        });
        page.fields(vec![
            ("user", toned(who.name.as_str(), Tone::Strong)),
            ("by", by.into()),
            ("may", roles.into()),
            ("until", until.unwrap_or_default().into()),
        ]);
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let who = self.0;
        let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "user": set(&who.name),
            "means": set(&who.means),
            "token_id": set(&who.token_id),
            "is_admin": who.is_admin,
            "has_users": who.has_users,
            "roles": roles_json(&who.grants),
            "expires_at": at(who.expires_at.as_ref()),
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
}

/// A listing of users.
#[derive(Debug)]
pub struct Users<'a>(pub &'a [User]);

impl View for Users<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if self.0.is_empty() {
            page.line("there are no users: whoever may connect may do everything");
            page.line("\"marquee admin user add NAME --role admin\" makes the first");
            return;
        }
        let heads = [
            left("USER"),
            left("ROLES"),
            right("TOKENS"),
            right("USED"),
            left("MADE BY"),
        ];
        let row = |user: &User| -> Vec<Cell> {
            vec![
                toned(user.name.as_str(), Tone::Strong),
                roles(&user.grants).into(),
                user.tokens.to_string().into(),
                ago(user.used_at.as_ref(), now).into(),
                user.created_by.as_str().into(),
            ]
        };
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(user_json).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|user| user.name.clone()).collect()
    }
}

fn user_json(user: &User) -> Value {
    json!({
        "name": user.name,
        "roles": roles_json(&user.grants),
        "tokens": user.tokens,
        "used_at": at(user.used_at.as_ref()),
        "created_at": at(user.created_at.as_ref()),
        "created_by": user.created_by,
    })
}

/// A user as changed, or as he would be.
#[derive(Debug)]
pub struct Changed<'a> {
    pub changed: &'a UserChanged,
    /// Such as `added`, or `would be added`.
    pub verb: &'a str,
    pub dry_run: bool,
}

impl Changed<'_> {
    fn user(&self) -> User {
        self.changed.user.clone().unwrap_or_default()
    }
}

impl View for Changed<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let user = self.user();
        let (before, after) = (roles(&self.changed.before), roles(&user.grants));
        // A user who is new has no roles before, and "none -> viewer" would read like a change.
        let change = if before == after || self.changed.before.is_empty() {
            after
        } else {
            format!("{before} -> {after}")
        };
        page.line(format!("{} {}: {change}", user.name, self.verb));
        if self.changed.tokens_ended > 0 {
            let count = usize::try_from(self.changed.tokens_ended).unwrap_or(usize::MAX);
            page.line(format!("ends {}", units::plural(count, "token")));
        }
        for warning in &self.changed.warnings {
            page.line(format!("note: {warning}"));
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "user": user_json(&self.user()),
            "before": roles_json(&self.changed.before),
            "tokens_ended": self.changed.tokens_ended,
            "warnings": self.changed.warnings,
            "dry_run": self.dry_run,
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.user().name]
    }
}

/// A listing of tokens.
#[derive(Debug)]
pub struct Tokens<'a>(pub &'a [Token]);

impl View for Tokens<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let heads = [
            left("TOKEN"),
            left("USER"),
            left("STATE"),
            left("ENDS"),
            right("USED"),
            right("BROWSERS"),
            left("FOR"),
        ];
        let row = |token: &Token| -> Vec<Cell> {
            let tone = match token.state.as_str() {
                // By its word, since what else may become of a token is for newer coordinators to
                // say.
                "valid" => Tone::Good,
                _ => Tone::Plain,
            };
            vec![
                toned(token.id.as_str(), Tone::Strong),
                token.user.as_str().into(),
                toned(token.state.as_str(), tone),
                at(token.expires_at.as_ref()).unwrap_or_default().into(),
                ago(token.used_at.as_ref(), now).into(),
                token.browsers.to_string().into(),
                token.note.as_str().into(),
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

/// A token as programs read it; without its secret, which no message but one has.
#[must_use]
pub fn token_json(token: &Token) -> Value {
    json!({
        "id": token.id,
        "user": token.user,
        "note": token.note,
        "state": token.state,
        "browsers": token.browsers,
        "created_at": at(token.created_at.as_ref()),
        "created_by": token.created_by,
        "expires_at": at(token.expires_at.as_ref()),
        "revoked_at": at(token.revoked_at.as_ref()),
        "used_at": at(token.used_at.as_ref()),
    })
}

/// The settings in force.
#[derive(Debug)]
pub struct Settings<'a>(pub &'a [Setting]);

impl View for Settings<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let row = |setting: &Setting| -> Vec<Cell> {
            vec![
                toned(setting.key.as_str(), Tone::Strong),
                setting.value.as_str().into(),
                setting.origin.as_str().into(),
            ]
        };
        let heads = [left("KEY"), left("VALUE"), left("WRITTEN")];
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let one = |setting: &Setting| {
            let value = Some(&setting.value).filter(|value| !value.is_empty());
            json!({ "key": setting.key, "value": value, "origin": setting.origin })
        };
        self.0.iter().map(one).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|setting| setting.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Block;

    fn text(view: &impl View) -> String {
        let mut text = String::new();
        for block in Page::of(view, DateTime::UNIX_EPOCH).blocks() {
            let line = match block {
                Block::Heading(line) | Block::Line(line) => line.clone(),
                Block::Fields(fields) => {
                    let all = fields
                        .iter()
                        .map(|(name, cell)| format!("{name}={}", cell.text));
                    all.collect::<Vec<_>>().join(" ")
                }
                Block::Table(table) => {
                    let cells = table.rows.iter().flatten().map(|cell| cell.text.as_str());
                    cells.collect::<Vec<_>>().join(" | ")
                }
                Block::Gap => String::new(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    fn grant(project: &str, role: &str) -> Grant {
        Grant {
            project: project.into(),
            role: role.into(),
        }
    }

    #[test]
    fn who_asks_and_what_he_may_is_said_in_words() {
        let open = Identity {
            name: "root".into(),
            means: "open".into(),
            is_admin: true,
            ..Identity::default()
        };
        assert!(text(&Who(&open)).contains("whoever may connect may do everything"));
        let nobody = Identity {
            has_users: true,
            ..Identity::default()
        };
        assert!(text(&Who(&nobody)).contains("marquee login"));
        let bob = Identity {
            name: "bob".into(),
            means: "token".into(),
            has_users: true,
            grants: vec![grant("", "viewer"), grant("vision", "submitter")],
            token_id: "4f0c2a91b6d3".into(),
            ..Identity::default()
        };
        assert_eq!(
            text(&Who(&bob)),
            "user=bob by=token 4f0c2a91b6d3 may=viewer everywhere, submitter in vision\n"
        );
        assert_eq!(
            Who(&bob).json(DateTime::UNIX_EPOCH)["roles"][0]["project"],
            Value::Null
        );
    }

    #[test]
    fn a_change_says_what_was_what_is_and_what_else_comes_of_it() {
        let changed = UserChanged {
            user: Some(User {
                name: "bob".into(),
                grants: vec![grant("", "admin")],
                ..User::default()
            }),
            before: vec![grant("", "viewer")],
            warnings: vec!["mind".into()],
            tokens_ended: 2,
        };
        let view = Changed {
            changed: &changed,
            verb: "is now",
            dry_run: false,
        };
        assert_eq!(
            text(&view),
            "bob is now: viewer everywhere -> admin everywhere\nends 2 tokens\nnote: mind\n"
        );
    }
}
