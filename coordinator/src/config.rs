//! Settings: defaults, then a TOML file, then the environment, then flags; the later wins.
//!
//! Invariant: a [`Config`] can be run: every key is known, every value makes sense, and what is
//! dangerous is refused here, with the key's name and the way out. `deploy/coordinator.toml`
//! describes the keys for users.

mod objects;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use marquee_settings::{Setting, SettingsError, Values, default_data_dir};

pub use self::objects::ObjectStore;
use crate::access::{Group, Rule};
use crate::app::Settings;
use crate::lifecycle::BURN_IN_MINUTES_MAX;
use crate::trust::authority::Files;
use crate::trust::init::Place;

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/marquee/coordinator.toml";
/// Variables `MARQUEE_COORDINATOR__LISTEN`, `MARQUEE_COORDINATOR__TLS__CERT` and so on.
const ENV_PREFIX: &str = "MARQUEE_COORDINATOR";
/// Where workers and users connect when nothing else is said: from this host alone, and from everywhere once `init` has
/// made certificates, which it does for no other purpose.
const DEFAULT_LISTEN: &str = "127.0.0.1:7700";
const DEFAULT_LISTEN_WITH_TLS: &str = "0.0.0.0:7700";

/// Accounts that may ask over loopback beside our own and root's: that of a worker on this host, as it is installed.
const DEFAULT_ACCOUNTS: &str = "marquee-worker";
/// How long a coordinator leads without renewing it: by then one that stands by takes over. Shorter, a busy host loses
/// the lead for nothing; longer, everybody waits after it died.
const LEADER_LEASE: Duration = Duration::from_secs(3);
const LEADER_LEASE_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
/// The other times. Beyond a day a slip of the hand is likelier than a wish, and a worker's end would never be noticed.
const TIMES_MS: std::ops::RangeInclusive<u64> = 0..=86_400_000;

/// Bytes of `address`: a name in the DNS has 253.
const ADDRESS_MAX_BYTES: usize = 260;

/// Every key that a file or the environment may hold.
const KEYS: [&str; 30] = [
    "listen",
    "address",
    "data_dir",
    "artifacts_dir",
    "s3.bucket",
    "s3.endpoint",
    "s3.region",
    "s3.prefix",
    "s3.credentials",
    "s3.addressing",
    "s3.ca",
    "s3.plain_http",
    "database_url",
    "postgres_bin",
    "secrets_key",
    "burn_in_minutes",
    "tls.cert",
    "tls.key",
    "tls.client_ca",
    "access.loopback",
    "access.accounts",
    "access.group",
    "access.insecure_network",
    "timing.lease_ms",
    "timing.heartbeat_every_ms",
    "timing.poll_every_ms",
    "timing.stop_grace_ms",
    "timing.leader_lease_ms",
    "timing.worker_certificate_s",
    "timing.server_certificate_s",
];

/// Keys that are in force as soon as they are read anew.
pub const LIVE: [&str; 3] = ["access.loopback", "access.accounts", "access.group"];

/// How long certificates may be good, in seconds: until a worker that renews its own has had the time to, and as long as
/// it is by default.
const CERTIFICATE_LEAST_S: i64 = 20;

