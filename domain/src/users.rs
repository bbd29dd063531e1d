//! Who may do what: users with a role in all projects or in some, and the tokens by which they show who they are.
//!
//! A [`Role`] holds for one project or, under [`EVERYWHERE`], for all of them; the greater of the two counts. What asks for
//! more than its own project, such as drains, quotas and users, takes an administrator everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::artifact::Digest;
use crate::project::ProjectName;

/// Users of a cluster: all are kept in memory, so that a request costs no look at Postgres.
pub const USERS_MAX: usize = 1_000;
/// Tokens of one user that are neither expired nor revoked: a person's hosts and programs with room to spare.
pub const TOKENS_OF_USER_MAX: usize = 50;
/// Browsers in which one token is logged in; the next one ends the oldest.
pub const SESSIONS_OF_TOKEN_MAX: usize = 10;
/// How long a token lives where nobody says, and at most.
pub const TOKEN_TTL: TimeDelta = TimeDelta::days(90);
pub const TOKEN_TTL_MAX: TimeDelta = TimeDelta::days(366);
/// How long a browser stays logged in, never longer than its token lives: a working day, so that nobody logs in twice.
pub const SESSION_TTL: TimeDelta = TimeDelta::hours(12);
/// Bytes of the words that say what a token is for.
pub const NOTE_MAX_BYTES: usize = 200;
/// Projects that one user's roles may name.
pub const GRANTS_MAX: usize = 100;
/// Bytes of a user's name.
const NAME_MAX_BYTES: usize = 63;
/// Stands for all projects where a role is kept.
pub const EVERYWHERE: &str = "*";

/// What one may do. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at jobs, logs, metrics and artifacts.
    Viewer,
    /// Submits jobs, and cancels, retries, holds, moves and removes them.
    Submitter,
    /// In a project: says how long it keeps things, and raises priorities. Everywhere: all there is.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Submitter, Self::Admin];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The roles of one user: by project, and under [`EVERYWHERE`] for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeMap<String, Role>);

impl Grants {
    /// These roles; None stands for all projects.
    pub fn of(roles: impl IntoIterator<Item = (Option<ProjectName>, Role)>) -> Self {
        let key = |project: Option<ProjectName>| {
            project.map_or_else(|| EVERYWHERE.to_owned(), |project| project.to_string())
        };
        let roles = roles
            .into_iter()
            .map(|(project, role)| (key(project), role));
        Self(roles.collect())
    }

    /// Gives a role, in place of the one that was there; None takes it away.
    pub fn set(&mut self, project: Option<&ProjectName>, role: Option<Role>) {
        // No project can be called "*", so that both fit into one map.
        let key = project.map_or(EVERYWHERE, ProjectName::as_str);
        match role {
            Some(role) => drop(self.0.insert(key.to_owned(), role)),
            None => drop(self.0.remove(key)),
        }
    }

    /// The role in a project; None: he may not even look at it.
    #[must_use]
    pub fn role_in(&self, project: &str) -> Option<Role> {
        // The greater of the two: a role in one project never takes away what a role everywhere
        // gives.
        self.everywhere().max(self.0.get(project).copied())
    }

    /// The role in all projects.
    #[must_use]
    pub fn everywhere(&self) -> Option<Role> {
        self.0.get(EVERYWHERE).copied()
    }

    /// The greatest role in any project.
    #[must_use]
    pub fn anywhere(&self) -> Option<Role> {
        self.0.values().copied().max()
    }

    /// The projects in which the role is at least this one. None: in all.
    #[must_use]
    pub fn projects(&self, role: Role) -> Option<Vec<String>> {
        if self.everywhere() >= Some(role) {
            return None;
        }
        let named = self.0.iter().filter(|(_, has)| **has >= role);
        Some(named.map(|(project, _)| project.clone()).collect())
    }

    /// Each project with its role, all of them together first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Role)> {
        self.0
            .iter()
            .map(|(project, role)| (project.as_str(), *role))
    }

    /// How many projects are named.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no role at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As people read it: `submitter in vision, viewer everywhere`.
impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no role");
        }
        for (n, (project, role)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            match project.as_str() {
                EVERYWHERE => write!(f, "{comma}{role} everywhere")?,
                project => write!(f, "{comma}{role} in {project}")?,
            }
        }
        Ok(())
    }
}

/// The name of a user: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

/// Why a text is no user's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 63 of a-z, 0-9, \"-\", \"_\" and \".\", starting with a letter")]
pub struct InvalidUserName;

impl UserName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;
    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let is_name = text.len() <= NAME_MAX_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(plain);
        is_name
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidUserName)
    }
}

