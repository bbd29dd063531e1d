//! What breaks: connections, the coordinator, the daemon itself. Nothing is lost, nothing twice.

use std::fs;
use std::time::Duration;

use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, eval, is_alive, lines_of, run, shell, start, until};
use crate::fake::{Fake, Key, manifest};

const KEY: Key = (3, 1, 0);

/// Prints `line 1` to `line COUNT`, a few at a time, and every seventh to stderr instead.
fn chatter(count: u32) -> String {
    format!(
        r#"n=0; while [ $n -lt {count} ]; do n=$((n+1))
        if [ $((n % 7)) = 0 ]; then echo "line $n" >&2; else echo "line $n"; fi
        [ $((n % 20)) = 0 ] && sleep 0.05; done; echo done > $MARQUEE_OUTPUT/done"#
    )
}

fn assert_complete(fake: &Fake, count: usize) {
    let mut numbers: Vec<usize> = fake
        .log(KEY)
        .iter()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let (err, out): (Vec<usize>, Vec<usize>) = numbers.iter().partition(|n| **n % 7 == 0);
    assert!(err.is_sorted() && out.is_sorted(), "each stream in order");
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "each line once");
    assert_eq!(fake.state().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_reported_once_though_the_session_breaks_again_and_again() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell(&chatter(600))).await;
    for _ in 0..5 {
        let reports = fake.bodies(KEY).len();
        fake.until("more reports", |s| {
            s.reports.get(&KEY).is_some_and(|r| r.len() > reports)
        })
        .await;
        let sessions = fake.state().hellos.len();
        fake.break_session();
        fake.until("a new session", |state| state.hellos.len() > sessions)
            .await;
    }
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_complete(&fake, 600);
    let instances: Vec<_> = fake
        .state()
        .hellos
        .iter()
        .map(|h| h.instance_id.clone())
        .collect();
    assert!(instances.iter().all(|id| *id == instances[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_changes_nothing_for_children() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell(&chatter(200))).await;
    fake.until_running(KEY).await;
    fake.go_away().await;
    // Longer than the child lives: its end and its output wait for the coordinator.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fake.come_back().await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    assert_eq!(fake.files(&finished.output.unwrap())["done"], "done\n");
    assert_complete(&fake, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_again_and_again_takes_its_child_over_each_time() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell(&chatter(800))).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    for _ in 0..4 {
        let reports = fake.bodies(KEY).len();
        fake.until("more reports", |s| {
            s.reports.get(&KEY).is_some_and(|r| r.len() > reports)
        })
        .await;
        daemon.kill_9();
        assert!(is_alive(pid), "the child goes on");
        let sessions = fake.state().hellos.len();
        daemon.start_again();
        fake.until("a new session", |state| state.hellos.len() > sessions)
            .await;
        let hello = fake.state().hellos[sessions].clone();
        assert_eq!(hello.held.len(), 1);
        assert_ne!(
            hello.instance_id,
            fake.state().hellos[sessions - 1].instance_id
        );
        assert_eq!(hello.worker_id, fake.state().hellos[0].worker_id);
    }
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_complete(&fake, 800);
    let starts = fake
        .bodies(KEY)
        .iter()
        .filter(|b| matches!(b, Body::Started(_)))
        .count();
    assert_eq!(starts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ends_while_there_is_no_daemon_is_judged_by_its_real_status() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let (well, badly) = ((3, 1, 0), (4, 1, 0));
    let mark = |name: &str| daemon.dir.path().join(name);
    let (m1, m2) = (mark("m1"), mark("m2"));
    run(
        &fake,
        well,
        shell(&format!("sleep 1; echo ok; echo 1 > {}", m1.display())),
    )
    .await;
    run(
        &fake,
        badly,
        shell(&format!("sleep 1; echo 1 > {}; exit 9", m2.display())),
    )
    .await;
    fake.until_running(well).await;
    fake.until_running(badly).await;
    daemon.kill_9();
    lines_of(&m1, 1).await;
    lines_of(&m2, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.start_again();
    assert!(matches!(fake.until_ended(well).await, Body::Finished(_)));
    assert_eq!(fake.log(well), ["ok"]);
    let Body::Failed(failed) = fake.until_ended(badly).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::UserError);
    assert!(failure.message.contains("status 9"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_before_the_start_goes_on_from_there() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    Assigned::new(KEY, shell("echo hello")).tell(&fake).await;
    fake.until_prepared(KEY).await;
    daemon.kill_9();
    daemon.start_again();
    fake.until("a second session", |state| state.hellos.len() == 2)
        .await;
    start(&fake, KEY, None).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_eq!(fake.log(KEY), ["hello"]);
    let prepared = fake
        .bodies(KEY)
        .iter()
        .filter(|b| matches!(b, Body::Prepared(_)))
        .count();
    assert_eq!(prepared, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_between_an_assignment_with_its_start_and_the_start_goes_on_by_itself() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.stall_after = Some(1));
    let input = manifest(vec![fake.put("a.txt", b"forty-two\n")]);
    Assigned::new(KEY, shell("cat $MARQUEE_INPUT_DATA/a.txt"))
        .input("data", input)
        .started()
        .tell(&fake)
        .await;
    fake.until("a download", |state| !state.downloads.is_empty())
        .await;
    daemon.kill_9();
    fake.change(|state| state.stall_after = None);
    daemon.start_again();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_eq!(fake.log(KEY), ["forty-two"]);
    assert!(matches!(fake.bodies(KEY)[0], Body::Started(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_booted_again_gives_its_ranks_up() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("echo once; sleep 1000")).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    daemon.kill_9();
    // What a power cut leaves: the files of a boot that is over.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let path = daemon.rank_dir(KEY).join("rank.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["boot"] = "00000000-0000-4000-8000-000000000000".into();
    fs::write(&path, file.to_string()).unwrap();
    daemon.start_again();
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(
        failure.class(),
        FailureClass::LostWorker,
        "{}",
        failure.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_killed_takes_its_child_along() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("sleep 1000 & wait")).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    let claim = fs::read(daemon.rank_dir(KEY).join("claim-1.json")).unwrap();
    let claim: serde_json::Value = serde_json::from_slice(&claim).unwrap();
    let keeper = i32::try_from(claim["keeper"]["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(keeper),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::Crash);
    assert!(
        !is_alive(pid),
        "nothing of the rank is left when it counts as ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_waits_for_a_coordinator_that_is_away_and_survives_the_daemon() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let mark = daemon.dir.path().join("mark");
    daemon.install(
        "marquee-trainer",
        &format!(
            r#"
        dir=$(dirname $2); while [ ! -e {0}.go ]; do sleep 0.05; done
        for s in 1 2 3; do mkdir $dir/checkpoints/$s; printf $s > $dir/checkpoints/$s/w
        echo '{{"event":"checkpoint","step":'$s',"path":"'$dir/checkpoints/$s'"}}' >&$MARQUEE_EVENTS_FD; done
        echo 1 > {0}; sleep 0.5; kill -9 $$"#,
            mark.display()
        ),
    );
    run(&fake, KEY, eval()).await;
    fake.until_running(KEY).await;
    fake.go_away().await;
    fs::write(mark.with_extension("go"), "").unwrap();
    lines_of(&mark, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.kill_9();
    daemon.start_again();
    fake.come_back().await;
    let Body::Failed(_) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let saved: Vec<_> = fake
        .bodies(KEY)
        .into_iter()
        .filter_map(|body| match body {
            Body::Checkpoint(saved) => Some((
                saved.step,
                fake.files(&saved.manifest.unwrap())["w"].clone(),
            )),
            _ => None,
        })
        .collect();
    assert_eq!(
        saved.last(),
        Some(&(3, "3".to_owned())),
        "the next attempt goes on from the newest"
    );
    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_spool_costs_nothing_that_was_sent() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell(&chatter(300))).await;
    fake.until("some reports", |s| {
        s.reports.get(&KEY).is_some_and(|r| r.len() > 5)
    })
    .await;
    fake.go_away().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.kill_9();
    let spool = daemon.rank_dir(KEY).join("spool");
    let file = fs::OpenOptions::new().write(true).open(&spool).unwrap();
    file.set_len(file.metadata().unwrap().len() - 5).unwrap();
    fake.come_back().await;
    daemon.start_again();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_complete(&fake, 300);
}
