//! Many worlds: one Postgres, a database and a process for each seed.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use marquee_postgres::{BIN_VARIABLE, Throwaway, by_environment};
use marquee_store::testing::{self, Asker};
use serde::{Deserialize, Serialize};

use crate::check;
use crate::place::Place;
use crate::world::{self, Outcome};

const TEMPLATE: &str = "marquee_template";
/// Settings of the Postgres that all worlds share: room for the connections of as many worlds as there are cores, and
/// less work. A statement is planned once for each connection instead of in each of its first five runs, PL/pgSQL is
/// loaded before connections come, and nothing is done for a crash or for statistics.
const SETTINGS: [&str; 17] = [
    "max_connections=400",
    "autovacuum=off",
    "shared_buffers=64MB",
    "deadlock_timeout=60s",
    "plan_cache_mode=force_generic_plan",
    "jit=off",
    "shared_preload_libraries=plpgsql",
    "wal_level=minimal",
    "max_wal_senders=0",
    "wal_init_zero=off",
    "wal_recycle=off",
    "max_wal_size=128MB",
    "checkpoint_timeout=1d",
    "log_checkpoints=off",
    "track_counts=off",
    "update_process_title=off",
    "bgwriter_lru_maxpages=0",
];
/// The tables of Postgres' own that tell of ours.
const CATALOGUE: [&str; 10] = [
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_proc",
    "pg_index",
    "pg_constraint",
    "pg_trigger",
    "pg_attrdef",
    "pg_depend",
    "pg_statistic",
];
/// From this version on Postgres copies a template through its log unless it is told to copy the files, which takes a
/// third of the time.
const WITH_STRATEGIES: i64 = 150_000;
/// A world takes seconds; one that takes this long hangs.
const WORLD_WITHIN: Duration = Duration::from_secs(300);
/// A world takes a second of a core: looking more often would take its share of that.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What a world's process says at its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub seed: u64,
    /// What is wrong; empty: nothing.
    pub wrong: Vec<String>,
    pub virtual_ms: u64,
    pub requests: u64,
    pub lock_waits: u64,
    /// Connections to Postgres, and processes of it that served them.
    pub connections: (u64, u64),
    pub jobs: usize,
    /// Elements of arrays that were cancelled before they became jobs.
    pub dropped: i64,
    pub attempts: usize,
    pub losses: usize,
    /// How often each kind of fault came.
    pub faults: BTreeMap<String, u32>,
}

/// A server that worlds share.
#[derive(Debug)]
pub struct Server(Throwaway);

impl Server {
    /// Starts a server with an empty, migrated database to copy.
    ///
    /// # Errors
    /// When Postgres' programs are not found or do not start.
    pub fn start() -> anyhow::Result<Self> {
        let found = by_environment()
            .with_context(|| format!("{BIN_VARIABLE} names the folder of Postgres' programs"))?;
        let server = Throwaway::make(&found.folder, "marquee", &["--wal-segsize=1"], &SETTINGS)?;
        let runtime = runtime()?;
        let create = format!("CREATE DATABASE {TEMPLATE}");
        runtime.block_on(testing::execute(&server.url("postgres"), &create));
        runtime.block_on(testing::migrate(&server.url(TEMPLATE)))?;
        // What the migrations left behind in the catalogue, each process of each world would read past; and the last one to
        // connect leaves the file by which the others know the catalogue's own tables.
        for table in CATALOGUE {
            let vacuum = format!("VACUUM (FREEZE, ANALYZE) {table}");
            runtime.block_on(testing::execute(&server.url(TEMPLATE), &vacuum));
        }
        Ok(Self(server))
    }

