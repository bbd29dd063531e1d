//! Jobs under accounts of their own, with the real helper as root: a job that tries everything, and the
//! keeper's contract with a child that its worker can neither signal nor see.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cage_host::{CageHost, JOBS, WORKER};
use crate::daemon::{Assigned, Daemon, Place, eval, is_alive, shell, stop, until};
use crate::fake::{Fake, Key, manifest};

const VICTIM: Key = (71, 1, 0);
const THIEF: Key = (72, 1, 0);

/// What the thief tries, with no wall but its account (the settings of these tests switch Landlock off). `{pids}` are
/// processes of the worker's and of the other job, `{other}` the other job's folder, `{data}` the data folder.
const TRIES: &[(&str, &str)] = &[
    ("reads another job's file", "cat {other}/work/secret"),
    ("lists another job's folder", "ls {other}/work"),
    (
        "adds to another job's output",
        "sh -c 'echo x > {other}/output/more'",
    ),
    ("reads another job's assignment", "cat {other}/rank.json"),
    ("reads another job's log", "cat {other}/stdout"),
    (
        "reads another job's temporary file",
        "cat {other}/tmp/secret",
    ),
    ("reads the worker's identity", "cat {data}/worker-id"),
    ("lists the data folder", "ls {data}"),
    ("lists all ranks", "ls {data}/attempts"),
    ("writes into the data folder", "sh -c 'echo x > {data}/new'"),
    (
        "reads an artifact of the cache by its name",
        "sh -c 'cat {data}/cache/artifacts/*/a {cached}/a'",
    ),
    (
        "reads its own assignment",
        "cat {data}/attempts/72-1-0/rank.json",
    ),
    ("reads its own spool", "cat {data}/attempts/72-1-0/spool"),
    (
        "forges its own end",
        "sh -c 'echo {} > {data}/attempts/72-1-0/exit-1.json'",
    ),
    (
        "writes to the home of another project",
        "sh -c 'echo x > {data}/homes/marquee-job-0/x'",
    ),
    (
        "reads an environment",
        "sh -c 'for p in {pids}; do cat /proc/$p/environ && exit; done; false'",
    ),
    (
        "reads a command line",
        "sh -c 'for p in {pids}; do cat /proc/$p/cmdline && exit; done; false'",
    ),
    (
        "lists open files",
        "sh -c 'for p in {pids}; do ls /proc/$p/fd && exit; done; false'",
    ),
    (
        "opens memory",
        "sh -c 'for p in {pids}; do (: < /proc/$p/mem) && exit; done; false'",
    ),
    (
        "looks through another's root",
        "sh -c 'for p in {pids}; do ls /proc/$p/root/ && exit; done; false'",
    ),
    (
        "sends a signal",
        // One that nobody minds: the others are looked for once more below.
        "sh -c 'for p in {pids}; do kill -URG $p && exit; done; false'",
    ),
    (
        "signals",
        "sh -c 'for p in {pids}; do kill -0 $p && exit; done; false'",
    ),
    (
        "traces",
        "/usr/bin/python3 -c 'import ctypes, sys; attach = [ctypes.CDLL(None).ptrace(16, p, 0, 0) for p in map(int, \"{pids}\".split())]; sys.exit(all(attach))'",
    ),
    (
        "asks the helper",
        "/usr/bin/python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{socket}\")'",
    ),
    (
        "becomes root",
        "/usr/bin/python3 -c 'import os; os.setresuid(0, 0, 0)'",
    ),
    (
        "becomes the worker",
        "/usr/bin/python3 -c 'import os; os.setresuid({worker}, {worker}, {worker})'",
    ),
    (
        "takes a group",
        "/usr/bin/python3 -c 'import os; os.setgroups([{worker}])'",
    ),
    (
        "leaves its cgroup",
        "sh -c 'echo 0 > {cgroup}/../cgroup.procs'",
    ),
    (
        "enters another job's cgroup",
        "sh -c 'echo 0 > {cgroup}/cgroup.procs'",
    ),
    ("reads another job's file in /tmp", "cat /tmp/secret"),
    (
        "changes its input",
        "sh -c 'chmod u+w $MARQUEE_INPUT_DATA/a; echo x >> $MARQUEE_INPUT_DATA/a'",
    ),
    (
        "replaces its input",
        "sh -c 'rm -f $MARQUEE_INPUT_DATA/a && echo x > $MARQUEE_INPUT_DATA/a'",
    ),
    (
        "gives its output to the worker",
        "sh -c 'echo x > $MARQUEE_OUTPUT/x && chown {worker} $MARQUEE_OUTPUT/x'",
    ),
    // Last: nothing is left of the other job to look for.
    (
        "kills another job's cgroup",
        "sh -c 'echo 1 > {cgroup}/cgroup.kill'",
    ),
];
/// What of it does not even work for the worker's account itself, so that it proves nothing there.
const CLOSED_TO_ALL: [&str; 3] = [
    "becomes root",
    "takes a group",
    // Without cages there is none.
    "writes to the home of another project",
];
/// What it may as ever.
const MAY: &[(&str, &str)] = &[
    (
        "own work",
        "sh -c 'echo x > here && mkdir -p a/b && mv here a/b/there && cat a/b/there'",
    ),
    ("own output", "sh -c 'echo x > $MARQUEE_OUTPUT/result'"),
    ("input", "grep -q given $MARQUEE_INPUT_DATA/a"),
    (
        "home",
        "sh -c 'mkdir -p ~/.cache && echo x > ~/.cache/model'",
    ),
    (
        "temporary files",
        "sh -c 'echo x > $TMPDIR/file && echo x > /tmp/file && mktemp'",
    ),
    (
        "shared memory",
        "sh -c 'echo x > /dev/shm/marquee-cage-$$ && rm /dev/shm/marquee-cage-$$'",
    ),
    ("its own log", "sh -c 'echo x >> /dev/stderr'"),
    ("processes of its own", "sh -c 'sleep 60 & kill $!'"),
    (
        "programs in its folder",
        "sh -c 'cp /bin/true ./program && ./program'",
    ),
    (
        "its name",
        "test $(id -un)-$USER-$LOGNAME = marquee-job-1-marquee-job-1-marquee-job-1",
    ),
    (
        "groups of GPUs alone",
        "sh -c 'for g in $(id -Gn); do case $g in marquee-job-1|video|render) ;; *) exit 1;; esac; done'",
    ),
];

