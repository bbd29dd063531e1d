//! Curves: few points of many values, whatever the values are.

use crate::support::{at, running_job};
use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_store::Tx;
use marquee_store::ranks::RankKey;
use marquee_store::reports::{Metric, insert_metrics};
use marquee_store::series::{Point, Which, list_points};
use marquee_store::testing::TestDatabase;

async fn store(tx: &mut Tx, key: RankKey, name: &str, values: &[(u64, f64)]) {
    let first = tx_sequence(name);
    let metrics: Vec<Metric> = (first..)
        .zip(values)
        .map(|(sequence, (step, value))| Metric {
            sequence,
            name: name.into(),
            step: *step,
            value: *value,
            at: at(i64::try_from(*step % 1_000).unwrap()),
        })
        .collect();
    insert_metrics(tx, &[(key, &metrics[..])]).await.unwrap();
}

/// Where the reports of a name begin: each name has its own thousands.
fn tx_sequence(name: &str) -> u64 {
    let letter = name.bytes().next().unwrap_or_default();
    u64::from(letter) * 10_000
}

async fn points(tx: &mut Tx, job: JobId, which: &Which<'_>, count: u32) -> Vec<Point> {
    list_points(tx, job, which, count, 1_000).await.unwrap()
}

const FIRST: [AttemptNumber; 1] = [AttemptNumber(1)];

fn first() -> Which<'static> {
    Which {
        attempts: &FIRST,
        ..Which::default()
    }
}

#[tokio::test]
async fn a_curve_has_as_many_points_as_asked_for_and_keeps_its_ends() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let values: Vec<(u64, f64)> = (0..100u32)
        .map(|n| (u64::from(n) * 10, f64::from(n)))
        .collect();
    store(&mut tx, key, "loss", &values).await;
    for count in [1, 2, 7, 100, 5_000] {
        let curve = points(&mut tx, key.job, &first(), count).await;
        assert!(curve.len() <= count as usize, "{count}: {}", curve.len());
        assert!(
            curve.len() >= (count as usize).min(50) / 2,
            "{count}: too few"
        );
        assert_eq!(curve.iter().map(|point| point.values).sum::<u64>(), 100);
        assert!(curve.is_sorted_by_key(|point| point.step));
        let least = curve.iter().filter_map(|point| point.minimum);
        let most = curve.iter().filter_map(|point| point.maximum);
        assert_eq!(least.fold(f64::INFINITY, f64::min), 0.0, "{count}");
        assert_eq!(most.fold(0.0, f64::max), 99.0, "{count}");
        let sum: f64 = curve
            .iter()
            .map(|point| point.mean.unwrap() * point.values as f64)
            .sum();
        assert!((sum - 4_950.0).abs() < 1e-6, "{count}: {sum}");
    }
    // A range of steps, both ends included.
    let which = Which {
        from_step: Some(100),
        to_step: Some(200),
        ..first()
    };
    let steps = |curve: &[Point]| curve.iter().map(|point| point.step).collect::<Vec<_>>();
    let curve = points(&mut tx, key.job, &which, 100).await;
    assert_eq!(steps(&curve), (10..=20).map(|n| n * 10).collect::<Vec<_>>());
    // Beyond every step that is stored, and the wrong way round.
    for (from_step, to_step) in [
        (Some(u64::MAX), None),
        (Some(5), Some(4)),
        (Some(991), Some(u64::MAX)),
    ] {
        let which = Which {
            from_step,
            to_step,
            ..first()
        };
        assert_eq!(points(&mut tx, key.job, &which, 100).await, []);
    }
    let limited = list_points(&mut tx, key.job, &first(), 100, 3).await;
    assert_eq!(steps(&limited.unwrap()), [0, 10, 20]);
}

#[tokio::test]
async fn a_value_that_is_no_number_spoils_no_other() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
    ];
    let mut values: Vec<(u64, f64)> = (0..).zip(odd).collect();
    values.extend([(5, 1.0), (6, 3.0), (7, -2.0)]);
    store(&mut tx, key, "loss", &values).await;
    let curve = points(&mut tx, key.job, &first(), 1).await;
    let [all] = curve.as_slice() else {
        panic!("one point, not {curve:?}");
    };
    assert_eq!((all.values, all.not_finite), (8, 5));
    assert_eq!((all.minimum, all.maximum), (Some(-2.0), Some(3.0)));
    assert!((all.mean.unwrap() - 2.0 / 3.0).abs() < 1e-12);
    // Where there is nothing else, there is no mean.
    store(&mut tx, key, "weight", &[(0, f64::NAN)]).await;
    let names = ["weight".to_owned()];
    let which = Which {
        names: Some(&names),
        ..first()
    };
    let curve = points(&mut tx, key.job, &which, 10).await;
    assert_eq!(
        (curve.len(), curve[0].mean, curve[0].not_finite),
        (1, None, 1)
    );
}

