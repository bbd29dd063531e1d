//! `marquee admin backup` with the programs themselves: what was copied to the desk is restored into an empty Postgres, and
//! whatever cuts a copy short leaves the one before, and nothing that looks whole.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::TestCluster;
use marquee_e2e::chaos::postgres::Postgres;
use marquee_e2e::process::{Daemon, bin_dir_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything that must happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// What the folder of a backup keeps whatever becomes of it.
const LOCK: &str = "backup.lock";
/// One job that leaves a file, and one that fails.
const TWO: &str = r#"
name = "kept"
[jobs.good]
kind = "command"
argv = ["sh", "-c", "echo said; echo made >$MARQUEE_OUTPUT/made.txt"]
[jobs.bad]
kind = "command"
argv = ["sh", "-c", "exit 3"]
"#;
const BIG_BYTES: u32 = 2 * 1024 * 1024;

/// Postgres' programs in a folder of their own. While the file `held` is in `folder`, its `pg_dump` says more than a part of a
/// stream holds, which is no dump, and then nothing more.
fn holdable(folder: &Path) -> Result<PathBuf> {
    let real = marquee_postgres::by_environment()?.folder;
    let tools = folder.join("tools");
    std::fs::create_dir_all(&tools)?;
    for entry in std::fs::read_dir(&real)? {
        let name = entry?.file_name();
        std::os::unix::fs::symlink(real.join(&name), tools.join(&name))?;
    }
    let real = real.display();
    let scripts = [
        // A link would lead to the folder of the others.
        ("postgres", format!("exec '{real}/postgres' \"$@\"")),
        (
            "pg_dump",
            format!(
                "case \"$*\" in *--version*) ;; *)\n\
                 if [ -e '{held}' ]; then head -c 600000 /dev/zero; while [ -e '{held}' ]; do sleep 0.1; done; exit 1; fi;;\n\
                 esac\nexec '{real}/pg_dump' \"$@\"",
                held = held(folder).display(),
            ),
        ),
    ];
    for (name, script) in scripts {
        let program = tools.join(name);
        std::fs::remove_file(&program)?;
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(tools)
}

fn held(folder: &Path) -> PathBuf {
    folder.join("held")
}

/// What lies directly in a folder; nothing where there is none.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Whether some of a dump has come.
fn has_half(copy: &Path) -> bool {
    let mut halves = names(copy)
        .into_iter()
        .filter(|name| name.ends_with(".partial"));
    halves.any(|name| {
        let half = std::fs::metadata(copy.join(name));
        half.is_ok_and(|half| half.len() > 0)
    })
}

/// Begins a copy, and gives it once some of the dump has come. Right after another one was cut short, the coordinator may not
/// know yet that nobody reads that any more.
fn begun(command: impl Fn() -> Command, copy: &Path) -> Result<Child> {
    let since = Instant::now();
    loop {
        let mut child = start(command())?;
        while child.try_wait()?.is_none() {
            if has_half(copy) {
                return Ok(child);
            }
            ensure!(since.elapsed() < SOON, "no dump comes: {:?}", names(copy));
            std::thread::sleep(Duration::from_millis(20));
        }
        refused(&child.wait_with_output()?, "is taking a backup");
        ensure!(since.elapsed() < SOON, "the one before is never over");
    }
}

/// Makes a copy to its end.
fn whole(cluster: &TestCluster, copy: &Path) -> Result<()> {
    let since = Instant::now();
    loop {
        let output = cluster.cli(&["admin", "backup", words(copy)])?;
        if output.status.success() {
            return Ok(());
        }
        refused(&output, "is taking a backup");
        ensure!(since.elapsed() < SOON, "the one before is never over");
    }
}

fn start(mut command: Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().context("starting marquee")
}

#[track_caller]
fn fine(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it did not refuse");
    assert!(error.contains(says), "{says:?}: {error}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `restore --check`, which reads all of it and needs no coordinator.
fn check(copy: &Path) -> Result<Output> {
    let program = bin_dir_with(&["marquee-coordinator"])?.join("marquee-coordinator");
    let mut command = Command::new(program);
    command.args(["restore", "--check"]).arg(copy);
    Ok(command.output()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_copied_to_the_desk_is_restored_into_an_empty_postgres_and_goes_on() -> Result<()>
{
    let mut cluster = TestCluster::start(1).await?;
    let submitted = cluster.submit("kept", TWO, &[]).await?;
    for job in &submitted.jobs {
        let ended = |detail: &marquee_proto::v1::JobDetail| {
            detail
                .job
                .as_ref()
                .is_some_and(|job| job.finished_at.is_some())
        };
        cluster.wait_job(job.id, "over", SOON, ended).await?;
    }
    let folder = cluster.folder().to_owned();
    let copy = folder.join("copy");
    let asked = ["show p1", "show p1/good", "show p1/bad", "artifacts ls"];
    let old = |line: &str| -> Result<Value> {
        let line: Vec<&str> = line.split(' ').chain(["--output", "json"]).collect();
        Ok(json(&fine(&cluster.cli(&line)?)))
    };
    let before: Vec<Value> = asked.iter().map(|line| old(line)).collect::<Result<_>>()?;
    let log = fine(&cluster.cli(&["logs", "p1/good"])?);
    let made = json(&fine(&cluster.cli(&[
        "--output",
        "json",
        "admin",
        "backup",
        words(&copy),
    ])?));
    assert_eq!(made["files"]["count"], 1, "{made}");
    // It is no part of that moment.
    cluster
        .submit(
            "later",
            "name = \"later\"\n[jobs.later]\nkind = \"command\"\nargv = [\"true\"]\n",
            &[],
        )
        .await?;
    cluster.worker(0).stop()?;
    cluster.kill_coordinator()?;

    let postgres = Postgres::make(&folder.join("pg"))?;
    let coordinator = |words: &[&str]| {
        let mut command = Command::new(cluster.bin().join("marquee-coordinator"));
        command
            .env("MARQUEE_COORDINATOR__DATABASE_URL", postgres.url())
            .env("MARQUEE_COORDINATOR__DATA_DIR", folder.join("restored"))
            .env("MARQUEE_COORDINATOR__LISTEN", "127.0.0.1:0")
            .args(words);
        command
    };
    let restore = || coordinator(&["restore", words(&copy)]).output();
    assert!(fine(&restore()?).contains("1 files, all as the manifest says"));
    refused(&restore()?, "has tables already");
    let mut daemon = Daemon::start(
        "restored",
        &mut coordinator(&[]),
        &folder.join("restored.log"),
    )?;
    let address = daemon.listening()?["address"].clone();
    let url = format!("http://{}", address.as_str().context("an address")?);
    let cli = |line: &str| -> Result<Output> {
        let mut command = Command::new(cluster.bin().join("marquee"));
        command.args(line.split(' ')).env("MARQUEE_ADDR", &url);
        Ok(command.env("NO_COLOR", "1").output()?)
    };
    for (line, before) in asked.iter().zip(&before) {
        let now = json(&fine(&cli(&format!("{line} --output json"))?));
        assert_eq!(now, *before, "{line}");
    }
    assert_eq!(fine(&cli("logs p1/good")?), log);
    let jobs = fine(&cli("jobs --output quiet")?);
    assert_eq!(jobs.lines().count(), 2, "{jobs}");
    let to = folder.join("got");
    fine(&cli(&format!(
        "artifacts get p1/good --to {}",
        to.display()
    ))?);
    assert_eq!(std::fs::read_to_string(to.join("made.txt"))?, "made\n");
    let verdict = json(&fine(&cli("audit verify --output json")?));
    assert_eq!(verdict["clean"], true, "{verdict}");
    // What was copied names the coordinator that led then: until its lease is over the new one stands by.
    let who = || -> Result<Value> { Ok(json(&fine(&cli("coordinators --output json")?))) };
    let restored = Instant::now();
    while who()?["leader"] != url.as_str() && restored.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(200));
    }
    let who = who()?;
    assert_eq!(who["leader"], url.as_str(), "{who}");

    // It takes work on, under numbers that nobody had.
    let mut worker = Command::new(cluster.bin().join("marquee-worker"));
    worker
        .env("MARQUEE_WORKER__COORDINATOR", &url)
        .env("MARQUEE_WORKER__NAME", "new")
        .env("MARQUEE_WORKER__DATA_DIR", folder.join("new"))
        .env("MARQUEE_WORKER__CPU_SLOTS", "1")
        .env("MARQUEE_WORKER__THREADS_PER_SLOT", "1");
    let _worker = Daemon::start("new worker", &mut worker, &folder.join("new.log"))?;
    let file = folder.join("next.toml");
    std::fs::write(
        &file,
        "name = \"next\"\n[jobs.next]\nkind = \"command\"\nargv = [\"true\"]\n",
    )?;
    let next = json(&fine(&cli(&format!(
        "submit {} --wait --output json",
        file.display()
    ))?));
    assert_eq!(next[0]["state"], "succeeded", "{next}");
    assert!(next[0]["id"].as_i64() > Some(2), "{next}");
    let verdict = json(&fine(&cli("audit verify --output json")?));
    assert_eq!(verdict["clean"], true, "{verdict}");
    Ok(())
}

/// Begins a copy, and sends it a signal in the middle of the dump.
fn cut_short(cluster: &TestCluster, copy: &Path, signal: Signal) -> Result<Output> {
    std::fs::write(held(cluster.folder()), "")?;
    let child = begun(
        || cluster.cli_command(&["admin", "backup", words(copy)]),
        copy,
    )?;
    kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
    let output = child.wait_with_output()?;
    std::fs::remove_file(held(cluster.folder()))?;
    Ok(output)
}

/// Its coordinator's `pg_dump` can be held up.
async fn holdable_cluster() -> Result<TestCluster> {
    let env = |folder: &Path| {
        let tools = holdable(folder)?.display().to_string();
        Ok(vec![(marquee_postgres::BIN_VARIABLE.to_owned(), tools)])
    };
    TestCluster::start_with(0, env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_cut_short_leaves_the_one_before_and_nothing_that_looks_whole() -> Result<()>
{
    let cluster = holdable_cluster().await?;
    let copy = cluster.folder().join("copy");
    // The first one ever.
    let output = cut_short(&cluster, &copy, Signal::SIGINT)?;
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    refused(&output, "holds no backup yet");
    assert_eq!(names(&copy), [LOCK]);
    refused(&check(&copy)?, "holds no finished backup");

    whole(&cluster, &copy)?;
    fine(&check(&copy)?);
    let before = names(&copy);
    assert_eq!(before.len(), 4, "lock, dump, list, manifest: {before:?}");
    let output = cut_short(&cluster, &copy, Signal::SIGTERM)?;
    refused(&output, "can be restored as before");
    assert_eq!(names(&copy), before);
    fine(&check(&copy)?);

    // Nobody tidies up after this: what is left is called what it is, and goes with the next one.
    cut_short(&cluster, &copy, Signal::SIGKILL)?;
    let left = names(&copy);
    let more: Vec<&String> = left.iter().filter(|name| !before.contains(name)).collect();
    assert!(more.len() == 1 && more[0].ends_with(".partial"), "{left:?}");
    fine(&check(&copy)?);
    whole(&cluster, &copy)?;
    fine(&check(&copy)?);
    let after = names(&copy);
    assert!(after.len() == 4 && after != before, "{after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_in_the_middle_of_a_dump_is_followed_by_the_next_one() -> Result<()> {
    let bin = bin_dir_with(&["marquee", "marquee-coordinator"])?;
    let folder = tempfile::Builder::new().prefix("mqb").tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let postgres = Postgres::make(&at("pg"))?;
    let coordinator = |name: &str, tools: Option<PathBuf>| -> Result<(Daemon, String)> {
        let mut command = Command::new(bin.join("marquee-coordinator"));
        command
            .env("MARQUEE_COORDINATOR__DATABASE_URL", postgres.url())
            .env("MARQUEE_COORDINATOR__DATA_DIR", at(name))
            .env("MARQUEE_COORDINATOR__ARTIFACTS_DIR", at("artifacts"))
            .env("MARQUEE_COORDINATOR__LISTEN", "127.0.0.1:0")
            .env("MARQUEE_COORDINATOR__TIMING__HEARTBEAT_EVERY_MS", "200")
            .env("MARQUEE_COORDINATOR__TIMING__POLL_EVERY_MS", "200")
            .envs(tools.map(|tools| (marquee_postgres::BIN_VARIABLE, tools)));
        let mut daemon = Daemon::start(name, &mut command, &at(&format!("{name}.log")))?;
        let address = daemon.listening()?["address"].clone();
        Ok((
            daemon,
            format!("http://{}", address.as_str().context("an address")?),
        ))
    };
    // The dump of the first one never ends by itself.
    std::fs::write(held(folder.path()), "")?;
    let (mut first, first_url) = coordinator("first", Some(holdable(folder.path())?))?;
    let (_second, second_url) = coordinator("second", None)?;
    let marquee = |addr: &str, line: &[&str]| {
        let mut command = Command::new(bin.join("marquee"));
        command
            .args(["--addr", addr, "--output", "json"])
            .args(line);
        command.env("NO_COLOR", "1");
        command
    };
    let copy = at("copy");
    let both = format!("{first_url},{second_url}");
    let child = begun(|| marquee(&both, &["admin", "backup", words(&copy)]), &copy)?;
    first.kill()?;
    let killed = Instant::now();
    let output = child.wait_with_output()?;
    let made = json(&fine(&output));
    eprintln!(
        "whole {:.1} s after the leader was killed",
        killed.elapsed().as_secs_f64()
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("lost the coordinator; trying again"),
        "{said}"
    );
    fine(&check(&copy)?);
    let left = names(&copy);
    assert_eq!(left.len(), 4, "of the first dump nothing is left: {left:?}");
    let dump = made["database"]["file"].as_str().context("a dump")?;
    assert!(left.iter().any(|name| name == dump), "{left:?}");
    // Both of them have handed something out, and both wrote that down before.
    let lines = marquee(&second_url, &["admin", "audit", "log", "--all"]).output()?;
    let lines = fine(&lines);
    let lines = lines.lines().map(json);
    assert_eq!(lines.filter(|line| line["what"] == "backed_up").count(), 2);
    std::fs::remove_file(held(folder.path()))?;
    Ok(())
}

/// On a small disk of its own: a copy, a job with a large file, a copy for which there is just no room, and one for which there
/// is again. What became of each lies in `$OUT`.
const FULL: &str = r#"
mount -t tmpfs -o size=64m,mode=0700 none "$DISK" || exit 1
backup() { "$MARQUEE" admin backup "$DISK/copy" >"$OUT/$1.said" 2>&1; echo $? >"$OUT/$1.code"; }
check() { "$COORDINATOR" restore --check "$DISK/copy" >>"$OUT/$1.said" 2>&1; echo $? >"$OUT/$1.check"; }
backup first
ls -A "$DISK/copy" >"$OUT/before"
"$MARQUEE" submit --wait "$OUT/big.toml" >&2
used=$(df -k --output=used "$DISK" | tail -n 1)
# The file fits, and the dump before it as well; both do not.
mount -o remount,size=$((used + BIG_KIB + 64))k "$DISK" || exit 1
df -k "$DISK" >&2
backup full; check full
ls -A "$DISK/copy" >"$OUT/after"
find "$DISK/copy/artifacts" -type f >"$OUT/files"
mount -o remount,size=64m "$DISK"
backup room; check room
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_desk_is_said_and_the_copy_of_before_stands() -> Result<()> {
    let probe = "mount -t tmpfs -o size=1m none /mnt";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", probe])
        .stderr(Stdio::null());
    if !unshare.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no disk of its own can be mounted on this host");
        return Ok(());
    }
    let cluster = TestCluster::start(1).await?;
    let out = cluster.folder().join("out");
    let disk = cluster.folder().join("disk");
    std::fs::create_dir_all(&out)?;
    std::fs::create_dir_all(&disk)?;
    let big = format!(
        "name = \"big\"\n[jobs.big]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"head -c {BIG_BYTES} /dev/urandom >$MARQUEE_OUTPUT/big\"]\n"
    );
    std::fs::write(out.join("big.toml"), big)?;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", FULL])
        .env("DISK", &disk)
        .env("OUT", &out)
        .env("BIG_KIB", (BIG_BYTES / 1024).to_string())
        .env("MARQUEE", cluster.bin().join("marquee"))
        .env("COORDINATOR", cluster.bin().join("marquee-coordinator"))
        .env("MARQUEE_ADDR", cluster.url())
        .env("NO_COLOR", "1")
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
    assert_eq!(text("first.code"), "0\n", "{}", text("first.said"));
    let said = text("full.said");
    assert_eq!(text("full.code"), "1\n", "{said}{error}");
    for words in ["No space left on device", "can be restored as before"] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    assert_eq!(text("full.check"), "0\n", "{said}");
    // The folder of the files is new, and empty.
    let after = text("after");
    let after: Vec<&str> = after.lines().filter(|name| *name != "artifacts").collect();
    let before = text("before");
    assert_eq!(after, before.lines().collect::<Vec<_>>());
    assert_eq!(text("files"), "", "half a file");
    let said = text("room.said");
    assert_eq!(text("room.code"), "0\n", "{said}");
    assert_eq!(text("room.check"), "0\n", "{said}");
    assert!(said.contains("1 files of"), "{said}");
    Ok(())
}
