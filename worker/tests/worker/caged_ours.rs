//! `marquee-prep` and `marquee-trainer` under accounts of their own: what the worker reads of them while they run, what
//! their attempts leave each other, and what is seen of one that hangs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use marquee_domain::spec::{FetchSettings, LabelRules, OnDisconnect, Source, Watch, Work};
use marquee_proto::v1::report::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cage::{daemon, owner, processes};
use crate::cage_host::{CageHost, JOBS, WORKER};
use crate::daemon::{Assigned, Daemon, eval, is_alive, start, stop, until};
use crate::fake::{Fake, Key, manifest};

const KEY: Key = (91, 1, 0);
/// The last word of a program of ours that did its work.
const DONE: &str = "echo '{\"event\":\"finished\",\"summary\":{}}' >&$MARQUEE_EVENTS_FD";

fn fetch() -> Work {
    Work::Fetch(FetchSettings {
        source: Source::Folder {
            path: "/nowhere".into(),
            rules: LabelRules::default(),
        },
        licence: None,
        retention_days: None,
    })
}

async fn gone(daemon: &Daemon) {
    until("the ranks' folders to go", || {
        let mut left = fs::read_dir(daemon.data().join("attempts")).unwrap();
        left.next().is_none()
    })
    .await;
}

fn says(fake: &Fake, text: &str) -> bool {
    fake.log(KEY).iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_is_read_while_it_runs_and_looked_at_when_it_hangs_and_leaves_with_a_checkpoint()
{
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let mut daemon = daemon(&fake, &host, &[]);
    let script = r#"
        dir=$(dirname $2)
        grep -q '"threads": 3' $2 || exit 2
        echo "as $(id -un), in a group of $(id -Gn | wc -w), with $(cat $MARQUEE_INPUT_DATA/a)"
        echo resumed from $(cat $(sed -n 's/.*"resume": "\(.*\)",/\1/p' $2)/position)
        save() {
            mkdir $dir/checkpoints/$1; printf W$1 > $dir/checkpoints/$1/weights
            echo '{"event":"checkpoint","step":'$1',"path":"'$dir/checkpoints/$1'"}' >> /proc/self/fd/$MARQUEE_EVENTS_FD
        }
        trap 'save 9; exit 75' TERM
        trap 'printf "thread 1 (main)\n#0 all_reduce\n-- end --\n" > $MARQUEE_PULSE_FILE.stacks' USR2
        word() { printf '\0\0\0\0\0\0\0'; }
        { printf MQPULSE1; printf '\1'; word; printf '\5'; word; printf '\5'; word; printf '\0'; word
          printf '\1'; word; printf '\0'; word; printf '\0'; word; } > $MARQUEE_PULSE_FILE
        save 7
        # The worker stores it, and removes it.
        while [ -e $dir/checkpoints/7 ]; do sleep 0.05; done
        echo removed
        while :; do sleep 0.1; done"#;
    daemon.install("marquee-trainer", script);
    let watch = Watch {
        hang_after_s: Some(1),
        step_timeout_s: None,
        on_disconnect: OnDisconnect::Keep,
    };
    let input = manifest(vec![fake.put("a", b"given")]);
    let mut job = Assigned::new(KEY, eval())
        .watched(watch)
        .input("data", input);
    job.resume = Some((3, manifest(vec![fake.put("position", b"step 3")])));
    job.started().tell(&fake).await;
    fake.until("its checkpoint to be stored and removed", |state| {
        format!("{:?}", state.reports.get(&KEY)).contains("removed")
    })
    .await;
    assert!(says(&fake, "as marquee-job-0, in a group of "));
    assert!(says(&fake, "with given") && says(&fake, "resumed from step 3"));
    let (keeper, child) = processes(&daemon, KEY);
    assert_eq!((owner(keeper), owner(child)), (WORKER, JOBS));
    // A daemon that was killed finds it again, and still sees what it is at.
    daemon.kill_9();
    daemon.start_again();
    fake.until("that it hangs", |state| {
        let stall = state.held.iter().find_map(|rank| rank.stall.as_ref());
        stall.is_some_and(|stall| stall.phase == "all-reduce" && !stall.process.is_empty())
    })
    .await;
    fake.until("its stacks", |state| {
        format!("{:?}", state.reports.get(&KEY)).contains("#0 all_reduce")
    })
    .await;
    assert!(says(&fake, "hang: it has made no progress for"));
    assert!(says(&fake, "(marquee-trainer)"), "its threads");
    // What a signal holds up is told from what only waits.
    kill(Pid::from_raw(child), Signal::SIGSTOP).unwrap();
    fake.until("that a signal holds it up", |state| {
        let stall = state.held.iter().find_map(|rank| rank.stall.as_ref());
        stall.is_some_and(|stall| stall.is_stopped)
    })
    .await;
    kill(Pid::from_raw(child), Signal::SIGCONT).unwrap();
    stop(&fake, KEY, 60_000, false).await;
    let end = fake.until_ended(KEY).await;
    assert!(matches!(end, Body::Stopped(_)), "{end:?}");
    let saved = fake.bodies(KEY).into_iter().filter_map(|body| match body {
        Body::Checkpoint(saved) => Some((saved.step, fake.files(&saved.manifest.unwrap()))),
        _ => None,
    });
    let weights = |step: &str| BTreeMap::from([("weights".to_owned(), format!("W{step}"))]);
    assert_eq!(
        saved.collect::<Vec<_>>(),
        [(7, weights("7")), (9, weights("9"))]
    );
    assert!(!is_alive(keeper) && !is_alive(child));
    assert_eq!(host.cgroups(), Vec::<PathBuf>::new());
    gone(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_of_a_gang_meet_at_a_store_of_their_account_and_share_memory() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let daemon = daemon(&fake, &host, &[]);
    let script = r#"
        if [ "$1" = store ]; then
            echo '{"event":"listening","host":"127.0.0.1","port":4711}'
            exec sleep 1006
        fi
        mine=/dev/shm/marquee-caged-$MARQUEE_JOB-$RANK; other=/dev/shm/marquee-caged-$MARQUEE_JOB-$((1 - RANK))
        umask 077; echo from $RANK > $mine.new; mv $mine.new $mine
        while [ ! -e $other ]; do sleep 0.05; done
        cat $other > $MARQUEE_OUTPUT/heard; cat $other
        rm $other"#;
    daemon.install("marquee-trainer", &format!("{script}\n{DONE}"));
    let keys = [(92, 1, 0), (92, 1, 1)];
    for key in keys {
        let mut job = Assigned::new(key, eval());
        (job.world_size, job.hosts_rendezvous) = (2, key.2 == 0);
        job.tell(&fake).await;
    }
    let rendezvous = fake.until_prepared(keys[0]).await.unwrap();
    fake.until_prepared(keys[1]).await;
    let claim = daemon.rank_dir(keys[0]).join("store/claim-2.json");
    let store = || {
        let claim: serde_json::Value = serde_json::from_slice(&fs::read(&claim).ok()?).ok()?;
        i32::try_from(claim["child"].as_i64()?).ok()
    };
    // The first was fenced off by who looked for one. It may listen before its keeper has written down who it is.
    until("the store's claim", || store().is_some()).await;
    let store = store().unwrap();
    assert_eq!(owner(store), JOBS);
    for key in keys {
        start(&fake, key, Some(rendezvous.clone())).await;
    }
    for (key, heard) in keys.into_iter().zip(["from 1", "from 0"]) {
        let end = fake.until_ended(key).await;
        assert!(matches!(end, Body::Finished(_)), "{end:?}");
        assert_eq!(fake.log(key), [heard]);
    }
    // A rank that did its work leaves the store to its peers, until it is told that all have ended.
    for key in keys {
        stop(&fake, key, 0, true).await;
    }
    gone(&daemon).await;
    until("the store to end", || !is_alive(store)).await;
    assert_eq!(host.cgroups(), Vec::<PathBuf>::new());
}

/// The folder that attempts at a fetch share, whoever they ran as.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_the_attempt_before_it_was_also_under_another_account() {
    let Some(host) = CageHost::make() else { return };
    let fake = Fake::start().await;
    let mut daemon = daemon(&fake, &host, &[("MARQUEE_WORKER__CAGE", "off")]);
    let script = r#"
        scratch=$(sed -n 's/.*"scratch": "\(.*\)",/\1/p' $2)
        [ "$(id -un)" = marquee-worker ] && umask 077
        mkdir -p $scratch/.journal
        echo $MARQUEE_ATTEMPT as $(id -un) >> $scratch/.journal/log || exit 1
        ln $scratch/.journal/log $MARQUEE_OUTPUT/log || exit 1
        cp $scratch/.journal/log $scratch/.journal/aside && mv $scratch/.journal/aside $scratch/.journal/log
        cat $scratch/.journal/log"#;
    daemon.install("marquee-prep", &format!("{script}\n{DONE}"));
    let attempt = async |number: u32| {
        let key = (93, number, 0);
        Assigned::new(key, fetch()).started().tell(&fake).await;
        let end = fake.until_ended(key).await;
        assert!(
            matches!(end, Body::Finished(_)),
            "{end:?} {:?}",
            fake.log(key)
        );
        fake.log(key)
    };
    fake.until("a session", |state| !state.hellos.is_empty())
        .await;
    assert_eq!(attempt(1).await, ["1 as marquee-worker"]);
    let restart = async |daemon: &mut Daemon, cage| {
        daemon.kill_9();
        let sessions = fake.state().hellos.len();
        daemon.set_env("MARQUEE_WORKER__CAGE", cage);
        daemon.start_again();
        fake.until("a new session", |state| state.hellos.len() > sessions)
            .await;
    };
    restart(&mut daemon, "on").await;
    let words = ["1 as marquee-worker", "2 as marquee-job-0"];
    assert_eq!(attempt(2).await, words);
    assert_eq!(attempt(3).await[1..], [words[1], "3 as marquee-job-0"]);
    let scratch = daemon.data().join("scratch");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(&scratch), mode(&scratch.join("93-0"))),
        (0o711, 0o770)
    );
    // Where command jobs alone have accounts, nothing is gone on from that such an account could have prepared.
    restart(&mut daemon, "commands").await;
    assert_eq!(attempt(4).await, ["4 as marquee-worker"]);
    assert_eq!(mode(&scratch.join("93-0")), 0o700);
}
