//! How wrong forecasts were.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::{at, hello, jobs, pipeline, place, spec};
use marquee_store::forecasts::{Accuracy, Forecast, find_accuracy, insert_forecast};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::mark_jobs_cancelled;
use marquee_store::workers::mark_worker_online;

#[tokio::test]
async fn forecasts_are_judged_by_what_started_and_by_what_waits_beyond_its_time() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    assert_eq!(find_accuracy(&mut tx, 500, at(0)).await.unwrap(), None);
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let specs = ["a", "b", "c", "d", "e"].map(|name| spec(name, 1));
    let [a, b, c, d, e] = jobs(
        &mut tx,
        pipeline,
        [0, 1, 2, 3, 4].map(|place: usize| (&specs[place], &[] as &[u32])),
    )
    .await;
    // Expected at, and likely by; what starts does so in second 1.
    for (job, expected, likely) in [(a, 4, 9), (b, 0, 0), (c, 21, 60), (d, 51, 99), (e, 9, 9)] {
        let said = Forecast {
            said_at: at(0),
            expected_at: at(expected),
            likely_by: at(likely),
            basis: "b".into(),
        };
        insert_forecast(&mut tx, job, &said).await.unwrap();
    }
    place(&mut tx, a, 0, worker.id).await;
    place(&mut tx, b, 0, worker.id).await;
    // One that was cancelled before it started says nothing.
    mark_jobs_cancelled(&mut tx, &[(e, 0)], "no", None, "", at(1))
        .await
        .unwrap();
    let judged = |jobs, median_error_s, held| {
        Some(Accuracy {
            jobs,
            median_error_s,
            held,
        })
    };
    let early = find_accuracy(&mut tx, 500, at(50)).await.unwrap();
    assert_eq!(
        early,
        judged(2, 2.0, 1),
        "3 s and 1 s, and one of them late"
    );
    // c waits still, beyond the later time that was said; of d nobody can tell yet.
    let later = find_accuracy(&mut tx, 500, at(61)).await.unwrap();
    assert_eq!(later, judged(3, 3.0, 1));
    // Of the newest two, neither has started.
    let newest = find_accuracy(&mut tx, 2, at(61)).await.unwrap();
    assert_eq!(newest, None);
}
