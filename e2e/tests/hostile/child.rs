//! Hostile children: programs that turn on their worker, on its host and on other jobs. Each harms itself alone.

use anyhow::Result;
use marquee_proto::v1::JobState;

use super::{Site, command};

/// A program, how it ends, and what is said of it.
const ATTACKS: [(&str, &str, JobState, &str); 9] = [
    (
        "leaves-closed-folders",
        "mkdir -p a/b && touch a/b/c && chmod 000 a/b && chmod 500 a",
        JobState::Succeeded,
        "",
    ),
    (
        "leaves-processes",
        "i=0; while [ $i -lt 200 ]; do setsid sleep 600 & i=$((i + 1)); done",
        JobState::Succeeded,
        "",
    ),
    (
        "speaks-the-contract",
        "echo '{\"event\":\"metrics\",\"step\":18446744073709551615,\"values\":{\"x\":1}}'; echo '{\"event\":\"finished\",\"summary\":{}}'",
        JobState::Succeeded,
        "",
    ),
    (
        "prints-without-end-of-line",
        "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\033]0;owned\\007\\033[2J'",
        JobState::Succeeded,
        "",
    ),
    (
        "output-of-evil-names",
        "cd $MARQUEE_OUTPUT && touch \"$(printf 'a\\nb')\"",
        JobState::Failed,
        "control",
    ),
    (
        "output-that-leads-away",
        "ln -s /etc/passwd $MARQUEE_OUTPUT/passwd",
        JobState::Failed,
        "lies outside the output",
    ),
    (
        "output-of-pipes",
        "mkfifo $MARQUEE_OUTPUT/pipe",
        JobState::Failed,
        "pipe",
    ),
    (
        "kills-who-watches-it",
        "kill -9 $PPID; kill -STOP $PPID; exit 7",
        JobState::Failed,
        "",
    ),
    (
        "forges-its-end",
        "echo '{\"code\":0}' > ../exit-1.json; exit 9",
        JobState::Failed,
        "",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_children_harm_themselves_alone() -> Result<()> {
    let site = Site::start().await?;
    for (what, script, ends, said) in ATTACKS {
        let (state, message) = site.end_of(what, &command("attack", script, "")).await?;
        assert_eq!(state, ends, "{what}: {message}");
        assert!(message.contains(said), "{what}: {message}");
    }
    if has_landlock() {
        let id = "../../../worker-id";
        let script = format!("cat {id} || echo owned > {id}");
        let (state, message) = site
            .end_of("turns-on-its-worker", &command("attack", &script, ""))
            .await?;
        assert_eq!(state, JobState::Failed);
        assert!(message.contains("Permission denied"), "{message}");
        for worker in site.cluster.workers() {
            let id = std::fs::read_to_string(worker.data_dir.join("worker-id"))?;
            assert!(!id.contains("owned"), "{id}");
        }
    }
    site.all_is_well().await
}

/// Whether the kernel keeps children from their worker's files.
fn has_landlock() -> bool {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let known = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    modules.contains("landlock") || known.contains("landlock_create_ruleset")
}
