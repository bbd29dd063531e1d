//! Blobs that go, and what comes late; uploads that nobody goes on with.

use bytes::Bytes;
use chrono::TimeDelta;
use marquee_coordinator::blobs::BlobStore;
use marquee_coordinator::env::{Clock as _, SystemClock};
use marquee_domain::artifact::Digest;
use marquee_objects::testing::Fault;

use super::{PART, Site, bytes, is_missing, key_of, manifest, put, read, send, until_begun};

pub(super) async fn removal(site: &Site, leader: &BlobStore) {
    let all = [b"named" as &[u8], b"asked for", b"nobody's"];
    let mut digests = Vec::new();
    for one in all {
        digests.push(put(leader, one).await);
    }
    let old = leader
        .list_older(SystemClock.now() + TimeDelta::hours(1))
        .await
        .unwrap();
    assert!(digests.iter().all(|digest| old.contains(digest)));
    assert!(
        leader
            .list_older(SystemClock.now() - TimeDelta::days(2))
            .await
            .unwrap()
            .is_empty()
    );
    let checked = leader.check(&manifest(&digests[0], 5)).await.unwrap();
    let condemned = leader.condemn(&digests).await;
    assert!(!is_missing(leader, &digests[1]).await);
    let going = condemned.take_out(digests.clone()).await.unwrap();
    assert_eq!(going.digests(), &digests[2..]);
    assert!(
        is_missing(leader, &digests[2]).await,
        "from here on it is sent again"
    );
    // One that stands by reads it until it is gone.
    assert_eq!(
        read(&site.reader().await, &digests[0], 0).await.unwrap(),
        b"named"
    );
    assert_eq!(going.remove(digests[2..].to_vec()).await.unwrap(), (1, 8));
    drop(checked);
    let left = site.keys("blobs").await;
    assert!(left.iter().all(|key| !key.contains(digests[2].as_str())));

    // It is stored again: a delete of before that comes now, from one that was stopped in the middle, finds nothing.
    put(leader, b"nobody's").await;
    let (count, key) = key_of(site, &digests[2]).await;
    assert_eq!((count, key.ends_with(".1")), (1, true), "{key}");
    let first = key.trim_end_matches(".1").to_owned();
    site.raw().delete(vec![first]).await.unwrap();
    for store in [leader, &site.leader().await, &site.reader().await] {
        assert_eq!(read(store, &digests[2], 0).await.unwrap(), b"nobody's");
        assert!(!is_missing(store, &digests[2]).await);
    }

    // A leader is stopped after it has written down what is to go and before it asked whether it leads.
    let paused = site.leader().await;
    let condemned = paused.condemn(&digests[..1]).await;
    let going = condemned.take_out(digests[..1].to_vec()).await.unwrap();
    let successor = site.leader().await;
    // Something names it: it is put back at the successor's start.
    let known = successor.going();
    assert!(known.contains(&digests[0]) && known.contains(&digests[2]));
    assert!(is_missing(&successor, &digests[0]).await);
    successor
        .settle_going(vec![digests[0].clone(), digests[2].clone()])
        .await
        .unwrap();
    assert_eq!(read(&successor, &digests[0], 0).await.unwrap(), b"named");
    assert_eq!(read(&successor, &digests[2], 0).await.unwrap(), b"nobody's");
    // The one that was stopped is refused by the database, and removes nothing.
    assert_eq!(going.remove(Vec::new()).await.unwrap(), (0, 0));
    assert_eq!(read(&successor, &digests[0], 0).await.unwrap(), b"named");
    let next = site.leader().await;
    next.settle_going(vec![digests[0].clone()]).await.unwrap();
    assert_eq!(read(&next, &digests[0], 0).await.unwrap(), b"named");

    // What the successor does not see named it takes for gone, and what is stored then survives the late delete.
    let paused = site.leader().await;
    let condemned = paused.condemn(&digests[1..2]).await;
    let going = condemned.take_out(digests[1..2].to_vec()).await.unwrap();
    let successor = site.leader().await;
    assert!(is_missing(&successor, &digests[1]).await);
    put(&successor, b"asked for").await;
    assert_eq!(going.remove(digests[1..2].to_vec()).await.unwrap().0, 1);
    assert_eq!(
        read(&successor, &digests[1], 0).await.unwrap(),
        b"asked for"
    );
    assert_eq!(
        read(&site.leader().await, &digests[1], 0).await.unwrap(),
        b"asked for"
    );
    // A sweep of today's leaves what may be needed, however often it comes.
    for _ in 0..2 {
        successor
            .sweep(SystemClock.now() - TimeDelta::days(2))
            .await
            .unwrap();
    }
    assert_eq!(
        read(&site.leader().await, &digests[1], 0).await.unwrap(),
        b"asked for"
    );
}

