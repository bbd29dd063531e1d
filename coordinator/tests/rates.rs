//! Shares of hosts' rates over the session: given with heartbeats, taken away before they are given
//! to another, and kept over a coordinator's death.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use crate::support::Cluster;
use crate::support::worker::{FakeWorker, Key};
use marquee_proto::v1;

const FETCH: &str = "
    [jobs.fetch]
    kind = \"fetch\"
    source = { type = \"tmdb\", api_url = \"https://api.example.org/3\" }
";

fn asks(share: Option<&v1::RateShare>) -> Option<v1::RateUse> {
    Some(v1::RateUse {
        limit: 40.0,
        in_flight: 8,
        hosts: vec!["api.example.org:443".into()],
        taken: share.map_or(0, |share| share.number),
        used: 0.0,
        hungry: true,
        held: share.map_or(0.0, |share| share.per_second),
    })
}

/// A fetch job that runs on the worker.
async fn fetching(cluster: &Cluster, worker: &mut FakeWorker) -> Key {
    let id = cluster.submit(FETCH).await[0].id;
    let assign = worker.take().await;
    assert!(assign.shares_rates);
    worker.prepare(&assign).await;
    let key = support::worker::key_of(&assign);
    worker.started(key).await;
    assert_eq!(key.0, id);
    key
}

/// The worker's ranks keep to what they are given, until each has `per_second`.
async fn until_given(worker: &mut FakeWorker, key: Key, per_second: f64) -> v1::RateShare {
    for _ in 0..100 {
        let given = worker.shares().await;
        assert!(given.heartbeat > 0 && given.valid_ms == 10_000);
        for share in given.shares {
            let of = (share.job_id, share.attempt, share.rank);
            if worker.holds(of) {
                worker.asks(of, asks(Some(&share)));
            }
            if of == key && (share.per_second - per_second).abs() < 1e-6 {
                return share;
            }
        }
    }
    panic!("{key:?} was not given {per_second}");
}

#[tokio::test]
async fn fetches_of_two_pipelines_share_the_rate_of_their_host() {
    let mut cluster = Cluster::start().await;
    let mut one = cluster.worker("w1").await;
    let first = fetching(&cluster, &mut one).await;
    one.asks(first, asks(None));
    let share = until_given(&mut one, first, 40.0).await;
    assert_eq!(share.in_flight, 8);
    assert_eq!(share.hosts, ["api.example.org:443"]);

    // A second one of the same host, on the same worker: each has half.
    let second = fetching(&cluster, &mut one).await;
    one.asks(second, asks(None));
    until_given(&mut one, second, 20.0).await;
    let share = until_given(&mut one, first, 20.0).await;
    assert_eq!(share.in_flight, 4);

    // The coordinator dies: a new one knows of nobody, and raises nobody it does not know all of.
    cluster.kill().await;
    cluster.start_again().await;
    let mut one = one.reconnect(&cluster.running.address).await.unwrap();
    until_given(&mut one, first, 20.0).await;

    // The first ends: the second has all.
    one.asks(first, None);
    until_given(&mut one, second, 40.0).await;
}