/// A coordinator's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Host and port where workers and clients reach it. None: what it listens on.
    pub address: Option<String>,
    /// Absolute.
    pub data_dir: PathBuf,
    /// Absolute. Where artifacts lie; coordinators on one database need the same.
    pub artifacts_dir: PathBuf,
    /// Where artifacts lie instead; `artifacts_dir` is then where they lay before.
    pub object_store: Option<ObjectStore>,
    /// None: a private Postgres in `data_dir`.
    pub database_url: Option<DatabaseUrl>,
    /// The folder of the server's programs, for a private Postgres.
    pub postgres_bin: Option<PathBuf>,
    /// The file with the keys for secrets. None: there are none.
    pub secrets_key: Option<PathBuf>,
    pub tls: Option<TlsFiles>,
    /// Who may ask.
    pub access: Rule,
    pub settings: Settings,
    /// How long a leader's lease is.
    pub leader_lease: Duration,
    /// All of these with the place where each was written, for administrators.
    pub listing: Vec<Setting>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients that show a certificate of one of these authorities are believed. Empty: none is asked for.
    pub client_cas: Vec<PathBuf>,
    /// The folder of the coordinator's own authority; None: the files were made elsewhere.
    pub authority: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether the certificates are of the coordinator's own authority. Else clients without one are not let in.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.authority.is_some()
    }

    /// Those of the coordinator's own authority, with another one that the settings name beside it.
    fn own(files: &Files, more: Option<PathBuf>) -> Self {
        let mut client_cas = vec![files.ca()];
        client_cas.extend(more);
        Self {
            cert: files.server(),
            key: files.server_key(),
            client_cas,
            authority: Some(files.folder.clone()),
        }
    }
}

/// A URL that may hold a password: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(pub String);

impl DatabaseUrl {
    /// The URL, where this process has it.
    pub fn get(&self) -> anyhow::Result<&str> {
        let Some(name) = self.0.strip_prefix("credential:") else {
            return Ok(&self.0);
        };
        anyhow::bail!(
            "database_url is the credential {name:?}, which only the service has; name the file that holds it with --database-url /PATH"
        )
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// What was said on the command line. None: not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Settings in TOML [default: /etc/marquee/coordinator.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// IP address and port to listen on; port 0 takes a free one
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Folder for artifacts and the private Postgres
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// A Postgres of your own (prefer the settings file: other users see a command line)
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("key {key:?} is missing beside {beside:?}; TLS needs both")]
    Missing {
        key: &'static str,
        beside: &'static str,
    },
    #[error(
        "key \"listen\" is \"{listen}\", which other hosts can reach, and {missing}: anybody there could run programs on your workers; run \"marquee-coordinator init\", which makes certificates and needs nothing else, or set tls.cert and tls.key, and tls.client_ca so that only clients with a certificate of your authority are let in (docs/deploy.md, \"Start, many hosts\"), or listen on 127.0.0.1; access.insecure_network = true is for a network on which you trust everybody"
    )]
    Open {
        listen: SocketAddr,
        /// What would keep others out, and is not there.
        missing: &'static str,
    },
    #[error(
        "key \"access.group\" is \"{0}\", and this host has no such group; make it (groupadd), or leave the key out"
    )]
    NoGroup(String),
    #[error(
        "key \"s3.bucket\" is missing beside {beside:?}; name the bucket, or leave the section out"
    )]
    NoBucket { beside: &'static str },
    #[error(
        "key \"s3.credentials\" is missing beside \"s3.bucket\"; name a file in the form of ~/.aws/credentials (mode 0400, the account's), or a credential of the unit (credential:s3)"
    )]
    NoObjectCredentials,
    #[error("there is no folder for data_dir: set it, or HOME")]
    NoDataDir,
}

impl Config {
    /// Reads the settings. `environment` is this process's.
    pub fn load(flags: &Flags, environment: HashMap<String, String>) -> Result<Self, ConfigError> {
        let values = values(flags, &environment)?;
        let config = Self::of(&values, &environment)?;
        let listing = config.listed(&values);
        Ok(Self { listing, ..config })
    }

    /// The settings in force, with the place where each was written.
    pub fn listing(
        flags: &Flags,
        environment: HashMap<String, String>,
    ) -> Result<Vec<Setting>, ConfigError> {
        Ok(Self::load(flags, environment)?.listing)
    }

    fn listed(&self, values: &Values) -> Vec<Setting> {
        // It may hold a password, and who lists settings need not know that.
        values.listing(|key| self.in_force(key), &["database_url"])
    }

