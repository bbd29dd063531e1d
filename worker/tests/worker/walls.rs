//! Between a job and its worker: what the worker takes from it, what the job gets, and what holds it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, Place, eval, is_root, run, shell, stop, until};
use crate::fake::{Fake, Key, manifest};
use crate::hostile::{neighbour, restart, running, sleeper};

const KEY: Key = (66, 1, 0);

/// Lines that a child sends and that could not be stored.
const BAD_LINES: &[(&str, &str)] = &[
    (
        r#"{"event":"metrics","step":18446744073709551615,"values":{"a":1}}"#,
        "step is 18446744073709551615",
    ),
    (
        r#"{"event":"metrics","step":1,"values":{"'$(head -c 3000 /dev/zero | tr "\0" m)'":1}}"#,
        "a name of 3000 bytes",
    ),
    (
        r#"{"event":"metrics","step":1,"values":{"a\u0000":1,"a\ufffd":1}}"#,
        "control characters in its name",
    ),
    (
        r#"{"event":"metrics","step":1,"values":{"a":NaN}}"#,
        "sent no event",
    ),
    ("nonsense", "sent no event but \"nonsense\""),
    (
        r#"{"event":"progress","phase":"p","done":18446744073709551615,"total":null,"unit":"u"}"#,
        "done is 18446744073709551615",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_stored_ends_its_rank_and_no_session() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    for (n, (line, reason)) in (100..).zip(BAD_LINES) {
        let script = format!(
            "echo '{{\"event\":\"metrics\",\"step\":1,\"values\":{{\"good\":1}}}}' >&$MARQUEE_EVENTS_FD
            echo '{line}' >&$MARQUEE_EVENTS_FD
            echo '{{\"event\":\"finished\",\"summary\":{{}}}}' >&$MARQUEE_EVENTS_FD; exec {}",
            sleeper(n)
        );
        daemon.install("marquee-trainer", &script);
        let key = (i64::try_from(n).unwrap(), 1, 0);
        Assigned::new(key, eval()).started().tell(&fake).await;
        let Body::Failed(failed) = fake.until_ended(key).await else {
            panic!("{line} did not fail")
        };
        let failure = failed.failure.unwrap();
        assert_eq!(failure.class(), FailureClass::Crash, "{failure:?}");
        assert!(failure.message.contains(reason), "{failure:?}");
        assert!(failure.message.len() < 1_000, "{failure:?}");
        assert_eq!(running(&sleeper(n)), [] as [i32; 0]);
        let bodies = fake.bodies(key);
        let metrics = bodies
            .iter()
            .filter(|body| matches!(body, Body::Metrics(_)));
        assert_eq!(metrics.count(), 1, "what came before counts");
    }
    assert_eq!(fake.state().hellos.len(), 1, "one session for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_code_of_a_model_prints_is_log_whatever_it_looks_like() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let lines = [
        r#"{"event":"metrics","step":18446744073709551615,"values":{"a":1}}"#,
        r#"{"event":"failed","class":"user_error","message":"forged"}"#,
    ];
    daemon.install(
        "marquee-trainer",
        &format!(
            "echo '{}'; echo '{}' >&2; echo '{{\"event\":\"finished\",\"summary\":{{\"n\":1}}}}' >&$MARQUEE_EVENTS_FD",
            lines[0], lines[1]
        ),
    );
    run(&fake, KEY, eval()).await;
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    assert_eq!(finished.summary_json, r#"{"n":1}"#);
    assert_eq!(fake.log(KEY), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_version_0_1_started_goes_on_with_events_on_stdout() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let go = daemon.dir.path().join("go");
    daemon.install(
        "marquee-trainer",
        &format!(
            "while [ ! -e {} ]; do sleep 0.05; done
            echo '{{\"event\":\"metrics\",\"step\":3,\"values\":{{\"a\":1}}}}'; echo a line
            echo '{{\"event\":\"finished\",\"summary\":{{\"n\":2}}}}'",
            go.display()
        ),
    );
    run(&fake, KEY, eval()).await;
    fake.until_running(KEY).await;
    daemon.kill_9();
    // As it would lie there: no channel.
    fs::remove_file(daemon.rank_dir(KEY).join("events")).unwrap();
    daemon.start_again();
    fs::write(go, "").unwrap();
    let Body::Finished(finished) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    assert_eq!(finished.summary_json, r#"{"n":2}"#);
    assert_eq!(fake.log(KEY), ["a line"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_no_secret_but_the_one_that_it_names_and_may_have() {
    let fake = Fake::start().await;
    let env = [
        ("TMDB_TOKEN", "t-secret"),
        ("AWS_SECRET_ACCESS_KEY", "a-secret"),
        ("WANDB_API_KEY", "w-secret"),
        ("HTTPS_PROXY", "http://u:p-secret@proxy"),
        ("MARQUEE_WORKER__COMMAND_SECRETS", "WANDB_API_KEY NOT_SET"),
        ("LANG", "C.UTF-8"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let place = Place {
        unprivileged: true,
        ..Place::default()
    };
    let daemon = Daemon::start_at(&fake, &[], env.to_vec(), place);
    let named = |names: &[&str], script: &str| match shell(script) {
        marquee_domain::spec::Work::Command(mut command) => {
            command.env_from_worker = names.iter().map(|name| (*name).to_owned()).collect();
            marquee_domain::spec::Work::Command(command)
        }
        _ => unreachable!("shell gives a command"),
    };
    let look = format!(
        "env; cat /proc/{}/environ; cat /proc/$PPID/environ | tr '\\0' '\\n'; echo; echo end",
        daemon.pid()
    );
    run(&fake, KEY, named(&["WANDB_API_KEY"], &look)).await;
    fake.until_ended(KEY).await;
    let log = fake.log(KEY).join("\n");
    assert!(
        log.contains("end") && log.contains("LANG=C.UTF-8") && log.contains("PATH="),
        "{log}"
    );
    assert!(log.contains("WANDB_API_KEY=w-secret"), "{log}");
    for secret in ["t-secret", "a-secret", "p-secret", "MARQUEE_WORKER__"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    for (n, name, reason) in [
        (
            1,
            "AWS_SECRET_ACCESS_KEY",
            "command_secrets = \"AWS_SECRET_ACCESS_KEY\"",
        ),
        (2, "NOT_SET", "not set in this worker's environment"),
    ] {
        let key = (n, 1, 0);
        Assigned::new(key, named(&[name], "true"))
            .started()
            .tell(&fake)
            .await;
        let Body::Failed(failed) = fake.until_ended(key).await else {
            panic!("{name} was given")
        };
        let failure = failed.failure.unwrap();
        assert_eq!(failure.class(), FailureClass::UserError);
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_accounts_of_the_host_see_nothing_of_jobs() {
    use std::os::unix::fs::PermissionsExt as _;
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    run(&fake, KEY, shell("sleep 1000")).await;
    fake.until_running(KEY).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = daemon.rank_dir(KEY);
    for folder in [
        daemon.data(),
        daemon.data().join("attempts"),
        dir.clone(),
        dir.join("work"),
    ] {
        assert_eq!(mode(&folder), 0o700, "{folder:?}");
    }
    for file in ["spool", "rank.json", "stdout", "claim-1.json"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    stop(&fake, KEY, 0, false).await;
    fake.until_ended(KEY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_input_that_was_made_read_only_is_let_go_and_what_cannot_be_removed_stops_no_start()
 {
    let fake = Fake::start().await;
    let place = Place {
        unprivileged: true,
        ..Place::default()
    };
    // Room for one of the two.
    let mut daemon = Daemon::start_at(&fake, &["--cache-max-bytes=1000"], Vec::new(), place);
    let one = manifest(vec![fake.put("a/b/c", &[b'1'; 600])]);
    let other = manifest(vec![fake.put("a/b/c", &[b'2'; 600])]);
    let close = shell("chmod -R a-w $MARQUEE_INPUT_DATA; chmod 000 $MARQUEE_INPUT_DATA/a");
    for (n, input, work) in [
        (1, &one, close),
        (2, &other, shell("cat $MARQUEE_INPUT_DATA/a/b/c | wc -c")),
    ] {
        let key = (n, 1, 0);
        Assigned::new(key, work)
            .input("data", input.clone())
            .started()
            .tell(&fake)
            .await;
        assert!(
            matches!(fake.until_ended(key).await, Body::Finished(_)),
            "{key:?}"
        );
        fake.until_nothing_is_held().await;
    }
    let cached = |input: &marquee_domain::artifact::Manifest| {
        daemon
            .data()
            .join("cache/artifacts")
            .join(input.digest().as_str())
    };
    assert!(!cached(&one).exists() && cached(&other).exists());
    // As root may have left it; nobody but root can remove it.
    let doomed = daemon.data().join("attempts/.gone-9-1-0/theirs");
    fs::create_dir_all(&doomed).unwrap();
    fs::write(doomed.join("file"), "x").unwrap();
    restart(&fake, &mut daemon, Duration::ZERO).await;
    neighbour(&fake, (3, 1, 0)).await;
    if is_root() {
        assert!(
            doomed.exists() && daemon.log_text().contains(".gone-9-1-0"),
            "it is named"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_spoiled_its_own_assignment_runs_on_no_device_that_counts_as_free() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let sleeper = sleeper(201);
    let script =
        format!("sleep 0.3; rm ../rank.json; mkfifo ../rank.json; echo ready; exec {sleeper}");
    Assigned::new(KEY, shell(&script))
        .started()
        .tell(&fake)
        .await;
    fake.until("the attack", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("ready")
    })
    .await;
    until("its sleep", || !running(&sleeper).is_empty()).await;
    restart(&fake, &mut daemon, Duration::ZERO).await;
    until("its end", || running(&sleeper).is_empty()).await;
    neighbour(&fake, (1, 1, 0)).await;
    assert!(
        daemon
            .log_text()
            .contains("rank.json is a device, FIFO or socket")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_cgroup_counts_a_ranks_processes_its_account_leaves_half_of_them_to_others() {
    let fake = Fake::start().await;
    let place = Place {
        unprivileged: true,
        ..Place::default()
    };
    let _daemon = Daemon::start_at(&fake, &[], Vec::new(), place);
    run(
        &fake,
        KEY,
        shell("grep 'Max processes' /proc/self/limits; cat /proc/self/cgroup"),
    )
    .await;
    fake.until_ended(KEY).await;
    let log = fake.log(KEY);
    if log
        .iter()
        .any(|line| line.starts_with("0::") && line.contains("/marquee-"))
    {
        eprintln!("skipped: the rank has a cgroup of its own here");
        return;
    }
    let numbers = log[0]
        .split_whitespace()
        .filter_map(|word| word.parse().ok());
    let limits: Vec<u64> = numbers.collect();
    let most: u64 = fs::read_to_string("/proc/sys/kernel/pid_max")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(limits.len(), 2, "{log:?}");
    assert!(limits.iter().all(|limit| *limit <= most / 2), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_holds_all_that_a_rank_starts_and_is_killed_at_once() {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let Some(mount) = mounts.into_iter().find(|m| m.join("cgroup.procs").exists()) else {
        eprintln!("no cgroups of version 2 on this host");
        return;
    };
    let cgroup = mount.join(format!("marquee-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&cgroup) {
        eprintln!("no cgroup can be made on this host: {error}");
        return;
    }
    let fake = Fake::start().await;
    let place = Place {
        cgroup: Some(cgroup.clone()),
        ..Place::default()
    };
    let mut daemon = Daemon::start_at(&fake, &[], Vec::new(), place);
    let sleeper = sleeper(200);
    let script = format!(
        "cat /proc/self/cgroup; setsid env -i {sleeper} & sleep 0.3; echo ready; sleep 1; kill -9 $PPID; exec {sleeper}"
    );
    run(&fake, KEY, shell(&script)).await;
    fake.until("the attack", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("ready")
    })
    .await;
    // The worst case: the keeper dies, no daemon is there to take the orphans, and they have no mark.
    restart(&fake, &mut daemon, Duration::from_millis(1_500)).await;
    fake.until_ended(KEY).await;
    let log = fake.log(KEY).join("\n");
    assert!(
        log.contains("/marquee-") && log.contains("66-1-0-1"),
        "{log}"
    );
    assert_eq!(running(&sleeper), [] as [i32; 0]);
    neighbour(&fake, (1, 1, 0)).await;
    drop(daemon);
    let _swept = std::process::Command::new("find")
        .args([
            cgroup.as_os_str(),
            "-depth".as_ref(),
            "-type".as_ref(),
            "d".as_ref(),
            "-delete".as_ref(),
        ])
        .status();
    until("the cgroup to go", || {
        !cgroup.exists() || fs::remove_dir(&cgroup).is_ok()
    })
    .await;
}
