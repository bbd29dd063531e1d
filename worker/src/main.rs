//! `marquee-worker`: the daemon, and the keeper that it starts each child behind.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};
use marquee_settings::{Service, Setting, WRONG_SETTINGS, as_toml, become_owner_of};
use marquee_worker::config::{Config, ConfigError, LogFormat, OnStop, Settings, Sources};
use marquee_worker::doctor;
use marquee_worker::enlist;
use marquee_worker::env::Env;
use marquee_worker::join::{self, Next, TokenSource};
use marquee_worker::process::cage::{helper, keeping, warden};
use marquee_worker::process::keeper::{self, Keep};
use marquee_worker::runtime;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Offers this host's devices to a Marquee coordinator.
///
/// Settings come from /etc/marquee/worker.toml (or --config), from MARQUEE_WORKER__<KEY> variables,
/// and from these flags, the last ones winning.
#[derive(Debug, Parser)]
#[command(name = "marquee-worker", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Settings file; must exist when named [default: /etc/marquee/worker.toml if it exists]
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// URL of the coordinator; of several, with commas between them [default: http://127.0.0.1:7700]
    #[arg(long, global = true)]
    coordinator: Option<String>,
    /// Name of this worker, unique in the cluster [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Folder for the worker's id, held ranks and the artifact cache
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    /// Folder of marquee-prep and marquee-trainer [default: that of marquee-worker]
    #[arg(long, global = true)]
    bin_dir: Option<PathBuf>,
    /// CPU devices to offer [default: 1]
    #[arg(long)]
    cpu_slots: Option<u32>,
    /// Threads of each CPU device [default: the host's, divided by the slots]
    #[arg(long)]
    threads_per_slot: Option<u32>,
    /// Bytes that the artifact cache may hold [default: 64 GiB]
    #[arg(long)]
    cache_max_bytes: Option<u64>,
    /// Address at which ranks on other hosts reach this one [default: that towards the coordinator]
    #[arg(long)]
    address: Option<String>,
    /// When stopped, leave children running for the next daemon (same as on_stop = "keep")
    #[arg(long)]
    keep_children: bool,
    /// Folders and files that command jobs do not see, beside the worker's own; separated by colons
    #[arg(long, value_name = "PATHS")]
    sandbox_hide: Option<String>,
    /// How log lines on stderr look; MARQUEE_LOG filters them, such as "debug" [default: text]
    #[arg(long)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this host: what a worker needs, what is wrong, and the cure; exit code 1 if work will fail
    Doctor {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Join a cluster with a token of its coordinator; the daemon then needs no other setting
    ///
    /// Typed by root where the service is installed, it starts that too.
    Join(Join),
    /// Look at the settings, without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Install the libraries that the trainer loads: libtorch, and those of CUDA where the flavour has them
    InstallRuntime(runtime::Args),
    /// Print the manual page; for packages.
    #[command(hide = true)]
    Man,
}