    /// What `init` has to know, of settings that need no certificates yet.
    pub fn place(
        flags: &Flags,
        environment: HashMap<String, String>,
    ) -> Result<Place, ConfigError> {
        let values = values(flags, &environment)?;
        Ok(Place {
            data_dir: data_dir(&values, &environment)?,
            // The default for TLS: `init` makes the certificates, so that is how it will listen.
            listen: listen(&values, DEFAULT_LISTEN_WITH_TLS)?,
            address: address(&values)?,
            has_other_certificates: values.path("tls.cert").is_some()
                || values.path("tls.key").is_some(),
            certificate_life: settings(&values)?.server_certificate,
        })
    }

    /// What is in force for a key that nobody wrote. None: nothing.
    fn in_force(&self, key: &str) -> Option<String> {
        let ms = |time: Duration| Some(time.as_millis().to_string());
        let seconds = |time: TimeDelta| Some(time.num_seconds().to_string());
        match key {
            "listen" => Some(self.listen.to_string()),
            "data_dir" => Some(self.data_dir.display().to_string()),
            "burn_in_minutes" => self.settings.burn_in_minutes.map(|n| n.to_string()),
            "timing.lease_ms" => ms(self.settings.lease),
            "timing.heartbeat_every_ms" => ms(self.settings.heartbeat_every),
            "timing.poll_every_ms" => ms(self.settings.poll_every),
            "timing.stop_grace_ms" => ms(self.settings.stop_grace),
            "timing.worker_certificate_s" => seconds(self.settings.worker_certificate),
            "timing.server_certificate_s" => seconds(self.settings.server_certificate),
            "timing.leader_lease_ms" => ms(self.leader_lease),
            "artifacts_dir" => Some(self.artifacts_dir.display().to_string()),
            "access.accounts" => match &self.access {
                Rule::Accounts { accounts, .. } => Some(accounts.join(", ")),
                Rule::Everybody => None,
            },
            _ => self
                .object_store
                .as_ref()
                .and_then(|store| objects::in_force(store, key)),
        }
    }

    /// Whether whoever reaches it over the network may ask, since the settings say so.
    #[must_use]
    pub fn is_insecure(&self) -> bool {
        let is_closed = self
            .tls
            .as_ref()
            .is_some_and(|tls| !tls.client_cas.is_empty());
        !is_closed && !self.listen.ip().is_loopback()
    }

    fn of(values: &Values, environment: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let data_dir = data_dir(values, environment)?;
        let tls = tls(values, &Files::of(&data_dir))?;
        let is_own = tls.as_ref().is_some_and(TlsFiles::is_own);
        let usual = if is_own {
            DEFAULT_LISTEN_WITH_TLS
        } else {
            DEFAULT_LISTEN
        };
        let listen = listen(values, usual)?;
        let missing = match &tls {
            None => Some("there is no [tls]"),
            // It would be encrypted, and open to all.
            Some(files) if files.client_cas.is_empty() => {
                Some("key \"tls.client_ca\" is missing beside \"tls.cert\"")
            }
            Some(_) => None,
        };
        let is_open = missing.is_some() && !listen.ip().is_loopback();
        let may_be_open = values.word("access.insecure_network", &TRUTH)? == Some(true);
        if let Some(missing) = missing.filter(|_| is_open && !may_be_open) {
            return Err(ConfigError::Open { listen, missing });
        }
        let postgres_bin = environment.get("MARQUEE_POSTGRES_BIN").map(PathBuf::from);
        let artifacts_dir = match values.path("artifacts_dir") {
            Some(folder) => absolute(values, "artifacts_dir", &folder)?,
            None => data_dir.join("blobs"),
        };
        let leader_lease = values.number("timing.leader_lease_ms", LEADER_LEASE_MS)?;
        Ok(Self {
            listen,
            address: address(values)?,
            data_dir,
            artifacts_dir,
            object_store: objects::object_store(values)?,
            leader_lease: leader_lease.map_or(LEADER_LEASE, Duration::from_millis),
            listing: Vec::new(),
            database_url: database_url(values)?,
            postgres_bin: values.path("postgres_bin").or(postgres_bin),
            secrets_key: match values.path("secrets_key") {
                Some(file) if is_credential(&file) => Some(file),
                Some(file) => Some(absolute(values, "secrets_key", &file)?),
                None => None,
            },
            access: match access(values, tls.as_ref())? {
                // There is no account to ask for on another host.
                Rule::Accounts { .. } if is_open => Rule::Everybody,
                rule @ (Rule::Accounts { .. } | Rule::Everybody) => rule,
            },
            tls,
            settings: settings(values)?,
        })
    }
}

