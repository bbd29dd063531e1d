//! One authority follows another: the steps of a rotation, and how far each worker has come in it.
//!
//! Every coordinator reads the newest row and brings its own files in line with it, whether it leads or not; the one
//! that leads writes it.

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;

use crate::{Conn, Result, Tx, convert};

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Both authorities are believed, the one before signs.
    Begun,
    /// Both are believed, the next one signs.
    Switched,
    /// The next one alone is believed.
    Finished,
    /// The one before alone is believed.
    Abandoned,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Switched => "switched",
            Self::Finished => "finished",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether there is a step to follow.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Begun | Self::Switched => true,
            Self::Finished | Self::Abandoned => false,
        }
    }

    fn read(text: &str) -> Result<Self> {
        let all = [Self::Begun, Self::Switched, Self::Finished, Self::Abandoned];
        let found = all.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| convert::unreadable("authority_rotations.phase", text))
    }
}

/// A rotation. Pins are the SHA-256 of public keys, in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub before: String,
    pub next: String,
    /// PEM: the next one's certificate.
    pub certificate: String,
    pub phase: Phase,
    pub begun_at: DateTime<Utc>,
    pub begun_by: String,
    pub switched_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// The newest rotation; None: there never was one.
pub async fn find_rotation(conn: &mut Conn) -> Result<Option<Rotation>> {
    let row = sqlx::query!(
        "SELECT before, next, certificate, phase, begun_at, begun_by, switched_at, ended_at
         FROM authority_rotations ORDER BY id DESC LIMIT 1"
    )
    .fetch_optional(conn.sql())
    .await?;
    let rotation = row.map(|row| {
        Ok(Rotation {
            before: row.before,
            next: row.next,
            certificate: row.certificate,
            phase: Phase::read(&row.phase)?,
            begun_at: row.begun_at,
            begun_by: row.begun_by,
            switched_at: row.switched_at,
            ended_at: row.ended_at,
        })
    });
    rotation.transpose()
}

/// Pins of authorities that are believed no more, the latest first, as many as anybody may still hold.
pub async fn list_dropped(conn: &mut Conn) -> Result<Vec<String>> {
    let pins = sqlx::query_scalar!(
        r#"SELECT CASE phase WHEN 'finished' THEN before ELSE next END AS "pin!"
           FROM authority_rotations WHERE phase IN ('finished', 'abandoned')
           ORDER BY id DESC LIMIT 16"#
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(pins)
}

/// Begins one. False: one is under way.
pub async fn insert_rotation(tx: &mut Tx, rotation: &Rotation) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO authority_rotations (before, next, certificate, phase, begun_at, begun_by)
         VALUES ($1, $2, $3, 'begun', $4, $5)
         ON CONFLICT ((true)) WHERE phase IN ('begun', 'switched') DO NOTHING",
        rotation.before,
        rotation.next,
        rotation.certificate,
        rotation.begun_at,
        rotation.begun_by,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes the rotation to `next` a step on. False: it was not in the phase `from` any more.
pub async fn mark_rotation(
    tx: &mut Tx,
    next: &str,
    from: Phase,
    to: Phase,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE authority_rotations
         SET phase = $3,
             switched_at = CASE WHEN $3 = 'switched' THEN $4 ELSE switched_at END,
             ended_at = CASE WHEN $3 IN ('finished', 'abandoned') THEN $4 ELSE ended_at END
         WHERE next = $1 AND phase = $2",
        next,
        from.as_str(),
        to.as_str(),
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How far a worker that is not revoked has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub worker: WorkerId,
    pub name: String,
    /// Pins of the authorities that it believes; empty: it has never said.
    pub believes: Vec<String>,
    /// The pin of the one that signed the certificate that it shows; empty: not known.
    pub certified_by: String,
    pub is_online: bool,
}

/// Every worker that joined and is not revoked, by name.
pub async fn list_standings(conn: &mut Conn) -> Result<Vec<Standing>> {
    let rows = sqlx::query!(
        r#"SELECT m.worker_id, m.name, m.believes, m.certified_by,
                  COALESCE(w.state = 'online', false) AS "is_online!"
           FROM members m LEFT JOIN workers w ON w.id = m.worker_id
           WHERE m.revoked_at IS NULL ORDER BY m.name"#
    )
    .fetch_all(conn.sql())
    .await?;
    let standings = rows.into_iter().map(|row| Standing {
        worker: WorkerId(row.worker_id),
        name: row.name,
        believes: row.believes,
        certified_by: row.certified_by,
        is_online: row.is_online,
    });
    Ok(standings.collect())
}

/// What a worker believes and shows. None: it has never said.
pub async fn find_standing(
    conn: &mut Conn,
    worker: WorkerId,
) -> Result<Option<(Vec<String>, String)>> {
    let row = sqlx::query!(
        "SELECT believes, certified_by FROM members WHERE worker_id = $1",
        worker.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(row.map(|row| (row.believes, row.certified_by)))
}

/// A worker believes these and shows a certificate of that one.
pub async fn mark_standing(
    tx: &mut Tx,
    worker: WorkerId,
    believes: &[String],
    certified_by: &str,
) -> Result<()> {
    sqlx::query!(
        "UPDATE members SET believes = $2, certified_by = $3 WHERE worker_id = $1",
        worker.0,
        believes,
        certified_by,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Ends every join token that may be used still; how many those were. What they pin is shown no more.
pub async fn revoke_join_tokens(tx: &mut Tx, by: &str, now: DateTime<Utc>) -> Result<u64> {
    let done = sqlx::query!(
        "UPDATE join_tokens SET revoked_at = $2, revoked_by = $1
         WHERE revoked_at IS NULL AND expires_at > $2 AND used < uses",
        by,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected())
}

/// How many join tokens may be used still.
pub async fn count_usable_join_tokens(conn: &mut Conn, now: DateTime<Utc>) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM join_tokens
           WHERE revoked_at IS NULL AND expires_at > $1 AND used < uses"#,
        now,
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(count)
}
