//! Jobs that mean harm, or do it without meaning to. Whatever one does to its own rank, its worker goes on,
//! the other jobs do not notice, the job can be ended, and nothing of it is left when it counts as ended.

use std::fs;
use std::time::Duration;

use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, Place, is_alive, shell, stop, until};
use crate::fake::{Fake, Key};

const KEY: Key = (66, 1, 0);

/// How an attack ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// By itself, well.
    Well,
    /// By itself, with a failure of this class whose message says this.
    Failed(FailureClass, &'static str),
    /// By itself, somehow.
    Somehow,
    /// When it is cancelled, and not before.
    Cancelled,
}

struct Attack {
    name: &'static str,
    /// Runs in `work/` as a command. `SLEEP` is a program that sleeps for ever, and is looked for after.
    script: &'static str,
    end: End,
    /// The daemon is killed and started again once the job has said "ready".
    restart: bool,
}

const fn attack(name: &'static str, script: &'static str, end: End) -> Attack {
    Attack {
        name,
        script,
        end,
        restart: false,
    }
}

const fn with_restart(attack: Attack) -> Attack {
    Attack {
        restart: true,
        ..attack
    }
}

const NO_PLAIN_FILE: End = End::Failed(FailureClass::Crash, "no plain file any more");

const ATTACKS: &[Attack] = &[
    // What it leaves behind.
    attack(
        "a read-only folder, as Go's module cache is",
        "mkdir -p pkg/mod/a/b; echo x > pkg/mod/a/b/c; chmod -R a-w pkg; chmod 000 pkg/mod/a",
        End::Well,
    ),
    with_restart(attack(
        "a read-only folder over a restart",
        "mkdir -p pkg/mod/a; chmod -R a-w pkg; chmod 000 pkg; echo ready; sleep 0.5",
        End::Well,
    )),
    attack(
        "the folder of all ranks closed",
        "chmod 0500 ../..",
        End::Well,
    ),
    attack(
        "its own folder gone",
        "cd /; rm -rf $MARQUEE_OUTPUT/..",
        End::Somehow,
    ),
    attack(
        "a deep folder",
        "i=0; while [ $i -lt 700 ]; do mkdir d; cd -P d; i=$((i+1)); done",
        End::Well,
    ),
    attack(
        "links to what is not its own",
        "ln -s / root; ln -s /etc/passwd file; ln -s loop loop",
        End::Well,
    ),
    // Processes.
    attack(
        "many left behind",
        "for i in $(seq 1500); do SLEEP & done",
        End::Well,
    ),
    attack(
        "a daemon of its own, two sessions away",
        "(setsid sh -c 'setsid env -i SLEEP & SLEEP' &) ; sleep 0.2",
        End::Well,
    ),
    attack(
        "its keeper killed",
        "setsid env -i SLEEP & setsid SLEEP & sleep 0.3; kill -9 $PPID; SLEEP",
        End::Failed(FailureClass::Crash, "were killed together"),
    ),
    attack(
        "its keeper killed and a good end forged",
        "setsid env -i SLEEP & sleep 0.3; kill -9 $PPID; echo '{\"code\":0}' > ../exit-1.json",
        End::Somehow,
    ),
    with_restart(attack(
        "its keeper killed while no daemon runs",
        "setsid SLEEP & sleep 0.3; echo ready; sleep 1; kill -9 $PPID; SLEEP",
        End::Somehow,
    )),
    attack(
        "its keeper stopped, and an end",
        "kill -STOP $PPID",
        End::Well,
    ),
    attack(
        "its keeper stopped again and again",
        "(while :; do kill -STOP $PPID; sleep 0.05; done) & setsid env -i SLEEP & SLEEP",
        End::Cancelled,
    ),
    attack(
        "deaf to TERM",
        "trap '' TERM; SLEEP & SLEEP",
        End::Cancelled,
    ),
    attack(
        "thousands of dead children that nobody buries",
        "(trap '' CHLD; for i in $(seq 3000); do (exec true) & done; exec SLEEP) & sleep 2",
        End::Well,
    ),
    // Files that the worker reads and writes.
    with_restart(attack(
        "its output a FIFO",
        "rm ../stdout; mkfifo ../stdout; echo ready >&2; SLEEP",
        NO_PLAIN_FILE,
    )),
    with_restart(attack(
        "its output a link",
        "rm ../stderr; ln -s /etc/passwd ../stderr; echo ready; SLEEP",
        NO_PLAIN_FILE,
    )),
    with_restart(attack(
        "its claim a FIFO",
        "sleep 0.3; rm ../claim-1.json; mkfifo ../claim-1.json; echo ready; setsid SLEEP & SLEEP",
        End::Somehow,
    )),
    with_restart(attack(
        "its claim nonsense",
        "sleep 0.3; echo nonsense > ../claim-1.json; echo ready; SLEEP",
        End::Somehow,
    )),
    attack(
        "FIFOs wherever the worker writes",
        "cd ..; for f in rank.json.new rank.new spool.new exit-1.room exit-1.new lost-ranks.json lost-ranks.new \
         rate/share.json rate/use.json rate/share.new; do rm -f $f; mkfifo $f; done; SLEEP",
        End::Cancelled,
    ),
    attack(
        "its exit a folder",
        "mkdir -p ../exit-1.json/x; true",
        End::Well,
    ),
    attack(
        "its spool cut off",
        "truncate -s 0 ../spool; echo more; sleep 0.3; echo end",
        End::Somehow,
    ),
    attack(
        "its spool garbled",
        "echo one; sleep 0.3; printf garbage | dd of=../spool conv=notrunc 2>&1; sleep 0.3; echo two",
        End::Somehow,
    ),
    with_restart(attack(
        "its spool garbled over a restart",
        "for i in 1 2 3; do echo $i; sleep 0.3; done; printf garbage | dd of=../spool bs=1 seek=30 conv=notrunc 2>&1; echo ready; sleep 1",
        End::Somehow,
    )),
    attack(
        "a flood of output",
        "yes $(head -c 999 /dev/zero | tr '\\0' y) | head -c 80000000",
        End::Well,
    ),
];

