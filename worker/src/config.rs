//! The daemon's settings: a file, over it environment variables `MARQUEE_WORKER__<KEY>`, over
//! these the flags. A key that does not exist is an error, wherever it stands.

mod reach;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::member::{Folder, MemberError, Tls};
use crate::secrets::Grant;
use clap::ValueEnum;
use marquee_domain::limits::{HOST_DEVICES_MAX, HOST_THREADS_MAX, LABELS_MAX, NAME_MAX_BYTES};
use marquee_domain::resources::check_label;
use marquee_settings::{Setting, SettingsError, Values, default_data_dir, variables};

/// Read when it exists and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/marquee/worker.toml";
/// Where a coordinator on the same host listens.
pub const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:7700";
/// Bytes of inputs kept: some dozens of prepared datasets, a small part of a training host's disk.
pub const DEFAULT_CACHE_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// How long ranks may go on when the daemon is told to stop and lets them finish: most jobs of a shared cluster
/// end within an hour.
pub const DEFAULT_FINISH_WITHIN_S: u32 = 3_600;
/// A week: longer is a host that does not want to be stopped.
const FINISH_WITHIN_MAX_S: u32 = 7 * 24 * 3_600;
/// Processes and threads of one rank. A rank of 64 threads with as many loaders stays far below; a program that forks
/// without end stops here and not at the host's limit.
pub const DEFAULT_TASKS_MAX: u32 = 16_384;
/// A shell that starts Python with a few threads needs some dozens.
const TASKS_MAX_LEAST: u32 = 64;
/// The most that a kernel counts (`pid_max` on 64 bits).
const TASKS_MAX_MOST: u32 = 4_194_304;
/// What fetch jobs may name as their credential, where nothing else is said.
pub const DEFAULT_FETCH_SECRETS: [&str; 2] = ["TMDB_TOKEN", "TMDB_API_KEY"];
/// Where marquee-cage.socket listens.
pub const DEFAULT_CAGE_SOCKET: &str = "/run/marquee/cage.sock";
/// Prefix of the environment variables.
const ENV_PREFIX: &str = "MARQUEE_WORKER";

/// What was said on the command line. None: not said.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub coordinator: Option<String>,
    pub name: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
    pub cpu_slots: Option<u32>,
    pub threads_per_slot: Option<u32>,
    pub cache_max_bytes: Option<u64>,
    pub address: Option<String>,
    pub on_stop: Option<OnStop>,
    pub log_format: Option<LogFormat>,
    /// Paths separated by colons.
    pub sandbox_hide: Option<String>,
}

/// Every key, sections joined by dots.
const KEYS: [&str; 25] = [
    "coordinator",
    "name",
    "data_dir",
    "bin_dir",
    "cpu_slots",
    "threads_per_slot",
    "cache_max_bytes",
    "address",
    "on_stop",
    "finish_within_s",
    "log_format",
    "command_secrets",
    "fetch_secrets",
    "sandbox",
    "sandbox_hide",
    "writable_paths",
    "cage",
    "cage_socket",
    "tasks_max",
    "labels",
    "gpu_shares",
    "metrics_listen",
    "tls.ca",
    "tls.cert",
    "tls.key",
];

/// In how many shares a GPU may be offered.
const SHARES: std::ops::RangeInclusive<u32> = 2..=16;

/// What happens to running children when the daemon is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnStop {
    /// They are told to leave, write a checkpoint if they can, and are handed back to be placed elsewhere.
    #[value(alias = "stop")]
    Checkpoint,
    /// They go on, and the next daemon takes them over: for upgrades.
    Keep,
    /// They may end by themselves for `finish_within_s`; what is left then is told to leave.
    Finish,
}

/// Whether command jobs are kept from the worker's own files and from other jobs', and change nothing else of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// But that they can list all names where the data folder lies below their home, or where everybody has files.
    Auto,
    On,
    Off,
}

/// Whether jobs run under accounts of their own, one for each project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caging {
    /// Where this host has what it takes.
    Auto,
    /// The same, but for command jobs alone.
    Commands,
    /// Without, the worker does not start.
    On,
    Off,
}

