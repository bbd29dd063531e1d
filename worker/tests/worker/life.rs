//! From an assignment to its last report.

use std::fs;

use marquee_proto::v1::report::Body;
use marquee_proto::v1::{FailureClass, RankState, WorkerFeature};

use crate::daemon::{Assigned, BINARY, Daemon, eval, is_alive, run, shell, start, until};
use crate::fake::{Fake, manifest};

const KEY: (i64, u32, u32) = (17, 1, 0);

#[test]
fn wrong_settings_have_an_exit_status_of_their_own_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("worker.toml");
    fs::write(&file, "coordinatr = \"http://127.0.0.1:1\"\n").unwrap();
    let output = std::process::Command::new(BINARY)
        .arg("--config")
        .arg(&file)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    // systemd's unit names it: to start again would not help.
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("did you mean \"coordinator\"?"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_its_output_becomes_the_artifact() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let script = r#"
        env | grep -E '^(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_|OMP_|CUDA_VIS|MARQUEE_)' | sort
        echo careful >&2; pwd > $MARQUEE_OUTPUT/pwd; mkdir $MARQUEE_OUTPUT/sub
        cat > $MARQUEE_OUTPUT/sub/stdin; cat $MARQUEE_INPUT_MY_DATA/a.txt"#;
    let input = manifest(vec![fake.put("a.txt", b"forty-two\n")]);
    Assigned::new(KEY, shell(script))
        .input("my-data", input)
        .tell(&fake)
        .await;
    assert_eq!(fake.until_prepared(KEY).await, None);
    start(&fake, KEY, None).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    let files = fake.files(&finished.output.unwrap());
    let work = daemon.rank_dir(KEY).join("work").display().to_string();
    assert_eq!(files["pwd"].trim(), work);
    assert_eq!(files["sub/stdin"], "", "stdin is empty");
    assert_eq!(finished.summary_json, "{}");

    let log = fake.log(KEY);
    for line in [
        "RANK=0",
        "WORLD_SIZE=1",
        "LOCAL_RANK=0",
        "MASTER_ADDR=127.0.0.1",
        "OMP_NUM_THREADS=3",
        "CUDA_VISIBLE_DEVICES=",
        "MARQUEE_JOB=17",
        "MARQUEE_ATTEMPT=1",
        "careful",
        "forty-two",
    ] {
        assert!(log.iter().any(|found| found == line), "{line} in {log:#?}");
    }
    assert!(!log.iter().any(|line| line.starts_with("MARQUEE_WORKER__")));

    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
    let hello = fake.state().hellos[0].clone();
    let inventory = hello.inventory.unwrap();
    assert_eq!(
        (
            hello.name.as_str(),
            inventory.cpu_slots,
            inventory.threads_per_slot
        ),
        ("w1", 4, 3)
    );
    assert_eq!(inventory.address, "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rank_0_puts_forward_an_output() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let keys = [(5, 2, 0), (5, 2, 1)];
    let script = "echo $RANK at $MASTER_ADDR:$MASTER_PORT > $MARQUEE_OUTPUT/meeting; cat $MARQUEE_OUTPUT/meeting";
    for key in keys {
        let mut assigned = Assigned::new(key, shell(script));
        (assigned.world_size, assigned.hosts_rendezvous) = (2, key.2 == 0);
        assigned.tell(&fake).await;
    }
    let rendezvous = fake
        .until_prepared(keys[0])
        .await
        .expect("rank 0's worker hosts it");
    assert_eq!(fake.until_prepared(keys[1]).await, None);
    for key in keys {
        start(&fake, key, Some(rendezvous.clone())).await;
    }
    let Body::Finished(first) = fake.until_ended(keys[0]).await else {
        panic!()
    };
    let Body::Finished(second) = fake.until_ended(keys[1]).await else {
        panic!()
    };
    assert!(first.output.is_some() && second.output.is_none());
    let place = format!("at {}:{}", rendezvous.host, rendezvous.port);
    assert_eq!(fake.log(keys[1]), [format!("1 {place}")]);
    assert_eq!(
        fake.files(&first.output.unwrap())["meeting"],
        format!("0 {place}\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_come_twice_are_followed_once() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let out = daemon.dir.path().join("runs");
    let script = format!("echo ran >> {}; sleep 0.5", out.display());
    Assigned::new(KEY, shell(&script)).tell(&fake).await;
    Assigned::new(KEY, shell(&script)).tell(&fake).await;
    fake.until_prepared(KEY).await;
    start(&fake, KEY, None).await;
    start(&fake, KEY, None).await;
    fake.until_running(KEY).await;
    start(&fake, KEY, None).await;
    Assigned::new(KEY, shell(&script)).tell(&fake).await;
    fake.until_ended(KEY).await;
    assert_eq!(fs::read_to_string(out).unwrap(), "ran\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_with_its_start_needs_no_second_message() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    fake.until("a Hello", |state| !state.hellos.is_empty())
        .await;
    let features = fake.state().hellos[0].features.clone();
    assert!(features.contains(&WorkerFeature::StartWithAssign.into()));
    let out = daemon.dir.path().join("runs");
    let work = || {
        shell(&format!(
            "echo ran >> {}; echo said; sleep 0.5",
            out.display()
        ))
    };
    Assigned::new(KEY, work()).started().tell(&fake).await;
    // What may come all the same, before and while it runs.
    Assigned::new(KEY, work()).started().tell(&fake).await;
    start(&fake, KEY, None).await;
    fake.until_running(KEY).await;
    start(&fake, KEY, None).await;
    Assigned::new(KEY, work()).tell(&fake).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    let bodies = fake.bodies(KEY);
    assert!(matches!(bodies[0], Body::Started(_)), "{bodies:?}");
    assert!(!bodies.iter().any(|b| matches!(b, Body::Prepared(_))));
    assert_eq!(fake.log(KEY), ["said"]);
    assert_eq!(fs::read_to_string(out).unwrap(), "ran\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_ours_reports_by_events_and_its_checkpoints_are_stored() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    daemon.install(
        "marquee-trainer",
        r#"
        [ "$1" = run ] || exit 2
        dir=$(dirname $2)
        grep -q '"threads": 3' $2 || exit 2
        echo '{"event":"progress","phase":"epoch 1/2","done":1,"total":2,"unit":"steps"}' >&$MARQUEE_EVENTS_FD
        echo '{"event":"metrics","step":7,"values":{"train/loss":0.25}}' >&$MARQUEE_EVENTS_FD
        mkdir $dir/checkpoints/7; printf W > $dir/checkpoints/7/weights
        echo '{"event":"checkpoint","step":7,"path":"'$dir/checkpoints/7'"}' >&$MARQUEE_EVENTS_FD
        while [ -e $dir/checkpoints/7 ]; do sleep 0.05; done
        echo resumed from $(cat $(sed -n 's/.*"resume": "\(.*\)",/\1/p' $2)/position) >&2
        printf R > $dir/output/report
        echo '{"event":"finished","summary":{"steps":7}}' >&$MARQUEE_EVENTS_FD"#,
    );
    let mut assigned = Assigned::new(KEY, eval());
    assigned.resume = Some((3, manifest(vec![fake.put("position", b"step 3")])));
    assigned.tell(&fake).await;
    fake.until_prepared(KEY).await;
    start(&fake, KEY, None).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("{:?}", fake.bodies(KEY))
    };
    assert_eq!(finished.summary_json, r#"{"steps":7}"#);
    assert_eq!(fake.files(&finished.output.unwrap())["report"], "R");
    assert_eq!(fake.log(KEY), ["resumed from step 3"]);
    let bodies = fake.bodies(KEY);
    assert!(
        bodies.iter().any(
            |b| matches!(b, Body::Progress(p) if p.phase == "epoch 1/2" && p.total == Some(2))
        )
    );
    assert!(
        bodies.iter().any(
            |b| matches!(b, Body::Metrics(m) if m.step == 7 && m.values["train/loss"] == 0.25)
        )
    );
    let saved = bodies.iter().find_map(|b| match b {
        Body::Checkpoint(saved) => Some(saved.clone()),
        _ => None,
    });
    let saved = saved.unwrap();
    assert_eq!(saved.step, 7);
    assert_eq!(fake.files(&saved.manifest.unwrap())["weights"], "W");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rendezvous_store_lives_outside_the_ranks_and_goes_with_the_attempt() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let pid_file = daemon.dir.path().join("store-pid");
    daemon.install(
        "marquee-trainer",
        &format!(
            r#"
        if [ "$1" = store ]; then
            echo $$ > {}; echo '{{"event":"listening","host":"'$3'","port":4711}}'; exec sleep 1000
        fi
        echo $MASTER_ADDR $MASTER_PORT >&2
        echo '{{"event":"failed","class":"bad_input","message":"no such shard"}}' >&$MARQUEE_EVENTS_FD; exit 1"#,
            pid_file.display()
        ),
    );
    let mut assigned = Assigned::new(KEY, eval());
    (assigned.world_size, assigned.hosts_rendezvous) = (2, true);
    assigned.tell(&fake).await;
    let rendezvous = fake.until_prepared(KEY).await.unwrap();
    assert_eq!(
        (rendezvous.host.as_str(), rendezvous.port),
        ("127.0.0.1", 4711)
    );
    let store: i32 = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(is_alive(store));
    start(&fake, KEY, Some(rendezvous)).await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(
        (failure.class(), failure.message.as_str()),
        (FailureClass::BadInput, "no such shard")
    );
    assert_eq!(fake.log(KEY), ["127.0.0.1 4711"]);
    assert!(!is_alive(store), "a failed rank takes its store along");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_their_class_and_cause() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    daemon.install("marquee-trainer", "echo oops >&2; exit 0");
    let mut missing = shell("");
    if let marquee_domain::spec::Work::Command(command) = &mut missing {
        command.argv = vec!["/no/such/program".into()];
    }
    let cases = [
        (
            shell("echo bad value >&2; exit 3"),
            FailureClass::UserError,
            "sh exited with status 3; stderr ends with: bad value",
        ),
        (
            shell("kill -9 $$"),
            FailureClass::Crash,
            "sh was killed by signal 9 (SIGKILL)",
        ),
        (
            shell("kill -SEGV $$"),
            FailureClass::Crash,
            "sh was killed by signal 11 (SIGSEGV)",
        ),
        (
            missing,
            FailureClass::UserError,
            "/no/such/program could not be started: No such file",
        ),
        (
            eval(),
            FailureClass::Crash,
            "marquee-trainer exited with status 0 without a last word; stderr ends with: oops",
        ),
        (
            shell("ln -s /etc/passwd $MARQUEE_OUTPUT/x"),
            FailureClass::UserError,
            "\"x\" is a link to \"/etc/passwd\", which lies outside the output",
        ),
    ];
    for (job, (work, class, message)) in (1..).zip(cases) {
        let key = (job, 1, 0);
        run(&fake, key, work).await;
        let Body::Failed(failed) = fake.until_ended(key).await else {
            panic!("{message}")
        };
        let failure = failed.failure.unwrap();
        assert_eq!(failure.class(), class, "{}", failure.message);
        assert!(
            failure.message.contains(message),
            "{:?} in {:?}",
            message,
            failure.message
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_cannot_be_read_fails_instead_of_hanging() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let mut message = Assigned::new(KEY, shell("true")).message();
    message.spec_json = r#"{"work":"of a later version"}"#.into();
    fake.tell(marquee_proto::v1::coordinator_message::Body::Assign(
        message,
    ))
    .await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    assert!(
        failed
            .failure
            .unwrap()
            .message
            .contains("cannot read the assignment")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_list_what_is_held_and_in_which_state() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    Assigned::new(KEY, shell("sleep 1000")).tell(&fake).await;
    let in_state = |wanted: RankState| {
        move |state: &crate::fake::State| {
            state
                .held
                .iter()
                .any(|r| (r.job_id, r.attempt, r.rank) == KEY && r.state() == wanted)
        }
    };
    fake.until("a prepared rank", in_state(RankState::Prepared))
        .await;
    start(&fake, KEY, None).await;
    fake.until("a running rank", in_state(RankState::Running))
        .await;
    crate::daemon::stop(&fake, KEY, 100, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    fake.until_nothing_is_held().await;
}
