//! A command job that looks for what is not its own. Behind the fence it finds nothing; without it the same script finds
//! all, which shows that it looks in the right places.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use marquee_proto::v1::report::Body;
use marquee_worker::process::fence;

use crate::daemon::{Assigned, Daemon, Place, shell, stop};
use crate::fake::{Fake, Key, manifest};
use crate::hostile::sleeper;

const VICTIM: Key = (65, 1, 0);
const THIEF: Key = (66, 1, 0);

/// What the thief tries: a word, and what would succeed without walls. `{data}` is the data folder, `{other}` the folder
/// of the other job, `{key}` a file that the settings hide, `{beside}` a folder of the host to which everybody may write.
const TRIES: &[(&str, &str)] = &[
    ("reads another job's file", "cat {other}/work/secret"),
    ("reads another job's environment", "cat {other}/rank.json"),
    ("reads another job's spool", "cat {other}/spool"),
    ("lists another job's folder", "ls {other}/work"),
    (
        "changes another job's file",
        "sh -c 'echo x >> {other}/work/secret'",
    ),
    (
        "adds to another job's output",
        "sh -c 'echo x > {other}/output/more'",
    ),
    ("reads the worker's identity", "cat {data}/worker-id"),
    ("lists the data folder", "ls {data}"),
    ("writes into the data folder", "sh -c 'echo x > {data}/new'"),
    ("reads the key", "cat {key}"),
    ("opens its own spool to write", "sh -c ': >> ../spool'"),
    ("forges its own end", "sh -c 'echo {} > ../exit-7.json'"),
    (
        "links to another job's file",
        "ln {other}/work/secret ./mine2",
    ),
    (
        "moves another job's file here",
        "mv {other}/work/secret ./mine",
    ),
    ("makes a file of the host", "sh -c 'echo x > {beside}/new'"),
    ("makes a folder of the host", "mkdir {beside}/folder"),
    (
        "changes a file of the host",
        "sh -c 'echo x >> {beside}/file'",
    ),
    ("empties a file of the host", "truncate -s 0 {beside}/file"),
    ("removes a file of the host", "rm {beside}/doomed"),
    (
        "links a file of the host to its own",
        "ln -s $PWD/here2 {beside}/link",
    ),
    (
        "moves its own file onto one of the host's",
        "sh -c 'echo x > here3 && mv here3 {beside}/moved'",
    ),
];
/// What it may as ever.
const MAY: &[(&str, &str)] = &[
    (
        "own work",
        "sh -c 'echo x > here && mkdir -p a/b && mv here a/b/there && cat a/b/there'",
    ),
    ("own output", "sh -c 'echo x > $MARQUEE_OUTPUT/result'"),
    ("input", "cat $MARQUEE_INPUT_DATA/a"),
    ("own folder", "cat ../rank.json"),
    (
        "home",
        "sh -c 'mkdir -p $HOME/.cache && echo x > $HOME/.cache/model'",
    ),
    (
        "system",
        "sh -c 'ls /usr /etc && cat /etc/passwd && echo x > /dev/null && cat /proc/self/stat'",
    ),
    (
        "shared memory",
        "sh -c 'echo x > /dev/shm/marquee-$$ && rm /dev/shm/marquee-$$'",
    ),
    ("processes of its own", "sh -c 'sleep 60 & kill $!'"),
    (
        "temporary files, for it alone",
        "sh -c 'test $(stat -c %a $TMPDIR) = 700 && echo x > $TMPDIR/file && test $(mktemp) != /tmp'",
    ),
    ("files of the host, to read", "cat {beside}/readable"),
    ("a path of the settings", "sh -c 'echo x > {shared}/new'"),
    ("its own log", "sh -c 'echo x >> /dev/stderr'"),
    (
        "programs in its folder",
        "sh -c 'cp /bin/true ./program && ./program'",
    ),
    (
        "a socket of Python",
        "python3 -c 'from multiprocessing.connection import Listener; Listener(family=\"AF_UNIX\")'",
    ),
];

fn script(daemon: &Daemon, place: &Path) -> String {
    let tries = TRIES
        .iter()
        .map(|(what, how)| (format!("did: {what}"), how));
    let may = MAY.iter().map(|(what, how)| (format!("may: {what}"), how));
    let all = tries.chain(may);
    let lines = all.map(|(said, how)| format!("{how} >/dev/null 2>&1 && echo \"{said}\"\n"));
    let places = [
        ("{other}", daemon.rank_dir(VICTIM)),
        ("{data}", daemon.data()),
        ("{key}", place.join("worker.key")),
        ("{beside}", place.join("beside")),
        ("{shared}", place.join("shared")),
    ];
    let script = places
        .iter()
        .fold(lines.collect(), |script: String, (name, path)| {
            script.replace(name, &path.display().to_string())
        });
    script + "true\n"
}

