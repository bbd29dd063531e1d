//! What a rank leaves: stored as it is, waiting for room, or kept where it cannot be stored.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use marquee_proto::v1;
use marquee_proto::v1::FailureClass;
use marquee_proto::v1::coordinator_message::Body as ToWorker;
use marquee_proto::v1::report::Body;
use nix::sys::signal::Signal;

use crate::daemon::{Assigned, Daemon, run, shell, stop, until};
use crate::fake::{Fake, Key};

const KEY: Key = (21, 1, 0);

fn ask_for(key: Key, committed: bool) -> ToWorker {
    ToWorker::Rescue(v1::Rescue {
        job_id: key.0,
        attempt: key.1,
        rank: key.2,
        committed,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn links_modes_and_empty_folders_come_through_an_artifact_to_the_next_job() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let script = r#"cd $MARQUEE_OUTPUT
        for n in 1 2 3; do echo weights $n > ckpt_$n.pt; done
        ln -s ckpt_3.pt latest.pt; ln -s latest.pt best.pt
        echo 'echo it runs' > tool; chmod +x tool; cp tool tool.txt; chmod -x tool.txt
        mkdir -p logs/empty"#;
    run(&fake, KEY, shell(script)).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("{:?}", fake.bodies(KEY))
    };
    let output = finished.output.unwrap();
    let files = fake.files(&output);
    assert_eq!(files["latest.pt"], "weights 3\n");
    assert_eq!(files["best.pt"], "weights 3\n");
    assert_eq!(output.executables, ["tool"]);
    assert_eq!(output.empty_folders, ["logs/empty"]);

    let next = (22, 1, 0);
    let script = r#"cd $MARQUEE_INPUT_OUT && ./tool && [ ! -x tool.txt ] && ls -d logs/empty
        cat best.pt; [ "$(stat -c %a tool tool.txt | tr '\n' ' ')" = "555 444 " ] && echo read-only"#;
    Assigned::new(next, shell(script))
        .input("out", output.try_into().unwrap())
        .started()
        .tell(&fake)
        .await;
    let Body::Finished(_) = fake.until_ended(next).await else {
        panic!("{:?}", fake.bodies(next))
    };
    assert_eq!(
        fake.log(next),
        ["it runs", "logs/empty", "weights 3", "read-only"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_kept_and_rescued_once_the_cause_is_gone() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let script =
        "cd $MARQUEE_OUTPUT; echo weights > ckpt.pt; ln -s /etc/hostname name; mkfifo pipe";
    run(&fake, KEY, shell(script)).await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("{:?}", fake.bodies(KEY))
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::UserError);
    let place = daemon.data().join("kept/21-1-0/output");
    for said in [
        "\"name\" is a link to \"/etc/hostname\"",
        "\"pipe\" is a device, pipe or socket",
        "it is kept until ",
        &place.display().to_string(),
        "on worker \"w1\"",
        "\"marquee artifacts rescue 21\"",
    ] {
        assert!(
            failure.message.contains(said),
            "{said} in {}",
            failure.message
        );
    }
    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
    assert_eq!(fs::read(place.join("ckpt.pt")).unwrap(), b"weights\n");

    // The coordinator hears of it, also from the next daemon.
    fake.until("the kept output", |state| state.kept.len() == 1)
        .await;
    daemon.kill_9();
    fake.change(|state| state.kept.clear());
    daemon.start_again();
    fake.until("the kept output again", |state| state.kept.len() == 1)
        .await;
    assert_eq!(fake.state().kept[0].path, place.display().to_string());

    fake.tell(ask_for(KEY, false)).await;
    fake.until("an answer", |state| state.rescued.len() == 1)
        .await;
    let refused = fake.state().rescued[0].clone();
    assert_eq!(refused.output, None);
    assert!(refused.failure.unwrap().message.contains("\"pipe\""));

    fs::remove_file(place.join("pipe")).unwrap();
    fs::remove_file(place.join("name")).unwrap();
    fake.tell(ask_for(KEY, false)).await;
    fake.until("another answer", |state| state.rescued.len() == 2)
        .await;
    let output = fake.state().rescued[1].output.clone().unwrap();
    assert_eq!(fake.files(&output)["ckpt.pt"], "weights\n");
    assert!(place.exists(), "until it is committed");
    fake.tell(ask_for(KEY, true)).await;
    until("the kept output to go", || !place.exists()).await;
    fake.until("no kept output", |state| state.kept.is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_goes_on_where_the_coordinator_says() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let after = 5 * 1024 * 1024;
    fake.change(|state| state.cut_upload_after = Some(after));
    let script = "seq 1 3000000 > $MARQUEE_OUTPUT/large; echo small > $MARQUEE_OUTPUT/small";
    run(&fake, KEY, shell(script)).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("{:?}", fake.bodies(KEY))
    };
    let output = finished.output.unwrap();
    let large = output
        .files
        .iter()
        .find(|file| file.path == "large")
        .unwrap();
    assert!(large.size_bytes > 20 * 1024 * 1024, "{large:?}");
    let state = fake.state();
    let offsets: Vec<u64> = state
        .offsets
        .iter()
        .filter_map(|(digest, offset)| (*digest == large.digest).then_some(*offset))
        .collect();
    // It is whole by the coordinator's own look, which compares the digest of what came in two pieces.
    assert_eq!(offsets, [0, after as u64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_waits_for_room_at_the_coordinator() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.is_full = true);
    run(&fake, KEY, shell("echo weights > $MARQUEE_OUTPUT/w")).await;
    fake.until("two tries", |state| state.refusals >= 2).await;
    let log = fake.log(KEY);
    assert_eq!(log.len(), 1, "said once: {log:?}");
    assert!(
        log[0].contains("the coordinator's disk is full: no room for 75 MiB"),
        "{log:?}"
    );
    let waits =
        |body: &Body| matches!(body, Body::Progress(p) if p.phase.contains("waiting for room"));
    assert!(fake.bodies(KEY).iter().any(waits));
    fake.change(|state| state.is_full = false);
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_waits_is_kept_when_its_rank_is_stopped() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    fake.change(|state| state.is_full = true);
    let other = (23, 1, 0);
    for key in [KEY, other] {
        run(&fake, key, shell("echo weights > $MARQUEE_OUTPUT/w")).await;
    }
    fake.until("tries", |state| state.refusals >= 2).await;
    // As on a timeout of the job, and then as its worker is shut down.
    stop(&fake, KEY, 100, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    daemon.send(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(matches!(fake.until_ended(other).await, Body::Stopped(_)));
    for (key, folder) in [(KEY, "21-1-0"), (other, "23-1-0")] {
        let kept = daemon.data().join("kept").join(folder).join("output/w");
        assert_eq!(fs::read(kept).unwrap(), b"weights\n");
        assert!(
            fake.log(key)
                .iter()
                .any(|line| line.contains("it is kept until"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_bar_shows_as_it_goes_and_leaves_its_last_state() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let go = daemon.dir.path().join("go");
    // 200 KB of bar: far more than one line of log may have.
    let script = format!(
        r#"n=0; while [ $n -lt 4000 ]; do printf '\repoch 1: %48s' $n; n=$((n+1)); done >&2
        while [ ! -e {} ]; do sleep 0.05; done
        printf '\repoch 1: done\n' >&2; printf 'a\rb'"#,
        go.display()
    );
    run(&fake, KEY, shell(&script)).await;
    fake.until("the bar", |state| {
        format!("{:?}", state.reports.get(&KEY)).contains("3999")
    })
    .await;
    fs::write(go, "").unwrap();
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let log = fake.log(KEY);
    assert!(log.len() <= 20, "{log:?}");
    assert!(
        log.contains(&"epoch 1: done".to_owned()) && log.contains(&"b".to_owned()),
        "{log:?}"
    );
    assert!(!log.iter().any(|line| line.contains("line cut")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_nobody_may_read_is_kept_too() {
    if nix::unistd::geteuid().is_root() {
        // Root may read everything.
        return;
    }
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    run(
        &fake,
        KEY,
        shell("cd $MARQUEE_OUTPUT; echo w > w; chmod 0 w"),
    )
    .await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("{:?}", fake.bodies(KEY))
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::UserError);
    let kept = daemon.data().join("kept/21-1-0/output/w");
    fs::set_permissions(kept, fs::Permissions::from_mode(0o600)).unwrap();
    fake.tell(ask_for(KEY, false)).await;
    fake.until("an answer", |state| state.rescued.len() == 1)
        .await;
    assert!(fake.state().rescued[0].output.is_some());
}
