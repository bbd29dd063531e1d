//! Ranks that do not get on, daemons that are stopped by policy, and a coordinator that is not heard.

use std::time::Duration;

use marquee_domain::spec::{OnDisconnect, Watch};
use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Assigned, Daemon, eval, is_alive, run, shell, start, stop, until};
use crate::fake::{Fake, Key};

const KEY: Key = (21, 1, 0);

/// Prints for as long as it lives.
const TALKS: &str = "while :; do echo on; sleep 0.3; done";

fn watch(hang_after_s: Option<u32>, step_timeout_s: Option<u32>) -> Watch {
    Watch {
        hang_after_s,
        step_timeout_s,
        on_disconnect: OnDisconnect::Keep,
    }
}

async fn run_watched(fake: &Fake, work: marquee_domain::spec::Work, watch: Watch) {
    Assigned::new(KEY, work).watched(watch).tell(fake).await;
    fake.until_prepared(KEY).await;
    start(fake, KEY, None).await;
}

fn says(fake: &Fake, text: &str) -> bool {
    fake.log(KEY).iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_makes_no_step_is_said_to_hang_with_what_it_does_and_is_ended_at_last() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let script = r#"
        for n in 1 2 3 4 5; do
            echo "{\"event\":\"progress\",\"phase\":\"epoch 1/2\",\"done\":$n,\"total\":9,\"unit\":\"images\"}" >&$MARQUEE_EVENTS_FD
            sleep 1.2
        done
        exec sleep 1000"#;
    daemon.install("marquee-trainer", script);
    run_watched(&fake, eval(), watch(Some(2), Some(14))).await;
    fake.until("that it hangs", |state| {
        state.held.iter().any(|rank| rank.stall.is_some())
    })
    .await;
    let stall = fake.state().held[0].stall.clone().unwrap();
    assert!(stall.idle_ms >= 2_000, "{stall:?}");
    assert_eq!(stall.phase, "epoch 1/2");
    assert!(!stall.is_stopped && !stall.waits_for_peers);
    assert!(stall.process.contains("sleeps"), "{stall:?}");
    // Its log has what its threads do, before anything is done about it.
    fake.until("what it does", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("(sleep)")
    })
    .await;
    assert!(says(&fake, "[marquee] hang: it has made no progress for"));
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::Hang, "{failure:?}");
    assert!(
        failure.message.contains("in epoch 1/2") && failure.message.contains("step_timeout (14 s)"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_a_signal_holds_up_is_named_as_such_and_goes_on_when_it_may() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    run_watched(&fake, shell(TALKS), watch(Some(2), None)).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    fake.until("some words", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("on")
    })
    .await;
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    fake.until("that it hangs", |state| {
        let stall = state.held.iter().find_map(|rank| rank.stall.as_ref());
        stall.is_some_and(|stall| stall.is_stopped)
    })
    .await;
    fake.until("its state", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("(state T)")
    })
    .await;
    assert!(is_alive(pid), "a look ends nothing");
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    fake.until("that it goes on", |state| {
        state.held.iter().all(|rank| rank.stall.is_none())
    })
    .await;
    fake.until("a word of it", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("hang: it goes on")
    })
    .await;
    stop(&fake, KEY, 0, false).await;
    fake.until_ended(KEY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_is_held_up_when_it_is_told_to_stop_is_looked_at_first() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell(TALKS)).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    // A process obeys when it has its turn next, which on a busy machine takes a while.
    until("it is held up", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    })
    .await;
    stop(&fake, KEY, 500, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    assert!(says(&fake, "(state T)"), "{:?}", fake.log(KEY));
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_lease_ends_what_stops_on_disconnect_and_nothing_else() {
    let fake = Fake::start().await;
    fake.change(|state| state.lease_ms = Some(3_000));
    let daemon = Daemon::start(&fake, &[]);
    let (stops, keeps) = (KEY, (22, 1, 0));
    let policy = Watch {
        on_disconnect: OnDisconnect::Stop,
        ..Watch::default()
    };
    for (key, policy) in [(stops, policy), (keeps, Watch::default())] {
        Assigned::new(key, shell("sleep 1000"))
            .watched(policy)
            .started()
            .tell(&fake)
            .await;
    }
    let stops_pid = i32::try_from(fake.until_running(stops).await).unwrap();
    let keeps_pid = i32::try_from(fake.until_running(keeps).await).unwrap();
    // What is renewed does not end: for longer than a lease.
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert!(is_alive(stops_pid));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the lease on the disk", || {
        daemon.data().join("lease.json").exists()
    })
    .await;
    fake.go_away().await;
    until("the end of the one that stops", || !is_alive(stops_pid)).await;
    assert!(is_alive(keeps_pid), "the other goes on");
    fake.come_back().await;
    let Body::Stopped(stopped) = fake.until_ended(stops).await else {
        panic!("not stopped")
    };
    assert_eq!(stopped.cause, "disconnected");
    assert!(stopped.reason.contains("lease"), "{stopped:?}");
    assert!(is_alive(keeps_pid));
    stop(&fake, keeps, 0, false).await;
    fake.until_ended(keeps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_keeps_no_leases_ends_nothing_by_being_away() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let policy = Watch {
        on_disconnect: OnDisconnect::Stop,
        ..Watch::default()
    };
    Assigned::new(KEY, shell("sleep 1000"))
        .watched(policy)
        .started()
        .tell(&fake)
        .await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    fake.go_away().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(
        is_alive(pid),
        "an older coordinator never said how long a lease is"
    );
    fake.come_back().await;
    stop(&fake, KEY, 0, false).await;
    fake.until_ended(KEY).await;
}

fn finishing(within_s: &str) -> Vec<(String, String)> {
    vec![
        ("MARQUEE_WORKER__ON_STOP".into(), "finish".into()),
        ("MARQUEE_WORKER__FINISH_WITHIN_S".into(), within_s.into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_lets_its_ranks_finish_takes_no_more_and_says_goodbye_after_the_last() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start_in(&fake, &[], finishing("600"));
    let go = daemon.dir.path().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo done",
        go.display()
    );
    run(&fake, KEY, shell(&script)).await;
    fake.until_running(KEY).await;
    // One that has not begun is handed back at once.
    let waits = (23, 1, 0);
    Assigned::new(waits, shell("true")).tell(&fake).await;
    fake.until_prepared(waits).await;
    daemon.send(Signal::SIGTERM);
    fake.until("that it leaves", |state| state.leaving).await;
    let Body::Stopped(stopped) = fake.until_ended(waits).await else {
        panic!("not stopped")
    };
    assert_eq!(stopped.cause, "drained");
    let late = (24, 1, 0);
    Assigned::new(late, shell("true")).tell(&fake).await;
    std::fs::write(&go, "").unwrap();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert!(daemon.wait().success());
    fake.until("a goodbye", |state| state.goodbyes == 1).await;
    assert!(fake.bodies(late).is_empty(), "it was not accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_do_not_finish_in_time_are_handed_back() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start_in(&fake, &[], finishing("1"));
    run(
        &fake,
        KEY,
        shell("trap 'echo leaving; exit 0' TERM; echo ready; while :; do sleep 0.05; done"),
    )
    .await;
    fake.until("its trap", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("ready")
    })
    .await;
    daemon.send(Signal::SIGTERM);
    let Body::Stopped(stopped) = fake.until_ended(KEY).await else {
        panic!("not stopped")
    };
    assert_eq!(stopped.cause, "drained");
    assert!(says(&fake, "leaving"), "it had its grace");
    assert!(daemon.wait().success());
    fake.until("a goodbye", |state| state.goodbyes == 1).await;
}
