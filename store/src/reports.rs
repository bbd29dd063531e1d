//! Log lines and metric values, stored under (attempt, rank, sequence): the primary keys make a
//! second storing of the same report an error instead of a doubled line. A line has a checksum, so that one that the
//! disk or a hand has altered is told from what a job printed.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};

use crate::ranks::RankKey;
use crate::{Conn, Result, Tx, convert};

/// Which of a child's outputs a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    /// The word used in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log line to store, or one that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub sequence: u64,
    /// Place of the line within its report.
    pub line: u32,
    /// How many lines of the same report come after it.
    pub left: u32,
    pub stream: LogStream,
    pub text: String,
    pub at: DateTime<Utc>,
    /// It is not what was stored. Nobody stores it so.
    pub is_damaged: bool,
}

impl LogLine {
    /// Over all that is stored of it but for whose it is.
    fn checksum(&self) -> i32 {
        // In microseconds: Postgres keeps no finer time, and what is read must give the same sum.
        let places = [self.sequence, self.line.into(), self.left.into()];
        let at = self.at.timestamp_micros().to_le_bytes();
        let places = places.iter().flat_map(|place| place.to_le_bytes());
        let head: Vec<u8> = places.chain(at).collect();
        let sum = crc32c::crc32c(&head);
        let sum = crc32c::crc32c_append(sum, self.stream.as_str().as_bytes());
        crc32c::crc32c_append(sum, self.text.as_bytes()).cast_signed()
    }
}

/// How far a reader is in a report: the last line that it has read, and how many come after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineEnd {
    pub line: u32,
    pub left: u32,
}

/// A metric value to store, or one that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub sequence: u64,
    pub name: String,
    pub step: u64,
    pub value: f64,
    pub at: DateTime<Utc>,
}

/// How far a reader is in the rows of one rank: it has read up to this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor<L> {
    pub rank: Rank,
    pub sequence: u64,
    /// Place within the report.
    pub last: L,
}

