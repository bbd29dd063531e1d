//! The program itself: what it plays is the same in every process, and it finds nothing wrong.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::path::Path;
use std::process::Command;

/// Seeds whose worlds are compared.
const FIRST: u64 = 501;
const COUNT: u64 = 3;

fn play(folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_marquee-sim"))
        .args(["seeds", "--first", &FIRST.to_string()])
        .args(["--seeds", &COUNT.to_string(), "--timelines"])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{said}");
    text
}

#[test]
fn a_seed_gives_the_same_world_in_two_processes_and_nothing_is_wrong() {
    let folders = [(); 2].map(|()| marquee_postgres::fresh_folder().unwrap());
    for folder in &folders {
        let text = play(folder);
        assert!(text.contains("3 worlds, 0 wrong"), "{text}");
    }
    for seed in FIRST..FIRST + COUNT {
        let read = |folder: &std::path::PathBuf| {
            std::fs::read_to_string(folder.join(format!("{seed}.txt"))).unwrap()
        };
        let [first, second] = folders.each_ref().map(read);
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.lines().count(), second.lines().count(), "seed {seed}");
        for word in [
            "worker connected",
            "- child ",
            "was told after",
            "all is at rest",
        ] {
            assert!(first.contains(word), "seed {seed} has no {word:?}");
        }
    }
    for folder in folders {
        std::fs::remove_dir_all(folder).unwrap();
    }
}