    /// The folder of its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Plays one world here, in this process. `timeline`: a file for what happened when.
///
/// # Errors
/// When the simulation itself breaks.
pub fn play(seed: u64, postgres: &Path, timeline: Option<&Path>) -> anyhow::Result<Report> {
    let folder = shared_memory().join(format!("marquee-sim-{}-{seed}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let place = Place {
        database: format!("sim_{}_{seed}", std::process::id()),
        postgres: postgres.to_owned(),
        folder,
    };
    let admin = Place {
        database: "postgres".to_owned(),
        ..place.clone()
    }
    .url();
    let name = &place.database;
    let runtime = runtime()?;
    let mut admin = runtime.block_on(Asker::connect(&admin));
    runtime.block_on(create(&mut admin, name));
    let played = world::run(seed, &place);
    let report = played.map(|outcome| {
        let text = outcome.timeline.text();
        let written = timeline.map_or(Ok(()), |file| fs::write(file, text + "\n"));
        (report(seed, &outcome), written)
    });
    // By force: a world that broke may have left connections behind.
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    runtime.block_on(admin.execute(&drop));
    runtime.block_on(admin.close());
    fs::remove_dir_all(&place.folder)?;
    // Errors only from here on. The database and the folder are gone in any case, for they lie in
    // memory and many worlds follow.
    let (report, written) = report?;
    written?;
    Ok(report)
}

async fn create(admin: &mut Asker, name: &str) {
    let version = "SELECT current_setting('server_version_num')::bigint";
    let strategy = match admin.number(version).await >= WITH_STRATEGIES {
        true => "STRATEGY FILE_COPY",
        false => "",
    };
    let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} {strategy}");
    admin.execute(&create).await;
}

fn report(seed: u64, outcome: &Outcome) -> Report {
    let text = outcome.timeline.text();
    let mut wrong = check::check(&outcome.history, outcome.rest_ms.is_some());
    wrong.extend(check::losses(&text, &outcome.faults));
    wrong.extend(check::generations(&outcome.history, &text));
    wrong.extend(check::given_twice(&text));
    let mut faults = BTreeMap::new();
    for planned in &outcome.faults {
        let words = format!("{:?}", planned.fault);
        let kind = words.split('(').next().unwrap_or_default().to_owned();
        *faults.entry(kind).or_default() += 1;
    }
    Report {
        seed,
        wrong,
        virtual_ms: outcome.timeline.now_ms(),
        requests: outcome.requests,
        lock_waits: outcome.lock_waits,
        connections: outcome.connections,
        jobs: outcome.history.jobs.len(),
        dropped: outcome
            .history
            .arrays
            .iter()
            .map(|array| array.dropped)
            .sum(),
        attempts: outcome.history.attempts.len(),
        // The coordinator's own words in its log (background/leases.rs), which `check::losses` goes
        // by as well.
        losses: text.matches("worker lost: ").count(),
        faults,
    }
}

/// Files of a world are many, small and synced: they lie in memory where there is such a place.
fn shared_memory() -> PathBuf {
    marquee_postgres::memory().unwrap_or_else(std::env::temp_dir)
}

/// Which worlds to play.
#[derive(Debug, Clone)]
pub struct Batch {
    pub first: u64,
    pub count: u64,
    /// Begin no world after this long.
    pub within: Option<Duration>,
    /// Worlds at once.
    pub at_once: usize,
    /// The bug that is planted.
    pub planted: Option<String>,
    /// End with the first world that is wrong.
    pub first_wrong: bool,
    /// Folder for the time line of each world that is wrong, or of all.
    pub timelines: Option<PathBuf>,
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Tally {
    pub worlds: u64,
    pub wrong: Vec<Report>,
    pub virtual_ms: u64,
    pub requests: u64,
    pub lock_waits: u64,
    pub connections: (u64, u64),
    pub jobs: usize,
    pub dropped: i64,
    pub attempts: usize,
    pub losses: usize,
    pub faults: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, report: Report) {
        self.worlds += 1;
        self.virtual_ms += report.virtual_ms;
        self.requests += report.requests;
        self.lock_waits += report.lock_waits;
        self.connections.0 += report.connections.0;
        self.connections.1 += report.connections.1;
        self.jobs += report.jobs;
        self.dropped += report.dropped;
        self.attempts += report.attempts;
        self.losses += report.losses;
        for (kind, count) in &report.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        if !report.wrong.is_empty() {
            self.wrong.push(report);
        }
    }
}

struct Running {
    seed: u64,
    child: Child,
    since: Duration,
    /// Its stdout and its stderr.
    said: [Words; 2],
}

/// Reads what a process says while it runs: a pipe holds 64 KiB, and whoever says more would wait for a reader.
type Words = JoinHandle<io::Result<String>>;

fn listen(mut pipe: impl io::Read + Send + 'static) -> Words {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
}

/// Real time, since the machine's start. The clocks of the standard library stand still in this program:
/// `mad-turmoil` gives it its own, so that no library can tell how fast a world is played.
#[must_use]
pub fn real_time() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.0))
}

