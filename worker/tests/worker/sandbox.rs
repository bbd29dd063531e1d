//! A command job that looks for what is not its own. Behind the fence it finds nothing; without it the same script finds
//! all, which shows that it looks in the right places.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use marquee_proto::v1::report::Body;
use marquee_worker::process::fence;

use crate::daemon::{Assigned, Daemon, Place, shell, stop};
use crate::fake::{Fake, Key, manifest};
use crate::hostile::sleeper;

const VICTIM: Key = (65, 1, 0);
const THIEF: Key = (66, 1, 0);

/// What the thief tries: a word, and what would succeed without walls. `{data}` is the data folder, `{other}` the folder
/// of the other job, `{key}` a file that the settings hide.
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
];

fn script(daemon: &Daemon, key: &Path) -> String {
    let tries = TRIES
        .iter()
        .map(|(what, how)| (format!("did: {what}"), how));
    let may = MAY.iter().map(|(what, how)| (format!("may: {what}"), how));
    let all = tries.chain(may);
    let lines = all.map(|(said, how)| format!("{how} >/dev/null 2>&1 && echo \"{said}\"\n"));
    let places = [
        ("{other}", daemon.rank_dir(VICTIM)),
        ("{data}", daemon.data()),
        ("{key}", key.to_owned()),
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
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("worker.key");
    fs::write(&key, "a key").unwrap();
    for path in [keys.path(), &key] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let hide = format!("--sandbox-hide={}", key.display());
    let env = vec![("MARQUEE_WORKER__SANDBOX".to_owned(), sandbox.to_owned())];
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
    Assigned::new(THIEF, shell(&script(&daemon, &key)))
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
