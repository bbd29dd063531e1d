//! The command line against a real coordinator: exit codes, what goes to which stream, and that
//! every answer can be read by a program.
//!
//! Without a coordinator: `cli/tests/alone.rs`.

#[path = "cli/admin.rs"]
mod admin;
#[path = "../../cli/tests/pty/mod.rs"]
mod pty;
#[path = "cli/users.rs"]
mod users;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_e2e::TestCluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn run(cluster: &TestCluster, line: &str) -> Result<Ran> {
    let arguments: Vec<&str> = line.split(' ').collect();
    Ok(cluster.cli(&arguments)?.into())
}

/// A pipeline file of `count` jobs that run a program.
fn pipeline(cluster: &TestCluster, name: &str, count: usize, argv: &str) -> Result<String> {
    let mut text = format!("name = \"{name}\"\n");
    for index in 0..count {
        text.push_str(&format!(
            "[jobs.{name}-{index}]\nkind = \"command\"\nargv = {argv}\n"
        ));
    }
    let path = cluster.folder().join(format!("{name}.toml"));
    std::fs::write(&path, text)?;
    Ok(path
        .to_str()
        .context("a folder with an odd name")?
        .to_owned())
}

fn start(cluster: &TestCluster, line: &str) -> Result<Child> {
    let arguments: Vec<&str> = line.split(' ').collect();
    let mut command = cluster.cli_command(&arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().context("starting marquee")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_with_nothing_in_it_answers_every_listing_and_refuses_every_name()
-> Result<()> {
    let cluster = TestCluster::start(0).await?;
    for (listing, hint) in [
        ("jobs", "marquee submit FILE"),
        ("jobs --state failed", "no such jobs"),
        ("workers", "start marquee-worker"),
        ("workers --gpus", "start marquee-worker"),
        ("artifacts ls", "no artifacts"),
    ] {
        // Nothing is no error: data on stdout, and the hint for people alone.
        let table = run(&cluster, listing)?;
        assert_eq!(
            (table.code, table.out.as_str()),
            (Some(0), ""),
            "{listing}: {table:?}"
        );
        assert!(table.err.contains(hint), "{listing}: {table:?}");
        let json = run(&cluster, &format!("{listing} --output json"))?;
        assert_eq!(
            (json.code, json.err.as_str()),
            (Some(0), ""),
            "{listing}: {json:?}"
        );
        assert_eq!(json.json(), serde_json::json!([]), "{listing}");
        let quiet = run(&cluster, &format!("{listing} --output quiet"))?;
        assert_eq!(
            (quiet.out.as_str(), quiet.err.as_str()),
            ("", ""),
            "{listing}"
        );
    }
    for asked in [
        "show 99",
        "show p99",
        "explain 99",
        "logs 99",
        "logs -f 99",
        "metrics 99",
        "cancel 99",
        "retry 99",
        "wait 99",
        "wait p99",
        "report p99",
        "artifacts get 99",
        "artifacts get 0123456789ab",
        "show train",
        "show p99/train",
        "bench --show p99",
    ] {
        for format in ["table", "json"] {
            let ran = run(&cluster, &format!("{asked} --output {format}"))?;
            assert_eq!(
                (ran.code, ran.out.as_str()),
                (Some(1), ""),
                "{asked}: {ran:?}"
            );
            assert!(ran.err.contains("error[MQ"), "{asked}: {ran:?}");
            assert!(ran.err.contains("docs/errors/MQ"), "{asked}: {ran:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_submitted_is_listed_named_refused_and_cancelled_in_every_format() -> Result<()> {
    let cluster = TestCluster::start(0).await?;
    let file = pipeline(&cluster, "posters", 1, "[\"true\"]")?;

    // A wrong value on the command line is refused by the field it names, and nothing is stored.
    let wrong = run(
        &cluster,
        &format!("submit {file} --set jobs.posters-0.ranks=many"),
    )?;
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(1), ""), "{wrong:?}");
    assert!(
        wrong.err.contains("error[MQ0101]") && wrong.err.contains("jobs.posters-0.ranks"),
        "{wrong:?}"
    );
    let wrong = run(
        &cluster,
        &format!("submit {file} --set jobs.posters-0.rnaks=2"),
    )?;
    assert!(wrong.err.contains("did you mean \"ranks\"?"), "{wrong:?}");
    let nothing = run(&cluster, "jobs --output quiet")?;
    assert_eq!(
        (nothing.code, nothing.out.as_str()),
        (Some(0), ""),
        "{nothing:?}"
    );

    let first = run(
        &cluster,
        &format!("submit {file} --request-id one --output json"),
    )?;
    assert_eq!((first.code, first.err.as_str()), (Some(0), ""), "{first:?}");
    assert_eq!(first.json()["repeated_request"], false);
    let again = run(
        &cluster,
        &format!("submit {file} --request-id one --output json"),
    )?;
    assert_eq!(again.json()["repeated_request"], true);
    assert_eq!(again.json()["pipeline_id"], first.json()["pipeline_id"]);
    let quiet = run(
        &cluster,
        &format!("submit {file} --request-id one --output quiet"),
    )?;
    assert_eq!(
        (quiet.out.as_str(), quiet.err.as_str()),
        ("p1\n", ""),
        "{quiet:?}"
    );
    let table = run(&cluster, &format!("submit {file} --request-id one"))?;
    assert!(
        table
            .out
            .contains("pipeline p1 posters: 1 job (submitted before"),
        "{table:?}"
    );
    assert!(table.err.contains("marquee wait p1"), "{table:?}");

    // Every way to name it is the same job.
    let id = first.json()["jobs"][0]["id"].clone();
    for name in ["1", "posters-0", "p1/posters-0"] {
        let shown = run(&cluster, &format!("show {name} --output json"))?;
        assert_eq!(
            (&shown.json()["id"], shown.err.as_str()),
            (&id, ""),
            "{name}"
        );
    }
    // A slip is told with what was meant.
    for name in ["poster-0", "p1/posters_0"] {
        let ran = run(&cluster, &format!("show {name}"))?;
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains("did you mean \"posters-0\"?"), "{ran:?}");
    }
    // A pipeline is no job.
    let ran = run(&cluster, "logs p1")?;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.err.contains("p1/NAME"), "{ran:?}");

    let whole = run(&cluster, "show p1 --output json")?.json();
    assert_eq!(
        (&whole["name"], &whole["jobs"][0]["id"]),
        (&"posters".into(), &id)
    );
    // Without scores the report says so; it invents none and does not fail.
    let report = run(&cluster, "report p1 --output json")?;
    assert_eq!(
        (report.code, report.err.as_str()),
        (Some(0), ""),
        "{report:?}"
    );
    assert_eq!(report.json()["f1_micro"], Value::Null);
    let no_bench = run(&cluster, "bench --show p1 --json")?;
    assert_eq!(
        (no_bench.code, no_bench.out.as_str()),
        (Some(2), ""),
        "{no_bench:?}"
    );
    assert!(no_bench.err.contains("is no bench"), "{no_bench:?}");

    let why = run(&cluster, "explain posters-0 --output json")?.json();
    assert_eq!(why["job"]["state"], "queued");
    assert!(
        why["why"][0]
            .as_str()
            .unwrap_or_default()
            .starts_with("It could run and does not yet: "),
        "{why}"
    );
    assert_eq!(
        why["what_to_do"][0],
        "marquee workers   shows what each host has and does"
    );
    for empty in [
        "logs 1",
        "metrics 1",
        "logs 1 --output json",
        "metrics 1 --output json",
    ] {
        let ran = run(&cluster, empty)?;
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(0), ""),
            "{empty}: {ran:?}"
        );
    }
    let unfinished = run(&cluster, "artifacts get 1")?;
    assert_eq!(
        (unfinished.code, unfinished.out.as_str()),
        (Some(1), ""),
        "{unfinished:?}"
    );

    let cancelled = run(&cluster, "cancel p1 --output json")?;
    assert_eq!(
        (cancelled.code, cancelled.err.as_str()),
        (Some(0), ""),
        "{cancelled:?}"
    );
    assert_eq!(cancelled.json()[0]["state"], "cancelled");
    let waited = run(&cluster, "wait p1 --output json")?;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    assert_eq!(waited.json()[0]["state"], "cancelled");
    assert!(waited.err.contains("posters-0 cancelled"), "{waited:?}");
    let retried = run(&cluster, "retry 1 --output json")?;
    assert_eq!(retried.json()[0]["state"], "queued", "{retried:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_twelve_hundred_jobs_has_all_of_them_and_stops_where_its_reader_does()
-> Result<()> {
    let cluster = TestCluster::start(0).await?;
    for name in ["first", "second"] {
        let file = pipeline(&cluster, name, 600, "[\"true\"]")?;
        let ran = run(&cluster, &format!("submit {file} --output quiet"))?;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    let all = run(&cluster, "jobs --limit 1200 --output quiet")?;
    let ids: Vec<i64> = all.out.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert_eq!((ids.len(), all.err.as_str()), (1_200, ""));
    assert!(
        ids.is_sorted_by(|newer, older| newer > older),
        "newest first"
    );
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1_200);

    let more = run(&cluster, "jobs")?;
    assert_eq!(more.out.lines().count(), 1 + 50, "a head and fifty rows");
    assert!(
        more.err.contains("there are more; --limit shows them"),
        "{more:?}"
    );
    let whole = run(&cluster, "jobs --limit 1300 --output json")?;
    assert_eq!(whole.json().as_array().map(Vec::len), Some(1_200));
    let table = run(&cluster, "jobs --limit 1200")?;
    assert_eq!((table.out.lines().count(), table.err.as_str()), (1_201, ""));

    // marquee jobs | head -1
    for format in ["table", "json", "quiet"] {
        let mut child = start(&cluster, &format!("jobs --limit 1200 --output {format}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout")?;
        BufReader::with_capacity(16, stdout).read_line(&mut line)?;
        let ran = Ran::from(child.wait_with_output()?);
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (Some(0), ""),
            "{format}: {ran:?}"
        );
        assert!(!line.is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_the_following_and_not_the_jobs() -> Result<()> {
    let cluster = TestCluster::start(0).await?;
    let file = pipeline(&cluster, "long", 1, "[\"true\"]")?;
    for (index, signal) in [Signal::SIGINT, Signal::SIGTERM].into_iter().enumerate() {
        let id = index + 1;
        let mut child = start(&cluster, &format!("submit {file} --wait"))?;
        let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
        // From its first word about the job on it follows.
        let mut said = String::new();
        while !said.contains("queued") {
            assert_ne!(stderr.read_line(&mut said)?, 0, "it ended early: {said}");
        }
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        stderr.read_to_string(&mut said)?;
        let ran = Ran::from(child.wait_with_output()?);
        assert_eq!((ran.code, ran.out.as_str()), (Some(130), ""), "{ran:?}");
        assert!(said.contains(&format!("marquee cancel p{id}")), "{said}");
        let shown = run(&cluster, &format!("show {id} --output json"))?.json();
        assert_eq!(shown["state"], "queued", "{signal}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_jobs_end_is_the_exit_code_and_what_they_made_is_on_stdout() -> Result<()> {
    let cluster = TestCluster::start(1).await?;
    let write = "[\"sh\", \"-c\", \"echo to the user; echo aside >&2; echo made > $MARQUEE_OUTPUT/made.txt\"]";
    let file = pipeline(&cluster, "good", 1, write)?;
    let ran = run(&cluster, &format!("submit {file} --wait"))?;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.err.contains("good-0: succeeded"), "{ran:?}");
    let ran = run(
        &cluster,
        &format!("submit {file} --wait --fresh --output json"),
    )?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()[0]["state"], "succeeded");
    assert_eq!(run(&cluster, "wait 1 2 --output quiet")?.out, "1\n2\n");

    let log = run(&cluster, "logs 1 --rank 0")?;
    let lines: BTreeSet<&str> = log.out.lines().collect();
    assert_eq!(
        (lines, log.err.as_str()),
        (BTreeSet::from(["to the user", "aside"]), "")
    );
    let log = run(&cluster, "logs 1 --tail 1 --output json")?;
    assert_eq!(log.out.lines().count(), 1, "{log:?}");
    assert_eq!(log.json()["rank"], 0);

    let folder = cluster.folder().join("got");
    let to = folder.to_str().context("a folder with an odd name")?;
    let got = run(
        &cluster,
        &format!("artifacts get 1 made.txt --to {to} --output quiet"),
    )?;
    assert_eq!(got.out, format!("{to}/made.txt\n"), "{got:?}");
    assert_eq!(std::fs::read_to_string(folder.join("made.txt"))?, "made\n");
    let missing = run(&cluster, &format!("artifacts get 1 mode.txt --to {to}"))?;
    assert_eq!(
        (missing.code, missing.out.as_str()),
        (Some(2), ""),
        "{missing:?}"
    );
    assert!(missing.err.contains("made.txt"), "{missing:?}");
    let listed = run(&cluster, "artifacts ls --output json")?.json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let workers = run(&cluster, "workers --output json")?.json();
    assert_eq!(workers[0]["state"], "online");

    let file = pipeline(&cluster, "bad", 1, "[\"sh\", \"-c\", \"exit 3\"]")?;
    let ran = run(&cluster, &format!("submit {file} --wait --output json"))?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.json()[0]["failure"]["class"], "user_error");
    assert!(ran.err.contains("marquee explain 3"), "{ran:?}");
    let why = run(&cluster, "explain bad-0")?;
    assert_eq!((why.code, why.err.as_str()), (Some(0), ""), "{why:?}");
    assert!(why.out.contains("It failed (user_error)"), "{why:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_up_on_a_taken_address_says_whose_it_is_and_brings_no_worker_there() -> Result<()>
{
    let cluster = TestCluster::start(0).await?;
    let address = cluster.url().replace("http://", "");
    let folder = cluster.folder().join("second");
    let line = format!(
        "up --data-dir {} --listen {address} --workers 1",
        folder.display()
    );
    let ran = run(&cluster, &line)?;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    for said in ["another coordinator", address.as_str(), "--listen"] {
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    assert!(!ran.err.contains("Marquee runs"), "{ran:?}");
    let workers = run(&cluster, "workers --output json")?.json();
    assert_eq!(workers.as_array().map(Vec::len), Some(0), "{workers}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_goes_away_is_waited_for() -> Result<()> {
    let mut cluster = TestCluster::start(0).await?;
    let file = pipeline(&cluster, "kept", 1, "[\"true\"]")?;
    let mut child = start(&cluster, &format!("submit {file} --wait"))?;
    let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
    let mut said = String::new();
    while !said.contains("queued") {
        assert_ne!(stderr.read_line(&mut said)?, 0, "it ended early: {said}");
    }
    cluster.kill_coordinator()?;
    while !said.contains("trying again") {
        assert_ne!(stderr.read_line(&mut said)?, 0, "it gave up: {said}");
    }
    cluster.restart_coordinator()?;
    cluster.add_worker("worker-1")?;
    stderr.read_to_string(&mut said)?;
    let ran = Ran::from(child.wait_with_output()?);
    assert_eq!(ran.code, Some(0), "{said}");
    assert!(said.contains("back in touch"), "{said}");
    cluster.wait_success(1, DEADLINE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_screen_shows_what_runs_goes_on_after_a_crash_and_cancels() -> Result<()> {
    let mut cluster = TestCluster::start(1).await?;
    let file = pipeline(
        &cluster,
        "sleeps",
        1,
        r#"["sh", "-c", "echo began; sleep 600"]"#,
    )?;
    assert_eq!(run(&cluster, &format!("submit {file}"))?.code, Some(0));
    let state = |cluster: &TestCluster| -> Result<String> {
        let job = run(cluster, "show 1 --output json")?.json();
        Ok(job["state"].as_str().unwrap_or_default().to_owned())
    };
    let until = async |cluster: &TestCluster, wanted: &str| -> Result<()> {
        let begun = std::time::Instant::now();
        while state(cluster)? != wanted {
            anyhow::ensure!(begun.elapsed() < DEADLINE, "the job is {}", state(cluster)?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    until(&cluster, "running").await?;
    // One picture for a pipe, and the same for programs.
    let once = run(&cluster, "top --once")?;
    assert_eq!(once.code, Some(0), "{once:?}");
    for words in ["1 running", "sleeps-0", "worker-1", "CPU"] {
        assert!(once.out.contains(words), "{words} is not in {once:?}");
    }
    let figures = run(&cluster, "top --once --output json")?.json();
    assert_eq!(figures["jobs"]["running"], 1, "{figures}");
    assert_eq!(figures["workers"][0]["name"], "worker-1", "{figures}");

    let top = cluster.cli_command(&["top"]);
    let program = top
        .get_program()
        .to_str()
        .context("an odd path")?
        .to_owned();
    let home = cluster.folder().to_str().context("an odd path")?.to_owned();
    let url = cluster.url();
    let set = [("HOME", home.as_str()), ("MARQUEE_ADDR", url.as_str())];
    let mut terminal = pty::Pty::run(&format!("{program} top"), &set);
    terminal.wait_for("sleeps-0", 0);
    // Its log, and back.
    terminal.press("l");
    terminal.wait_for("began", 0);
    terminal.press("1");
    let before = terminal.sent().len();
    cluster.kill_coordinator()?;
    terminal.wait_for("trying", before);
    let before = terminal.sent().len();
    cluster.restart_coordinator()?;
    terminal.wait_for("live", before);
    terminal.press("c");
    terminal.wait_for("sure?", before);
    terminal.press("y");
    until(&cluster, "cancelled").await?;
    terminal.press("q");
    let sent = terminal.end();
    pty::assert_clean(&sent);
    assert_eq!(pty::printed(&sent, "code"), "0");
    Ok(())
}