#[derive(Debug, clap::Args)]
struct Join {
    /// Host and port of the coordinator, such as head-1:7700
    address: String,
    /// File with the token, or "-" for stdin [default: MARQUEE_JOIN_TOKEN of the environment, else it is asked for];
    /// a command line can be seen by everybody on the host
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of this worker, unique in the cluster [default: that of the settings, else the host's name]
    #[arg(long = "name", value_name = "NAME")]
    as_name: Option<String>,
    /// Leave the service as it is
    #[arg(long)]
    no_start: bool,
    /// Whoever typed it goes on by himself.
    #[arg(long, hide = true)]
    part: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ConfigCommand {
    /// Read the settings as a start would; exit code 1, with the key and the way out, if they cannot be used
    Check,
    /// Print the settings in force as a settings file
    Show {
        /// Beside each value, where it was written
        #[arg(long)]
        origin: bool,
        /// One JSON array instead: of each key its value and its origin
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.is::<ConfigError>() {
                true => ExitCode::from(WRONG_SETTINGS),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let first = words.next().unwrap_or_default();
    // Watches over one child; started by the daemon itself. Single-threaded, as blocking its signals demands.
    if first == keeper::COMMAND {
        keeper::keep(&Keep::read(words)?, keeping::keep)?;
        return Ok(ExitCode::SUCCESS);
    }
    // The same under another account, and what runs as root to get there; started by systemd.
    if first == helper::COMMAND {
        match helper::serve()? {}
    }
    if first == warden::COMMAND {
        warden::watch()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::parse();
    match arguments.command.take() {
        Some(Command::Join(join)) => join_cluster(arguments, join),
        Some(Command::Doctor { json }) => look(arguments, json),
        Some(Command::Config(command)) => {
            let text = settings_text(&command, &arguments.listing()?)?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::InstallRuntime(args)) => {
            let text = runtime::run(&args, arguments.bin_dir.as_deref())?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Man) => {
            let page = clap_mangen::Man::new(Arguments::command()).section("8");
            page.render(&mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            serve(arguments)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn join_cluster(mut arguments: Arguments, join: Join) -> anyhow::Result<ExitCode> {
    // First: the file may be root's.
    let token = TokenSource::of(join.token_file).read()?;
    // What the flags name is not the service's.
    let names_another = arguments.config.is_some() || arguments.data_dir.is_some();
    let is_services = !join.no_start && !join.part && !names_another;
    let service = is_services
        .then(|| Service::installed(enlist::UNIT))
        .flatten();
    arguments.name = join.as_name.or(arguments.name);
    let file = arguments.config.clone();
    let sources = Sources {
        file: file.as_deref(),
        env: None,
    };
    let place = Config::place(sources, arguments.into_settings())?;
    let env = Env::real();
    if let Some(service) = service {
        let clock = env.clock.as_ref();
        return enlist::join_and_start(service, &place, &join.address, &token, clock);
    }
    become_owner_of(&place.data_dir)?;
    let next = if join.part {
        Next::Started
    } else {
        Next::ToStart
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let told = runtime.block_on(join::join(&place, &join.address, token, next, &env))?;
    std::io::stdout().write_all(told.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn look(arguments: Arguments, json: bool) -> anyhow::Result<ExitCode> {
    let file = arguments.config.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(doctor::run(file.as_deref(), arguments.into_settings()));
    // A driver that hangs holds a thread; the verdict is out.
    runtime.shutdown_background();
    let text = if json {
        format!("{}\n", serde_json::to_string(&report)?)
    } else {
        report.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if report.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn settings_text(command: &ConfigCommand, listing: &[Setting]) -> anyhow::Result<String> {
    Ok(match command {
        ConfigCommand::Check => "settings: ok\n".to_owned(),
        ConfigCommand::Show { json: true, .. } => {
            format!("{}\n", serde_json::to_string(listing)?)
        }
        ConfigCommand::Show { origin, .. } => as_toml(listing, *origin),
    })
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.config.clone();
    let sources = Sources {
        file: file.as_deref(),
        env: None,
    };
    let flags = arguments.into_settings();
    let config = Config::load(sources, flags.clone())?;
    let read = Arc::new(move || {
        let sources = || Sources {
            file: file.as_deref(),
            env: None,
        };
        let listing = Config::listing(sources(), flags.clone())?;
        Ok((Config::load(sources(), flags.clone())?, listing))
    });
    start_log(config.log_format);
    marquee_worker::harden();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(marquee_worker::run(config, read));
    // Whatever a rank's task is waiting for, nothing may keep the daemon.
    runtime.shutdown_background();
    result
}

impl Arguments {
    fn listing(self) -> anyhow::Result<Vec<Setting>> {
        let file = self.config.clone();
        let sources = Sources {
            file: file.as_deref(),
            env: None,
        };
        Ok(Config::listing(sources, self.into_settings())?)
    }

    fn into_settings(self) -> Settings {
        Settings {
            coordinator: self.coordinator,
            name: self.name,
            data_dir: self.data_dir,
            bin_dir: self.bin_dir,
            cpu_slots: self.cpu_slots,
            threads_per_slot: self.threads_per_slot,
            cache_max_bytes: self.cache_max_bytes,
            address: self.address,
            on_stop: self.keep_children.then_some(OnStop::Keep),
            log_format: self.log_format,
            sandbox_hide: self.sandbox_hide,
        }
    }
}

fn start_log(format: LogFormat) {
    let asked_for = std::env::var("MARQUEE_LOG").ok();
    let filter: Targets = asked_for
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::fmt()
        // The filter says what is logged.
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let log = log.with_ansi(std::io::stderr().is_terminal() && !is_plain);
            log.finish().with(filter).init();
        }
        LogFormat::Json => log.json().finish().with(filter).init(),
    }
}
