//! Several coordinators, of which one leads: found by whatever address, followed by its epoch alone.

use marquee_proto::v1::coordinator_message::Body as ToWorker;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, run, shell, stop, until};
use crate::fake::{Fake, Key, has};

const KEY: Key = (3, 1, 0);
const OTHER: Key = (4, 1, 0);

fn url(fake: &Fake) -> String {
    format!("http://{}", fake.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_sends_the_worker_to_the_one_that_leads() {
    let (standby, leader) = (Fake::start().await, Fake::start().await);
    standby.change(|state| state.stands_by = Some(Some(url(&leader))));
    leader.change(|state| state.epoch = 1);
    // The worker knows the first alone; that one names the other.
    let _daemon = Daemon::start(&standby, &[]);
    leader
        .until("a session", |state| !state.hellos.is_empty())
        .await;
    // Files go where the session goes.
    let output = "sleep 0.2; echo result > $MARQUEE_OUTPUT/f";
    run(&leader, KEY, shell(output)).await;
    assert!(matches!(leader.until_ended(KEY).await, Body::Finished(_)));
    assert!(leader.state().uploads > 0);
    assert_eq!(standby.state().uploads, 0);
    assert!(standby.state().hellos.is_empty() && standby.state().sent_away >= 1);
}

/// The leader dies; who stood by leads after a while. The child goes on, and its reports come there.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finds_the_successor_and_its_child_goes_on() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    first.change(|state| state.epoch = 1);
    second.change(|state| {
        state.epoch = 2;
        state.stands_by = Some(Some(url(&first)));
    });
    let mut daemon = Daemon::start(&first, &[]);
    daemon.kill_9();
    daemon.know(&[&first, &second]);
    daemon.start_again();
    run(&first, KEY, shell("echo begun; sleep 1000")).await;
    first
        .until("its log", |state| {
            has(state, KEY, |body| matches!(body, Body::Log(_)))
        })
        .await;
    first.go_away().await;
    second
        .until("it was asked in vain", |state| state.sent_away >= 1)
        .await;
    second.change(|state| state.stands_by = None);
    second
        .until("a session that holds the rank", |state| {
            let hello = state.hellos.last();
            hello.is_some_and(|hello| hello.held.len() == 1 && hello.epoch == 1)
        })
        .await;
    stop(&second, KEY, 100, false).await;
    assert!(matches!(second.until_ended(KEY).await, Body::Stopped(_)));
}

/// As from a leader that was stopped, taken over from, and goes on: what lies in its streams, and what it says anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_lower_epoch_is_not_followed() {
    let fake = Fake::start().await;
    fake.change(|state| state.epoch = 5);
    let daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("sleep 1000")).await;
    let sessions = fake.state().hellos.len();

    fake.change(|state| state.epoch = 4);
    let assign = Assigned::new(OTHER, shell("echo never")).message();
    fake.tell(ToWorker::Assign(assign)).await;
    // It leaves, says whom it has followed, and does not stay with one of a lower epoch either.
    fake.until("it comes again", |state| state.hellos.len() > sessions + 1)
        .await;
    let hello = fake.state().hellos.last().cloned().unwrap();
    assert_eq!(hello.epoch, 5);
    assert_eq!(hello.held.len(), 1, "the order was not followed: {hello:?}");
    assert_eq!(hello.held[0].job_id, KEY.0, "and the child goes on");
    let words = "has followed epoch 5";
    until("it says why", || daemon.log_text().contains(words)).await;

    // A coordinator of a version that knows no epochs is followed, as is a higher one.
    for epoch in [0, 6] {
        fake.change(|state| {
            state.epoch = epoch;
            state.held.clear();
        });
        fake.break_session();
        fake.until("heartbeats", |state| state.held.len() == 1)
            .await;
    }
    stop(&fake, KEY, 100, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
}
