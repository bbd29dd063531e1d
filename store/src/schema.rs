//! Which version the tables are of, beside this program's.

use sqlx::PgConnection;

use crate::Result;

/// How the tables stand to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// There are none, or they are of a version that knew no leader's row: coordinators of that version keep
    /// others out by a lock ([`crate::lock`]).
    BeforeLeaders,
    /// They are older than this version: whoever leads may bring them to it.
    Older,
    /// They are of this version, or of a later one that this one can read.
    Ours,
}

/// Reads it; `ours` is the newest migration of this program. This asks what sqlx keeps, not tables of ours, so it is
/// not checked against the migrations.
pub(crate) async fn read(connection: &mut PgConnection, ours: Option<i64>) -> Result<Schema> {
    // Both tables: one alone could be of another program in the same database.
    let has_leader: bool = sqlx::query_scalar(
        "SELECT to_regclass('leader') IS NOT NULL AND to_regclass('_sqlx_migrations') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !has_leader {
        return Ok(Schema::BeforeLeaders);
    }
    // One that failed half way counts as not done.
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(connection)
            .await?;
    // Of a later version: there is nothing to be done to them, and sqlx would refuse migrations that it does
    // not know.
    Ok(if newest < ours {
        Schema::Older
    } else {
        Schema::Ours
    })
}