impl Batch {
    /// Plays its worlds, each in a process of its own. `each` hears of every world as it ends.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn run(&self, server: &Server, mut each: impl FnMut(&Report)) -> anyhow::Result<Tally> {
        let began = real_time();
        let mut seeds: VecDeque<u64> = (self.first..self.first + self.count).collect();
        let mut running: Vec<Running> = Vec::new();
        let mut tally = Tally::default();
        loop {
            // No new ones then; those that have begun are played to their end and count.
            let is_over = self
                .within
                .is_some_and(|within| real_time() - began > within)
                || self.first_wrong && !tally.wrong.is_empty();
            while !is_over && running.len() < self.at_once {
                let Some(seed) = seeds.pop_front() else { break };
                running.push(self.start(seed, server)?);
            }
            if running.is_empty() {
                return Ok(tally);
            }
            std::thread::sleep(POLL_EVERY);
            let (ended, still): (Vec<_>, Vec<_>) = running
                .into_iter()
                .map(Running::look)
                .partition(|(_, ended)| *ended);
            running = still.into_iter().map(|(world, _)| world).collect();
            for (world, _) in ended {
                let report = world.report()?;
                each(&report);
                tally.add(report);
            }
        }
    }

    fn start(&self, seed: u64, server: &Server) -> anyhow::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["world", &seed.to_string(), "--postgres"])
            .arg(server.folder());
        if let Some(folder) = &self.timelines {
            command
                .arg("--timeline")
                .arg(folder.join(format!("{seed}.txt")));
        }
        if let Some(name) = &self.planted {
            command.args(["--planted", name]);
        }
        Running::start(seed, &mut command)
    }
}

impl Running {
    fn start(seed: u64, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("the process of seed {seed} has no output");
        };
        Ok(Self {
            seed,
            child,
            since: real_time(),
            said: [listen(stdout), listen(stderr)],
        })
    }

    fn look(mut self) -> (Self, bool) {
        let has_ended = self.has_ended();
        if !has_ended && real_time() - self.since > WORLD_WITHIN {
            let _ = self.child.kill();
        }
        (self, has_ended)
    }

    fn has_ended(&mut self) -> bool {
        // Of a process that cannot be asked about, the output tells what became of it.
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// The last line of its stdout; a process that died without one is wrong.
    fn report(mut self) -> anyhow::Result<Report> {
        let status = self.child.wait()?;
        let [out, err] = self.said.map(|words| match words.join() {
            Ok(text) => text.map_err(anyhow::Error::from),
            Err(_) => Err(anyhow!("whoever listens to a world has panicked")),
        });
        let (out, err) = (out?, err?);
        if let Some(Ok(report)) = out.lines().last().map(serde_json::from_str) {
            return Ok(report);
        }
        let why = format!("its process ended with {status}: {}", err.trim());
        Ok(Report {
            seed: self.seed,
            wrong: vec![why],
            virtual_ms: 0,
            requests: 0,
            lock_waits: 0,
            connections: (0, 0),
            jobs: 0,
            dropped: 0,
            attempts: 0,
            losses: 0,
            faults: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_that_says_more_than_a_pipe_holds_comes_to_its_end() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "yes loud | head -c 300000; yes louder | head -c 300000 >&2; exit 3",
        ]);
        let mut running = Running::start(7, &mut command).unwrap();
        // Ten seconds at most: one that waits for a reader never ends.
        let has_ended = (0..500).any(|_| {
            std::thread::sleep(POLL_EVERY);
            running.has_ended()
        });
        if !has_ended {
            running.child.kill().unwrap();
        }
        assert!(has_ended, "it waits for somebody to read what it says");
        let report = running.report().unwrap();
        assert!(
            report.wrong[0].contains("exit status: 3: louder"),
            "{}",
            &report.wrong[0][..80]
        );
    }
}