impl TryFrom<String> for UserName {
    type Error = InvalidUserName;
    fn try_from(text: String) -> Result<Self, InvalidUserName> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every token begins with, so that scanners of repositories and logs find one that got there.
pub const TOKEN_PREFIX: &str = "mqu_";
/// Digits of a token's id, and of its secret: 48 and 256 bits.
const ID_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = TOKEN_PREFIX.len() + ID_DIGITS + 1 + SECRET_DIGITS;

/// A token as its owner has it: `mqu_<id>_<secret>`. It is shown once, and never by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id alone, which logs need to tell tokens apart.
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token. It repeats nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    #[error("it is no token of a user, which begins with \"{TOKEN_PREFIX}\"")]
    Prefix,
    #[error("it has {0} characters, and a token has {TOKEN_BYTES}: was it copied whole?")]
    Length(usize),
    #[error("it has characters that no token has: was it copied whole?")]
    Digits,
}

impl Token {
    /// A new token from random bits: twelve digits of `id`, and all of `secret`.
    #[must_use]
    pub fn new(id: &Digest, secret: &Digest) -> Self {
        Self {
            id: id.as_str()[..ID_DIGITS].to_owned(),
            secret: secret.as_str().to_owned(),
        }
    }

    /// What names it: no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is stored of the secret.
    #[must_use]
    pub fn hash(&self) -> Digest {
        // A plain hash will do: 256 random bits cannot be guessed, and a slow one would have to be
        // paid for at every request.
        Digest::of(self.secret.as_bytes())
    }

    /// The token itself, for its owner alone.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{TOKEN_PREFIX}{}_{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let rest = text
            .strip_prefix(TOKEN_PREFIX)
            .ok_or(InvalidToken::Prefix)?;
        // Before anything is looked for in it: somebody may send a megabyte.
        if text.len() != TOKEN_BYTES {
            return Err(InvalidToken::Length(text.chars().take(10_000).count()));
        }
        let hex = |text: &str| {
            let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            text.bytes().all(digit).then(|| text.to_owned())
        };
        let (id, secret) = rest.split_once('_').ok_or(InvalidToken::Digits)?;
        if id.len() != ID_DIGITS {
            return Err(InvalidToken::Digits);
        }
        let id = hex(id).ok_or(InvalidToken::Digits)?;
        let secret = hex(secret).ok_or(InvalidToken::Digits)?;
        Ok(Self { id, secret })
    }
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Valid,
    Expired,
    Revoked,
}

impl TokenState {
    /// By its times.
    #[must_use]
    pub fn of(
        expires_at: DateTime<Utc>,
        revoked_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        match revoked_at {
            // Also of one that has expired since: that somebody ended it is what its owner wants to
            // know.
            Some(_) => Self::Revoked,
            None if expires_at <= now => Self::Expired,
            None => Self::Valid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str) -> ProjectName {
        name.parse().unwrap()
    }

    #[test]
    fn the_greater_of_two_roles_counts() {
        let grants = Grants::of([
            (None, Role::Viewer),
            (Some(project("vision")), Role::Submitter),
        ]);
        assert_eq!(grants.role_in("vision"), Some(Role::Submitter));
        assert_eq!(grants.role_in("text"), Some(Role::Viewer));
        assert_eq!(grants.projects(Role::Viewer), None);
        assert_eq!(
            grants.projects(Role::Submitter),
            Some(vec!["vision".into()])
        );
        assert_eq!(grants.projects(Role::Admin), Some(vec![]));
        assert_eq!(grants.anywhere(), Some(Role::Submitter));
        assert_eq!(grants.to_string(), "viewer everywhere, submitter in vision");
        let mut none = grants.clone();
        none.set(None, None);
        none.set(Some(&project("vision")), None);
        assert_eq!(none.role_in("vision"), None);
        assert_eq!(none.to_string(), "no role");
    }

    #[test]
    fn a_project_cannot_be_called_as_all_projects_are() {
        assert!(EVERYWHERE.parse::<ProjectName>().is_err());
    }

    #[test]
    fn names_of_users_pass_for_nothing_else() {
        for good in ["a", "ada", "anna.schmidt", "ci-7", "a_b"] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", "Ada", "7a", ".a", "a b", "a\n", "é", "a/b", "a*", &long] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_read_back_and_shows_its_secret_to_nobody_else() {
        let token = Token::new(&Digest::of(b"id"), &Digest::of(b"secret"));
        let text = token.reveal();
        assert_eq!(text.len(), TOKEN_BYTES);
        assert_eq!(text.parse::<Token>().unwrap(), token);
        let secret = Digest::of(b"secret");
        for shown in [
            format!("{token:?}"),
            token.id().to_owned(),
            token.hash().to_string(),
        ] {
            assert!(!shown.contains(&secret.as_str()[..16]), "{shown}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_word_of_it() {
        let whole = Token::new(&Digest::of(b"id"), &Digest::of(b"secret")).reveal();
        let upper = whole.to_uppercase();
        let large = format!("mqu_{}", "a".repeat(1_000_000));
        let moved = format!("mqu_{}_", &whole[4..TOKEN_BYTES - 1].replace('_', ""));
        for bad in [
            "",
            "secret",
            &whole[..40],
            &whole[1..],
            &upper,
            &large,
            &moved,
            "mqu_é",
        ] {
            let error = bad.parse::<Token>().unwrap_err().to_string();
            assert!(error.len() < 200 && !error.contains("aaaa"), "{error}");
        }
    }
}
