//! Who joined: tokens by which workers join, and the workers that did.

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;
use uuid::Uuid;

use crate::{Conn, Result, StoreError, Tx, convert};

/// A stored join token: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: Uuid,
    pub secret_sha256: Vec<u8>,
    pub role: String,
    /// The only worker that may use it.
    pub name: Option<String>,
    pub uses: u32,
    pub used: u32,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A worker that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub worker: WorkerId,
    pub name: String,
    pub joined_at: DateTime<Utc>,
    pub joined_by: String,
    /// Until when its newest certificate is good.
    pub certified_until: DateTime<Utc>,
    pub revoked: Option<Revoked>,
}

/// Who shut a worker out, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub at: DateTime<Utc>,
    pub by: String,
    pub reason: String,
}

/// The unique indices of names among members, and among workers that are here.
const NAME_INDICES: [&str; 2] = ["members_name", "workers_name_online"];

/// Stores a new token, and removes those that ended before `old`. False: `max` are there, and this one is not.
pub async fn insert_join_token(
    tx: &mut Tx,
    token: &JoinToken,
    old: DateTime<Utc>,
    max: u32,
) -> Result<bool> {
    // Old ones first, so that they do not count against those that may be used.
    sqlx::query!("DELETE FROM join_tokens WHERE expires_at < $1", old)
        .execute(tx.sql())
        .await?;
    let done = sqlx::query!(
        "INSERT INTO join_tokens (id, secret_sha256, role, name, uses, created_at, created_by, expires_at)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE (SELECT count(*) FROM join_tokens) < $9",
        token.id,
        token.secret_sha256,
        token.role,
        token.name,
        convert::int("join_tokens.uses", token.uses)?,
        token.created_at,
        token.created_by,
        token.expires_at,
        i64::from(max),
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

struct TokenRow {
    id: Uuid,
    secret_sha256: Vec<u8>,
    role: String,
    name: Option<String>,
    uses: i32,
    used: i32,
    created_at: DateTime<Utc>,
    created_by: String,
    expires_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl TryFrom<TokenRow> for JoinToken {
    type Error = StoreError;

    fn try_from(row: TokenRow) -> Result<Self> {
        Ok(Self {
            id: row.id,
            secret_sha256: row.secret_sha256,
            role: row.role,
            name: row.name,
            uses: convert::u32_of("join_tokens.uses", row.uses)?,
            used: convert::u32_of("join_tokens.used", row.used)?,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// Every token that is kept, the newest first.
pub async fn list_join_tokens(conn: &mut Conn) -> Result<Vec<JoinToken>> {
    let rows = sqlx::query_as!(
        TokenRow,
        "SELECT id, secret_sha256, role, name, uses, used, created_at, created_by, expires_at, revoked_at
         FROM join_tokens ORDER BY created_at DESC, id"
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(JoinToken::try_from).collect()
}

/// A token, kept from everybody else until this transaction ends.
pub async fn lock_join_token(tx: &mut Tx, id: Uuid) -> Result<Option<JoinToken>> {
    let row = sqlx::query_as!(
        TokenRow,
        "SELECT id, secret_sha256, role, name, uses, used, created_at, created_by, expires_at, revoked_at
         FROM join_tokens WHERE id = $1 FOR UPDATE",
        id,
    )
    .fetch_optional(tx.sql())
    .await?;
    row.map(JoinToken::try_from).transpose()
}

/// Nobody joins by it any more. What was revoked before stays as it was.
pub async fn revoke_join_token(tx: &mut Tx, id: Uuid, by: &str, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!(
        "UPDATE join_tokens SET revoked_at = $2, revoked_by = $3 WHERE id = $1 AND revoked_at IS NULL",
        id,
        now,
        by,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Which worker this key made of a token.
pub async fn find_join_use(tx: &mut Tx, token: Uuid, key: &[u8]) -> Result<Option<WorkerId>> {
    let id = sqlx::query_scalar!(
        // By its key: a worker whose answer was lost asks again, and must become the same worker.
        "SELECT worker_id FROM join_uses WHERE token_id = $1 AND key_sha256 = $2",
        token,
        key,
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(id.map(WorkerId))
}

/// Uses a token that is locked.
pub async fn use_join_token(
    tx: &mut Tx,
    token: Uuid,
    key: &[u8],
    worker: WorkerId,
    now: DateTime<Utc>,
) -> Result<()> {
    // One more than may be is impossible: the caller holds the token's lock and has compared.
    sqlx::query!(
        "UPDATE join_tokens SET used = used + 1 WHERE id = $1",
        token
    )
    .execute(tx.sql())
    .await?;
    sqlx::query!(
        "INSERT INTO join_uses (token_id, key_sha256, worker_id, at) VALUES ($1, $2, $3, $4)",
        token,
        key,
        worker.0,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// A known worker: one that joined, or one that has been here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub worker: WorkerId,
    pub name: String,
    /// It joined, or came with a certificate: its name and id are its own.
    pub is_owned: bool,
}

/// Workers that have this id or this name, those that joined first, then the one that was here last.
pub async fn list_known(
    conn: &mut Conn,
    worker: Option<WorkerId>,
    name: &str,
) -> Result<Vec<Known>> {
    // Also workers that never joined: their names are taken too, as long as they are online or came with a
    // certificate.
    let rows = sqlx::query!(
        r#"SELECT worker_id AS "worker_id!", name AS "name!", is_owned AS "is_owned!"
           FROM (SELECT worker_id, name, true AS is_owned, true AS joined, certified_until AS at FROM members
                 UNION ALL
                 SELECT id, name, identity <> '' OR state = 'online', false, last_seen_at FROM workers
                 WHERE id NOT IN (SELECT worker_id FROM members)) known
           WHERE worker_id = $1 OR name = $2
           ORDER BY joined DESC, at DESC, worker_id"#,
        worker.map(|worker| worker.0),
        name,
    )
    .fetch_all(conn.sql())
    .await?;
    let known = rows.into_iter().map(|row| Known {
        worker: WorkerId(row.worker_id),
        name: row.name,
        is_owned: row.is_owned,
    });
    Ok(known.collect())
}

/// Stores that a worker joined, anew where it did before. From now on its id and its name belong to the certificates
/// that name `identity`, whoever had them.
pub async fn upsert_member(tx: &mut Tx, member: &Member, identity: &str) -> Result<()> {
    let done = sqlx::query!(
        "INSERT INTO members (worker_id, name, joined_at, joined_by, certified_until)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (worker_id) DO UPDATE
         SET name = excluded.name, joined_at = excluded.joined_at, joined_by = excluded.joined_by,
             certified_until = excluded.certified_until, revoked_at = NULL, revoked_by = NULL,
             revoked_reason = NULL",
        member.worker.0,
        member.name,
        member.joined_at,
        member.joined_by,
        member.certified_until,
    )
    .execute(tx.sql())
    .await;
    name_taken(done, &member.name)?;
    // Who had this name before loses it, but not while it is online: nobody's seat is taken from under it.
    sqlx::query!(
        "UPDATE workers SET identity = CASE WHEN id = $1 THEN $3 ELSE '' END
         WHERE id = $1 OR name = $2 AND state <> 'online'",
        member.worker.0,
        member.name,
        identity,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

fn name_taken(
    done: std::result::Result<sqlx::postgres::PgQueryResult, sqlx::Error>,
    name: &str,
) -> Result<()> {
    match done {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error))
            // By the name of the index: other conflicts are faults, and must not be told as a name that is
            // taken.
            if error
                .constraint()
                .is_some_and(|index| NAME_INDICES.contains(&index)) =>
        {
            Err(StoreError::WorkerNameTaken(name.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

struct MemberRow {
    worker_id: Uuid,
    name: String,
    joined_at: DateTime<Utc>,
    joined_by: String,
    certified_until: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    revoked_by: Option<String>,
    revoked_reason: Option<String>,
}

impl From<MemberRow> for Member {
    fn from(row: MemberRow) -> Self {
        Self {
            worker: WorkerId(row.worker_id),
            name: row.name,
            joined_at: row.joined_at,
            joined_by: row.joined_by,
            certified_until: row.certified_until,
            revoked: row.revoked_at.map(|at| Revoked {
                at,
                by: row.revoked_by.unwrap_or_default(),
                reason: row.revoked_reason.unwrap_or_default(),
            }),
        }
    }
}

/// Everybody who joined, by name.
pub async fn list_members(conn: &mut Conn) -> Result<Vec<Member>> {
    let rows = sqlx::query_as!(
        MemberRow,
        "SELECT worker_id, name, joined_at, joined_by, certified_until, revoked_at, revoked_by, revoked_reason
         FROM members ORDER BY name"
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows.into_iter().map(Member::from).collect())
}

/// A worker that joined; None: none with this id did, or it was forgotten.
pub async fn find_member(conn: &mut Conn, worker: WorkerId) -> Result<Option<Member>> {
    let row = sqlx::query_as!(
        MemberRow,
        "SELECT worker_id, name, joined_at, joined_by, certified_until, revoked_at, revoked_by, revoked_reason
         FROM members WHERE worker_id = $1",
        worker.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(row.map(Member::from))
}

/// The same by its name, kept from everybody else until this transaction ends.
pub async fn lock_member(tx: &mut Tx, name: &str) -> Result<Option<Member>> {
    let row = sqlx::query_as!(
        MemberRow,
        "SELECT worker_id, name, joined_at, joined_by, certified_until, revoked_at, revoked_by, revoked_reason
         FROM members WHERE name = $1 FOR UPDATE",
        name,
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(row.map(Member::from))
}

/// Its newest certificate is good until then. False: it is revoked or forgotten.
pub async fn mark_member_certified(
    tx: &mut Tx,
    worker: WorkerId,
    until: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE members SET certified_until = $2 WHERE worker_id = $1 AND revoked_at IS NULL",
        worker.0,
        until,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// It is shut out from now on.
pub async fn mark_member_revoked(tx: &mut Tx, worker: WorkerId, revoked: &Revoked) -> Result<()> {
    sqlx::query!(
        "UPDATE members SET revoked_at = $2, revoked_by = $3, revoked_reason = $4
         WHERE worker_id = $1 AND revoked_at IS NULL",
        worker.0,
        revoked.at,
        revoked.by,
        revoked.reason,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Gives a worker another name, here and where it has been.
pub async fn rename_member(tx: &mut Tx, worker: WorkerId, name: &str) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE members SET name = $2 WHERE worker_id = $1",
        worker.0,
        name,
    )
    .execute(tx.sql())
    .await;
    name_taken(done, name)?;
    let done = sqlx::query!("UPDATE workers SET name = $2 WHERE id = $1", worker.0, name)
        .execute(tx.sql())
        .await;
    name_taken(done, name)
}

/// Removes a worker that joined. What its jobs say of it stays; with no such job it is gone altogether.
pub async fn delete_member(tx: &mut Tx, worker: WorkerId) -> Result<()> {
    sqlx::query!("DELETE FROM members WHERE worker_id = $1", worker.0)
        .execute(tx.sql())
        .await?;
    // A worker that jobs name stays as a row: their history would point nowhere.
    sqlx::query!(
        "DELETE FROM workers WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM attempt_ranks WHERE worker_id = $1)",
        worker.0,
    )
    .execute(tx.sql())
    .await?;
    // From now on neither its name nor its identity is anybody's.
    sqlx::query!(
        "UPDATE workers SET state = 'left', identity = '' WHERE id = $1",
        worker.0,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
