//! The daemon's settings: a file, over it environment variables `MARQUEE_WORKER__<KEY>`, over
//! these the flags. A key that does not exist is an error, wherever it stands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use config::{Environment, File, FileFormat};
use marquee_domain::limits::NAME_MAX_BYTES;
use serde::Deserialize;

/// Read when it exists and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/marquee/worker.toml";
/// Where a coordinator on the same host listens.
pub const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:7700";
/// Bytes of inputs kept: some dozens of prepared datasets, a small part of a training host's disk.
pub const DEFAULT_CACHE_MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Prefix of the environment variables.
const ENV_PREFIX: &str = "MARQUEE_WORKER";
/// How alike a wrong key and a right one must be (Jaro-Winkler) for "did you mean".
const SUGGESTION_MIN_LIKENESS: f64 = 0.75;

/// Settings as they stand in a file, in the environment or in flags.
#[derive(Debug, Clone, Default, Deserialize)]
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
    #[serde(default)]
    pub tls: TlsSettings,
}

/// Section `[tls]`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TlsSettings {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Every key, sections joined by dots.
const KEYS: [&str; 13] = [
    "coordinator",
    "name",
    "data_dir",
    "bin_dir",
    "cpu_slots",
    "threads_per_slot",
    "cache_max_bytes",
    "address",
    "on_stop",
    "log_format",
    "tls.ca",
    "tls.cert",
    "tls.key",
];

/// What happens to running children when the daemon is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// They are stopped, and their attempts are placed elsewhere.
    Stop,
    /// They go on, and the next daemon takes them over: for upgrades.
    Keep,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Complete, checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// URL of the coordinator; `https` where it has TLS.
    pub coordinator: String,
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
    pub log_format: LogFormat,
    pub tls: Option<Tls>,
}

/// Contents of the PEM files of `[tls]`.
#[derive(Clone)]
pub struct Tls {
    pub ca: String,
    /// Certificate and key of this worker.
    pub identity: Option<(String, String)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {path:?} cannot be read: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Syntax(String),
    #[error("unknown key {key:?} in the worker's settings{hint}; the keys are: {keys}", keys = KEYS.join(", "))]
    UnknownKey { key: String, hint: String },
    #[error("{key} {problem}")]
    Value { key: &'static str, problem: String },
}

/// Where settings come from besides the flags.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The file named on the command line: it must exist.
    pub file: Option<&'a Path>,
    /// Environment variables, for tests. None: those of the process.
    pub env: Option<std::collections::HashMap<String, String>>,
}