/// The words of [`Caging`].
const CAGE: [(&str, Caging); 4] = [
    ("auto", Caging::Auto),
    ("commands", Caging::Commands),
    ("on", Caging::On),
    ("off", Caging::Off),
];

/// The words of [`Sandbox`].
const SANDBOX: [(&str, Sandbox); 3] = [
    ("auto", Sandbox::Auto),
    ("on", Sandbox::On),
    ("off", Sandbox::Off),
];

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The words of [`OnStop`].
const ON_STOP: [(&str, OnStop); 4] = [
    ("checkpoint", OnStop::Checkpoint),
    // Its name in version 0.1.
    ("stop", OnStop::Checkpoint),
    ("keep", OnStop::Keep),
    ("finish", OnStop::Finish),
];
/// The words of [`LogFormat`].
const LOG_FORMAT: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Complete, checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// URL of the coordinator, the first where there are several; `https` where it has TLS.
    pub coordinator: String,
    /// URLs of all coordinators of the cluster, of which one leads.
    pub coordinators: Vec<String>,
    pub name: String,
    pub data_dir: PathBuf,
    /// Folder of `marquee-prep` and `marquee-trainer`.
    pub bin_dir: PathBuf,
    pub cpu_slots: u32,
    /// None: the host's threads, divided by the slots.
    pub threads_per_slot: Option<u32>,
    pub cache_max_bytes: u64,
    /// None: the address from which this host reaches the coordinator.
    pub address: Option<String>,
    pub on_stop: OnStop,
    /// How long ranks may go on where `on_stop` is "finish", in seconds.
    pub finish_within_s: u32,
    pub log_format: LogFormat,
    /// Variables of the worker's environment that command jobs get where they name them.
    pub command_secrets: Vec<Grant>,
    /// Variables that fetch jobs may name as their credential.
    pub fetch_secrets: Vec<Grant>,
    pub sandbox: Sandbox,
    /// What is hidden from command jobs beside the data folder.
    pub sandbox_hide: Vec<PathBuf>,
    /// What command jobs may change beside their own folders.
    pub writable_paths: Vec<PathBuf>,
    pub cage: Caging,
    /// Where the helper is asked that starts programs under jobs' accounts.
    pub cage_socket: PathBuf,
    /// Processes and threads of one rank.
    pub tasks_max: u32,
    /// The file of the certificate's key.
    pub tls_key: Option<PathBuf>,
    /// Words for the host that jobs ask for or avoid.
    pub labels: BTreeSet<String>,
    /// GPUs that several jobs may use at a time, by index, and in how many shares each is offered.
    pub gpu_shares: BTreeMap<u32, u32>,
    /// Where Prometheus may ask for figures. None: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    pub tls: Option<Tls>,
}

/// What `join` knows before anything is asked.
#[derive(Debug)]
pub struct Place {
    pub data_dir: PathBuf,
    /// How the worker is to be called.
    pub name: String,
    /// The coordinator that a settings file, the environment or a flag names: it goes before what is joined here.
    pub set_coordinator: Option<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{key} {problem}")]
    Value { key: &'static str, problem: String },
    #[error(transparent)]
    Member(#[from] MemberError),
}

/// Where settings come from besides the flags.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The file named on the command line: it must exist.
    pub file: Option<&'a Path>,
    /// Environment variables, for tests. None: those of the process.
    pub env: Option<HashMap<String, String>>,
}

impl Config {
    /// Reads the settings. `flags` win over the environment, which wins over the file.
    pub fn load(sources: Sources<'_>, flags: Settings) -> Result<Self, ConfigError> {
        Self::of(&values(sources, flags)?)
    }

    /// What `join` has to know, of settings that may need the certificate that it is to bring.
    pub fn place(sources: Sources<'_>, flags: Settings) -> Result<Place, ConfigError> {
        let values = values(sources, flags)?;
        let data_dir = values.path("data_dir").map_or_else(usual_data_dir, Ok)?;
        let data_dir = absolute("data_dir", data_dir)?;
        // What an earlier join left may be what is to be mended.
        let joined = Folder::of(&data_dir).read().ok().flatten();
        Ok(Place {
            data_dir,
            name: named(&values, joined.map(|(joined, _)| joined.name))?,
            set_coordinator: values.text("coordinator").map(str::to_owned),
        })
    }

