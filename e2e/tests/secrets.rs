//! A secret on its way from the command line into a job's environment, looked for everywhere else.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::TestCluster;

const DEADLINE: Duration = Duration::from_secs(60);
/// Nothing else on this machine holds it.
const VALUE: &str = "s3cret-7c1f0e5b9a-of-a-job";

/// The job proves that it has the secret, and shows no more than its length and its end.
const PROGRAM: &str = r#"
import os, time
def say(when):
    value = os.environ["HF_TOKEN"]
    print(when, len(value), value[-5:], "HF_OTHER" in os.environ, flush=True)
say("has")
while not os.path.exists(os.environ["GO"]):
    time.sleep(0.05)
say("still has")
open(os.path.join(os.environ["MARQUEE_OUTPUT"], "done"), "w").write("yes")
"#;

fn set(cluster: &TestCluster, name: &str, value: &str) -> Result<String> {
    let words = ["secret", "set", name, "--project", "default"];
    let mut child = cluster
        .cli_command(&words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(format!("{value}\n").as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// Every file below a folder that holds the value: logs, spools, specs, the database with its log, artifacts.
fn files_with_it(folder: &Path) -> Result<String> {
    // What goes meanwhile holds nothing, and is no reason to fail.
    let found = Command::new("grep")
        .args(["-r", "-l", "-a", "-s", "-F", "-D", "skip", "-e", VALUE])
        .arg(folder)
        .output()?;
    Ok(String::from_utf8(found.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_its_job_and_is_found_nowhere_else() -> Result<()> {
    let mut cluster = TestCluster::start_with_secrets(1).await?;
    let mut said = set(&cluster, "HF_TOKEN", VALUE)?;
    said += &set(&cluster, "HF_OTHER", "another")?;
    let go = cluster.folder().join("go");
    let document = format!(
        "name = \"s\"\n[jobs.one]\nkind = \"command\"\nsecrets = [\"HF_TOKEN\"]\nenv = {{ GO = {go:?} }}\nargv = [\"python3\", \"-c\", '''{PROGRAM}''']\n"
    );
    let submitted = cluster.submit("secrets", &document, &[]).await?;
    let job = submitted.jobs[0].id;
    let since = Instant::now();
    while !cluster.log_of(job).await?.contains("has 26") {
        ensure!(since.elapsed() < DEADLINE, "{}", cluster.log_of(job).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is there to be found: in the environment of the one process that may have it.
    let has_it = |pid: i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(VALUE)
    };
    let own = cluster.workers()[0].children();
    let with_it: Vec<_> = own.iter().filter(|child| has_it(child.pid)).collect();
    assert_eq!(with_it.len(), 1, "{own:?}");
    assert!(with_it[0].command.contains("python3"), "{with_it:?}");
    assert_eq!(files_with_it(cluster.folder())?, "");
    // A daemon that was killed does not have to ask again: the child has it.
    cluster.worker(0).kill_daemon()?;
    cluster.restart_worker(0)?;
    cluster.wait_online(1).await?;
    std::fs::write(&go, "")?;
    cluster.wait_success(job, DEADLINE).await?;
    let log = cluster.log_of(job).await?;
    assert!(log.contains("has 26 a-job False"), "{log}");
    assert!(log.contains("still has 26 a-job False"), "{log}");
    // All that the command line shows of it, and all that was written.
    let number = job.to_string();
    for words in [
        &["show", &number, "--output", "json"][..],
        &["show", &number],
        &["explain", &number],
        &["logs", &number],
        &["jobs", "--output", "json"],
        &["secret", "list", "--output", "json"],
        &["secret", "list"],
        &["audit", "log", "--all", "--output", "json"],
        &["admin", "settings"],
    ] {
        let output = cluster.cli(words)?;
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    assert!(
        said.contains("HF_TOKEN") && said.contains("secret_set"),
        "{said}"
    );
    assert!(!said.contains(VALUE), "{said}");
    assert_eq!(files_with_it(cluster.folder())?, "");
    // One that is not there is refused with what to do; one that is removed is gone.
    let removed = cluster.cli(&[
        "secret",
        "remove",
        "HF_TOKEN",
        "--project",
        "default",
        "--yes",
    ])?;
    ensure!(removed.status.success(), "{removed:?}");
    let file = cluster.folder().join("again.toml");
    std::fs::write(&file, &document)?;
    let refused = cluster.cli_command(&["submit"]).arg(&file).output()?;
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("marquee secret set HF_TOKEN"), "{refused}");
    Ok(())
}