/// Whether a setting is a credential of the unit that this process does not have.
pub(crate) fn is_credential(file: &Path) -> bool {
    file.to_string_lossy().starts_with("credential:")
}

/// What was written, the later over the earlier.
fn values(flags: &Flags, environment: &HashMap<String, String>) -> Result<Values, SettingsError> {
    Values::of(&KEYS)
        .file(flags.config.as_deref(), Path::new(DEFAULT_FILE))?
        .environment(ENV_PREFIX, environment)?
        .argument("listen", flags.listen.as_ref())?
        .path_argument("data_dir", flags.data_dir.as_deref())?
        .argument("database_url", flags.database_url.as_ref())
}

/// The words of a switch.
const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];

fn absolute(values: &Values, key: &'static str, path: &Path) -> Result<PathBuf, SettingsError> {
    std::path::absolute(path).map_err(|error| values.wrong(key, path.display(), error.to_string()))
}

fn data_dir(
    values: &Values,
    environment: &HashMap<String, String>,
) -> Result<PathBuf, ConfigError> {
    let variable = |name: &str| environment.get(name).map(Into::into);
    let folder = values
        .path("data_dir")
        .or_else(|| default_data_dir("coordinator", variable))
        .ok_or(ConfigError::NoDataDir)?;
    Ok(absolute(values, "data_dir", &folder)?)
}

fn listen(values: &Values, usual: &str) -> Result<SocketAddr, ConfigError> {
    let text = values.text("listen").unwrap_or(usual);
    let problem =
        "it must be an IP address and a port, such as \"127.0.0.1:7700\" or \"[::1]:7700\"";
    text.parse()
        .map_err(|_| values.wrong("listen", text, problem).into())
}

fn address(values: &Values) -> Result<Option<String>, ConfigError> {
    let must_be =
        "it must be a host's name or IP address and a port, such as \"head-1.example.org:7700\"";
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        // Without brackets nobody can tell the end of an IPv6 address from the port.
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_fine = !host.is_empty()
            && (is_bracketed || !host.contains(':'))
            && text.len() <= ADDRESS_MAX_BYTES
            // It becomes the middle of a URL, where each of these would begin something else.
            && !text.contains(|c: char| c.is_whitespace() || "/,@".contains(c))
            && port.parse::<u16>().is_ok_and(|port| port > 0);
        is_fine.then(|| text.to_owned())
    };
    Ok(values.parsed("address", must_be, address)?)
}

fn tls(values: &Values, own: &Files) -> Result<Option<TlsFiles>, ConfigError> {
    let missing = |key, beside| Err(ConfigError::Missing { key, beside });
    let client_ca = values.path("tls.client_ca");
    match (values.path("tls.cert"), values.path("tls.key")) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles {
            cert,
            key,
            client_cas: client_ca.into_iter().collect(),
            authority: None,
        })),
        (Some(_), None) => missing("tls.key", "tls.cert"),
        (None, Some(_)) => missing("tls.cert", "tls.key"),
        (None, None) if own.are_there() => Ok(Some(TlsFiles::own(own, client_ca))),
        (None, None) if client_ca.is_some() => missing("tls.cert", "tls.client_ca"),
        (None, None) => Ok(None),
    }
}

/// The URL itself, or what the file of that path holds.
fn database_url(values: &Values) -> Result<Option<DatabaseUrl>, ConfigError> {
    let Some(text) = values.text("database_url") else {
        return Ok(None);
    };
    if !text.starts_with('/') {
        return Ok(Some(DatabaseUrl(text.to_owned())));
    }
    let held = std::fs::read_to_string(text).map_err(|error| {
        values.wrong("database_url", text, format!("could not read it: {error}"))
    })?;
    match held.trim() {
        url if url.starts_with("postgres") => Ok(Some(DatabaseUrl(url.to_owned()))),
        // Not said what it holds instead: it may be a password.
        _ => Err(values
            .wrong(
                "database_url",
                text,
                "that file holds no \"postgres://...\"",
            )
            .into()),
    }
}

