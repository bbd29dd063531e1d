//! Quick jobs: many of them leave nothing behind, and what a kernel lacks only makes them slower.

use std::fs;
use std::time::Duration;

use marquee_proto::v1::report::Body;
use nix::libc;
use nix::sys::signal::Signal;

use crate::daemon::{Assigned, Daemon, eval, lines_of, run, shell, stop, until};
use crate::fake::{Fake, Key, has, manifest};

const KEY: Key = (5, 1, 0);

fn is_finished(body: &Body) -> bool {
    matches!(body, Body::Finished(_))
}

/// What the daemon holds of the kernel: descriptors, watches of folders, children that nobody buried.
fn held(pid: i32) -> (usize, usize, usize) {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let fds: Vec<_> = links
        .filter_map(|fd| Some((fd.file_name(), fs::read_link(fd.path()).ok()?)))
        .collect();
    let inotify = fds
        .iter()
        .filter(|(_, to)| to.to_string_lossy().contains("inotify"));
    let watches = inotify.map(|(fd, _)| {
        let info = format!("/proc/{pid}/fdinfo/{}", fd.to_string_lossy());
        let info = fs::read_to_string(info).unwrap_or_default();
        info.lines().filter(|l| l.starts_with("inotify wd")).count()
    });
    let watches = watches.sum();
    let zombies = procfs::process::all_processes().unwrap().flatten();
    let zombies = zombies
        .filter_map(|process| process.stat().ok())
        .filter(|stat| stat.ppid == pid && stat.state == 'Z');
    (fds.len(), watches, zombies.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_short_children_two_at_a_time_leave_nothing_behind() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let key = |job: i64| (job, 1, 0);
    let assign = |job| {
        // Every third says something, since that is another way through.
        let script = if job % 3 == 0 { "echo said" } else { "true" };
        Assigned::new(key(job), shell(script)).started().tell(&fake)
    };
    let gone = |fake: &Fake| fake.state().held.is_empty();
    // What the first ones open for good is there before it is counted.
    assign(1).await;
    fake.until("the first one's end", |s| has(s, key(1), is_finished))
        .await;
    fake.until_nothing_is_held().await;
    until("its folder to go", || !daemon.rank_dir(key(1)).exists()).await;
    let before = held(daemon.pid());
    assert_eq!((before.1, before.2), (0, 0), "{before:?}");
    assign(2).await;
    for job in 3..=301 {
        assign(job).await;
        fake.until("an end", |s| has(s, key(job - 1), is_finished))
            .await;
    }
    fake.until("the last end", |s| has(s, key(301), is_finished))
        .await;
    assert!(fake.log(key(300)) == ["said"] && fake.log(key(301)).is_empty());
    for job in 1..=301 {
        let bodies = fake.bodies(key(job));
        assert!(matches!(bodies[0], Body::Started(_)), "{bodies:?}");
        assert_eq!(bodies.iter().filter(|body| is_finished(body)).count(), 1);
    }
    until("nothing to be held", || gone(&fake)).await;
    until("all folders to go", || {
        let attempts = fs::read_dir(daemon.data().join("attempts")).unwrap();
        attempts.count() == 0
    })
    .await;
    until("what was opened to be closed", || {
        let now = held(daemon.pid());
        now.0 <= before.0 && (now.1, now.2) == (0, 0)
    })
    .await;
    assert_eq!(fake.state().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_output_costs_no_call_and_only_a_commands_counts_as_none() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("true")).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    assert_eq!(finished.output, None);
    daemon.install(
        "marquee-trainer",
        r#"echo '{"event":"finished","summary":{}}' >&$MARQUEE_EVENTS_FD"#,
    );
    run(&fake, (6, 1, 0), eval()).await;
    let Body::Finished(finished) = fake.until_ended((6, 1, 0)).await else {
        panic!("not finished")
    };
    assert_eq!(finished.output.map(|output| output.files.len()), Some(0));
    // An empty folder in it is no file, but worth a look.
    run(&fake, (7, 1, 0), shell("mkdir $MARQUEE_OUTPUT/empty")).await;
    let Body::Finished(finished) = fake.until_ended((7, 1, 0)).await else {
        panic!("not finished")
    };
    assert_eq!(finished.output.map(|output| output.files.len()), Some(0));
    let state = fake.state();
    assert_eq!((state.questions, state.uploads), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_stopped_between_its_assignment_and_its_start() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.stall_after = Some(1));
    let ran = daemon.dir.path().join("ran");
    let input = manifest(vec![fake.put("a.txt", b"forty-two\n")]);
    Assigned::new(KEY, shell(&format!("touch {}", ran.display())))
        .input("data", input)
        .started()
        .tell(&fake)
        .await;
    fake.until("a download", |state| !state.downloads.is_empty())
        .await;
    stop(&fake, KEY, 1000, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    assert_eq!(fake.bodies(KEY).len(), 1);
    fake.until_nothing_is_held().await;
    assert!(!ran.exists());
}

/// A child that is taken over, one that speaks, and one that dies, on a kernel that lacks something.
async fn on_a_kernel_that_refuses(refused: &[(i64, i32)]) {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    daemon.kill_9();
    daemon.refused = refused.to_vec();
    daemon.start_again();
    run(&fake, KEY, shell("true")).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let go = daemon.dir.path().join("go");
    let script = format!(
        "echo one; while [ ! -e {0} ]; do sleep 0.05; done; echo two; exit 4",
        go.display()
    );
    let key = (6, 1, 0);
    run(&fake, key, shell(&script)).await;
    fake.until("its first line while it lives", |s| {
        has(s, key, |body| matches!(body, Body::Log(_)))
    })
    .await;
    daemon.kill_9();
    let sessions = fake.state().hellos.len();
    daemon.start_again();
    fake.until("a new session", |state| state.hellos.len() > sessions)
        .await;
    fs::write(go, "").unwrap();
    assert!(matches!(fake.until_ended(key).await, Body::Failed(_)));
    assert_eq!(fake.log(key), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_without_pidfd_only_makes_it_look() {
    on_a_kernel_that_refuses(&[(libc::SYS_pidfd_open, libc::ENOSYS)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_gives_no_more_watches_only_makes_it_look() {
    on_a_kernel_that_refuses(&[(libc::SYS_inotify_add_watch, libc::ENOSPC)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_without_pidfd_and_inotify_only_makes_it_look() {
    on_a_kernel_that_refuses(&[
        (libc::SYS_pidfd_open, libc::ENOSYS),
        (libc::SYS_inotify_init1, libc::EMFILE),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_frozen_for_a_while_loses_nothing() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let (go, done) = (daemon.dir.path().join("go"), daemon.dir.path().join("done"));
    let script = format!(
        "echo before; while [ ! -e {0} ]; do sleep 0.05; done
        n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo $n; done; echo end > {1}; exit 3",
        go.display(),
        done.display()
    );
    run(&fake, KEY, shell(&script)).await;
    let waiting = (6, 1, 0);
    fake.until("its first line", |s| {
        has(s, KEY, |body| matches!(body, Body::Log(_)))
    })
    .await;
    daemon.send(Signal::SIGSTOP);
    // All of it happens while nobody looks: output, an end, and an assignment.
    fs::write(go, "").unwrap();
    lines_of(&done, 1).await;
    Assigned::new(waiting, shell("echo late"))
        .started()
        .tell(&fake)
        .await;
    // Longer than its connection stays without a sign of life (3 s + 3 s).
    tokio::time::sleep(Duration::from_secs(8)).await;
    daemon.send(Signal::SIGCONT);
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let message = failed.failure.unwrap().message;
    assert!(message.contains("status 3"), "{message}");
    let lines: Vec<String> = std::iter::once("before".to_owned())
        .chain((1..=300).map(|n| n.to_string()))
        .collect();
    assert_eq!(fake.log(KEY), lines);
    // A session that broke took the message along: the coordinator repeats it.
    if !fake.state().reports.contains_key(&waiting) {
        Assigned::new(waiting, shell("echo late"))
            .started()
            .tell(&fake)
            .await;
    }
    assert!(matches!(fake.until_ended(waiting).await, Body::Finished(_)));
    assert_eq!(fake.log(waiting), ["late"]);
    assert_eq!(fake.state().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_a_power_cut_tore_is_as_if_it_never_came() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    fake.until("a session", |state| !state.hellos.is_empty())
        .await;
    daemon.kill_9();
    for torn in ["", "{\"boot\":\"0000"] {
        let dir = daemon.rank_dir(KEY);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("rank.json"), torn).unwrap();
        let sessions = fake.state().hellos.len();
        daemon.start_again();
        fake.until("a session", |state| state.hellos.len() > sessions)
            .await;
        assert_eq!(fake.state().hellos.last().unwrap().held, []);
        assert!(!dir.exists());
        daemon.kill_9();
    }
    let sessions = fake.state().hellos.len();
    daemon.start_again();
    fake.until("a session", |state| state.hellos.len() > sessions)
        .await;
    run(&fake, KEY, shell("true")).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
}
