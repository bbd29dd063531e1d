//! What a piece of work asked of Postgres: statements, transactions that wrote, bytes of its log.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, Cpu};

/// Statements that are ours alone to count with.
const OWN: &str = "query !~ 'pg_stat_statements|pg_current_wal|^(BEGIN|COMMIT|ROLLBACK)'";

/// The state of the counters when a measurement began.
#[derive(Debug)]
pub(crate) struct Counts {
    start: Instant,
    cpu: Cpu,
    writes: f64,
    wal_bytes: f64,
    scanned: f64,
}

/// What happened since.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) seconds: f64,
    /// Of coordinator, worker, their children and Postgres.
    pub(crate) cpu: Cpu,
    /// Without those that begin and end transactions, which are counted apart. None: this Postgres has no
    /// pg_stat_statements.
    pub(crate) statements: Option<f64>,
    /// Transactions that wrote anything: each took a number.
    pub(crate) writes: f64,
    pub(crate) wal_bytes: f64,
    /// Rows read by going through whole tables: what makes a long queue slow.
    pub(crate) scanned: f64,
    /// The statements that were run most often.
    pub(crate) most: String,
    /// The statements that took Postgres longest in all.
    pub(crate) longest: String,
}

impl Counts {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        if cluster.counts_statements() {
            cluster.psql("select pg_stat_statements_reset()")?;
        }
        let (writes, wal_bytes) = written(cluster)?;
        Ok(Self {
            start: Instant::now(),
            cpu: cluster.cpu(),
            writes,
            wal_bytes,
            scanned: scanned(cluster)?,
        })
    }

    pub(crate) fn stop(self, cluster: &Cluster) -> Result<Counted> {
        let seconds = self.start.elapsed().as_secs_f64();
        let cpu = cluster.cpu().since(self.cpu);
        let (writes, wal_bytes) = written(cluster)?;
        let (statements, most, longest) = if cluster.counts_statements() {
            let all = format!("select coalesce(sum(calls), 0) from pg_stat_statements where {OWN}");
            let most = format!(
                "select calls || 'x ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 60) \
                 from pg_stat_statements where {OWN} order by calls desc limit 3"
            );
            let most = cluster.psql(&most)?.replace('\n', "; ");
            let longest = format!(
                "select round(total_exec_time) || ' ms ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 60) \
                 from pg_stat_statements where {OWN} order by total_exec_time desc limit 5"
            );
            let longest = cluster.psql(&longest)?.replace('\n', "; ");
            (Some(cluster.psql(&all)?.parse()?), most, longest)
        } else {
            (None, String::new(), String::new())
        };
        Ok(Counted {
            seconds,
            cpu,
            statements,
            writes: writes - self.writes,
            wal_bytes: wal_bytes - self.wal_bytes,
            scanned: scanned(cluster)? - self.scanned,
            most,
            longest,
        })
    }
}

/// Rows that were read by scans of whole tables. Postgres says it up to a second late.
fn scanned(cluster: &Cluster) -> Result<f64> {
    let all = "select coalesce(sum(seq_tup_read), 0) from pg_stat_user_tables";
    Ok(cluster.psql(all)?.parse()?)
}

/// The number of the next transaction and the place in the log, at once true: Postgres' own statistics
/// of commits come seconds late.
fn written(cluster: &Cluster) -> Result<(f64, f64)> {
    let line = cluster.psql(
        "select pg_snapshot_xmax(pg_current_snapshot()), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')",
    )?;
    let (writes, bytes) = line.split_once('|').context("psql gave no two columns")?;
    Ok((writes.parse()?, bytes.parse()?))
}
