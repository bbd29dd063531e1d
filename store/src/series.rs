//! Metric values as curves: of many values a few points, each with the least, the greatest and the mean value of a
//! range of steps. Counted in Postgres, so that a million values cost one pass and no transfer.
//!
//! Where a curve begins and ends must be known before it is divided. Mostly the first and the last report of a rank tell;
//! where they do not, the pass itself has told, and those curves are counted once more.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::ids::{AttemptNumber, JobId, Rank};

use crate::{Conn, Result, convert};

/// Which values to look at.
#[derive(Debug, Clone, Default)]
pub struct Which<'a> {
    pub attempts: &'a [AttemptNumber],
    /// None: all.
    pub rank: Option<Rank>,
    /// None: all.
    pub names: Option<&'a [String]>,
    /// Both ends included.
    pub from_step: Option<u64>,
    pub to_step: Option<u64>,
}

/// A range of steps of one metric of one rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub attempt: AttemptNumber,
    pub rank: Rank,
    /// The first step that has a value.
    pub step: u64,
    /// Of the values that are finite numbers; None where none is.
    pub mean: Option<f64>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    /// Time of the first value, in milliseconds since 1970.
    pub at_ms: i64,
    pub values: u64,
    /// Values that are no finite numbers.
    pub not_finite: u64,
}

/// A curve: name, attempt and rank.
type Curve = (String, i32, i32);

/// Between which steps its values are, or are thought to be; both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steps {
    first: i64,
    last: i64,
}

impl Steps {
    /// Steps of one range, so that there are at most `points`.
    fn width(self, points: u32) -> i64 {
        // From the first step that there can be to the last, one more would be too large a number.
        let steps = self.last.saturating_sub(self.first);
        (steps / i64::from(points.max(1))).saturating_add(1)
    }

    fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// A point as it is counted.
struct Row {
    name: String,
    attempt: i32,
    rank: i32,
    step: i64,
    last_step: i64,
    /// Of the values that are finite numbers.
    sum: Option<f64>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    at_ms: i64,
    values: i64,
    not_finite: i64,
}

impl Row {
    fn curve(&self) -> Curve {
        (self.name.clone(), self.attempt, self.rank)
    }

    fn place(&self) -> (&str, i32, i32, i64) {
        (&self.name, self.attempt, self.rank, self.step)
    }
}

/// Curves of at most `points` points each, by name, attempt, rank and step; at most `limit` points in all.
pub async fn list_points(
    conn: &mut Conn,
    job: JobId,
    which: &Which<'_>,
    points: u32,
    limit: usize,
) -> Result<Vec<Point>> {
    let asked = Asked::new(job, which, points)?;
    let thought = find_steps(conn, &asked).await?;
    let rows_max = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = count(conn, &asked, thought, rows_max).await?;
    let mut again = badly_divided(&rows, thought, points);
    if rows.len() >= limit
        && let Some(last) = rows.last()
        && let Some(steps) = again.get_mut(&last.curve())
    {
        // It is cut off, so that the pass has not told where it ends.
        *steps = find_ends(conn, &asked, last).await?;
    }
    if !again.is_empty() {
        rows.retain(|row| !again.contains_key(&row.curve()));
        rows.extend(count_again(conn, &asked, &again, rows_max).await?);
        rows.sort_by(|a, b| a.place().cmp(&b.place()));
    }
    rows.truncate(limit);
    rows.into_iter().map(point).collect()
}

/// The curves of which the pass has shown that their values lie elsewhere than was thought: beyond it, or in so small a
/// part of it that they have few points for their values.
fn badly_divided(rows: &[Row], thought: Option<Steps>, points: u32) -> BTreeMap<Curve, Steps> {
    let mut curves: BTreeMap<Curve, (Steps, u32, i64)> = BTreeMap::new();
    for row in rows {
        let new = Steps {
            first: row.step,
            last: row.last_step,
        };
        let (steps, count, values) = curves.entry(row.curve()).or_insert((new, 0, 0));
        steps.first = steps.first.min(new.first);
        steps.last = steps.last.max(new.last);
        *count += 1;
        *values += row.values;
    }
    let bad = curves.into_iter().filter(|(_, (steps, count, values))| {
        let is_coarse = *count < points / 2 && i64::from(*count) < *values;
        thought.is_none_or(|thought| !thought.holds(*steps) || is_coarse && thought != *steps)
    });
    bad.map(|(curve, (steps, _, _))| (curve, steps)).collect()
}

/// Which values are asked for, as columns hold it.
struct Asked<'a> {
    job: i64,
    attempts: Vec<i32>,
    rank: Option<i32>,
    names: Option<&'a [String]>,
    from_step: Option<i64>,
    to_step: Option<i64>,
    points: u32,
}