pub(super) async fn orphans(site: &Site) {
    let leader = site.leader().await;
    let raw = site.raw();
    let orphan = raw.begin("blobs/aa/orphan").await.unwrap();
    let foreign = raw.begin("elsewhere").await.unwrap();
    let all = bytes(2 * PART);
    let mut other = all.clone();
    other[0] = 9;
    let digest = Digest::of(&other);
    drop(send(&leader, &digest, &other, 0, PART).await.unwrap());
    until_begun(&leader, &digest, PART).await;
    let begun = raw.unfinished("blobs").await.unwrap();
    let has = |upload: &str| begun.iter().any(|one| one.upload == upload);
    assert!(
        has(&orphan) && !has(&foreign) && begun.len() >= 2,
        "{begun:?}"
    );
    // What was begun within the time stays, and what has gone on within it. moto says of each that it is of 2010.
    let ago = SystemClock.now() - TimeDelta::days(2);
    for (begun, count) in [(SystemClock.now(), 0), (ago, 1)] {
        site.door.forget_seen();
        let begun = (begun - TimeDelta::minutes(1)).to_rfc3339();
        let list = format!(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>team-a/run.1/blobs/aa/x</Key><UploadId>odd</UploadId>\
             <Initiated>{begun}</Initiated></Upload></ListMultipartUploadsResult>"
        );
        site.door
            .rule("GET", "uploads=", 1, Fault::Answer(200, list));
        assert_eq!(leader.sweep(ago).await.unwrap(), count);
        assert_eq!(
            site.door.count("DELETE", "uploadId=odd"),
            usize::from(count > 0)
        );
    }
    let written = site.keys("uploads").await.len() as u64;
    let orphans = begun.len() as u64 - written;
    assert_eq!(leader.sweep(ago).await.unwrap(), orphans);
    assert_eq!(leader.begun(&digest).await.unwrap(), PART);
    let later = SystemClock.now() + TimeDelta::days(3);
    assert_eq!(leader.sweep(later).await.unwrap(), written);
    assert!(raw.unfinished("blobs").await.unwrap().is_empty());
    assert!(site.keys("uploads").await.is_empty());
    assert_eq!(leader.begun(&digest).await.unwrap(), 0);
    // Of removals so long ago only that blobs have other keys is left.
    let next = site.leader().await;
    for (digest, here) in [("nobody's", true), ("asked for", true), ("named", true)] {
        let digest = Digest::of(digest.as_bytes());
        assert_eq!(!is_missing(&next, &digest).await, here);
    }
    let going = next.going();
    assert_eq!(going.len(), 2, "{going:?}");
    // Who was told that it need not send a file counts on it: another process knows nothing of that.
    let next = site.leader().await;
    let removed = next.condemn(&[Digest::of(b"nobody's")]).await;
    let unnamed = vec![Digest::of(b"nobody's")];
    let removed = removed.take_out(unnamed.clone()).await.unwrap();
    assert_eq!(removed.remove(unnamed.clone()).await.unwrap(), (1, 8));
    next.sweep(later).await.unwrap();
    assert!(!site.leader().await.going().contains(&unnamed[0]));
    // Far from any late delete it has its first key again.
    put(&next, b"nobody's").await;
    let (count, key) = key_of(site, &unnamed[0]).await;
    assert_eq!(
        (count, key.ends_with(unnamed[0].as_str())),
        (1, true),
        "{key}"
    );
    // What lies elsewhere in the bucket is not ours.
    let part = vec![Bytes::from_static(b"x")];
    let part = raw.put_part("elsewhere", &foreign, 0, part).await.unwrap();
    assert!(part.is_some());
}