#[tokio::test]
async fn names_ranks_and_attempts_are_curves_of_their_own() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    // The largest steps that can be reported, and far apart: their width must not overflow.
    let far = i64::MAX as u64;
    store(&mut tx, key, "loss", &[(0, 1.0), (far, 2.0)]).await;
    store(&mut tx, key, "accuracy", &[(3, 0.5)]).await;
    let other = RankKey {
        rank: Rank(1),
        ..key
    };
    store(&mut tx, other, "loss", &[(4, 9.0)]).await;
    let seen = |curve: &[Point]| -> Vec<(String, u32, u64)> {
        let point = |point: &Point| (point.name.clone(), point.rank.0, point.step);
        curve.iter().map(point).collect()
    };
    let curve = points(&mut tx, key.job, &first(), 2).await;
    let expected = [
        ("accuracy".to_owned(), 0, 3),
        ("loss".to_owned(), 0, 0),
        ("loss".to_owned(), 0, far),
        ("loss".to_owned(), 1, 4),
    ];
    assert_eq!(seen(&curve), expected);
    let curve = points(&mut tx, key.job, &first(), 1).await;
    assert_eq!(curve.len(), 3, "one point each: {curve:?}");
    let which = Which {
        rank: Some(Rank(1)),
        ..first()
    };
    let curve = points(&mut tx, key.job, &which, 10).await;
    assert_eq!(seen(&curve), [("loss".to_owned(), 1, 4)]);
    for (job, attempts, names) in [
        (key.job, &[][..], None),
        (key.job, &[AttemptNumber(2)], None),
        (key.job, &FIRST, Some(&[][..])),
        (JobId(i64::MAX), &FIRST, None),
    ] {
        let which = Which {
            attempts,
            names,
            ..Which::default()
        };
        assert_eq!(points(&mut tx, job, &which, 10).await, [], "{which:?}");
    }
}

/// The first and the last report of a rank need not have the first and the last step: an attempt goes back to a
/// checkpoint, one metric begins late, and another is there for a moment only.
#[tokio::test]
async fn curves_are_divided_by_their_own_steps_whatever_their_rank_said_first_and_last() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let line = |steps: std::ops::Range<u64>| -> Vec<(u64, f64)> {
        steps.map(|step| (step, step as f64)).collect()
    };
    // Reports in the order of their names' letters: the last one of the rank has step 5.
    store(&mut tx, key, "a-whole", &line(0..900)).await;
    store(&mut tx, key, "b-short", &line(400..440)).await;
    store(
        &mut tx,
        key,
        "c-back",
        &[line(500..600), line(200..300)].concat(),
    )
    .await;
    store(&mut tx, key, "d-early", &[(5, 1.0)]).await;
    let curve = points(&mut tx, key.job, &first(), 20).await;
    for (name, values, first, last) in [
        ("a-whole", 900, 0, 899),
        ("b-short", 40, 400, 439),
        ("c-back", 200, 200, 599),
        ("d-early", 1, 5, 5),
    ] {
        let of: Vec<&Point> = curve.iter().filter(|point| point.name == name).collect();
        assert_eq!(
            of.iter().map(|point| point.values).sum::<u64>(),
            values,
            "{name}"
        );
        assert!(
            of.len() <= 20 && of.len() as u64 >= values.min(10),
            "{name}: {}",
            of.len()
        );
        assert_eq!(
            of[0].minimum,
            Some(if name == "d-early" { 1.0 } else { first as f64 }),
            "{name}"
        );
        if name != "d-early" {
            let most = of
                .iter()
                .filter_map(|point| point.maximum)
                .fold(0.0, f64::max);
            assert_eq!(most, last as f64, "{name}");
        }
        assert!(of.is_sorted_by_key(|point| point.step), "{name}");
        // No point stands for much more than its share of the steps.
        let widest = of.iter().map(|point| point.values).max().unwrap();
        assert!(
            widest <= (last - first) / 10 + 1,
            "{name}: {widest} values in one point"
        );
    }
    assert!(curve.is_sorted_by(|a, b| (&a.name, a.step) < (&b.name, b.step)));
    // What is left out is the end.
    let cut = list_points(&mut tx, key.job, &first(), 20, 7)
        .await
        .unwrap();
    assert_eq!(cut, curve[..7]);
}