/// Whether whoever can connect may ask, or accounts are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loopback {
    Account,
    Open,
}

fn access(values: &Values, tls: Option<&TlsFiles>) -> Result<Rule, ConfigError> {
    let words = [("account", Loopback::Account), ("open", Loopback::Open)];
    let loopback = values.word("access.loopback", &words)?;
    let accounts = values.text("access.accounts").unwrap_or(DEFAULT_ACCOUNTS);
    let accounts = accounts.split([' ', ',']).filter(|name| !name.is_empty());
    let accounts = accounts.map(str::to_owned).collect();
    let group = match values.text("access.group").filter(|name| !name.is_empty()) {
        Some(name) => Some(group(name)?),
        None => None,
    };
    // With an authority of our own nobody has to, and an account of this host need not.
    let shows_certificates =
        tls.is_some_and(|files| !files.is_own() && !files.client_cas.is_empty());
    Ok(match loopback {
        Some(Loopback::Open) => Rule::Everybody,
        Some(Loopback::Account) | None if shows_certificates => Rule::Everybody,
        Some(Loopback::Account) | None => Rule::Accounts { accounts, group },
    })
}

fn group(name: &str) -> Result<Group, ConfigError> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(Group {
            name: group.name,
            id: group.gid.as_raw(),
        }),
        Ok(None) | Err(_) => Err(ConfigError::NoGroup(name.to_owned())),
    }
}

/// Times that tests shorten. Users leave them alone: the defaults are what the documentation and
/// the promises state.
fn settings(values: &Values) -> Result<Settings, ConfigError> {
    let time = |key, default| -> Result<Duration, SettingsError> {
        let ms = values.number(key, TIMES_MS)?;
        Ok(ms.map_or(default, Duration::from_millis))
    };
    let life = |key, default: TimeDelta| -> Result<TimeDelta, SettingsError> {
        let bounds = CERTIFICATE_LEAST_S..=default.num_seconds();
        Ok(values
            .number(key, bounds)?
            .map_or(default, TimeDelta::seconds))
    };
    let default = Settings::default();
    let settings = Settings {
        lease: time("timing.lease_ms", default.lease)?,
        heartbeat_every: time("timing.heartbeat_every_ms", default.heartbeat_every)?,
        poll_every: time("timing.poll_every_ms", default.poll_every)?,
        elements_ahead: default.elements_ahead,
        stop_grace: time("timing.stop_grace_ms", default.stop_grace)?,
        settle: default.settle,
        worker_certificate: life("timing.worker_certificate_s", default.worker_certificate)?,
        server_certificate: life("timing.server_certificate_s", default.server_certificate)?,
        burn_in_minutes: values
            .number("burn_in_minutes", 0..=u64::from(BURN_IN_MINUTES_MAX))?
            .and_then(|minutes| u32::try_from(minutes).ok())
            .filter(|minutes| *minutes > 0),
    };
    let bad = |key, value: Duration, problem: &str| {
        Err(values.wrong(key, value.as_millis(), problem).into())
    };
    if settings.heartbeat_every.is_zero() {
        return bad(
            "timing.heartbeat_every_ms",
            settings.heartbeat_every,
            "it must be 1 or more",
        );
    }
    if settings.poll_every.is_zero() {
        return bad(
            "timing.poll_every_ms",
            settings.poll_every,
            "it must be 1 or more",
        );
    }
    if settings.lease < settings.heartbeat_every * 2 {
        let problem = "it must be at least twice timing.heartbeat_every_ms, or one late heartbeat loses a worker";
        return bad("timing.lease_ms", settings.lease, problem);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests;
