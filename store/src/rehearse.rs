//! The migrations that are still to come, tried on the tables as they are and taken back: whoever upgrades knows before
//! whether they apply, and how long they take.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::Result;
use crate::db::MIGRATOR;

/// How long a migration waits for a table that somebody is at work with. Whoever comes after it waits behind it meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
/// How long one statement may take: as long as when it is meant.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '1h'";

/// A migration that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub number: i64,
    /// What for, in a few words: from its file's name.
    pub what: String,
    pub took: Duration,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// The newest migration that the tables have; None: there are no tables.
    pub newest: Option<i64>,
    /// Migrations that the tables have and this version does not: they are of a later one.
    pub unknown: Vec<i64>,
    /// Migrations whose text is another one than when they were applied.
    pub altered: Vec<i64>,
    /// Those to come, in their order, up to the one that failed.
    pub steps: Vec<Step>,
    /// The number of the one that does not apply, and what Postgres says of it.
    pub failed: Option<(i64, String)>,
}

/// Tries them in one transaction, which is rolled back. Tables that a migration changes are locked meanwhile, so that a
/// cluster at work waits for as long as it takes.
pub async fn rehearse(url: &str) -> Result<Rehearsal> {
    let options = PgConnectOptions::from_str(url)?.application_name("marquee-coordinator migrate");
    let mut connection = PgConnection::connect_with(&options).await?;
    let applied = applied(&mut connection).await?;
    let known = || MIGRATOR.iter();
    let is_known = |number: &i64| known().any(|ours| ours.version == *number);
    let mut rehearsal = Rehearsal {
        newest: applied.keys().next_back().copied(),
        unknown: applied
            .keys()
            .filter(|one| !is_known(one))
            .copied()
            .collect(),
        altered: known()
            .filter(|ours| {
                let there = applied.get(&ours.version);
                there.is_some_and(|there| *there != *ours.checksum)
            })
            .map(|ours| ours.version)
            .collect(),
        steps: Vec::new(),
        failed: None,
    };
    sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
    for limit in [LOCK_TIMEOUT, STATEMENT_TIMEOUT] {
        sqlx::raw_sql(limit).execute(&mut connection).await?;
    }
    for ours in known().filter(|ours| !applied.contains_key(&ours.version)) {
        let began = Instant::now();
        let tried = sqlx::raw_sql(ours.sql.clone())
            .execute(&mut connection)
            .await;
        if let Err(error) = tried {
            rehearsal.failed = Some((ours.version, error.to_string()));
            break;
        }
        rehearsal.steps.push(Step {
            number: ours.version,
            what: ours.description.to_string(),
            took: began.elapsed(),
        });
    }
    // Also where the connection breaks: what was not committed never was.
    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await?;
    connection.close().await?;
    Ok(rehearsal)
}

/// The migrations that the tables have, with the digests of their texts. This asks what sqlx keeps, not tables of ours, so
/// it is not checked against the migrations.
async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Vec<u8>>> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().collect())
}