impl<'a> Asked<'a> {
    fn new(job: JobId, which: &Which<'a>, points: u32) -> Result<Self> {
        let attempts: Result<Vec<i32>> = which
            .attempts
            .iter()
            .map(|attempt| convert::int("attempt", attempt.0))
            .collect();
        let rank = which.rank.map(|rank| convert::int("rank", rank.0));
        // Steps beyond what a column holds are beyond every value that is stored.
        let step = |step: Option<u64>| step.map(|step| i64::try_from(step).unwrap_or(i64::MAX));
        Ok(Self {
            job: job.0,
            attempts: attempts?,
            rank: rank.transpose()?,
            names: which.names,
            from_step: step(which.from_step),
            to_step: step(which.to_step),
            points,
        })
    }
}

/// Between which steps the values are thought to be: the steps of the first and the last report of each rank. One range
/// for all: to look up another one for each value would cost a third of the pass.
async fn find_steps(conn: &mut Conn, asked: &Asked<'_>) -> Result<Option<Steps>> {
    let row = sqlx::query!(
        "SELECT min(f.step) AS first, max(l.step) AS last
         FROM attempt_ranks r
         CROSS JOIN LATERAL (
             SELECT m.step FROM metrics m WHERE m.job_id = r.job_id AND m.attempt = r.attempt AND m.rank = r.rank
             ORDER BY m.sequence LIMIT 1) f
         CROSS JOIN LATERAL (
             SELECT m.step FROM metrics m WHERE m.job_id = r.job_id AND m.attempt = r.attempt AND m.rank = r.rank
             ORDER BY m.sequence DESC LIMIT 1) l
         WHERE r.job_id = $1 AND r.attempt = ANY ($2) AND ($3::int IS NULL OR r.rank = $3)",
        asked.job,
        &asked.attempts,
        asked.rank,
    )
    .fetch_one(conn.sql())
    .await?;
    let steps = row.first.zip(row.last).map(|(first, last)| Steps {
        first: first.max(asked.from_step.unwrap_or(first)),
        last: last.min(asked.to_step.unwrap_or(last)),
    });
    Ok(steps.filter(|steps| steps.first <= steps.last))
}

/// Between which steps the values of the curve of this point are.
async fn find_ends(conn: &mut Conn, asked: &Asked<'_>, of: &Row) -> Result<Steps> {
    let ends = sqlx::query_as!(
        Steps,
        r#"SELECT COALESCE(min(step), 0) AS "first!", COALESCE(max(step), 0) AS "last!" FROM metrics
           WHERE job_id = $1 AND attempt = $2 AND rank = $3 AND name = $4
             AND ($5::bigint IS NULL OR step >= $5) AND ($6::bigint IS NULL OR step <= $6)"#,
        asked.job,
        of.attempt,
        of.rank,
        of.name,
        asked.from_step,
        asked.to_step,
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(ends)
}

/// The points of all curves, each divided as all are thought to be.
async fn count(
    conn: &mut Conn,
    asked: &Asked<'_>,
    thought: Option<Steps>,
    limit: i64,
) -> Result<Vec<Row>> {
    // Where nothing is thought each curve is one range, which tells where it begins and ends.
    let steps = thought.unwrap_or(Steps {
        first: 0,
        last: i64::MAX,
    });
    let width = thought.map_or(i64::MAX, |steps| steps.width(asked.points));
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT m.name, m.attempt, m.rank, min(m.step) AS "step!", max(m.step) AS "last_step!",
                  -- Sums of larger numbers could overflow, which Postgres makes an error of them all. Not avg(), which
                  -- also adds up squares.
                  sum(m.value) FILTER (WHERE abs(m.value) < 1e150) AS sum,
                  min(m.value) FILTER (WHERE abs(m.value) < 1e150) AS minimum,
                  max(m.value) FILTER (WHERE abs(m.value) < 1e150) AS maximum,
                  (extract(epoch FROM min(m.at)) * 1000)::bigint AS "at_ms!", count(*) AS "values!",
                  count(*) FILTER (WHERE NOT abs(m.value) < 1e150) AS "not_finite!"
           FROM metrics m
           WHERE m.job_id = $1 AND m.attempt = ANY ($2) AND ($3::int IS NULL OR m.rank = $3)
             AND ($4::text[] IS NULL OR m.name = ANY ($4))
             AND ($5::bigint IS NULL OR m.step >= $5) AND ($6::bigint IS NULL OR m.step <= $6)
           GROUP BY m.name, m.attempt, m.rank,
                    -- Values beyond what is thought are in the first or the last range.
                    LEAST(GREATEST(m.step - $7::bigint, 0) / $8::bigint, $9::bigint - 1)
           ORDER BY m.name, m.attempt, m.rank, min(m.step) LIMIT $10"#,
        asked.job,
        &asked.attempts,
        asked.rank,
        asked.names,
        asked.from_step,
        asked.to_step,
        steps.first,
        width,
        i64::from(asked.points),
        limit,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows)
}