pub(crate) async fn begin(fake: &Fake, daemon: &Daemon, job: Assigned) {
    let key = job.key;
    job.started().tell(fake).await;
    fake.until("a job to say that it is ready", |state| {
        format!("{:?}", state.reports.get(&key)).contains("ready")
    })
    .await;
    assert!(daemon.rank_dir(key).exists());
}

pub(crate) fn log_has(state: &crate::fake::State, key: Key, text: &str) -> bool {
    format!("{:?}", state.reports.get(&key)).contains(text)
}

/// A worker on such a host.
pub(crate) fn daemon(fake: &Fake, host: &Arc<CageHost>, more: &[(&str, &str)]) -> Daemon {
    let env = more
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    let place = Place {
        cage: Some(Arc::clone(host)),
        ..Place::default()
    };
    Daemon::start_at(fake, &[], env.collect(), place)
}

/// Ids in a claim: the keeper and the child.
pub(crate) fn processes(daemon: &Daemon, key: Key) -> (i32, i32) {
    let claim = fs::read(daemon.rank_dir(key).join("claim-1.json")).unwrap();
    let claim: serde_json::Value = serde_json::from_slice(&claim).unwrap();
    let id = |value: &serde_json::Value| i32::try_from(value.as_i64().unwrap()).unwrap();
    (id(&claim["keeper"]["pid"]), id(&claim["child"]))
}

fn script(daemon: &Daemon, host: &CageHost) -> String {
    let (keeper, child) = processes(daemon, VICTIM);
    let cgroup = host
        .cgroups()
        .into_iter()
        .find(|path| path.ends_with("71-1-0-1"));
    let cached = fs::read_dir(daemon.data().join("cache/artifacts")).unwrap();
    let cached = cached
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir());
    let places = [
        ("{other}", daemon.rank_dir(VICTIM).display().to_string()),
        ("{data}", daemon.data().display().to_string()),
        ("{cached}", cached.unwrap().display().to_string()),
        ("{pids}", format!("{keeper} {child} {}", daemon.pid())),
        ("{socket}", host.socket().display().to_string()),
        ("{worker}", WORKER.to_string()),
        ("{cgroup}", cgroup.unwrap().display().to_string()),
    ];
    let tries = TRIES
        .iter()
        .map(|(what, how)| (format!("did: {what}"), how));
    let may = MAY.iter().map(|(what, how)| (format!("may: {what}"), how));
    let lines = may
        .chain(tries)
        .map(|(said, how)| format!("{how} >/dev/null 2>&1 && echo \"{said}\"\n"));
    let filled = |script: String, (name, value): &(&str, String)| script.replace(name, value);
    places.iter().fold(lines.collect(), filled) + "true\n"
}

