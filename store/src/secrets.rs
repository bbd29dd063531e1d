//! Secrets as they are stored: encrypted, by a key that is not here.
//!
//! The lines of the audit are the database's own (migration 0035): who asked must be said before anything is changed
//! ([`Db::write_as`](crate::Db::write_as)).

use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobName, WorkerId};
use marquee_domain::project::ProjectName;
use marquee_domain::secret::SecretName;
use marquee_domain::spec::JobSpec;

use crate::ranks::{RankKey, element_spec};
use crate::{Conn, Result, StoreError, Tx, convert};

/// Where a secret is, and so whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlace {
    pub project: ProjectName,
    /// The only jobs that get it. None: all of the project.
    pub job: Option<JobName>,
    pub name: SecretName,
}

/// What is known of a secret without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub place: SecretPlace,
    pub key_id: String,
    pub set_at: DateTime<Utc>,
    /// Who set it.
    pub set_by: String,
}

/// An encrypted value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub place: SecretPlace,
    pub key_id: String,
    pub bytes: Vec<u8>,
}

/// A rank that is to be started, for which its worker asks for secrets.
#[derive(Debug)]
pub struct Taker {
    pub worker: WorkerId,
    /// The certificate that owns the worker's id; empty: it came without one.
    pub identity: String,
    /// The job's spec, or why it cannot be read.
    pub spec: std::result::Result<JobSpec, String>,
}

fn place(project: String, job: String, name: String) -> Result<SecretPlace> {
    Ok(SecretPlace {
        project: convert::project(project)?,
        job: match job.as_str() {
            "" => None,
            _ => Some(convert::job_name(job)?),
        },
        name: name
            .parse()
            .map_err(|_| convert::unreadable("secrets.name", &name))?,
    })
}

fn job_of(place: &SecretPlace) -> &str {
    place.job.as_ref().map_or("", JobName::as_str)
}

/// All that there are, or those of one project, by project, name and job. Without their values.
pub async fn list_secrets(
    conn: &mut Conn,
    project: Option<&ProjectName>,
) -> Result<Vec<StoredSecret>> {
    let rows = sqlx::query!(
        "SELECT project, job, name, key_id, set_at, set_by FROM secrets
         WHERE $1::text IS NULL OR project = $1
         ORDER BY project, name, job",
        project.map(ProjectName::as_str),
    )
    .fetch_all(conn.sql())
    .await?;
    let secrets = rows.into_iter().map(|row| {
        Ok(StoredSecret {
            place: place(row.project, row.job, row.name)?,
            key_id: row.key_id,
            set_at: row.set_at,
            set_by: row.set_by,
        })
    });
    secrets.collect()
}

/// What a job of this name gets of those that it names: for each its own, else the project's.
pub async fn find_sealed(
    conn: &mut Conn,
    project: &ProjectName,
    job: &JobName,
    names: &[String],
) -> Result<Vec<Sealed>> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (name) project, job, name, key_id, sealed FROM secrets
         WHERE project = $1 AND job IN ('', $2) AND name = ANY ($3)
         ORDER BY name, job DESC",
        project.as_str(),
        job.as_str(),
        names,
    )
    .fetch_all(conn.sql())
    .await?;
    let sealed = rows.into_iter().map(|row| {
        Ok(Sealed {
            place: place(row.project, row.job, row.name)?,
            key_id: row.key_id,
            bytes: row.sealed,
        })
    });
    sealed.collect()
}

/// Keeps a secret, in place of the one that is there. The project must be there: false if it is not.
pub async fn upsert_secret(tx: &mut Tx, secret: &StoredSecret, sealed: &[u8]) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO secrets (project, job, name, key_id, sealed, set_at, set_by)
         SELECT p.name, $2, $3, $4, $5, $6, $7 FROM projects p WHERE p.name = $1
         ON CONFLICT (project, name, job) DO UPDATE
         SET key_id = excluded.key_id, sealed = excluded.sealed, set_at = excluded.set_at,
             set_by = excluded.set_by",
        secret.place.project.as_str(),
        job_of(&secret.place),
        secret.place.name.as_str(),
        secret.key_id,
        sealed,
        secret.set_at,
        secret.set_by,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a secret. Whether it was there.
pub async fn delete_secret(tx: &mut Tx, place: &SecretPlace) -> Result<bool> {
    let done = sqlx::query!(
        "DELETE FROM secrets WHERE project = $1 AND job = $2 AND name = $3",
        place.project.as_str(),
        job_of(place),
        place.name.as_str(),
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The next secret that another key than this one is for, behind `after`, locked until the transaction ends.
pub async fn lock_other_key(
    tx: &mut Tx,
    key_id: &str,
    after: Option<&SecretPlace>,
) -> Result<Option<Sealed>> {
    let (project, name, job) = after.map_or(("", "", ""), |place| {
        (place.project.as_str(), place.name.as_str(), job_of(place))
    });
    let row = sqlx::query!(
        "SELECT project, job, name, key_id, sealed FROM secrets
         WHERE key_id <> $1 AND (project, name, job) > ($2, $3, $4)
         ORDER BY project, name, job LIMIT 1 FOR UPDATE",
        key_id,
        project,
        name,
        job,
    )
    .fetch_optional(tx.sql())
    .await?;
    row.map(|row| {
        Ok(Sealed {
            place: place(row.project, row.job, row.name)?,
            key_id: row.key_id,
            bytes: row.sealed,
        })
    })
    .transpose()
}

/// The same secret under another key. Who set it and when stays.
pub async fn mark_rekeyed(tx: &mut Tx, sealed: &Sealed) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE secrets SET key_id = $4, sealed = $5 WHERE project = $1 AND job = $2 AND name = $3",
        sealed.place.project.as_str(),
        job_of(&sealed.place),
        sealed.place.name.as_str(),
        sealed.key_id,
        sealed.bytes,
    )
    .execute(tx.sql())
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Vanished("secret"))
    }
}

/// The worker that holds a rank which has not ended, with its job's spec. None: nobody holds it, or it is to stop.
pub async fn find_taker(conn: &mut Conn, key: RankKey) -> Result<Option<Taker>> {
    let row = sqlx::query!(
        r#"SELECT r.worker_id, w.identity, COALESCE(j.spec, y.spec) AS "spec!", j.array_index
           FROM attempt_ranks r
           JOIN workers w ON w.id = r.worker_id
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN open_jobs o ON o.job_id = r.job_id AND o.attempt = r.attempt
           JOIN jobs j ON j.id = r.job_id
           LEFT JOIN jobs y ON y.id = j.array_job_id
           WHERE r.job_id = $1 AND r.attempt = $2 AND r.rank = $3
             AND r.state IN ('assigned', 'prepared', 'running') AND r.lost_at IS NULL
             AND a.state IN ('assigned', 'running') AND NOT o.cancel_requested"#,
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(row.map(|row| Taker {
        worker: WorkerId(row.worker_id),
        identity: row.identity,
        spec: element_spec(row.spec, row.array_index).map_err(|error| error.to_string()),
    }))
}
