//! Who leads, and that nobody else writes: the leader's row, the fence of each transaction, and what is lost and
//! stopped between the two.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::env::Clock;
use marquee_store::leader::{self, Candidate, Post, Renewed};
use marquee_store::testing::TestDatabase;
use marquee_store::{Db, StoreError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const LEASE: Duration = Duration::from_millis(600);
/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// The host's.
#[derive(Debug)]
struct Real;

impl Clock for Real {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1, 0).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A simulation's: it stands where it was put.
#[derive(Debug, Default)]
struct Played(std::sync::atomic::AtomicI64);

impl Clock for Played {
    fn now(&self) -> DateTime<Utc> {
        let seconds = self.0.load(std::sync::atomic::Ordering::SeqCst);
        DateTime::from_timestamp(4_000_000_000 + seconds, 0).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn of_postgres(&self) -> Option<DateTime<Utc>> {
        Some(self.now())
    }
}

fn candidate(number: u128) -> Candidate {
    Candidate {
        process: Uuid::from_u128(number),
        seat: format!("seat {number}"),
        address: format!("http://head-{number}:7700"),
        version: "test".into(),
        storage: Uuid::from_u128(77),
    }
}

/// A coordinator as far as the database sees it.
struct Coordinator {
    post: Post,
    db: Db,
}

impl Coordinator {
    async fn new(database: &TestDatabase, number: u128) -> Self {
        Self::at(&database.url, number, Arc::new(Real)).await
    }

    async fn at(url: &str, number: u128, clock: Arc<dyn Clock>) -> Self {
        Self {
            post: Post::new(url, candidate(number), LEASE, &clock).unwrap(),
            db: Db::connect(url, Uuid::from_u128(number)).await.unwrap(),
        }
    }

    async fn take(&mut self, is_gone: bool) -> Option<i64> {
        let seen = self.post.look().await.unwrap();
        let epoch = self.post.take(&seen, is_gone).await.unwrap();
        if epoch.is_some() {
            self.db.lead(epoch);
        }
        epoch
    }

    /// Waits until the one before has lost its lease, and takes over.
    async fn take_over(&mut self) -> i64 {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(epoch) = self.take(false).await {
                return epoch;
            }
            assert!(Instant::now() < deadline, "nobody's lease ends");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes something.
    async fn write(&self) -> Result<(), StoreError> {
        let mut tx = self.db.write("test").await?;
        tx.execute_raw("CREATE TABLE IF NOT EXISTS written (n int)")
            .await?;
        tx.execute_raw("INSERT INTO written VALUES (1)").await?;
        tx.commit().await
    }
}

async fn written(database: &TestDatabase) -> i64 {
    database.number("SELECT count(*) FROM written").await
}

#[tokio::test]
async fn one_leads_and_the_other_waits_for_the_end_of_its_lease() {
    let database = TestDatabase::create().await;
    let mut first = Coordinator::new(&database, 1).await;
    let mut second = Coordinator::new(&database, 2).await;
    let error = first.write().await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotLeading { mine: None, .. }),
        "{error}"
    );
    assert!(!error.may_pass());
    assert_eq!(first.take(false).await, Some(1));
    first.write().await.unwrap();
    assert_eq!(second.take(false).await, None, "it lives");
    let renewed = first.post.renew(1).await.unwrap();
    assert_eq!(renewed, Renewed::Yes { has_standby: false });
    second.post.say_alive().await.unwrap();
    let renewed = first.post.renew(1).await.unwrap();
    assert_eq!(renewed, Renewed::Yes { has_standby: true });

    assert_eq!(second.take_over().await, 2);
    second.write().await.unwrap();
    let error = first.write().await.unwrap_err();
    let StoreError::NotLeading {
        mine: Some(1),
        leader,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(leader, "http://head-2:7700");
    let Renewed::TakenOver(leader) = first.post.renew(1).await.unwrap() else {
        panic!("it renewed what it has not");
    };
    assert_eq!(
        (leader.epoch, leader.process),
        (2, Some(Uuid::from_u128(2)))
    );
    assert_eq!(written(&database).await, 2);
    let epochs = database
        .words("SELECT epoch || ' ' || address FROM leaderships ORDER BY epoch")
        .await;
    assert_eq!(epochs, ["1 http://head-1:7700", "2 http://head-2:7700"]);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_renewed_where_nobody_took_over() {
    let database = TestDatabase::create().await;
    let mut only = Coordinator::new(&database, 1).await;
    only.take(false).await.unwrap();
    // As when Postgres stood still.
    sleep(LEASE * 2).await;
    assert!(only.post.look().await.unwrap().has_expired);
    only.write().await.unwrap();
    only.post.renew(1).await.unwrap();
    assert!(!only.post.look().await.unwrap().has_expired);
}

#[tokio::test]
async fn whoever_leaves_hands_over_and_whoever_is_known_to_be_gone_is_not_waited_for() {
    let database = TestDatabase::create().await;
    let mut first = Coordinator::new(&database, 1).await;
    let mut second = Coordinator::new(&database, 2).await;
    first.take(false).await.unwrap();
    first.post.say_alive().await.unwrap();
    first.post.leave(Some(1)).await.unwrap();
    let seen = second.post.look().await.unwrap();
    assert_eq!((seen.process, seen.epoch), (None, 1));
    assert_eq!(second.take(true).await, Some(2));
    assert!(matches!(
        first.write().await,
        Err(StoreError::NotLeading { .. })
    ));
    // It has no part in what the other one does: a late word of it changes nothing.
    first.post.leave(Some(1)).await.unwrap();
    assert_eq!(
        second.post.look().await.unwrap().process,
        Some(Uuid::from_u128(2))
    );
    // The lock of its data folder says that it is gone.
    assert_eq!(first.take(true).await, Some(3));
    let mut conn = database.db.read().await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Real);
    let (leader, living) = leader::list_coordinators(&mut conn, &clock).await.unwrap();
    assert_eq!(leader.epoch, 3);
    assert!(living.is_empty(), "who has left is not listed: {living:?}");
}

#[tokio::test]
async fn of_many_who_want_the_lead_one_gets_it() {
    let database = TestDatabase::create().await;
    let mut all = Vec::new();
    for number in 1..=6 {
        all.push(Coordinator::new(&database, number).await);
    }
    for round in 1..=4 {
        let seen = all[0].post.look().await.unwrap();
        let mut tries = JoinSet::new();
        for mut one in all.drain(..) {
            let seen = seen.clone();
            tries.spawn(async move { (one.post.take(&seen, true).await.unwrap(), one) });
        }
        let (taken, back): (Vec<_>, Vec<_>) = tries.join_all().await.into_iter().unzip();
        all = back;
        let taken: Vec<i64> = taken.into_iter().flatten().collect();
        assert_eq!(taken, [round]);
    }
}

/// The old leader is stopped in the middle of a transaction: its row locks and the shared lock are held.
#[tokio::test]
async fn a_transaction_that_its_stopped_leader_left_open_holds_up_nobody_and_cannot_commit() {
    let database = TestDatabase::create().await;
    let mut first = Coordinator::new(&database, 1).await;
    first.take(false).await.unwrap();
    first.write().await.unwrap();
    let mut open = first.db.write("stopped").await.unwrap();
    open.execute_raw("INSERT INTO written VALUES (2)")
        .await
        .unwrap();

    let mut second = Coordinator::new(&database, 2).await;
    let began = Instant::now();
    assert_eq!(second.take_over().await, 2);
    let took = began.elapsed();
    // Far below what Postgres waits by itself for a transaction that lies idle.
    assert!(took < Duration::from_secs(8), "{took:?}");
    second.write().await.unwrap();
    assert!(open.commit().await.is_err(), "its connection was ended");
    // Those that lay in its pool were ended with it, which it hears first.
    let deadline = Instant::now() + SOON;
    while !matches!(
        first.write().await.unwrap_err(),
        StoreError::NotLeading { .. }
    ) {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(written(&database).await, 2);
}

/// Writes and a take-over at the same time, again and again: what is committed by the old epoch was so before the new
/// one began.
#[tokio::test]
async fn no_write_of_an_old_epoch_follows_one_of_a_new() {
    let database = TestDatabase::create().await;
    database
        .execute("CREATE TABLE trail (n bigserial, epoch bigint)")
        .await;
    let (mut one, mut two) = (
        Coordinator::new(&database, 1).await,
        Coordinator::new(&database, 2).await,
    );
    for _ in 0..6 {
        let epoch = one.take(true).await.unwrap();
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let db = one.db.clone();
                tokio::spawn(async move {
                    loop {
                        let mut tx = match db.write("trail").await {
                            Ok(tx) => tx,
                            Err(StoreError::NotLeading { .. }) => return,
                            // Its connection was ended.
                            Err(_) => continue,
                        };
                        let insert = format!("INSERT INTO trail (epoch) VALUES ({epoch})");
                        if tx.execute_raw(&insert).await.is_ok() {
                            let _ = tx.commit().await;
                        }
                    }
                })
            })
            .collect();
        // On a busy host the first of them takes longer than any pause that is set here.
        let written = format!("SELECT count(*) FROM trail WHERE epoch = {epoch}");
        let deadline = Instant::now() + SOON;
        while database.number(&written).await == 0 {
            assert!(Instant::now() < deadline, "nobody writes");
            sleep(Duration::from_millis(10)).await;
        }
        std::mem::swap(&mut one, &mut two);
        let taken = one.take(true).await.unwrap();
        let mut tx = loop {
            match one.db.write("trail").await {
                // Its connection was ended when it last lost the lead; that one is gone now.
                Err(StoreError::Postgres(_)) if Instant::now() < deadline => {}
                begun => break begun.unwrap(),
            }
        };
        tx.execute_raw(&format!("INSERT INTO trail (epoch) VALUES ({taken})"))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        for writer in writers {
            tokio::time::timeout(SOON, writer).await.unwrap().unwrap();
        }
    }
    let returns =
        "SELECT count(*) FROM (SELECT epoch, lag(epoch) OVER (ORDER BY n) AS before FROM trail) t
        WHERE epoch < before";
    assert_eq!(database.number(returns).await, 0);
    let epochs = database
        .number("SELECT count(DISTINCT epoch) FROM trail")
        .await;
    assert_eq!(epochs, 12);
}

/// What a refused or failed transaction leaves on its connection must not meet whoever gets that next.
#[tokio::test]
async fn a_connection_that_was_refused_is_clean() {
    let database = TestDatabase::create().await;
    let mut first = Coordinator::new(&database, 1).await;
    first.take(false).await.unwrap();
    first.write().await.unwrap();
    let seen = first.post.look().await.unwrap();
    let mut second = Coordinator::new(&database, 2).await;
    second.post.take(&seen, true).await.unwrap().unwrap();
    for _ in 0..40 {
        assert!(matches!(
            first.write().await,
            Err(StoreError::NotLeading { .. })
        ));
        let mut conn = first.db.read().await.unwrap();
        marquee_store::cluster::get_cluster_id(&mut conn)
            .await
            .unwrap();
    }
    let idle = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let deadline = Instant::now() + SOON;
    while database.number(idle).await > 0 {
        assert!(Instant::now() < deadline, "transactions were left open");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(written(&database).await, 1);
}

#[tokio::test]
async fn under_a_simulation_its_clock_judges() {
    let database = TestDatabase::create().await;
    let clock = Arc::new(Played::default());
    let mut first = Coordinator::at(&database.url, 1, clock.clone()).await;
    let mut second = Coordinator::at(&database.url, 2, clock.clone()).await;
    first.take(false).await.unwrap();
    sleep(LEASE * 2).await;
    assert_eq!(second.take(false).await, None, "its time stands still");
    clock.0.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(second.take(false).await, Some(2));
}