/// The points of these curves alone, each divided as its own values are.
async fn count_again(
    conn: &mut Conn,
    asked: &Asked<'_>,
    curves: &BTreeMap<Curve, Steps>,
    limit: i64,
) -> Result<Vec<Row>> {
    let names: Vec<String> = curves.keys().map(|(name, _, _)| name.clone()).collect();
    let attempts: Vec<i32> = curves.keys().map(|(_, attempt, _)| *attempt).collect();
    let ranks: Vec<i32> = curves.keys().map(|(_, _, rank)| *rank).collect();
    let firsts: Vec<i64> = curves.values().map(|steps| steps.first).collect();
    let widths: Vec<i64> = curves
        .values()
        .map(|steps| steps.width(asked.points))
        .collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    let distinct: Vec<String> = distinct.into_iter().cloned().collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT m.name, m.attempt, m.rank, min(m.step) AS "step!", max(m.step) AS "last_step!",
                  sum(m.value) FILTER (WHERE abs(m.value) < 1e150) AS sum,
                  min(m.value) FILTER (WHERE abs(m.value) < 1e150) AS minimum,
                  max(m.value) FILTER (WHERE abs(m.value) < 1e150) AS maximum,
                  (extract(epoch FROM min(m.at)) * 1000)::bigint AS "at_ms!", count(*) AS "values!",
                  count(*) FILTER (WHERE NOT abs(m.value) < 1e150) AS "not_finite!"
           FROM metrics m
           JOIN unnest($6::text[], $7::int[], $8::int[], $9::bigint[], $10::bigint[])
               AS c (name, attempt, rank, first, width)
               ON c.name = m.name AND c.attempt = m.attempt AND c.rank = m.rank
           WHERE m.job_id = $1 AND m.attempt = ANY ($2) AND m.name = ANY ($3)
             AND ($4::bigint IS NULL OR m.step >= $4) AND ($5::bigint IS NULL OR m.step <= $5)
           GROUP BY m.name, m.attempt, m.rank, LEAST(GREATEST(m.step - c.first, 0) / c.width, $11::bigint - 1)
           ORDER BY m.name, m.attempt, m.rank, min(m.step) LIMIT $12"#,
        asked.job,
        &asked.attempts,
        &distinct,
        asked.from_step,
        asked.to_step,
        &names,
        &attempts,
        &ranks,
        &firsts,
        &widths,
        i64::from(asked.points),
        limit,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows)
}

fn point(row: Row) -> Result<Point> {
    #[allow(clippy::cast_precision_loss, reason = "a count of rows")]
    let finite = (row.values - row.not_finite) as f64;
    Ok(Point {
        name: row.name,
        attempt: AttemptNumber(convert::u32_of("metrics.attempt", row.attempt)?),
        rank: Rank(convert::u32_of("metrics.rank", row.rank)?),
        step: convert::u64_of("metrics.step", row.step)?,
        mean: row.sum.map(|sum| sum / finite),
        minimum: row.minimum,
        maximum: row.maximum,
        at_ms: row.at_ms,
        values: u64::try_from(row.values).unwrap_or_default(),
        not_finite: u64::try_from(row.not_finite).unwrap_or_default(),
    })
}
