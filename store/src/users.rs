//! Users, and the tokens and browsers by which they show who they are. What is stored of a secret is its SHA-256.
//!
//! The lines of the audit are the database's own (migration 0026): who asked must be said before anything is changed
//! ([`Db::write_as`](crate::Db::write_as)).

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::users::{Grants, UserName};

use crate::{Conn, Result, Tx, convert};

/// A stored user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: UserName,
    pub grants: Grants,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    pub id: String,
    pub user: UserName,
    pub hash: Digest,
    /// What it is for.
    pub note: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Within the hour.
    pub used_at: Option<DateTime<Utc>>,
}

/// A browser that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub hash: Digest,
    pub token: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Every user, by name. One that cannot be read has no role until it is set anew.
pub async fn list_users(conn: &mut Conn) -> Result<Vec<User>> {
    let rows = sqlx::query!("SELECT name, grants, created_at, created_by FROM users ORDER BY name")
        .fetch_all(conn.sql())
        .await?;
    let users = rows.into_iter().filter_map(|row| {
        let name = row.name.parse().map_err(|_| {
            tracing::error!(user = row.name, "a user's name cannot be read");
        });
        let grants = serde_json::from_value(row.grants).unwrap_or_else(|error| {
            tracing::error!(user = row.name, %error, "a user's roles cannot be read: there are none until they are set anew");
            Grants::default()
        });
        Some(User {
            name: name.ok()?,
            grants,
            created_at: row.created_at,
            created_by: row.created_by,
        })
    });
    Ok(users.collect())
}

/// Every token that is stored, the oldest first.
pub async fn list_tokens(conn: &mut Conn) -> Result<Vec<StoredToken>> {
    let rows = sqlx::query!(
        "SELECT id, user_name, secret_sha256, note, created_at, created_by, expires_at, revoked_at, used_at
         FROM user_tokens ORDER BY created_at, id"
    )
    .fetch_all(conn.sql())
    .await?;
    let tokens = rows.into_iter().map(|row| {
        Ok(StoredToken {
            user: row
                .user_name
                .parse()
                .map_err(|_| convert::unreadable("user_tokens.user_name", &row.user_name))?,
            id: row.id,
            hash: convert::digest(row.secret_sha256)?,
            note: row.note,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            used_at: row.used_at,
        })
    });
    // One that is damaged lets nobody in, and keeps nobody else out.
    Ok(tokens
        .filter_map(|token: Result<StoredToken>| {
            token
                .inspect_err(|error| tracing::error!(%error, "a token cannot be read"))
                .ok()
        })
        .collect())
}

/// Every browser that is logged in at `now`.
pub async fn list_sessions(conn: &mut Conn, now: DateTime<Utc>) -> Result<Vec<Session>> {
    let rows = sqlx::query!(
        "SELECT secret_sha256, token_id, created_at, expires_at FROM user_sessions WHERE expires_at > $1
         ORDER BY created_at",
        now,
    )
    .fetch_all(conn.sql())
    .await?;
    let sessions = rows.into_iter().filter_map(|row| {
        Some(Session {
            hash: convert::digest(row.secret_sha256).ok()?,
            token: row.token_id,
            created_at: row.created_at,
            expires_at: row.expires_at,
        })
    });
    Ok(sessions.collect())
}

/// Locks all changes of users and tokens until the end of the transaction: of two that count what there is, each sees
/// the other's.
pub async fn lock_users(tx: &mut Tx) -> Result<()> {
    // The table and not rows: what is counted may be rows that do not exist yet. Readers are not kept out.
    sqlx::query!("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
        .execute(tx.sql())
        .await?;
    Ok(())
}

/// Stores a new user; false: there is one of this name.
pub async fn insert_user(tx: &mut Tx, user: &User) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO users (name, grants, created_at, created_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO NOTHING",
        user.name.as_str(),
        convert::to_json("users.grants", &user.grants)?,
        user.created_at,
        user.created_by,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Replaces a user's roles; false: there is no such user.
pub async fn mark_grants(tx: &mut Tx, name: &UserName, grants: &Grants) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE users SET grants = $2 WHERE name = $1",
        name.as_str(),
        convert::to_json("users.grants", grants)?,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes a user with all tokens and sessions; false: there is no such user.
pub async fn delete_user(tx: &mut Tx, name: &UserName) -> Result<bool> {
    let done = sqlx::query!("DELETE FROM users WHERE name = $1", name.as_str())
        .execute(tx.sql())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Stores a new token.
pub async fn insert_token(tx: &mut Tx, token: &StoredToken) -> Result<()> {
    sqlx::query!(
        "INSERT INTO user_tokens (id, user_name, secret_sha256, note, created_at, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        token.id,
        token.user.as_str(),
        token.hash.as_str(),
        token.note,
        token.created_at,
        token.created_by,
        token.expires_at,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Revokes a token, and ends its sessions; false: there is none, or it was revoked before.
pub async fn mark_token_revoked(tx: &mut Tx, id: &str, now: DateTime<Utc>) -> Result<bool> {
    let done = sqlx::query!(
        // In one statement: a browser that came in by the token is out in the same moment.
        "WITH ended AS (DELETE FROM user_sessions WHERE token_id = $1)
         UPDATE user_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        id,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a token was used.
pub async fn mark_token_used(tx: &mut Tx, id: &str, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("UPDATE user_tokens SET used_at = $2 WHERE id = $1", id, now)
        .execute(tx.sql())
        .await?;
    Ok(())
}

/// Deletes tokens that ended before `before`, by themselves or revoked: what they did stands in the audit.
pub async fn delete_ended_tokens(tx: &mut Tx, before: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        // LEAST passes over nulls: a token that nobody revoked ended when it expired.
        "DELETE FROM user_tokens WHERE LEAST(expires_at, revoked_at) < $1",
        before
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Stores that a browser is logged in. Of its token's sessions only the newest `keep` stay, and none that is over.
pub async fn insert_session(tx: &mut Tx, session: &Session, keep: u32) -> Result<()> {
    sqlx::query!(
        // Room is made before the new one comes, so that the newest is never the one to go.
        "DELETE FROM user_sessions WHERE secret_sha256 IN (
             SELECT secret_sha256 FROM user_sessions WHERE token_id = $1
             ORDER BY created_at DESC OFFSET $2) OR expires_at <= $3",
        session.token,
        i64::from(keep.saturating_sub(1)),
        session.created_at,
    )
    .execute(tx.sql())
    .await?;
    sqlx::query!(
        "INSERT INTO user_sessions (secret_sha256, token_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        session.hash.as_str(),
        session.token,
        session.created_at,
        session.expires_at,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Ends a session.
pub async fn delete_session(tx: &mut Tx, hash: &Digest) -> Result<()> {
    sqlx::query!(
        "DELETE FROM user_sessions WHERE secret_sha256 = $1",
        hash.as_str()
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
