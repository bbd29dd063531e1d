//! Metric values as curves: of many values a few points, each with the least, the greatest and the mean value of a
//! range of steps. Counted in Postgres, so that a million values cost one pass and no transfer.

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

/// Curves of at most `points` points each, by name, attempt, rank and step; at most `limit` points in all.
pub async fn list_points(
    conn: &mut Conn,
    job: JobId,
    which: &Which<'_>,
    points: u32,
    limit: usize,
) -> Result<Vec<Point>> {
    let attempts: Result<Vec<i32>> = which
        .attempts
        .iter()
        .map(|attempt| convert::int("attempt", attempt.0))
        .collect();
    let rank = which.rank.map(|rank| convert::int("rank", rank.0));
    // Steps beyond what a column holds are beyond every value that is stored.
    let step = |step: Option<u64>| step.map(|step| i64::try_from(step).unwrap_or(i64::MAX));
    // Two passes over the values, and no sort of them. The inner query stands apart (OFFSET) and keeps every value (LEFT
    // JOIN): of anything else Postgres expects few values and many groups, and sorts a million rows by their names.
    let rows = sqlx::query!(
        r#"WITH curves AS MATERIALIZED (
               SELECT name, attempt, rank, min(step) AS first,
                      -- From the first step that there can be to the last, one more would be too large a number.
                      LEAST((max(step) - min(step)) / $7::bigint, 9223372036854775806) + 1 AS width,
                      row_number() OVER (ORDER BY name, attempt, rank) AS curve
               FROM metrics
               WHERE job_id = $1 AND attempt = ANY ($2) AND ($3::int IS NULL OR rank = $3)
                 AND ($4::text[] IS NULL OR name = ANY ($4))
                 AND ($5::bigint IS NULL OR step >= $5) AND ($6::bigint IS NULL OR step <= $6)
               GROUP BY name, attempt, rank
           ), points AS (
               SELECT v.curve, v.range, min(v.step) AS step,
                      avg(v.value) FILTER (WHERE v.is_usual) AS mean,
                      min(v.value) FILTER (WHERE v.is_usual) AS minimum,
                      max(v.value) FILTER (WHERE v.is_usual) AS maximum,
                      min(v.at) AS at, count(*) AS "values", count(*) FILTER (WHERE NOT v.is_usual) AS not_finite
               FROM (
                   SELECT c.curve, LEAST((m.step - c.first) / c.width, $7::bigint - 1) AS range, m.step, m.value, m.at,
                          -- Means of larger numbers could overflow, which Postgres makes an error of them all.
                          abs(m.value) < 1e150 AS is_usual
                   FROM metrics m LEFT JOIN curves c USING (name, attempt, rank)
                   WHERE m.job_id = $1 AND m.attempt = ANY ($2) AND ($3::int IS NULL OR m.rank = $3)
                     AND ($4::text[] IS NULL OR m.name = ANY ($4))
                     AND ($5::bigint IS NULL OR m.step >= $5) AND ($6::bigint IS NULL OR m.step <= $6)
                   OFFSET 0) v
               GROUP BY v.curve, v.range
           )
           SELECT c.name AS "name!", c.attempt AS "attempt!", c.rank AS "rank!", p.step AS "step!", p.mean, p.minimum,
                  p.maximum, (extract(epoch FROM p.at) * 1000)::bigint AS "at_ms!", p.values AS "values!",
                  p.not_finite AS "not_finite!"
           FROM points p JOIN curves c USING (curve)
           ORDER BY p.curve, p.range
           LIMIT $8"#,
        job.0,
        &attempts?,
        rank.transpose()?,
        which.names,
        step(which.from_step),
        step(which.to_step),
        i64::from(points),
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(conn.sql())
    .await?;
    let points = rows.into_iter().map(|row| {
        Ok(Point {
            name: row.name,
            attempt: AttemptNumber(convert::u32_of("metrics.attempt", row.attempt)?),
            rank: Rank(convert::u32_of("metrics.rank", row.rank)?),
            step: convert::u64_of("metrics.step", row.step)?,
            mean: row.mean,
            minimum: row.minimum,
            maximum: row.maximum,
            at_ms: row.at_ms,
            values: u64::try_from(row.values).unwrap_or_default(),
            not_finite: u64::try_from(row.not_finite).unwrap_or_default(),
        })
    });
    points.collect()
}
