//! Users, tokens and sessions, as they were read last. Pure but for what tells open streams that their time is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::users::{Grants, Token, TokenState, UserName};
use marquee_store::users::{Session, StoredToken, User};
use tokio_util::sync::CancellationToken;

/// A token's use is written down again after so many seconds.
const USED_EVERY_S: i64 = 3_600;

/// A user, as whoever asks carries him.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: UserName,
    pub(crate) grants: Grants,
    /// Cancelled when he is removed, or has other roles: streams that began before then end.
    over: CancellationToken,
}

/// Who a token or session stands for.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) user: Arc<Known>,
    pub(crate) token: String,
    pub(crate) expires_at: DateTime<Utc>,
    /// Cancelled when the token is revoked, or its user is not what he was.
    pub(crate) over: CancellationToken,
    /// That it is used is to be written down.
    pub(crate) is_news: bool,
}

#[derive(Debug)]
struct TokenEntry {
    stored: StoredToken,
    user: Arc<Known>,
    /// Seconds since 1970 of the use that was written down last.
    used: AtomicI64,
    over: CancellationToken,
}

#[derive(Debug)]
struct Browser {
    token: String,
    expires_at: DateTime<Utc>,
    over: CancellationToken,
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub(super) struct Book {
    users: BTreeMap<String, Arc<Known>>,
    tokens: HashMap<String, TokenEntry>,
    /// By the digest of their secret.
    browsers: HashMap<String, Browser>,
}

/// Why a token or session stands for nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the token is not valid here: it was cut off, is another cluster's, or its user was removed"
    )]
    Unknown,
    #[error("token {id} expired on {}", at.format("%Y-%m-%d %H:%M UTC"))]
    Expired { id: String, at: DateTime<Utc> },
    #[error("token {id} was revoked")]
    Revoked { id: String },
}

impl Book {
    /// What was read in place of this. What is over by it is told so.
    pub(super) fn succeeded_by(
        &mut self,
        users: Vec<User>,
        tokens: Vec<StoredToken>,
        sessions: Vec<Session>,
    ) -> Self {
        let mut old = std::mem::take(self);
        let mut book = Self::default();
        for User { name, grants, .. } in users {
            let known = match old.users.remove(name.as_str()) {
                // The same roles: his streams go on.
                Some(same) if same.grants == grants => same,
                other => {
                    if let Some(other) = other {
                        other.over.cancel();
                    }
                    Arc::new(Known::new(name.clone(), grants))
                }
            };
            book.users.insert(name.to_string(), known);
        }
        for stored in tokens {
            let Some(user) = book.users.get(stored.user.as_str()).cloned() else {
                continue;
            };
            let before = old.tokens.remove(&stored.id);
            let over = match before {
                Some(entry) if stored.revoked_at.is_none() && Arc::ptr_eq(&entry.user, &user) => {
                    entry.over
                }
                Some(entry) => {
                    // It was revoked, or its user has other roles: what it may look at is another matter now.
                    entry.over.cancel();
                    user.over.child_token()
                }
                None => user.over.child_token(),
            };
            let used = stored.used_at.map_or(0, |at| at.timestamp());
            book.tokens.insert(
                stored.id.clone(),
                TokenEntry {
                    stored,
                    user,
                    used: AtomicI64::new(used),
                    over,
                },
            );
        }
        for session in sessions {
            let Some(token) = book.tokens.get(&session.token) else {
                continue;
            };
            let before = old.browsers.remove(session.hash.as_str());
            let over = match before {
                Some(browser) if !browser.over.is_cancelled() => browser.over,
                Some(_) | None => token.over.child_token(),
            };
            book.browsers.insert(
                session.hash.to_string(),
                Browser {
                    token: session.token,
                    expires_at: session.expires_at,
                    over,
                },
            );
        }
        // What is left is not there any more.
        for known in old.users.into_values() {
            known.over.cancel();
        }
        for entry in old.tokens.into_values() {
            entry.over.cancel();
        }
        for browser in old.browsers.into_values() {
            browser.over.cancel();
        }
        book
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Known>> {
        self.users.get(name).cloned()
    }

    pub(super) fn by_token(&self, token: &Token, now: DateTime<Utc>) -> Result<Found, Refusal> {
        // What became of it is said to its owner alone, so that its secret is looked at first.
        let entry = self
            .tokens
            .get(token.id())
            .filter(|entry| is_same(&entry.stored.hash, &token.hash()))
            .ok_or(Refusal::Unknown)?;
        entry.found(now, entry.stored.expires_at, entry.over.clone())
    }

    /// The user of a browser's session; None: it is over, or never was.
    pub(super) fn by_session(&self, hash: &Digest, now: DateTime<Utc>) -> Option<Found> {
        let browser = self.browsers.get(hash.as_str())?;
        let entry = self.tokens.get(&browser.token)?;
        if browser.expires_at <= now {
            return None;
        }
        let until = browser.expires_at.min(entry.stored.expires_at);
        entry.found(now, until, browser.over.clone()).ok()
    }

    /// How many browsers a token has logged in.
    pub(super) fn browsers_of(&self, token: &str) -> usize {
        let all = self.browsers.values();
        all.filter(|browser| browser.token == token).count()
    }
}

impl Known {
    pub(crate) fn new(name: UserName, grants: Grants) -> Self {
        Self {
            name,
            grants,
            over: CancellationToken::new(),
        }
    }

