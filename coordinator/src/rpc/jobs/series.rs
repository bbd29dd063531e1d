//! Metrics as curves of few points.

use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_domain::limits::METRIC_NAME_MAX_BYTES;
use marquee_proto::convert::{self, BadField};
use marquee_proto::v1;
use marquee_store::series::{self, Point, Which};
use marquee_store::transitions;
use tonic::Status;

use crate::app::App;
use crate::lifecycle::LifecycleError;

const POINTS_DEFAULT: u32 = 400;
const POINTS_MAX: u32 = 2_000;
const ATTEMPTS_MAX: usize = 20;
const NAMES_MAX: usize = 1_000;
/// Curves of one answer.
const SERIES_MAX: usize = 1_000;
/// Points of one answer: 60 bytes each, well below the largest message.
const ALL_POINTS_MAX: usize = 100_000;

pub(super) async fn look(
    app: &App,
    request: v1::SeriesRequest,
) -> Result<v1::SeriesResponse, Status> {
    let points = match request.max_points {
        0 => POINTS_DEFAULT,
        points if points <= POINTS_MAX => points,
        points => {
            let why = format!("{points} is more than {POINTS_MAX}");
            return Err(BadField::invalid("max_points", why).into());
        }
    };
    if request.attempts.len() > ATTEMPTS_MAX {
        let why = format!(
            "{} attempts, at most {ATTEMPTS_MAX}",
            request.attempts.len()
        );
        return Err(BadField::invalid("attempts", why).into());
    }
    if request.names.len() > NAMES_MAX {
        let why = format!(
            "{} names, at most {NAMES_MAX}; none gives all",
            request.names.len()
        );
        return Err(BadField::invalid("names", why).into());
    }
    let names: Result<Vec<String>, BadField> = request
        .names
        .into_iter()
        .map(|name| convert::text("names", name, METRIC_NAME_MAX_BYTES))
        .collect();
    let names = names?;
    let which = Which {
        attempts: &request
            .attempts
            .into_iter()
            .map(AttemptNumber)
            .collect::<Vec<_>>(),
        rank: request.rank.map(Rank),
        names: Some(names.as_slice()).filter(|names| !names.is_empty()),
        from_step: request.from_step,
        to_step: request.to_step,
    };
    let points = read(app, JobId(request.job_id), which, points).await?;
    Ok(curves(points))
}

async fn read(
    app: &App,
    job: JobId,
    which: Which<'_>,
    points: u32,
) -> Result<Vec<Point>, LifecycleError> {
    let mut conn = app.db.read().await?;
    let head = transitions::get_job_head(&mut conn, job).await?;
    let newest = [AttemptNumber(head.attempt)];
    let which = Which {
        attempts: if which.attempts.is_empty() {
            &newest
        } else {
            which.attempts
        },
        ..which
    };
    Ok(series::list_points(&mut conn, job, &which, points, ALL_POINTS_MAX).await?)
}

/// Points, which come curve by curve, as curves.
fn curves(points: Vec<Point>) -> v1::SeriesResponse {
    // As many as were asked for: there may be more.
    let mut is_cut = points.len() >= ALL_POINTS_MAX;
    let mut series: Vec<v1::Series> = Vec::new();
    for point in points {
        let is_same = series.last().is_some_and(|last| {
            last.name == point.name && last.attempt == point.attempt.0 && last.rank == point.rank.0
        });
        if !is_same {
            if series.len() >= SERIES_MAX {
                is_cut = true;
                break;
            }
            series.push(v1::Series {
                name: point.name,
                attempt: point.attempt.0,
                rank: point.rank.0,
                ..v1::Series::default()
            });
        }
        let Some(curve) = series.last_mut() else {
            break;
        };
        curve.steps.push(point.step);
        // Of a point all values may be infinite or no numbers; the lists must keep one length.
        curve.means.push(point.mean.unwrap_or(f64::NAN));
        curve.minima.push(point.minimum.unwrap_or(f64::NAN));
        curve.maxima.push(point.maximum.unwrap_or(f64::NAN));
        curve.at_ms.push(point.at_ms);
        curve.values += point.values;
        curve.not_finite += point.not_finite;
    }
    v1::SeriesResponse { series, is_cut }
}
