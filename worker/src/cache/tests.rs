//! The cache under ranks that want room at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

fn put(cache: &Cache, digest: &Digest, manifest: &Manifest) {
    let folder = cache.artifact_path(digest);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("f"), b"data").unwrap();
    let note = Note {
        manifest: manifest.clone(),
        modified_ns: vec![0],
    };
    // Without a sync, of which there would be hundreds.
    fs::write(cache.note_path(digest), serde_json::to_vec(&note).unwrap()).unwrap();
    let present = Present {
        bytes: manifest.size_bytes(),
        used: SystemTime::UNIX_EPOCH,
    };
    cache.index().present.insert(digest.clone(), present);
}

#[test]
fn what_a_rank_has_pinned_and_found_stays_however_fast_others_want_room() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 10).unwrap();
    let manifest = Manifest::new(vec![marquee_domain::artifact::FileEntry {
        path: "f".into(),
        size_bytes: 4,
        digest: Digest::of(b"data"),
    }])
    .unwrap();
    let (digest, other) = (manifest.digest(), Digest::of(b"other"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut evictions = 0;
            while evictions < 100 {
                put(&cache, &digest, &manifest);
                // While it is pinned there is no room for both.
                while cache.index().present.contains_key(&digest) {
                    if cache.reserve(&other, 8).is_ok() {
                        evictions += 1;
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            let pin = cache.pin(digest.clone());
            let is_here = cache.index().present.contains_key(&digest);
            for _ in 0..if is_here { 20 } else { 0 } {
                assert!(cache.artifact_path(&digest).join("f").exists());
                std::thread::yield_now();
            }
            drop(pin);
            // Else it would be pinned nearly always, and nothing evicted.
            std::thread::sleep(Duration::from_micros(100));
        }
    });
}