/// Stores log lines, of all ranks that have some.
pub async fn insert_log_lines(tx: &mut Tx, of: &[(RankKey, &[LogLine])]) -> Result<()> {
    let lines = || {
        of.iter()
            .flat_map(|(key, lines)| lines.iter().map(move |line| (key, line)))
    };
    let jobs: Vec<i64> = lines().map(|(key, _)| key.job.0).collect();
    let attempts = lines().map(|(key, _)| convert::int("attempt", key.attempt.0));
    let ranks = lines().map(|(key, _)| convert::int("rank", key.rank.0));
    let sequences = lines().map(|(_, l)| convert::bigint("sequence", l.sequence));
    let numbers = lines().map(|(_, l)| convert::int("line", l.line));
    let streams: Vec<String> = lines().map(|(_, l)| l.stream.as_str().to_owned()).collect();
    let texts: Vec<String> = lines().map(|(_, l)| l.text.clone()).collect();
    let ats: Vec<DateTime<Utc>> = lines().map(|(_, l)| l.at).collect();
    let checksums: Vec<i32> = lines().map(|(_, l)| l.checksum()).collect();
    let left = lines().map(|(_, l)| convert::int("lines_left", l.left));
    // No ON CONFLICT: a line that is there already means that the fence let a report through twice, which
    // must not pass unseen.
    sqlx::query!(
        "INSERT INTO log_lines (job_id, attempt, rank, sequence, line, stream, text, at, checksum, lines_left)
         SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::bigint[], $5::int[], $6::text[], $7::text[],
                              $8::timestamptz[], $9::int[], $10::int[])",
        &jobs,
        &attempts.collect::<Result<Vec<_>>>()?,
        &ranks.collect::<Result<Vec<_>>>()?,
        &sequences.collect::<Result<Vec<_>>>()?,
        &numbers.collect::<Result<Vec<_>>>()?,
        &streams,
        &texts,
        &ats,
        &checksums,
        &left.collect::<Result<Vec<_>>>()?,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Stores metric values, of all ranks that have some.
pub async fn insert_metrics(tx: &mut Tx, of: &[(RankKey, &[Metric])]) -> Result<()> {
    let metrics = || {
        of.iter()
            .flat_map(|(key, metrics)| metrics.iter().map(move |metric| (key, metric)))
    };
    let jobs: Vec<i64> = metrics().map(|(key, _)| key.job.0).collect();
    let attempts = metrics().map(|(key, _)| convert::int("attempt", key.attempt.0));
    let ranks = metrics().map(|(key, _)| convert::int("rank", key.rank.0));
    let sequences = metrics().map(|(_, m)| convert::bigint("sequence", m.sequence));
    let names: Vec<String> = metrics().map(|(_, m)| m.name.clone()).collect();
    let steps = metrics().map(|(_, m)| convert::bigint("step", m.step));
    let values: Vec<f64> = metrics().map(|(_, m)| m.value).collect();
    let ats: Vec<DateTime<Utc>> = metrics().map(|(_, m)| m.at).collect();
    sqlx::query!(
        "INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
         SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::bigint[], $5::text[], $6::bigint[],
                              $7::float8[], $8::timestamptz[])",
        &jobs,
        &attempts.collect::<Result<Vec<_>>>()?,
        &ranks.collect::<Result<Vec<_>>>()?,
        &sequences.collect::<Result<Vec<_>>>()?,
        &names,
        &steps.collect::<Result<Vec<_>>>()?,
        &values,
        &ats,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// The step of the newest values that rank 0 of an attempt reported. None where it reported none.
pub async fn find_last_step(
    conn: &mut Conn,
    job: JobId,
    attempt: AttemptNumber,
) -> Result<Option<u64>> {
    // By report, not by step: an attempt that went back to a checkpoint has reported higher steps before.
    let step = sqlx::query_scalar!(
        "SELECT step FROM metrics WHERE job_id = $1 AND attempt = $2 AND rank = 0 ORDER BY sequence DESC LIMIT 1",
        job.0,
        convert::int("attempt", attempt.0)?,
    )
    .fetch_optional(conn.sql())
    .await?;
    step.map(|step| convert::u64_of("metrics.step", step))
        .transpose()
}

/// The next log lines of each rank after its cursor, at most `limit` a rank; by rank, in order.
pub async fn list_log_lines(
    conn: &mut Conn,
    job: JobId,
    attempt: AttemptNumber,
    after: &[Cursor<LineEnd>],
    limit: u32,
) -> Result<Vec<(Rank, LogLine)>> {
    let (ranks, sequences) = cursor_columns(after)?;
    let lines = after
        .iter()
        .map(|c| convert::int("line", c.last.line))
        .collect::<Result<Vec<_>>>()?;
    // Each rank has a limit of its own: one that floods must not take the page from the others.
    let rows = sqlx::query_as!(
        RawLogLine,
        r#"SELECT c.rank AS "rank!", l.sequence, l.line, l.stream, l.text, l.at, l.checksum, l.lines_left
           FROM unnest($3::int[], $4::bigint[], $5::int[]) AS c (rank, sequence, line)
           CROSS JOIN LATERAL (
               SELECT sequence, line, stream, text, at, checksum, lines_left FROM log_lines
               WHERE job_id = $1 AND attempt = $2 AND rank = c.rank
                 AND (sequence, line) > (c.sequence, c.line)
               ORDER BY sequence, line LIMIT $6) l
           ORDER BY c.rank, l.sequence, l.line"#,
        job.0,
        convert::int("attempt", attempt.0)?,
        &ranks,
        &sequences,
        &lines,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(RawLogLine::read).collect()
}

/// The last `limit` log lines of each rank; by rank, in order.
pub async fn list_last_log_lines(
    conn: &mut Conn,
    job: JobId,
    attempt: AttemptNumber,
    ranks: &[Rank],
    limit: u32,
) -> Result<Vec<(Rank, LogLine)>> {
    let ranks = ranks
        .iter()
        .map(|r| convert::int("rank", r.0))
        .collect::<Result<Vec<_>>>()?;
    // The last ones of each rank are found backwards by the key, however long the log is.
    let rows = sqlx::query_as!(
        RawLogLine,
        r#"SELECT c.rank AS "rank!", l.sequence, l.line, l.stream, l.text, l.at, l.checksum, l.lines_left
           FROM unnest($3::int[]) AS c (rank)
           CROSS JOIN LATERAL (
               SELECT sequence, line, stream, text, at, checksum, lines_left FROM log_lines
               WHERE job_id = $1 AND attempt = $2 AND rank = c.rank
               ORDER BY sequence DESC, line DESC LIMIT $4) l
           ORDER BY c.rank, l.sequence, l.line"#,
        job.0,
        convert::int("attempt", attempt.0)?,
        &ranks,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(RawLogLine::read).collect()
}

/// The next metric values of each rank after its cursor, at most `limit` a rank; by rank, in
/// order. `names` narrows them to these names; None: all.
pub async fn list_metrics(
    conn: &mut Conn,
    job: JobId,
    attempt: AttemptNumber,
    after: &[Cursor<String>],
    names: Option<&[String]>,
    limit: u32,
) -> Result<Vec<(Rank, Metric)>> {
    let (ranks, sequences) = cursor_columns(after)?;
    let lasts: Vec<String> = after.iter().map(|c| c.last.clone()).collect();
    let rows = sqlx::query!(
        r#"SELECT c.rank AS "rank!", m.sequence, m.name, m.step, m.value, m.at
           FROM unnest($3::int[], $4::bigint[], $5::text[]) AS c (rank, sequence, name)
           CROSS JOIN LATERAL (
               SELECT sequence, name, step, value, at FROM metrics
               WHERE job_id = $1 AND attempt = $2 AND rank = c.rank
                 AND (sequence, name) > (c.sequence, c.name)
                 AND ($6::text[] IS NULL OR name = ANY ($6))
               ORDER BY sequence, name LIMIT $7) m
           ORDER BY c.rank, m.sequence, m.name"#,
        job.0,
        convert::int("attempt", attempt.0)?,
        &ranks,
        &sequences,
        &lasts,
        names,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let metrics = rows.into_iter().map(|row| {
        let metric = Metric {
            sequence: convert::u64_of("metrics.sequence", row.sequence)?,
            name: row.name,
            step: convert::u64_of("metrics.step", row.step)?,
            value: row.value,
            at: row.at,
        };
        Ok((Rank(convert::u32_of("metrics.rank", row.rank)?), metric))
    });
    metrics.collect()
}

fn cursor_columns<L>(after: &[Cursor<L>]) -> Result<(Vec<i32>, Vec<i64>)> {
    let ranks = after.iter().map(|c| convert::int("rank", c.rank.0));
    let sequences = after
        .iter()
        .map(|c| convert::bigint("sequence", c.sequence));
    Ok((
        ranks.collect::<Result<_>>()?,
        sequences.collect::<Result<_>>()?,
    ))
}

struct RawLogLine {
    rank: i32,
    sequence: i64,
    line: i32,
    stream: String,
    text: String,
    at: DateTime<Utc>,
    checksum: Option<i32>,
    lines_left: Option<i32>,
}

impl RawLogLine {
    fn read(self) -> Result<(Rank, LogLine)> {
        let stream = [LogStream::Stdout, LogStream::Stderr]
            .into_iter()
            .find(|stream| stream.as_str() == self.stream)
            .ok_or_else(|| convert::unreadable("log_lines.stream", &self.stream))?;
        let line = LogLine {
            sequence: convert::u64_of("log_lines.sequence", self.sequence)?,
            line: convert::u32_of("log_lines.line", self.line)?,
            // Earlier versions did not count: what may be missing behind such a line is unknown, and nothing
            // is claimed of it.
            left: convert::u32_of("log_lines.lines_left", self.lines_left.unwrap_or(0))?,
            stream,
            text: self.text,
            at: self.at,
            is_damaged: false,
        };
        // Without a sum the line is of an earlier version, and is taken as it is.
        let is_damaged = self.checksum.is_some_and(|sum| sum != line.checksum());
        let line = LogLine { is_damaged, ..line };
        Ok((Rank(convert::u32_of("log_lines.rank", self.rank)?), line))
    }
}
