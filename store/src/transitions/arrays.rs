//! What the ends of an array's elements come to: counted by the changes themselves, never by looking at all elements.

use marquee_domain::failure::Failure;
use marquee_domain::ids::JobId;

use crate::{Conn, Result, StoreError, convert};

/// An array that one of its elements moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayCount {
    pub array: JobId,
    /// Elements that have not succeeded.
    pub left: u32,
    /// Elements that have not ended.
    pub open: u32,
}

/// The elements of an array that ended without success: what a retry of it brings back.
pub async fn list_elements_to_revive(conn: &mut Conn, array: JobId) -> Result<Vec<(JobId, u32)>> {
    let rows = sqlx::query!(
        "SELECT id, attempt FROM jobs
         WHERE array_job_id = $1 AND state IN ('failed', 'cancelled') ORDER BY id",
        array.0,
    )
    .fetch_all(conn.sql())
    .await?;
    let elements = rows.into_iter().map(|row| {
        let attempt = convert::u32_of("jobs.attempt", row.attempt)?;
        Ok((JobId(row.id), attempt))
    });
    elements.collect()
}

/// How many elements of an array have not succeeded.
pub async fn get_elements_left(conn: &mut Conn, array: JobId) -> Result<u32> {
    let left = sqlx::query_scalar!(
        r#"SELECT size - succeeded AS "left!" FROM arrays WHERE job_id = $1"#,
        array.0
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(array))?;
    convert::u32_of("arrays.size", left)
}

/// What the ends of an array's elements come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayEnds {
    pub size: u32,
    pub succeeded: u32,
    /// Failed, or cancelled.
    pub missed: u32,
    /// How many may.
    pub may_fail: u32,
}

impl ArrayEnds {
    /// Elements that have not ended.
    #[must_use]
    pub fn open(self) -> u32 {
        self.size
            .saturating_sub(self.succeeded)
            .saturating_sub(self.missed)
    }

    /// Whether the array can no longer succeed with what its elements are.
    #[must_use]
    pub fn is_lost(self) -> bool {
        self.missed > self.may_fail
    }
}

/// What the ends of an array's elements come to so far.
pub async fn get_array_ends(conn: &mut Conn, array: JobId) -> Result<ArrayEnds> {
    // By the counters: an end of one element costs the same at any size of the array.
    let row = sqlx::query!(
        r#"SELECT a.size, a.succeeded, a.failed + a.cancelled AS "missed!",
                  COALESCE(number_in(j.spec ->> 'may_fail'), 0) AS "may_fail!"
           FROM arrays a JOIN jobs j ON j.id = a.job_id WHERE a.job_id = $1"#,
        array.0
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(array))?;
    Ok(ArrayEnds {
        size: convert::u32_of("arrays.size", row.size)?,
        succeeded: convert::u32_of("arrays.succeeded", row.succeeded)?,
        missed: convert::u32_of("arrays.failed", row.missed)?,
        // More than fits is more than any array has: all may fail.
        may_fail: u32::try_from(row.may_fail).unwrap_or(u32::MAX),
    })
}

/// An element of an array that ended without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    pub id: JobId,
    pub index: u32,
    /// None: it was cancelled.
    pub failure: Option<Failure>,
}

/// The first element of an array that failed, or else was cancelled.
pub async fn find_missed_element(conn: &mut Conn, array: JobId) -> Result<Option<Missed>> {
    // A failure says more than the cancels that followed from it, and `false` sorts first.
    let row = sqlx::query!(
        r#"SELECT id, array_index AS "index!", failure_class, failure_message
           FROM jobs WHERE array_job_id = $1 AND state IN ('failed', 'cancelled')
           ORDER BY state = 'failed' DESC, array_index LIMIT 1"#,
        array.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    let missed = row.map(|row| {
        Ok(Missed {
            id: JobId(row.id),
            index: convert::u32_of("jobs.array_index", row.index)?,
            failure: convert::failure(row.failure_class, row.failure_message)?,
        })
    });
    missed.transpose()
}