    /// The settings in force, with the place where each was written.
    pub fn listing(sources: Sources<'_>, flags: Settings) -> Result<Vec<Setting>, ConfigError> {
        let values = values(sources, flags)?;
        let config = Self::of(&values)?;
        Ok(values.listing(|key| config.in_force(key), &[]))
    }

    /// What is in force for a key that nobody wrote. None: nothing, or what follows from the host.
    fn in_force(&self, key: &str) -> Option<String> {
        let word = |word: Option<&'static str>| word.map(str::to_owned);
        match key {
            "coordinator" => Some(self.coordinator.clone()),
            "name" => Some(self.name.clone()),
            "data_dir" => Some(self.data_dir.display().to_string()),
            "bin_dir" => Some(self.bin_dir.display().to_string()),
            "cpu_slots" => Some(self.cpu_slots.to_string()),
            "cache_max_bytes" => Some(self.cache_max_bytes.to_string()),
            "tasks_max" => Some(self.tasks_max.to_string()),
            "sandbox" => word(word_of(&SANDBOX, Some(self.sandbox))),
            "cage" => word(word_of(&CAGE, Some(self.cage))),
            "cage_socket" => Some(self.cage_socket.display().to_string()),
            "on_stop" => word(word_of(&ON_STOP, Some(self.on_stop))),
            "log_format" => word(word_of(&LOG_FORMAT, Some(self.log_format))),
            "fetch_secrets" => {
                let grants = self.fetch_secrets.iter().map(Grant::to_string);
                Some(grants.collect::<Vec<_>>().join(" "))
            }
            _ => None,
        }
    }