impl Config {
    /// Reads the settings. `flags` win over the environment, which wins over the file.
    pub fn load(sources: Sources<'_>, flags: Settings) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(text) = read_file(sources.file)? {
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let environment = Environment::with_prefix(ENV_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .source(sources.env.map(|vars| vars.into_iter().collect()));
        let built = builder.add_source(environment).build().map_err(|e| {
            ConfigError::Syntax(format!("the worker's settings cannot be read: {e}"))
        })?;
        let tree: serde_json::Value = built
            .clone()
            .try_deserialize()
            .map_err(|e| ConfigError::Syntax(e.to_string()))?;
        check_keys(&tree, "")?;
        let settings: Settings = built
            .try_deserialize()
            .map_err(|e| ConfigError::Syntax(format!("the worker's settings are wrong: {e}")))?;
        settings.overlaid(flags).complete()
    }
}

impl Config {
    /// Settings where the file's cannot be used: for a look around, not for work.
    #[must_use]
    pub fn default_settings() -> Self {
        Self {
            coordinator: DEFAULT_COORDINATOR.to_owned(),
            name: "unnamed".to_owned(),
            data_dir: default_data_dir().unwrap_or_else(|_| std::env::temp_dir()),
            bin_dir: own_folder().unwrap_or_default(),
            cpu_slots: 1,
            threads_per_slot: None,
            cache_max_bytes: DEFAULT_CACHE_MAX_BYTES,
            address: None,
            on_stop: OnStop::Stop,
            log_format: LogFormat::Text,
            tls: None,
        }
    }
}

fn read_file(named: Option<&Path>) -> Result<Option<String>, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(source) => Err(ConfigError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn check_keys(tree: &serde_json::Value, section: &str) -> Result<(), ConfigError> {
    let Some(table) = tree.as_object() else {
        return Ok(());
    };
    for (key, value) in table {
        let full = if section.is_empty() {
            key.clone()
        } else {
            format!("{section}.{key}")
        };
        let is_section = KEYS
            .iter()
            .any(|known| known.starts_with(&format!("{full}.")));
        if is_section && value.is_object() {
            check_keys(value, &full)?;
        } else if !KEYS.contains(&full.as_str()) {
            return Err(ConfigError::UnknownKey {
                hint: hint(&full),
                key: full,
            });
        }
    }
    Ok(())
}

fn hint(wrong: &str) -> String {
    let likeness = |known: &&str| strsim::jaro_winkler(wrong, known);
    let best = KEYS
        .iter()
        .copied()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|best| likeness(best) >= SUGGESTION_MIN_LIKENESS) {
        Some(best) => format!(", did you mean {best:?}?"),
        None => String::new(),
    }
}

impl Settings {
    fn overlaid(self, over: Self) -> Self {
        Self {
            coordinator: over.coordinator.or(self.coordinator),
            name: over.name.or(self.name),
            data_dir: over.data_dir.or(self.data_dir),
            bin_dir: over.bin_dir.or(self.bin_dir),
            cpu_slots: over.cpu_slots.or(self.cpu_slots),
            threads_per_slot: over.threads_per_slot.or(self.threads_per_slot),
            cache_max_bytes: over.cache_max_bytes.or(self.cache_max_bytes),
            address: over.address.or(self.address),
            on_stop: over.on_stop.or(self.on_stop),
            log_format: over.log_format.or(self.log_format),
            tls: TlsSettings {
                ca: over.tls.ca.or(self.tls.ca),
                cert: over.tls.cert.or(self.tls.cert),
                key: over.tls.key.or(self.tls.key),
            },
        }
    }

    fn complete(self) -> Result<Config, ConfigError> {
        let coordinator = self
            .coordinator
            .unwrap_or_else(|| DEFAULT_COORDINATOR.to_owned());
        let tls = tls(&coordinator, self.tls)?;
        if self.threads_per_slot == Some(0) {
            return Err(value(
                "threads_per_slot",
                "must be 1 or more; leave it out to share all threads",
            ));
        }
        Ok(Config {
            name: name(self.name)?,
            data_dir: absolute(self.data_dir.map_or_else(default_data_dir, Ok)?)?,
            bin_dir: absolute(self.bin_dir.map_or_else(own_folder, Ok)?)?,
            cpu_slots: self.cpu_slots.unwrap_or(1),
            threads_per_slot: self.threads_per_slot,
            cache_max_bytes: self.cache_max_bytes.unwrap_or(DEFAULT_CACHE_MAX_BYTES),
            address: self.address,
            on_stop: self.on_stop.unwrap_or(OnStop::Stop),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            coordinator,
            tls,
        })
    }
}

fn value(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key,
        problem: problem.into(),
    }
}

fn tls(coordinator: &str, settings: TlsSettings) -> Result<Option<Tls>, ConfigError> {
    let read = |key: &'static str, path: &Path| {
        fs::read_to_string(path).map_err(|e| value(key, format!("= {path:?} cannot be read: {e}")))
    };
    let scheme = coordinator.split_once("://").map(|(scheme, _)| scheme);
    match (scheme, settings.ca) {
        (Some("http"), None) => Ok(None),
        (Some("http"), Some(_)) => Err(value(
            "coordinator",
            format!("= {coordinator:?} has no TLS, but tls.ca is set; write https://"),
        )),
        (Some("https"), None) => Err(value(
            "tls.ca",
            "is missing; name the PEM file of the coordinator's CA",
        )),
        (Some("https"), Some(ca)) => {
            let identity = match (settings.cert, settings.key) {
                (Some(cert), Some(key)) => Some((read("tls.cert", &cert)?, read("tls.key", &key)?)),
                (None, None) => None,
                (Some(_), None) => return Err(value("tls.key", "is missing beside tls.cert")),
                (None, Some(_)) => return Err(value("tls.cert", "is missing beside tls.key")),
            };
            Ok(Some(Tls {
                ca: read("tls.ca", &ca)?,
                identity,
            }))
        }
        (Some(_) | None, _) => Err(value(
            "coordinator",
            format!("= {coordinator:?} is no URL; write it as {DEFAULT_COORDINATOR:?}"),
        )),
    }
}