/// What the thief says that it did, and may.
async fn steal(sandbox: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let fake = Fake::start().await;
    let place = Place {
        unprivileged: true,
        ..Place::default()
    };
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    for folder in ["beside", "shared"] {
        fs::create_dir(at(folder)).unwrap();
    }
    let files = [
        "worker.key",
        "beside/file",
        "beside/doomed",
        "beside/readable",
    ];
    for name in files {
        fs::write(at(name), "of the host").unwrap();
    }
    for name in [&["", "beside", "shared"][..], &files].concat() {
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let hide = format!("--sandbox-hide={}", at("worker.key").display());
    let env = vec![
        ("MARQUEE_WORKER__SANDBOX".to_owned(), sandbox.to_owned()),
        (
            "MARQUEE_WORKER__WRITABLE_PATHS".to_owned(),
            at("shared").display().to_string(),
        ),
    ];
    let mut daemon = Daemon::start_at(&fake, &[&hide], env, place);
    // As the account of a service: its home is where its data are.
    let home = daemon.data().display().to_string();
    daemon.kill_9();
    daemon.set_env("HOME", &home);
    daemon.start_again();
    let victim = format!("echo secret > secret; echo ready; exec {}", sleeper(901));
    Assigned::new(VICTIM, shell(&victim))
        .started()
        .tell(&fake)
        .await;
    fake.until("the victim", |state| {
        format!("{:?}", state.reports.get(&VICTIM)).contains("ready")
    })
    .await;
    let input = manifest(vec![fake.put("a", b"given")]);
    Assigned::new(THIEF, shell(&script(&daemon, host.path())))
        .input("data", input)
        .started()
        .tell(&fake)
        .await;
    let end = fake.until_ended(THIEF).await;
    let log = fake.log(THIEF);
    assert!(matches!(end, Body::Finished(_)), "{end:?} {log:?}");
    stop(&fake, VICTIM, 0, false).await;
    fake.until_ended(VICTIM).await;
    let said = |prefix: &str| {
        let lines = log.iter().filter_map(|line| line.strip_prefix(prefix));
        lines.map(str::to_owned).collect()
    };
    (said("did: "), said("may: "))
}

fn words(table: &[(&str, &str)]) -> BTreeSet<String> {
    table.iter().map(|(what, _)| (*what).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_fence_a_job_finds_nothing_that_is_not_its_own() {
    if fence::version().is_none() {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    let (did, may) = steal("on").await;
    assert_eq!(did, BTreeSet::new());
    assert_eq!(may, words(MAY));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_the_same_job_finds_all_of_it() {
    let (did, may) = steal("off").await;
    assert_eq!(did, words(TRIES));
    assert_eq!(may, words(MAY));
}

/// The default: nobody's results are lost to a wall, and what is the worker's or another job's stays closed.
#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_job_may_change_the_host_as_its_account_may_and_nothing_of_its_worker() {
    if fence::version().is_none() {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    let (did, may) = steal("auto").await;
    let of_host = TRIES.iter().filter(|(_, how)| how.contains("{beside}"));
    let mut expected: BTreeSet<String> = of_host.map(|(what, _)| (*what).to_owned()).collect();
    // The data folder of this test lies below /tmp, so that names can be listed.
    expected.extend(["lists another job's folder", "lists the data folder"].map(str::to_owned));
    assert_eq!(did, expected);
    assert_eq!(may, words(MAY));
}

/// As under a plain `marquee up`: the data folder lies below the home of jobs. A script that lies right there finds what
/// is beside it, which it can only by listing that folder.
#[tokio::test(flavor = "multi_thread")]
async fn below_the_home_of_jobs_their_files_are_closed_to_each_other_and_only_names_are_seen() {
    if fence::version().is_none() {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    let fake = Fake::start().await;
    let env = vec![("MARQUEE_WORKER__SANDBOX".to_owned(), "auto".to_owned())];
    let mut daemon = Daemon::start_in(&fake, &[], env);
    daemon.kill_9();
    let home = daemon.dir.path().display().to_string();
    daemon.set_env("HOME", &home);
    fs::create_dir(daemon.dir.path().join("project")).unwrap();
    fs::write(daemon.dir.path().join("module.py"), "word = 'imported'").unwrap();
    fs::write(
        daemon.dir.path().join("train.py"),
        "import module; print(module.word)",
    )
    .unwrap();
    daemon.start_again();
    let script = format!(
        "python3 -B {home}/train.py; ls {data} | grep attempts; cat {data}/worker-id || echo closed; \
         mkdir {home}/project/runs && echo x > {home}/project/runs/model && echo stored; \
         echo x > {home}/.cache/model && echo cached; echo $TRITON_CACHE_DIR; echo x > {home}/new",
        data = daemon.data().display()
    );
    Assigned::new(THIEF, shell(&script))
        .started()
        .tell(&fake)
        .await;
    let end = fake.until_ended(THIEF).await;
    let Body::Failed(failed) = end else {
        panic!("{end:?} {:?}", fake.log(THIEF));
    };
    let said = fake.log(THIEF).join("\n");
    for wanted in [
        "imported".to_owned(),
        "attempts".to_owned(),
        "closed".to_owned(),
        "stored".to_owned(),
        "cached".to_owned(),
        format!("{home}/.cache/triton"),
    ] {
        assert!(said.contains(&wanted), "{wanted}: {said}");
    }
    // It is told what it may do, and who can change that.
    let message = failed.failure.unwrap().message;
    assert!(
        message.contains("Permission denied") && message.contains("right in a folder above"),
        "{message}"
    );
    assert!(!daemon.dir.path().join("new").exists());
}

/// Signals need a newer kernel than files.
#[tokio::test(flavor = "multi_thread")]
async fn behind_the_fence_a_job_cannot_signal_its_keeper() {
    if fence::version().is_none_or(|version| version < 6) {
        eprintln!("skipped: this kernel's Landlock is older than version 6");
        return;
    }
    let fake = Fake::start().await;
    let env = vec![("MARQUEE_WORKER__SANDBOX".to_owned(), "on".to_owned())];
    let _daemon = Daemon::start_in(&fake, &[], env);
    let script = "kill -9 $PPID 2>/dev/null && echo killed; kill -STOP $PPID 2>/dev/null && echo stopped; echo alive";
    Assigned::new(THIEF, shell(script))
        .started()
        .tell(&fake)
        .await;
    assert!(matches!(fake.until_ended(THIEF).await, Body::Finished(_)));
    assert_eq!(fake.log(THIEF), ["alive"]);
}
