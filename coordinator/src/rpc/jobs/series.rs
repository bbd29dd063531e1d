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

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, attempt: u32, rank: u32, step: u64) -> Point {
        Point {
            name: name.into(),
            attempt: AttemptNumber(attempt),
            rank: Rank(rank),
            step,
            mean: Some(1.0),
            minimum: Some(0.5),
            maximum: Some(2.0),
            at_ms: 1_000,
            values: 3,
            not_finite: 1,
        }
    }

    #[test]
    fn nothing_measured_is_no_curve() {
        assert_eq!(curves(Vec::new()), v1::SeriesResponse::default());
    }

    #[test]
    fn a_curve_is_of_one_name_attempt_and_rank() {
        let points = vec![
            point("loss", 1, 0, 1),
            point("loss", 1, 0, 2),
            point("loss", 1, 1, 1),
            point("loss", 2, 1, 1),
            point("lr", 2, 1, 1),
        ];
        let answer = curves(points);
        let whose: Vec<(&str, u32, u32, usize)> = answer
            .series
            .iter()
            .map(|curve| {
                (
                    curve.name.as_str(),
                    curve.attempt,
                    curve.rank,
                    curve.steps.len(),
                )
            })
            .collect();
        assert_eq!(
            whose,
            [
                ("loss", 1, 0, 2),
                ("loss", 1, 1, 1),
                ("loss", 2, 1, 1),
                ("lr", 2, 1, 1)
            ]
        );
        assert!(!answer.is_cut);
        let first = &answer.series[0];
        assert_eq!(first.steps, [1, 2]);
        assert_eq!((first.values, first.not_finite), (6, 2));
        // Each point has all its parts, so that whoever draws may walk them together.
        for parts in [
            first.means.len(),
            first.minima.len(),
            first.maxima.len(),
            first.at_ms.len(),
        ] {
            assert_eq!(parts, 2);
        }
    }

    #[test]
    fn a_point_without_one_finite_value_has_its_place_all_the_same() {
        let diverged = Point {
            mean: None,
            minimum: None,
            maximum: None,
            values: 0,
            not_finite: 9,
            ..point("loss", 1, 0, 7)
        };
        let answer = curves(vec![point("loss", 1, 0, 6), diverged]);
        let curve = &answer.series[0];
        assert_eq!(curve.steps, [6, 7]);
        assert!(curve.means[1].is_nan() && curve.minima[1].is_nan() && curve.maxima[1].is_nan());
        assert_eq!(curve.not_finite, 10);
    }

    #[test]
    fn more_than_an_answer_holds_is_cut_at_a_whole_curve_and_said() {
        let many: Vec<Point> = (0..=SERIES_MAX)
            .map(|number| point(&format!("m{number:05}"), 1, 0, 1))
            .collect();
        let answer = curves(many);
        assert_eq!(answer.series.len(), SERIES_MAX);
        assert!(answer.is_cut);
        assert!(answer.series.iter().all(|curve| curve.steps.len() == 1));
        let full: Vec<Point> = (0..ALL_POINTS_MAX as u64)
            .map(|step| point("loss", 1, 0, step))
            .collect();
        let answer = curves(full);
        assert!(answer.is_cut, "there may be more than were read");
        assert_eq!(answer.series[0].steps.len(), ALL_POINTS_MAX);
    }
}