fn name(configured: Option<String>) -> Result<String, ConfigError> {
    let name = match configured {
        Some(name) => name,
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

/// systemd's state folder, else the usual places for root and for a plain user.
fn default_data_dir() -> Result<PathBuf, ConfigError> {
    if let Some(state) = std::env::var_os("STATE_DIRECTORY") {
        return Ok(PathBuf::from(state));
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/marquee/worker"));
    }
    let data_home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    data_home
        .or_else(home)
        .map(|base| base.join("marquee/worker"))
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

fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|e| value("data_dir", format!("= {path:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)], flags: Settings) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.toml");
        fs::write(&path, file).unwrap();
        let env = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Config::load(
            Sources {
                file: Some(&path),
                env: Some(env),
            },
            flags,
        )
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let file = "name = \"file\"\ncpu_slots = 2\ncoordinator = \"http://10.0.0.1:7700\"";
        let env = [
            ("MARQUEE_WORKER__NAME", "env"),
            ("MARQUEE_WORKER__CPU_SLOTS", "3"),
        ];
        let flags = Settings {
            name: Some("flag".into()),
            ..Settings::default()
        };
        let config = load(file, &env, flags).unwrap();
        assert_eq!(config.name, "flag");
        assert_eq!(config.cpu_slots, 3);
        assert_eq!(config.coordinator, "http://10.0.0.1:7700");
        assert_eq!(config.on_stop, OnStop::Stop);
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion_wherever_it_stands() {
        let in_file = load("cpu_slot = 2", &[], Settings::default())
            .unwrap_err()
            .to_string();
        assert!(in_file.contains("did you mean \"cpu_slots\"?"), "{in_file}");
        let in_section = load("[tls]\nca_file = \"x\"", &[], Settings::default()).unwrap_err();
        assert!(
            in_section.to_string().contains("\"tls.ca\"?"),
            "{in_section}"
        );
        let env = [("MARQUEE_WORKER__ADRESS", "10.0.0.1")];
        let in_env = load("", &env, Settings::default()).unwrap_err().to_string();
        assert!(in_env.contains("did you mean \"address\"?"), "{in_env}");
    }

    #[test]
    fn the_list_of_keys_is_the_list_of_fields() {
        let all = "coordinator = \"http://h:1\"\nname = \"n\"\ndata_dir = \"/d\"\nbin_dir = \"/b\"\n\
            cpu_slots = 2\nthreads_per_slot = 4\ncache_max_bytes = 5\naddress = \"a\"\n\
            on_stop = \"keep\"\nlog_format = \"json\"";
        let config = load(all, &[], Settings::default()).unwrap();
        assert_eq!(config.threads_per_slot, Some(4));
        assert_eq!(config.cache_max_bytes, 5);
        assert_eq!(config.address.as_deref(), Some("a"));
        assert_eq!(config.on_stop, OnStop::Keep);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(
            (config.data_dir, config.bin_dir),
            ("/d".into(), "/b".into())
        );
    }

    #[test]
    fn tls_must_fit_the_url() {
        let no_ca = load("coordinator = \"https://c:1\"", &[], Settings::default()).unwrap_err();
        assert!(
            no_ca.to_string().starts_with("tls.ca is missing"),
            "{no_ca}"
        );
        let plain = "coordinator = \"http://c:1\"\n[tls]\nca = \"/ca.pem\"";
        let error = load(plain, &[], Settings::default()).unwrap_err();
        assert!(error.to_string().contains("write https://"), "{error}");
        let no_url = load("coordinator = \"c:1\"", &[], Settings::default()).unwrap_err();
        assert!(no_url.to_string().contains("is no URL"), "{no_url}");
    }

    #[test]
    fn a_name_that_the_coordinator_would_refuse_is_refused_here() {
        let error = load("name = \"GPU 1\"", &[], Settings::default()).unwrap_err();
        assert!(
            error.to_string().starts_with("name = \"GPU 1\" must be"),
            "{error}"
        );
    }
}
