//! Inputs: verified, fetched once, kept within a limit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use marquee_domain::artifact::Manifest;
use marquee_proto::v1::FailureClass;
use marquee_proto::v1::report::Body;

use crate::daemon::{Assigned, Daemon, shell, start, stop};
use crate::fake::{Fake, Key, manifest};

async fn prepared(fake: &Fake, key: Key, input: &Manifest) {
    let assigned = Assigned::new(key, shell("cat $MARQUEE_INPUT_DATA/* | wc -c"));
    assigned.input("data", input.clone()).tell(fake).await;
    fake.until_prepared(key).await;
}

async fn finished(fake: &Fake, key: Key, input: &Manifest) {
    prepared(fake, key, input).await;
    start(fake, key, None).await;
    assert!(matches!(fake.until_ended(key).await, Body::Finished(_)));
    fake.until_nothing_is_held().await;
}

fn folder(daemon: &Daemon, input: &Manifest) -> PathBuf {
    daemon
        .data()
        .join("cache/artifacts")
        .join(input.digest().as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_blob_is_refused_and_never_seen() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let input = manifest(vec![fake.put("a", b"genuine"), fake.put("b", b"other")]);
    let digest = input.files[0].digest.to_string();
    fake.change(|state| *state.blobs.get_mut(&digest).unwrap() = b"altered".to_vec());
    let key = (1, 1, 0);
    Assigned::new(key, shell("true"))
        .input("data", input.clone())
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended(key).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::BadInput);
    assert!(
        failure.message.contains("\"a\"") && failure.message.contains("damaged"),
        "{}",
        failure.message
    );
    assert!(!folder(&daemon, &input).exists());
    assert_eq!(
        fake.state()
            .downloads
            .iter()
            .filter(|(d, _)| *d == digest)
            .count(),
        3
    );

    let mended = b"genuine".to_vec();
    fake.change(|state| *state.blobs.get_mut(&digest).unwrap() = mended);
    finished(&fake, (1, 2, 0), &input).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_of_one_host_share_one_download_and_cannot_change_it() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    // The same bytes under two names travel once.
    let input = manifest(vec![
        fake.put("a", &[1; 300_000]),
        fake.put("sub/b", &[1; 300_000]),
    ]);
    for rank in 0..3 {
        let mut assigned = Assigned::new((1, 1, rank), shell("true")).input("data", input.clone());
        assigned.world_size = 3;
        assigned.tell(&fake).await;
    }
    for rank in 0..3 {
        fake.until_prepared((1, 1, rank)).await;
    }
    assert_eq!(fake.state().downloads.len(), 1);
    for file in ["a", "sub/b"] {
        let path = folder(&daemon, &input).join(file);
        assert_eq!(fs::read(&path).unwrap(), [1; 300_000]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o222, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_was() {
    let fake = Fake::start().await;
    let _daemon = Daemon::start(&fake, &[]);
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let input = manifest(vec![fake.put("a", &bytes)]);
    fake.change(|state| state.break_after = Some(600_000));
    finished(&fake, (1, 1, 0), &input).await;
    let offsets: Vec<u64> = fake
        .state()
        .downloads
        .iter()
        .map(|(_, offset)| *offset)
        .collect();
    assert_eq!(offsets.len(), 2);
    assert!(offsets[1] > 0 && offsets[1] <= 600_000, "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_the_daemon_was_killed() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &[]);
    let input = manifest(vec![fake.put("a", &[3; 800_000])]);
    fake.change(|state| state.stall_after = Some(524_288));
    let key = (1, 1, 0);
    Assigned::new(key, shell("true"))
        .input("data", input.clone())
        .tell(&fake)
        .await;
    let part = daemon
        .data()
        .join("cache/incoming")
        .join(format!("{}.parts", input.digest()));
    let part = part.join(input.files[0].digest.as_str());
    crate::daemon::until("half of it", || {
        fs::metadata(&part).is_ok_and(|m| m.len() == 524_288)
    })
    .await;
    daemon.kill_9();
    fake.change(|state| state.stall_after = None);
    daemon.start_again();
    fake.until_prepared(key).await;
    assert_eq!(fake.state().downloads.last().unwrap().1, 524_288);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_someone_changed_is_fetched_again() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let input = manifest(vec![fake.put("a", b"genuine")]);
    finished(&fake, (1, 1, 0), &input).await;
    finished(&fake, (2, 1, 0), &input).await;
    assert_eq!(fake.state().downloads.len(), 1, "the second one found it");
    let path = folder(&daemon, &input).join("a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"altered").unwrap();
    finished(&fake, (3, 1, 0), &input).await;
    assert_eq!(fake.state().downloads.len(), 2);
    assert_eq!(fs::read(&path).unwrap(), b"genuine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_reads_an_artifact_never_misses_it_while_it_is_fetched_again() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&fake, &[]);
    let input = manifest(vec![fake.put("a", &[7; 600_000])]);
    let reader = (1, 1, 0);
    let script = "while cat $MARQUEE_INPUT_DATA/a > /dev/null; do :; done; exit 7";
    let assigned = Assigned::new(reader, shell(script)).input("data", input.clone());
    assigned.tell(&fake).await;
    fake.until_prepared(reader).await;
    start(&fake, reader, None).await;
    let path = folder(&daemon, &input).join("a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"altered").unwrap();
    // It takes a while: the first download breaks.
    fake.change(|state| state.break_after = Some(300_000));
    let other = (2, 1, 0);
    prepared(&fake, other, &input).await;
    assert_eq!(fake.state().downloads.len(), 3);
    assert_eq!(fs::read(&path).unwrap(), [7; 600_000]);
    stop(&fake, other, 0, false).await;
    fake.until_ended(other).await;
    stop(&fake, reader, 0, false).await;
    let end = fake.until_ended(reader).await;
    assert!(matches!(end, Body::Stopped(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_artifact_makes_room_but_never_one_in_use() {
    let fake = Fake::start().await;
    let mut daemon = Daemon::start(&fake, &["--cache-max-bytes=2500"]);
    let inputs: Vec<Manifest> = (0..4_u8)
        .map(|n| manifest(vec![fake.put("f", &[n; 1000])]))
        .collect();
    let present = |daemon: &Daemon| -> Vec<bool> {
        inputs
            .iter()
            .map(|input| folder(daemon, input).exists())
            .collect()
    };
    finished(&fake, (1, 1, 0), &inputs[0]).await;
    finished(&fake, (2, 1, 0), &inputs[1]).await;
    // Used again: now the other one is the oldest, also for a daemon that was started anew.
    finished(&fake, (3, 1, 0), &inputs[0]).await;
    daemon.kill_9();
    daemon.start_again();
    fake.until("a second session", |state| state.hellos.len() == 2)
        .await;
    finished(&fake, (4, 1, 0), &inputs[2]).await;
    assert_eq!(present(&daemon), [true, false, true, false]);

    prepared(&fake, (5, 1, 0), &inputs[0]).await;
    prepared(&fake, (6, 1, 0), &inputs[2]).await;
    Assigned::new((7, 1, 0), shell("true"))
        .input("data", inputs[3].clone())
        .tell(&fake)
        .await;
    let Body::Failed(failed) = fake.until_ended((7, 1, 0)).await else {
        panic!("not failed")
    };
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class(), FailureClass::DiskFull);
    assert!(
        failure.message.contains("raise cache_max_bytes"),
        "{}",
        failure.message
    );
    assert_eq!(present(&daemon), [true, false, true, false]);

    stop(&fake, (5, 1, 0), 0, false).await;
    fake.until_ended((5, 1, 0)).await;
    prepared(&fake, (7, 2, 0), &inputs[3]).await;
    assert_eq!(present(&daemon), [false, false, true, true]);
}