/// What the thief says that it did, and may.
async fn steal(
    host: &Arc<CageHost>,
    cage: &str,
    is_ours: bool,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let fake = Fake::start().await;
    let daemon = daemon(&fake, host, &[("MARQUEE_WORKER__CAGE", cage)]);
    let input = || manifest(vec![fake.put("a", b"given")]);
    let victim =
        "echo s > secret; echo s > $TMPDIR/secret; echo s > /tmp/secret; echo ready; sleep 1001";
    let victim = Assigned::new(VICTIM, shell(victim)).of_project("a");
    begin(&fake, &daemon, victim.input("data", input())).await;
    let script = script(&daemon, host);
    // A program of ours that runs what a TorchScript module of somebody's tells it to.
    let end = "echo '{\"event\":\"finished\",\"summary\":{}}' >&$MARQUEE_EVENTS_FD";
    daemon.install("marquee-trainer", &format!("{script}{end}"));
    let work = if is_ours { eval() } else { shell(&script) };
    let thief = Assigned::new(THIEF, work).of_project("b");
    thief.input("data", input()).started().tell(&fake).await;
    let end = fake.until_ended(THIEF).await;
    let log = fake.log(THIEF);
    if cage == "on" {
        assert!(matches!(end, Body::Finished(_)), "{end:?} {log:?}");
        assert!(
            !fake.state().reports[&VICTIM]
                .iter()
                .any(|report| matches!(report.body, Some(Body::Failed(_))))
        );
    }
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
async fn a_caged_job_finds_nothing_that_is_not_its_own() {
    let Some(host) = CageHost::make() else { return };
    for is_ours in [false, true] {
        let (did, may) = steal(&host, "on", is_ours).await;
        assert_eq!(did, BTreeSet::new(), "ours: {is_ours}");
        assert_eq!(may, words(MAY), "ours: {is_ours}");
    }
}

/// The same script as the worker's own account: it looks in the right places.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_cage_the_same_job_finds_nearly_all_of_it() {
    let Some(host) = CageHost::make() else { return };
    let (did, _) = steal(&host, "off", false).await;
    let mut expected = words(TRIES);
    expected.retain(|what| !CLOSED_TO_ALL.contains(&what.as_str()));
    assert_eq!(did, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_killed_and_a_child_of_another_account_is_taken_over_and_ended() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let mut daemon = daemon(&fake, &host, &[]);
    // It ignores TERM, forks out of its session, and closes what it leaves.
    let script = "trap '' TERM; mkdir -p closed/deep; echo x > closed/deep/file; chmod 0 closed/deep/file closed/deep; \
        chmod 1000 closed; (while :; do setsid sh -c 'trap \"\" TERM; sleep 1002' & sleep 0.2; done) & \
        echo ready; while :; do sleep 1002; done";
    begin(&fake, &daemon, Assigned::new(THIEF, shell(script))).await;
    let (keeper, child) = processes(&daemon, THIEF);
    assert_eq!(owner(keeper), WORKER);
    assert_eq!(owner(child), JOBS);
    for _ in 0..2 {
        daemon.kill_9();
        assert!(is_alive(keeper) && is_alive(child), "they go on");
        let sessions = fake.state().hellos.len();
        daemon.start_again();
        fake.until("a new session", |state| state.hellos.len() > sessions)
            .await;
        assert_eq!(fake.state().hellos[sessions].held.len(), 1);
    }
    stop(&fake, THIEF, 300, false).await;
    let end = fake.until_ended(THIEF).await;
    assert!(matches!(end, Body::Stopped(_)), "{end:?}");
    assert!(!is_alive(keeper) && !is_alive(child));
    assert_eq!(
        host.cgroups(),
        Vec::<std::path::PathBuf>::new(),
        "nothing is left"
    );
    until("the rank's folder to go", || {
        let mut left = fs::read_dir(daemon.data().join("attempts")).unwrap();
        left.next().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ends_without_a_daemon_is_judged_and_its_output_is_stored() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let mut daemon = daemon(&fake, &host, &[]);
    let (well, badly) = ((73, 1, 0), (74, 1, 0));
    let script = "umask 077; mkdir $MARQUEE_OUTPUT/d; echo done > $MARQUEE_OUTPUT/d/file; chmod 0 $MARQUEE_OUTPUT/d; \
        echo ready; while [ -e /var/tmp ] && [ ! -e ~/go ]; do sleep 0.05; done";
    begin(&fake, &daemon, Assigned::new(well, shell(script))).await;
    let script = format!("{script}; exit 9");
    begin(&fake, &daemon, Assigned::new(badly, shell(&script))).await;
    let keepers = [well, badly].map(|key| processes(&daemon, key).0);
    daemon.kill_9();
    fs::write(daemon.data().join("homes/marquee-job-0/go"), "").unwrap();
    until("the keepers to leave", || {
        !keepers.iter().any(|pid| is_alive(*pid))
    })
    .await;
    daemon.start_again();
    let Body::Finished(finished) = fake.until_ended(well).await else {
        panic!("not finished")
    };
    assert_eq!(fake.files(&finished.output.unwrap())["d/file"], "done\n");
    let Body::Failed(failed) = fake.until_ended(badly).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::UserError);
    assert!(failure.message.contains("status 9"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_warden_ends_with_it_and_is_tidied_up() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let daemon = daemon(&fake, &host, &[]);
    let script = "mkdir closed; echo x > closed/file; chmod 0 closed; setsid sleep 1003 & echo ready; kill -9 $PPID; sleep 1003";
    Assigned::new(THIEF, shell(script))
        .started()
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended(THIEF).await else {
        panic!("not failed")
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::Crash);
    assert_eq!(host.cgroups(), Vec::<std::path::PathBuf>::new());
    until("the rank's folder to go", || {
        let mut left = fs::read_dir(daemon.data().join("attempts")).unwrap();
        left.next().is_none()
    })
    .await;
    // One that was told to leave leaves, and says so itself.
    let polite = "trap 'echo leaving; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    begin(&fake, &daemon, Assigned::new(VICTIM, shell(polite))).await;
    stop(&fake, VICTIM, 60_000, false).await;
    fake.until_ended(VICTIM).await;
    assert!(log_has(&fake.state(), VICTIM, "leaving"));
    // Who meets a file that is the worker's alone is told why.
    let refused = (75, 1, 0);
    let job = Assigned::new(refused, shell("cat /etc/shadow"));
    job.started().tell(&fake).await;
    let Body::Failed(failed) = fake.until_ended(refused).await else {
        panic!("not failed")
    };
    let message = failed.failure.unwrap().message;
    assert!(message.contains("accounts of their own"), "{message}");
}

/// As after a power cut: nobody was left to open what the job closed, and it is not the worker's.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_rank_leaves_whose_keeper_was_killed_is_removed_all_the_same() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let mut daemon = daemon(&fake, &host, &[]);
    let script = "mkdir -p closed/deep; echo x > closed/deep/file; chmod 0 closed/deep closed; echo ready; sleep 1004";
    begin(&fake, &daemon, Assigned::new(THIEF, shell(script))).await;
    let (keeper, child) = processes(&daemon, THIEF);
    daemon.kill_9();
    let tell = |signal| kill(Pid::from_raw(keeper), signal).unwrap();
    // So that it sees nothing of its warden's end.
    tell(Signal::SIGSTOP);
    for cgroup in host.cgroups() {
        fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    }
    until("its child to be dead", || !is_alive(child)).await;
    tell(Signal::SIGKILL);
    until("its keeper to be dead", || !is_alive(keeper)).await;
    daemon.start_again();
    let end = fake.until_ended(THIEF).await;
    assert!(matches!(end, Body::Failed(_)), "{end:?}");
    until("the rank's folder to go", || {
        let mut left = fs::read_dir(daemon.data().join("attempts")).unwrap();
        left.next().is_none()
    })
    .await;
    assert_eq!(host.cgroups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_helper_a_rank_fails_as_a_fault_of_its_host_and_says_what_to_look_at() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let _daemon = daemon(&fake, &host, &[]);
    fake.until("a session", |state| !state.hellos.is_empty())
        .await;
    for (job, project) in [(81, "one"), (82, "two")] {
        let job = Assigned::new((job, 1, 0), shell("true")).of_project(project);
        let key = job.key;
        job.started().tell(&fake).await;
        let end = fake.until_ended(key).await;
        assert!(matches!(end, Body::Finished(_)), "{end:?}");
    }
    // A third project, where there are two accounts.
    let third = Assigned::new((83, 1, 0), shell("true")).of_project("three");
    third.started().tell(&fake).await;
    let failure = |end: Body| match end {
        Body::Failed(failed) => failed.failure.unwrap(),
        other => panic!("not failed: {other:?}"),
    };
    let none_left = failure(fake.until_ended((83, 1, 0)).await);
    assert_eq!(none_left.class(), FailureClass::Crash);
    assert!(
        none_left.message.contains("marquee-job-2"),
        "{}",
        none_left.message
    );
    fs::remove_file(host.socket()).unwrap();
    let job = Assigned::new((84, 1, 0), shell("true")).of_project("one");
    job.started().tell(&fake).await;
    let nobody = failure(fake.until_ended((84, 1, 0)).await);
    assert_eq!(nobody.class(), FailureClass::Crash);
    assert!(
        nobody.message.contains("marquee-cage.socket"),
        "{}",
        nobody.message
    );
    assert_eq!(host.cgroups(), Vec::<std::path::PathBuf>::new());
}

/// Who asks the helper for more than it gives: each line is one request, made as the worker's account, and what it is
/// answered.
const REQUESTS: &[(&str, &str, &str)] = &[
    (
        "a user who is no job's",
        "ask(b'MQC1', 999, [cgroup])",
        "has no account \\\"marquee-job-999\\\"",
    ),
    (
        "a number beyond all",
        "ask(b'MQC1', 65535, [cgroup])",
        "no account number",
    ),
    (
        "another version",
        "ask(b'MQC0', 0, [cgroup])",
        "cannot be read",
    ),
    ("no cgroup", "ask(b'MQC1', 0, [])", "brings no cgroup"),
    (
        "an ordinary folder as one",
        "ask(b'MQC1', 0, [own])",
        "is no cgroup",
    ),
    (
        "a cgroup of root's",
        "ask(b'MQC1', 0, [os.open(above, os.O_RDONLY)])",
        "not marquee-worker's own",
    ),
    (
        "a file of root's",
        "ask(b'MQC1', 0, [cgroup, os.open('/etc/passwd', os.O_RDONLY)])",
        "not marquee-worker's own",
    ),
    (
        "a device",
        "ask(b'MQC1', 0, [cgroup, os.open('/dev/null', os.O_RDONLY)])",
        "neither folder nor file",
    ),
    ("what is right", "ask(b'MQC1', 0, [cgroup, own])", "ready"),
];

#[test]
fn the_helper_gives_the_worker_a_job_account_and_nothing_else_and_others_nothing() {
    let Some(host) = CageHost::make() else { return };
    let folder = host.folder();
    let asks = REQUESTS.iter().map(|(_, how, _)| format!("{how}\n"));
    let script = format!(
        "import os, socket\n\
         def ask(magic, user, with_):\n\
         \x20   s = socket.socket(socket.AF_UNIX); s.connect('{}')\n\
         \x20   socket.send_fds(s, [magic + user.to_bytes(2, 'big')], with_)\n\
         \x20   print(s.recv(4096).decode().strip(), flush=True)\n\
         here = [line[3:].strip() for line in open('/proc/self/cgroup') if line.startswith('0::')][0]\n\
         root = '/sys/fs/cgroup' if os.path.exists('/sys/fs/cgroup/cgroup.procs') else '/sys/fs/cgroup/unified'\n\
         above = root + os.path.dirname(here)\n\
         os.mkdir(root + here + '/rank', 0o711); os.chmod(root + here + '/rank', 0o711); os.chmod(root + here + '/rank/cgroup.procs', 0o666)\n\
         cgroup = os.open(root + here + '/rank', os.O_RDONLY)\n\
         own = os.open('{}', os.O_RDONLY)\n{}",
        host.socket().display(),
        folder.path().display(),
        asks.collect::<String>(),
    );
    let run = |mut command: std::process::Command| {
        let output = command
            .args(["/usr/bin/python3", "-c", &script])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (said, String::from_utf8(output.stderr).unwrap())
    };
    let (said, error) = run(host.as_worker());
    let answers: Vec<&str> = said.lines().collect();
    assert_eq!(answers.len(), REQUESTS.len(), "{said} {error}");
    for ((what, _, wanted), answer) in REQUESTS.iter().zip(answers) {
        assert!(answer.contains(wanted), "{what}: {answer}");
    }
    // What was given away is the group's now, and still the worker's.
    let given = fs::metadata(folder.path()).unwrap();
    assert_eq!((given.uid(), given.gid()), (WORKER, JOBS));
    // Root itself is not the worker; nobody else even reaches the socket.
    let mut root = std::process::Command::new("sh");
    root.args(["-c", "exec \"$@\"", "sh"]);
    let script_of_root = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); print(s.recv(4096).decode())";
    let script_of_root = script_of_root.replace("{}", &host.socket().display().to_string());
    let output = root
        .args(["/usr/bin/python3", "-c", &script_of_root])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("user 0 asks, and only marquee-worker may"),
        "{said}"
    );
}

pub(crate) fn owner(pid: i32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}
