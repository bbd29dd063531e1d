//! A worker whose disk is full: jobs can be cancelled, ends are told as they were, and the rest goes on when
//! there is room again.

use std::fs;
use std::process::{Command, Stdio};

use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, Place, eval, is_root, shell, stop, until};
use crate::fake::{Fake, Key, manifest};

const KEY: Key = (28, 1, 0);
const DISK_BYTES: u64 = 24 << 20;
/// Fills the disk to its last byte, and says so.
const FILL: &str = "cat /dev/zero > filler 2>/dev/null; cat /dev/zero > rest 2>/dev/null";

/// A daemon on a small disk of its own. None where this host lets nobody mount one.
fn start(fake: &Fake) -> Option<Daemon> {
    let rights: &[&str] = if is_root() { &["-m"] } else { &["-r", "-m"] };
    let mut probe = Command::new("unshare");
    probe
        .args(rights)
        .args(["sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]);
    let can = probe.stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("no disk of its own can be mounted on this host");
        return None;
    }
    let place = Place {
        disk_bytes: Some(DISK_BYTES),
        ..Place::default()
    };
    Some(Daemon::start_at(fake, &[], Vec::new(), place))
}

async fn until_full(daemon: &Daemon) {
    let data = daemon.seen_data();
    until("the disk to fill", || {
        nix::sys::statvfs::statvfs(&data).is_ok_and(|disk| disk.blocks_available() < 4)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fills_the_disk_is_cancelled_at_once() {
    let fake = Fake::start().await;
    let Some(daemon) = start(&fake) else { return };
    let script =
        format!("echo begun; {FILL}; while :; do echo on and on; {FILL}; sleep 0.05; done");
    Assigned::new(KEY, shell(&script))
        .started()
        .tell(&fake)
        .await;
    fake.until_running(KEY).await;
    until_full(&daemon).await;
    stop(&fake, KEY, 500, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
    fake.until_nothing_is_held().await;
    // Its room is free again, once its folder is gone under the other name that it is removed by, too.
    until("its folder to go", || {
        let attempts = fs::read_dir(daemon.seen_data().join("attempts"));
        attempts.is_ok_and(|mut left| left.next().is_none())
    })
    .await;
    Assigned::new((29, 1, 0), shell("echo fine"))
        .started()
        .tell(&fake)
        .await;
    assert!(matches!(
        fake.until_ended((29, 1, 0)).await,
        Body::Finished(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ended_well_on_a_full_disk_ended_well() {
    let fake = Fake::start().await;
    let Some(_daemon) = start(&fake) else { return };
    let script = format!("{FILL}; echo full; exit 0");
    Assigned::new(KEY, shell(&script))
        .started()
        .tell(&fake)
        .await;
    let Body::Finished(_) = fake.until_ended(KEY).await else {
        panic!("not finished")
    };
    fake.until_nothing_is_held().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_failed_for_want_of_room_says_so() {
    let fake = Fake::start().await;
    let Some(_daemon) = start(&fake) else { return };
    let script = "head -c 100000000 /dev/zero > filler || { echo 'so sorry' >&2; exit 3; }";
    Assigned::new(KEY, shell(script))
        .started()
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::DiskFull, "{failure:?}");
    assert!(
        failure.message.contains("status 3") && failure.message.contains("make room"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_ours_loses_no_word_to_a_full_disk() {
    let fake = Fake::start().await;
    let Some(daemon) = start(&fake) else { return };
    daemon.install(
        "marquee-trainer",
        &format!(
            "cd $(dirname $2)/work; {FILL}
            echo '{{\"event\":\"finished\",\"summary\":{{\"n\":3}}}}' >&$MARQUEE_EVENTS_FD || exit 9
            exit 0"
        ),
    );
    // What a shell cannot do, the channel of marquee-prep and marquee-trainer does: it tries again. Here room
    // was kept by a first word.
    Assigned::new(KEY, eval()).started().tell(&fake).await;
    let end = fake.until_ended(KEY).await;
    assert!(
        matches!(end, Body::Finished(_) | Body::Failed(_)),
        "{end:?}"
    );
    if let Body::Failed(failed) = end {
        assert_eq!(failed.failure.unwrap().class(), FailureClass::DiskFull);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_the_disk_has_no_room_for_is_refused_with_its_cure() {
    let fake = Fake::start().await;
    let Some(daemon) = start(&fake) else { return };
    let script = format!("{FILL}; sleep 1000");
    Assigned::new(KEY, shell(&script))
        .started()
        .tell(&fake)
        .await;
    fake.until_running(KEY).await;
    until_full(&daemon).await;
    let key = (29, 1, 0);
    Assigned::new(key, shell("true"))
        .started()
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended(key).await else {
        panic!("not failed")
    };
    assert_eq!(failed.failure.unwrap().class(), FailureClass::DiskFull);
    stop(&fake, KEY, 0, false).await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Stopped(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_would_take_the_last_room_is_refused_before_a_byte_is_taken() {
    let fake = Fake::start().await;
    let Some(_daemon) = start(&fake) else { return };
    let input = manifest(vec![fake.put("a", &vec![7; 1 << 20])]);
    Assigned::new(KEY, shell("true"))
        .input("data", input)
        .started()
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended(KEY).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::DiskFull, "{failure:?}");
    assert!(
        failure.message.contains("268435456 stay free"),
        "{failure:?}"
    );
    assert!(
        fake.state().downloads.is_empty(),
        "not a byte was asked for"
    );
}
