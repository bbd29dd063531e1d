//! Stop: a rank, at every point of its life, and the daemon.

use std::fs;
use std::time::{Duration, Instant};

use marquee_proto::v1::report::Body;
use nix::sys::signal::Signal;

use crate::daemon::{Assigned, Daemon, eval, is_alive, lines_of, run, shell, start, stop, until};
use crate::fake::{Fake, Key, manifest};

const KEY: Key = (8, 1, 0);

#[tokio::test(flavor = "multi_thread")]
async fn stop_kills_all_of_it_even_what_hid_in_a_session_of_its_own() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let pids = daemon.dir.path().join("pids");
    // A child that ignores TERM, with a grandchild that does too, and one that left the session.
    let script = format!(
        r#"trap '' TERM; sh -c 'trap "" TERM; echo $$ >> {0}; while :; do sleep 1; done' &
        setsid sh -c 'echo $$ >> {0}; exec sleep 1000' & echo $$ >> {0}; while :; do sleep 1; done"#,
        pids.display()
    );
    run(&fake, KEY, shell(&script)).await;
    let pids: Vec<i32> = lines_of(&pids, 3)
        .await
        .iter()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let since = Instant::now();
    stop(&fake, KEY, 500, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    assert!(
        since.elapsed() >= Duration::from_millis(500),
        "it had its grace"
    );
    for pid in pids {
        assert!(!is_alive(pid), "{pid} is left");
    }
    assert!(
        fake.log(KEY)
            .iter()
            .any(|line| line.contains("the job was cancelled"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_leaves_on_term_is_not_kept_waiting_and_its_checkpoint_is_stored() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    daemon.install("marquee-trainer", r#"
        dir=$(dirname $2)
        trap 'mkdir $dir/checkpoints/9; printf w > $dir/checkpoints/9/w
            echo "{\"event\":\"checkpoint\",\"step\":9,\"path\":\"$dir/checkpoints/9\"}" >&$MARQUEE_EVENTS_FD; exit 75' TERM
        echo ready >&2; while :; do sleep 0.05; done"#);
    run(&fake, KEY, eval()).await;
    fake.until("its trap", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("ready")
    })
    .await;
    let since = Instant::now();
    stop(&fake, KEY, 60_000, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    assert!(since.elapsed() < Duration::from_secs(30));
    assert!(
        fake.bodies(KEY)
            .iter()
            .any(|b| matches!(b, Body::Checkpoint(c) if c.step == 9))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_its_child_is_killed_before_the_rank_counts_as_ended() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let pid = daemon.dir.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & while [ ! -s {0} ]; do sleep 0.05; done",
        pid.display()
    );
    run(&fake, KEY, shell(&script)).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_before_start_needs_no_child() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    Assigned::new(KEY, shell("true")).tell(&fake).await;
    fake.until_prepared(KEY).await;
    stop(&fake, KEY, 1000, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_during_a_download_ends_it() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.stall_after = Some(1000));
    let input = manifest(vec![fake.put("big", &[7; 100_000])]);
    Assigned::new(KEY, shell("true"))
        .input("data", input)
        .tell(&fake)
        .await;
    fake.until("a download", |state| !state.downloads.is_empty())
        .await;
    stop(&fake, KEY, 1000, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_to_be_forgotten_goes_without_a_word() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("sleep 1000")).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    fake.until("a heartbeat that lists it", |state| !state.held.is_empty())
        .await;
    stop(&fake, KEY, 1000, true).await;
    fake.until_nothing_is_held().await;
    assert!(!is_alive(pid));
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
    let ends = fake
        .bodies(KEY)
        .into_iter()
        .filter(|b| matches!(b, Body::Stopped(_) | Body::Failed(_)));
    assert_eq!(ends.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_ended_can_still_be_forgotten() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.silent = true);
    run(&fake, KEY, shell("true")).await;
    fake.until_ended(KEY).await;
    assert!(
        daemon.rank_dir(KEY).exists(),
        "kept until it is acknowledged"
    );
    stop(&fake, KEY, 0, true).await;
    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_stops_its_children_and_says_goodbye() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
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
    assert!(daemon.wait().success());
    // No failure: nothing went wrong with it.
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    assert_eq!(
        fake.state().ends_at_leaving,
        Some(0),
        "nothing is to be placed here when the rank's end is heard of"
    );
    assert!(fake.log(KEY).contains(&"leaving".to_owned()));
    fake.until("a goodbye", |state| state.goodbyes == 1).await;
    assert!(!daemon.rank_dir(KEY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_told_twice_to_stop_does_not_wait() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    run(
        &fake,
        KEY,
        shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"),
    )
    .await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    fake.until("its trap", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("ready")
    })
    .await;
    let since = Instant::now();
    daemon.send(Signal::SIGINT);
    fake.until("the order", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("is being stopped")
    })
    .await;
    daemon.send(Signal::SIGINT);
    assert!(daemon.wait().success());
    assert!(
        since.elapsed() < Duration::from_secs(12),
        "less than the grace"
    );
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_keeps_children_hands_them_to_the_next() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &["--keep-children"]);
    let go = daemon.dir.path().join("go");
    run(
        &fake,
        KEY,
        shell(&format!(
            "while [ ! -e {} ]; do sleep 0.05; done; echo end",
            go.display()
        )),
    )
    .await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();
    daemon.send(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(is_alive(pid));
    assert_eq!(fake.state().goodbyes, 0);
    daemon.start_again();
    fs::write(go, "").unwrap();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_eq!(fake.log(KEY), ["end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_read_anew_count_for_the_stop_and_wrong_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "on_stop = \"checkpoint\"\n").unwrap();
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[&format!("--config={}", file.display())]);
    run(&fake, KEY, shell("while :; do sleep 0.05; done")).await;
    let pid = i32::try_from(fake.until_running(KEY).await).unwrap();

    fs::write(&file, "on_stop = \"keep\"\ntasks_max = 100\n").unwrap();
    daemon.send(Signal::SIGHUP);
    let says = |words: &'static str| {
        let daemon = &daemon;
        until(words, move || daemon.log_text().contains(words))
    };
    says("in force now: on_stop; these wait for a restart: tasks_max").await;
    // Half-written, as by somebody who is not done yet.
    fs::write(&file, "on_stop = \"che").unwrap();
    daemon.send(Signal::SIGHUP);
    says("the settings cannot be read anew; those before stay in force").await;

    daemon.send(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(is_alive(pid), "it was to be kept");
    fs::write(&file, "").unwrap();
    daemon.start_again();
    fake.until("the next session", |state| state.hellos.len() > 1)
        .await;
    stop(&fake, KEY, 0, true).await;
    fake.until_nothing_is_held().await;
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_kept_out_of_the_folder() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    fake.until("a session", |state| !state.hellos.is_empty())
        .await;
    let second = daemon.command().output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains("another marquee-worker uses the data folder"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_does_not_exist_stops_the_daemon_with_a_suggestion() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let refused = daemon
        .command()
        .env("MARQUEE_WORKER__CPU_SLOT", "2")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("did you mean \"cpu_slots\"?"),
        "{said}"
    );
    // Nothing of it reached a rank either.
    run(&fake, KEY, shell("true")).await;
    start(&fake, KEY, None).await;
    fake.until_ended(KEY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_leaves_no_store_behind() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let pid_file = daemon.dir.path().join("store-pid");
    let script = format!(
        r#"if [ "$1" = store ]; then echo $$ > {}
        echo '{{"event":"listening","host":"h","port":1}}'; exec sleep 1000; fi
        echo '{{"event":"finished","summary":{{}}}}' >&$MARQUEE_EVENTS_FD"#,
        pid_file.display()
    );
    daemon.install("marquee-trainer", &script);
    let mut assigned = Assigned::new(KEY, eval());
    (assigned.world_size, assigned.hosts_rendezvous) = (2, true);
    assigned.tell(&fake).await;
    let rendezvous = fake.until_prepared(KEY).await;
    start(&fake, KEY, rendezvous).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    fake.until_nothing_is_held().await;
    let store: i32 = fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(is_alive(store), "slower ranks may still need it");
    daemon.send(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(!is_alive(store));
    assert!(!daemon.rank_dir(KEY).exists());
}