/// A program that sleeps, and a number by which it is known.
pub(crate) fn sleeper(n: usize) -> String {
    format!("sleep 98765{n:03}")
}

/// Processes with these words on their command line, dead ones left out.
pub(crate) fn running(words: &str) -> Vec<i32> {
    let wanted: Vec<u8> = words
        .bytes()
        .map(|b| if b == b' ' { 0 } else { b })
        .collect();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let runs = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(&wanted) && is_alive(*pid)
    };
    pids.filter(runs).collect()
}

/// The daemon's children that are dead and wait for its notice.
fn zombies_of(pid: i32) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut words = rest.split_whitespace();
        words.next() == Some("Z") && words.next() == Some(&pid.to_string())
    };
    stats.filter(is_one).count()
}

/// Kills the daemon, and starts it again after a while.
pub(crate) async fn restart(fake: &Fake, daemon: &mut Daemon, after: Duration) {
    let sessions = fake.state().hellos.len();
    daemon.kill_9();
    tokio::time::sleep(after).await;
    daemon.start_again();
    fake.until("a new session", |state| state.hellos.len() > sessions)
        .await;
}

pub(crate) async fn neighbour(fake: &Fake, key: Key) {
    Assigned::new(key, shell("echo fine"))
        .started()
        .tell(fake)
        .await;
    assert!(
        matches!(fake.until_ended(key).await, Body::Finished(_)),
        "a job beside it fails"
    );
    assert_eq!(fake.log(key), ["fine"]);
}

async fn attack_with(attack: &Attack, n: usize) {
    let fake = Fake::start().await;
    let place = Place {
        unprivileged: true,
        ..Place::default()
    };
    let mut daemon = Daemon::start_at(&fake, &[], Vec::new(), place);
    let sleeper = sleeper(n);
    let script = attack.script.replace("SLEEP", &sleeper);
    Assigned::new(KEY, shell(&script))
        .started()
        .tell(&fake)
        .await;
    if attack.restart {
        fake.until("the attack", |s| {
            format!("{:?}", s.reports.get(&KEY)).contains("ready")
        })
        .await;
        let is_alone = attack.name.contains("no daemon");
        let after = Duration::from_millis(if is_alone { 1_500 } else { 0 });
        restart(&fake, &mut daemon, after).await;
    }
    // While the attack goes on, and when it is over.
    neighbour(&fake, (1, 1, 0)).await;
    if attack.end == End::Cancelled {
        stop(&fake, KEY, 200, false).await;
    }
    let end = fake.until_ended(KEY).await;
    assert_eq!(
        running(&sleeper),
        [] as [i32; 0],
        "what counts as ended runs"
    );
    match (attack.end, &end) {
        (End::Well, Body::Finished(_)) | (End::Cancelled, Body::Stopped(_)) => {}
        (End::Somehow, Body::Finished(_) | Body::Failed(_)) => {}
        (End::Failed(class, words), Body::Failed(failed)) => {
            let failure = failed.failure.clone().unwrap();
            assert_eq!(failure.class(), class, "{failure:?}");
            assert!(failure.message.contains(words), "{failure:?}");
        }
        (expected, other) => panic!("{expected:?} expected, and it was {other:?}"),
    }
    neighbour(&fake, (2, 1, 0)).await;
    fake.until_nothing_is_held().await;
    until("the folder to go", || !daemon.rank_dir(KEY).exists()).await;
    let pid = daemon.pid();
    until("the dead to be buried", || zombies_of(pid) == 0).await;
    restart(&fake, &mut daemon, Duration::ZERO).await;
    neighbour(&fake, (3, 1, 0)).await;
    fake.until_nothing_is_held().await;
    let attempts = daemon.data().join("attempts");
    let left = || fs::read_dir(&attempts).unwrap().count();
    until("all folders to go", || left() == 0).await;
}

/// A test for each part of the table, so that they run side by side.
macro_rules! attacks {
    ($($name:ident: $range:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for (n, attack) in ATTACKS.iter().enumerate().filter(|(n, _)| $range.contains(n)) {
                eprintln!("attack: {}", attack.name);
                attack_with(attack, n).await;
            }
        }
    )*};
}

attacks! {
    what_a_job_leaves_behind_harms_nobody: (0..6);
    what_a_job_does_to_processes_leaves_none: (6..11);
    what_a_job_does_to_its_keeper_ends_with_it: (11..15);
    what_a_job_does_to_the_files_of_its_rank_stays_there: (15..21);
    what_a_job_does_to_its_spool_costs_itself_alone: (21..99);
}