    pub(super) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

impl TokenEntry {
    fn found(
        &self,
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
        over: CancellationToken,
    ) -> Result<Found, Refusal> {
        let id = self.stored.id.clone();
        match TokenState::of(self.stored.expires_at, self.stored.revoked_at, now) {
            TokenState::Valid => {}
            TokenState::Expired => {
                let at = self.stored.expires_at;
                return Err(Refusal::Expired { id, at });
            }
            TokenState::Revoked => return Err(Refusal::Revoked { id }),
        }
        let now = now.timestamp();
        let before = self.used.load(Ordering::Relaxed);
        // Of many requests at once one writes.
        let is_news = now - before >= USED_EVERY_S
            && self
                .used
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        Ok(Found {
            user: self.user.clone(),
            token: id,
            expires_at,
            over,
            is_news,
        })
    }
}

/// Compares two digests in a time that says nothing of where they differ.
fn is_same(a: &Digest, b: &Digest) -> bool {
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use marquee_domain::users::Role;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn token(n: u8) -> Token {
        Token::new(&Digest::of(&[n]), &Digest::of(&[n, 1]))
    }

    fn user(name: &str, role: Role) -> User {
        User {
            name: name.parse().unwrap(),
            grants: Grants::of([(None, role)]),
            created_at: at(0),
            created_by: "local".into(),
        }
    }

    fn stored(token: &Token, user: &str) -> StoredToken {
        StoredToken {
            id: token.id().to_owned(),
            user: user.parse().unwrap(),
            hash: token.hash(),
            note: String::new(),
            created_at: at(0),
            created_by: "local".into(),
            expires_at: at(100_000),
            revoked_at: None,
            used_at: None,
        }
    }

    fn session(hash: &Digest, token: &Token) -> Session {
        Session {
            hash: hash.clone(),
            token: token.id().to_owned(),
            created_at: at(0),
            expires_at: at(1_000),
        }
    }

    #[test]
    fn a_token_stands_for_its_user_until_it_ends_and_says_why_to_its_owner_alone() {
        let (ada, other) = (token(1), token(2));
        let mut book = Book::default();
        let mut book = book.succeeded_by(
            vec![user("ada", Role::Viewer)],
            vec![stored(&ada, "ada")],
            vec![],
        );
        let found = book.by_token(&ada, at(1)).unwrap();
        assert_eq!(found.user.name.as_str(), "ada");
        assert_eq!(book.by_token(&other, at(1)).unwrap_err(), Refusal::Unknown);
        // Its id with another secret.
        let forged = Token::new(&Digest::of(&[1]), &Digest::of(b"guess"));
        assert_eq!(forged.id(), ada.id());
        assert_eq!(book.by_token(&forged, at(1)).unwrap_err(), Refusal::Unknown);
        let expired = book.by_token(&ada, at(100_000)).unwrap_err();
        assert!(
            expired.to_string().contains("expired on 2027-01-16"),
            "{expired}"
        );
        let revoked = StoredToken {
            revoked_at: Some(at(2)),
            ..stored(&ada, "ada")
        };
        let book = book.succeeded_by(vec![user("ada", Role::Viewer)], vec![revoked], vec![]);
        let refused = book.by_token(&ada, at(3)).unwrap_err();
        assert_eq!(
            refused,
            Refusal::Revoked {
                id: ada.id().into()
            }
        );
        assert_eq!(book.by_token(&forged, at(3)).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn its_use_is_news_once_an_hour() {
        let ada = token(1);
        let book = Book::default().succeeded_by(
            vec![user("ada", Role::Viewer)],
            vec![stored(&ada, "ada")],
            vec![],
        );
        let is_news = |second| book.by_token(&ada, at(second)).unwrap().is_news;
        assert!(is_news(1) && !is_news(2) && !is_news(3_600) && is_news(3_601));
    }

    #[test]
    fn streams_end_with_the_token_the_role_the_user_and_the_session_and_with_nothing_else() {
        let (one, two) = (token(1), token(2));
        let (here, there) = (Digest::of(b"here"), Digest::of(b"there"));
        let users = |role| vec![user("ada", role), user("bob", Role::Viewer)];
        let tokens = || vec![stored(&one, "ada"), stored(&two, "bob")];
        let sessions = || vec![session(&here, &one), session(&there, &one)];
        let fresh = || Book::default().succeeded_by(users(Role::Viewer), tokens(), sessions());
        let over = |book: &Book| {
            [
                book.by_token(&one, at(1)).unwrap().over,
                book.by_token(&two, at(1)).unwrap().over,
                book.by_session(&here, at(1)).unwrap().over,
                book.by_session(&there, at(1)).unwrap().over,
            ]
        };
        let ended =
            |streams: &[CancellationToken; 4]| streams.each_ref().map(|one| one.is_cancelled());

        let mut book = fresh();
        let streams = over(&book);
        let mut book = book.succeeded_by(users(Role::Viewer), tokens(), sessions());
        assert_eq!(ended(&streams), [false; 4], "nothing has changed");
        let book = book.succeeded_by(users(Role::Viewer), tokens(), vec![session(&here, &one)]);
        assert_eq!(
            ended(&streams),
            [false, false, false, true],
            "one logged out"
        );
        drop(book);

        let mut book = fresh();
        let streams = over(&book);
        let _ = book.succeeded_by(users(Role::Admin), tokens(), sessions());
        assert_eq!(ended(&streams), [true, false, true, true], "another role");

        let mut book = fresh();
        let streams = over(&book);
        let _ = book.succeeded_by(users(Role::Viewer), vec![stored(&two, "bob")], vec![]);
        assert_eq!(ended(&streams), [true, false, true, true], "no token");

        let mut book = fresh();
        let streams = over(&book);
        let _ = book.succeeded_by(vec![user("bob", Role::Viewer)], tokens(), sessions());
        assert_eq!(ended(&streams), [true, false, true, true], "no user");
    }

    #[test]
    fn a_session_never_outlives_its_token() {
        let one = token(1);
        let hash = Digest::of(b"browser");
        let short = StoredToken {
            expires_at: at(500),
            ..stored(&one, "ada")
        };
        let users = vec![user("ada", Role::Viewer)];
        let book = Book::default().succeeded_by(users, vec![short], vec![session(&hash, &one)]);
        let found = book.by_session(&hash, at(499)).unwrap();
        assert_eq!(found.expires_at, at(500));
        assert!(book.by_session(&hash, at(500)).is_none());
        assert!(book.by_session(&Digest::of(b"guess"), at(1)).is_none());
        assert_eq!(book.browsers_of(one.id()), 1);
        assert!(at(1_000) - at(500) == TimeDelta::seconds(500));
    }
}