    fn of(values: &Values) -> Result<Self, ConfigError> {
        let data_dir = values.path("data_dir").map_or_else(usual_data_dir, Ok)?;
        let data_dir = absolute("data_dir", data_dir)?;
        let joined = Folder::of(&data_dir).read()?;
        let coordinators = reach::coordinators(values, joined.as_ref().map(|(joined, _)| joined))?;
        let coordinator = coordinators[0].clone();
        let joined_name = joined.as_ref().map(|(joined, _)| joined.name.clone());
        let tls = reach::tls(&coordinators, values, joined.map(|(_, tls)| tls))?;
        let member = tls.as_ref().and_then(|tls| tls.member.as_ref());
        let threads_per_slot = values.number("threads_per_slot", 0..=HOST_THREADS_MAX)?;
        // 0 is let through up to here, so that what is said about it tells what to write instead.
        if threads_per_slot == Some(0) {
            return Err(value(
                "threads_per_slot",
                "must be 1 or more; leave it out to share all threads",
            ));
        }
        let bin_dir = values.path("bin_dir").map_or_else(own_folder, Ok)?;
        Ok(Self {
            tls_key: values
                .path("tls.key")
                .or_else(|| member.map(Folder::identity)),
            coordinator,
            coordinators,
            name: named(values, joined_name)?,
            data_dir,
            bin_dir: absolute("bin_dir", bin_dir)?,
            cpu_slots: values
                .number("cpu_slots", 0..=HOST_DEVICES_MAX)?
                .unwrap_or(1),
            threads_per_slot,
            cache_max_bytes: values
                .number("cache_max_bytes", 0..=u64::MAX)?
                .unwrap_or(DEFAULT_CACHE_MAX_BYTES),
            address: values.text("address").map(str::to_owned),
            on_stop: values
                .word("on_stop", &ON_STOP)?
                .unwrap_or(OnStop::Checkpoint),
            finish_within_s: values
                .number("finish_within_s", 1..=FINISH_WITHIN_MAX_S)?
                .unwrap_or(DEFAULT_FINISH_WITHIN_S),
            log_format: values
                .word("log_format", &LOG_FORMAT)?
                .unwrap_or(LogFormat::Text),
            sandbox: values.word("sandbox", &SANDBOX)?.unwrap_or(Sandbox::Auto),
            sandbox_hide: paths(values, "sandbox_hide")?.unwrap_or_default(),
            writable_paths: paths(values, "writable_paths")?.unwrap_or_default(),
            cage: values.word("cage", &CAGE)?.unwrap_or(Caging::Auto),
            cage_socket: absolute(
                "cage_socket",
                values
                    .path("cage_socket")
                    .unwrap_or_else(|| DEFAULT_CAGE_SOCKET.into()),
            )?,
            tasks_max: values
                .number("tasks_max", TASKS_MAX_LEAST..=TASKS_MAX_MOST)?
                .unwrap_or(DEFAULT_TASKS_MAX),
            tls,
            command_secrets: grants(values, "command_secrets")?.unwrap_or_default(),
            fetch_secrets: grants(values, "fetch_secrets")?.unwrap_or_else(usual_fetch_secrets),
            labels: labels(values)?,
            gpu_shares: gpu_shares(values)?,
            metrics_listen: values.parsed(
                "metrics_listen",
                "it must be an IP address and a port, such as 127.0.0.1:7702",
                |text| text.parse().ok(),
            )?,
        })
    }
}

/// What was written, the later over the earlier.
fn values(sources: Sources<'_>, flags: Settings) -> Result<Values, SettingsError> {
    let environment = sources.env.unwrap_or_else(variables);
    Values::of(&KEYS)
        .lists(&["coordinator"])
        .file(sources.file, Path::new(DEFAULT_FILE))?
        .environment(ENV_PREFIX, &environment)?
        .argument("coordinator", flags.coordinator)?
        .argument("name", flags.name)?
        .path_argument("data_dir", flags.data_dir.as_deref())?
        .path_argument("bin_dir", flags.bin_dir.as_deref())?
        .argument("cpu_slots", flags.cpu_slots)?
        .argument("threads_per_slot", flags.threads_per_slot)?
        .argument("cache_max_bytes", flags.cache_max_bytes)?
        .argument("address", flags.address)?
        .argument("sandbox_hide", flags.sandbox_hide)?
        .argument("on_stop", word_of(&ON_STOP, flags.on_stop))?
        .argument("log_format", word_of(&LOG_FORMAT, flags.log_format))
}

/// Secrets and who may name them, separated by spaces or commas.
fn grants(values: &Values, key: &'static str) -> Result<Option<Vec<Grant>>, ConfigError> {
    let must_be = "it must be names of environment variables or credentials, separated by spaces: NAME for all jobs, NAME@project for those of a project, NAME@project/job for one of it";
    let grants = |text: &str| {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let grants: Result<Vec<Grant>, _> = words.map(str::parse).collect();
        let grants = grants.ok()?;
        // Not the worker's own settings: one of them names the file of its key.
        let is_own = |grant: &Grant| grant.name().starts_with(ENV_PREFIX);
        (!grants.iter().any(is_own)).then_some(grants)
    };
    Ok(values.parsed(key, must_be, grants)?)
}

fn usual_fetch_secrets() -> Vec<Grant> {
    let usual = DEFAULT_FETCH_SECRETS.iter();
    usual.filter_map(|name| name.parse().ok()).collect()
}

/// Absolute paths, separated by colons as in PATH.
fn paths(values: &Values, key: &'static str) -> Result<Option<Vec<PathBuf>>, ConfigError> {
    let paths = |text: &str| {
        let paths = text.split(':').filter(|path| !path.is_empty());
        let paths: Vec<PathBuf> = paths.map(PathBuf::from).collect();
        paths.iter().all(|path| path.is_absolute()).then_some(paths)
    };
    let must_be = "it must be absolute paths, separated by colons";
    Ok(values.parsed(key, must_be, paths)?)
}

/// Words for the host, separated by blanks or commas.
fn labels(values: &Values) -> Result<BTreeSet<String>, ConfigError> {
    let must_be = "it must be at most 32 labels of letters, digits and . _ - = / :, separated by blanks or commas";
    let labels = |text: &str| {
        let labels = text.split([' ', ',']).filter(|label| !label.is_empty());
        let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
        let fit =
            labels.len() <= LABELS_MAX && labels.iter().all(|label| check_label(label).is_ok());
        fit.then_some(labels)
    };
    Ok(values
        .parsed("labels", must_be, labels)?
        .unwrap_or_default())
}

/// GPUs with their shares, separated by blanks or commas: "0:4 1:2".
fn gpu_shares(values: &Values) -> Result<BTreeMap<u32, u32>, ConfigError> {
    let must_be = "it must name GPUs with 2 to 16 shares each, such as \"0:4 1:2\"";
    let shares = |text: &str| {
        let mut shares = BTreeMap::new();
        for one in text.split([' ', ',']).filter(|one| !one.is_empty()) {
            let (gpu, count) = one.split_once(':')?;
            let count = count.parse().ok().filter(|count| SHARES.contains(count))?;
            // A GPU that is named twice is refused: which of its numbers counts is not for us to
            // guess.
            let is_new = shares.insert(gpu.parse().ok()?, count).is_none();
            is_new.then_some(())?;
        }
        Some(shares)
    };
    Ok(values
        .parsed("gpu_shares", must_be, shares)?
        .unwrap_or_default())
}

/// The word that stands for a meaning, as a file would have it.
fn word_of<T: PartialEq>(words: &[(&'static str, T)], meaning: Option<T>) -> Option<&'static str> {
    let meaning = meaning?;
    words
        .iter()
        .find_map(|(word, stands_for)| (*stands_for == meaning).then_some(*word))
}

impl Config {
    /// Settings where the file's cannot be used: for a look around, not for work.
    #[must_use]
    pub fn default_settings() -> Self {
        Self {
            coordinator: DEFAULT_COORDINATOR.to_owned(),
            coordinators: vec![DEFAULT_COORDINATOR.to_owned()],
            name: "unnamed".to_owned(),
            data_dir: usual_data_dir().unwrap_or_else(|_| std::env::temp_dir()),
            bin_dir: own_folder().unwrap_or_default(),
            cpu_slots: 1,
            threads_per_slot: None,
            cache_max_bytes: DEFAULT_CACHE_MAX_BYTES,
            address: None,
            on_stop: OnStop::Checkpoint,
            finish_within_s: DEFAULT_FINISH_WITHIN_S,
            log_format: LogFormat::Text,
            command_secrets: Vec::new(),
            fetch_secrets: usual_fetch_secrets(),
            sandbox: Sandbox::Auto,
            sandbox_hide: Vec::new(),
            writable_paths: Vec::new(),
            cage: Caging::Auto,
            cage_socket: DEFAULT_CAGE_SOCKET.into(),
            tasks_max: DEFAULT_TASKS_MAX,
            tls_key: None,
            labels: BTreeSet::new(),
            gpu_shares: BTreeMap::new(),
            metrics_listen: None,
            tls: None,
        }
    }
}

fn value(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key,
        problem: problem.into(),
    }
}

/// The name of the settings, else the one that it joined by, else the host's.
fn named(values: &Values, joined: Option<String>) -> Result<String, ConfigError> {
    name(values.text("name").or(joined.as_deref()))
}

fn name(configured: Option<&str>) -> Result<String, ConfigError> {
    let name = match configured {
        Some(name) => name.to_owned(),
        // Host names mean the same in any case, and names of workers do not.
        None => hostname::get()
            .map_err(|e| value("name", format!("is missing and the host has none: {e}")))?
            .to_string_lossy()
            .to_lowercase(),
    };
    let is_fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if !name.is_empty() && name.len() <= NAME_MAX_BYTES && name.bytes().all(is_fine) {
        return Ok(name);
    }
    Err(value(
        "name",
        format!("= {name:?} must be 1 to {NAME_MAX_BYTES} of a-z, 0-9, \"-\", \"_\" and \".\""),
    ))
}

fn usual_data_dir() -> Result<PathBuf, ConfigError> {
    default_data_dir("worker", |name| std::env::var_os(name))
        .ok_or_else(|| value("data_dir", "is missing, and there is no HOME to put it in"))
}

fn own_folder() -> Result<PathBuf, ConfigError> {
    let own = std::env::current_exe().ok();
    own.and_then(|path| path.parent().map(Path::to_owned))
        .ok_or_else(|| {
            value(
                "bin_dir",
                "is missing, and the folder of marquee-worker is unknown",
            )
        })
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    // Not the canonical path: the folder need not be there yet.
    std::path::absolute(&path).map_err(|e| value(key, format!("= {path:?}: {e}")))
}

#[cfg(test)]
mod tests;
