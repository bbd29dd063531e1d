//! The coordinator's program: parse, load the settings, start tracing, run.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use marquee_coordinator::config::{Config, ConfigError, Flags};
use marquee_coordinator::election::{self, SteppedDown, TakenOver};
use marquee_coordinator::env::{Clock as _, SystemClock};
use marquee_coordinator::log::{self, Format};
use marquee_coordinator::postgres::launch;
use marquee_coordinator::trust::authority::{Bundle, Files};
use marquee_coordinator::trust::enable;
use marquee_coordinator::{backup, doctor, migrate, objects, trust};
use marquee_domain::doctor::Verdict;
use marquee_proto::v1;
use marquee_settings::{Service, WRONG_SETTINGS, as_toml, become_owner_of, variables};

/// Keeps the jobs of a Marquee cluster, schedules them, and speaks with its workers.
#[derive(Debug, Parser)]
#[command(name = "marquee-coordinator", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
    /// Form of the log on stderr; MARQUEE_LOG says what is in it
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this host: what a coordinator needs, what is wrong, and the cure; exit code 1 if it will not work
    Doctor {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make an authority and a certificate for this coordinator, so that workers of other hosts can join; what is there
    /// is kept
    ///
    /// Typed by root where the service is installed, it starts that too, and tells "marquee" on this host where it is.
    Init(Init),
    /// Join tokens, by which workers get their certificates; ask on the coordinator's host while it runs
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the authority's certificates (PEM), which clients on other hosts need and everybody may know
    Ca,
    /// Print a new key for secrets, as a line for the file that "secrets_key" names: the first line is for new secrets, the
    /// others are to read older ones
    SecretsKey,
    /// Look at the settings, without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Copy the database and the files that it names into a folder, as they are at one moment; the cluster may be at work
    ///
    /// A second backup into the same folder adds what is new, and replaces the first in one step. Settings, keys and
    /// certificates are not in it. Run it as root, or as the coordinator's account.
    Backup {
        /// It is made where it is not there
        folder: PathBuf,
    },
    /// Fill an empty database and an empty folder of artifacts from a backup, all of which is checked before
    ///
    /// Run it as root or as the coordinator's account, which must be able to read the backup, while no coordinator
    /// runs. Then start the coordinator, and let "marquee audit verify" judge the result.
    Restore {
        folder: PathBuf,
        /// Only read and check the backup
        #[arg(long)]
        check: bool,
    },
    /// Try what an upgrade will do to the tables, and take it back; exit code 1 if it will not go well
    ///
    /// The coordinator that leads does it itself when it starts. Tables that change are locked while it is tried, for as long as
    /// it takes: a cluster at work waits, and loses nothing.
    Migrate {
        /// Only try it
        #[arg(long, required = true)]
        dry_run: bool,
    },
    /// Copy the artifacts of a folder to the bucket that the settings name now
    ///
    /// Run it while the coordinator is at work, and once more when it is stopped: the second time copies what is new. What
    /// is there already is not copied again. artifacts_dir names the folder of before; nothing of it is changed.
    CopyArtifacts,
    /// Print the manual page; for packages.
    #[command(hide = true)]
    Man,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// A further name or IP address by which workers and users reach this coordinator; may be given several times
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Print a join token for so many workers, good for an hour; wants the service
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=1000))]
    workers: u32,
    /// Leave the service as it is
    #[arg(long)]
    no_start: bool,
    /// The one who typed it goes on by itself.
    #[arg(long, hide = true)]
    part: bool,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make one and print it, this once
    Create {
        /// What it lets in
        #[arg(long, default_value = "worker")]
        role: String,
        /// The only worker that may use it; one of this name that is known already is replaced
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// How long it is good: 1m to 30d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
        ttl: u32,
        /// How many workers may join by it, 1 to 1000
        #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
    },
    /// Those of the last 30 days, and what became of them
    List,
    /// End one; workers that joined by it stay
    Revoke {
        /// Its id, or the first 8 characters of it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the settings as a start would, and try the bucket that they name; exit code 1, with the key and the way out, if
    /// they cannot be used
    Check {
        /// Leave out the bucket
        #[arg(long)]
        settings_only: bool,
    },
    /// Print the settings in force as a settings file; passwords are not shown
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
    // Before anything else, above all before any thread: see postgres::launch.
    let raw: Vec<OsString> = std::env::args_os().collect();
    let result = if raw.get(1).is_some_and(|arg| arg == launch::SUBCOMMAND) {
        Err(launch::become_program(&raw[2..]).into())
    } else {
        let args = Args::parse();
        match args.command {
            Some(Command::Doctor { json }) => look(&args.flags, json),
            Some(Command::Init(init)) => init_here(&args.flags, &init),
            Some(Command::Token(command)) => token(&args.flags, command),
            Some(Command::Ca) => authority(&args.flags),
            Some(Command::SecretsKey) => new_secrets_key(),
            Some(Command::Config(command)) => settings(&args.flags, &command),
            Some(Command::Backup { folder }) => back_up(&args.flags, &folder),
            Some(Command::Restore { folder, check }) => restore(&args.flags, &folder, check),
            Some(Command::Migrate { .. }) => migrate(&args.flags),
            Some(Command::CopyArtifacts) => copy_artifacts(&args.flags),
            Some(Command::Man) => manual(),
            None => run(&args).map(|()| ExitCode::SUCCESS),
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<TakenOver>() || error.is::<SteppedDown>() {
                return ExitCode::from(election::TAKEN_OVER);
            }
            // Started again it would fail in the same way: its unit knows this code (RestartPreventExitStatus).
            if error.is::<ConfigError>() {
                return ExitCode::from(WRONG_SETTINGS);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    log::start(args.log_format);
    let config = Config::load(&args.flags, variables())?;
    let flags = args.flags.clone();
    let read = Arc::new(move || Config::load(&flags, variables()));
    tokio::runtime::Runtime::new()?.block_on(marquee_coordinator::run(config, read))
}

fn init_here(flags: &Flags, init: &Init) -> anyhow::Result<ExitCode> {
    // What the flags name is not the service's.
    let is_services = !init.no_start && !init.part && *flags == Flags::default();
    let service = is_services
        .then(|| Service::installed(enable::UNIT))
        .flatten();
    if let Some(service) = service {
        return init_and_start(service, flags, init);
    }
    anyhow::ensure!(
        init.workers == 0,
        "--workers wants the service, which root alone can start on a host where it is installed; start the coordinator yourself, then: marquee-coordinator token create --uses {}",
        init.workers
    );
    let place = Config::place(flags, variables())?;
    become_owner_of(&place.data_dir)?;
    let mut told = trust::init::init(&place, &init.name, SystemClock.now())?;
    if !init.part {
        told.push_str(&trust::init::next_steps(&place));
    }
    print(&told)
}

fn init_and_start(service: Service, flags: &Flags, init: &Init) -> anyhow::Result<ExitCode> {
    let place = Config::place(flags, variables())?;
    // As it is before the other process works: by the difference `enable` knows whether to start
    // the service again.
    let before = enable::certificate(&place);
    // In a process of its own, which becomes the coordinator's account: systemd wants root, and the files must not be its.
    let mut part = std::process::Command::new(std::env::current_exe()?);
    part.args(["init", "--part"]);
    for name in &init.name {
        part.arg("--name").arg(name);
    }
    if !part.status()?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let config = Config::load(flags, variables())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let told = enable::enable(service, &place, &config, before, init.workers);
    print(&runtime.block_on(told)?)
}

/// Writes to stdout what somebody asked for.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn authority(flags: &Flags) -> anyhow::Result<ExitCode> {
    let place = Config::place(flags, variables())?;
    let files = Files::of(&place.data_dir);
    let bundle = Bundle::read(&files)
        .context("there is no authority here, or you may not read it (\"marquee-coordinator init\" makes one; run this as root or the coordinator's account)")?;
    print(&bundle.pem)
}

fn token(flags: &Flags, command: TokenCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags, variables())?;
    let runtime = tokio::runtime::Runtime::new()?;
    match command {
        TokenCommand::Create {
            role,
            name,
            ttl,
            uses,
        } => {
            let request = v1::CreateJoinTokenRequest {
                role,
                name: name.unwrap_or_default(),
                ttl_s: ttl,
                uses,
            };
            let (token, told) = runtime.block_on(trust::local::create_token(&config, request))?;
            // stdout is the token alone, so that it can go into a file.
            eprint!("{told}");
            print(&format!("{token}\n"))
        }
        TokenCommand::List => print(&runtime.block_on(trust::local::list_tokens(&config))?),
        TokenCommand::Revoke { id } => {
            print(&runtime.block_on(trust::local::revoke_token(&config, id))?)
        }
    }
}

/// `90s`, `15m`, `1h`, `7d`.
fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no time; write 90s, 15m, 1h or 7d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(factor).ok_or_else(wrong)
}

fn look(flags: &Flags, json: bool) -> anyhow::Result<ExitCode> {
    let report = tokio::runtime::Runtime::new()?.block_on(doctor::run(flags, variables()));
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

fn settings(flags: &Flags, command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags, variables())?;
    let listing = &config.listing;
    let text = match command {
        ConfigCommand::Check {
            settings_only: true,
        } => "settings: ok\n".to_owned(),
        ConfigCommand::Check { .. } => return check(&config),
        ConfigCommand::Show { json: true, .. } => {
            format!("{}\n", serde_json::to_string(listing)?)
        }
        ConfigCommand::Show { origin, .. } => as_toml(listing, *origin),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let bucket = tokio::runtime::Runtime::new()?.block_on(objects::probe(config));
    let Some(bucket) = bucket else {
        return print("settings: ok\n");
    };
    if bucket.verdict == Verdict::Failed {
        let cure = bucket.cure.unwrap_or_default();
        anyhow::bail!("{}; {cure}", bucket.found);
    }
    print(&format!("settings: ok\nbucket: {}\n", bucket.found))
}

fn copy_artifacts(flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags, variables())?;
    become_owner_of(&config.data_dir)?;
    let say = |text: &str| eprintln!("{text}");
    let copied = tokio::runtime::Runtime::new()?.block_on(objects::copy(&config, say))?;
    let objects::Copied {
        files,
        bytes,
        were_there,
        damaged,
    } = copied;
    print(&format!(
        "copied {files} files of {bytes} bytes, {were_there} were there already; start the coordinator, then: marquee audit verify\n"
    ))?;
    if damaged == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!(
        "{damaged} files are damaged in {:?} and were left there; \"marquee audit verify\" names their jobs, which \"marquee retry\" runs again",
        config.artifacts_dir
    )
}

fn back_up(flags: &Flags, folder: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags, variables())?;
    let made = tokio::runtime::Runtime::new()?.block_on(backup::backup(&config, folder))?;
    std::io::stdout().write_all(made.text(folder).as_bytes())?;
    let absent = &made.manifest.absent;
    if absent.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // For whoever looks at the exit code alone: there is something that jobs name and no backup holds.
    anyhow::bail!(
        "the backup stands, but {} files that jobs name were missing or damaged, such as {} ({}); \"marquee audit verify\" names their jobs",
        absent.len(),
        absent[0].digest.short(),
        absent[0].why
    )
}

fn restore(flags: &Flags, folder: &Path, check: bool) -> anyhow::Result<ExitCode> {
    if check {
        // Without settings: a backup is checked on whatever host it lies.
        let manifest = tokio::runtime::Runtime::new()?.block_on(backup::check(folder))?;
        return print(&format!("{}it can be restored\n", manifest.text()));
    }
    let config = Config::load(flags, variables())?;
    // What is made is the coordinator's, also where root types this.
    become_owner_of(&config.data_dir)?;
    let manifest = tokio::runtime::Runtime::new()?.block_on(backup::restore(&config, folder))?;
    print(&format!(
        "{}it is restored; start the coordinator, then: marquee audit verify\n",
        manifest.text()
    ))
}

fn new_secrets_key() -> anyhow::Result<ExitCode> {
    let key = marquee_coordinator::secrets::new_key()?;
    print(&format!("{key}\n"))
}

fn migrate(flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags, variables())?;
    let (told, is_well) = tokio::runtime::Runtime::new()?.block_on(migrate::dry_run(&config))?;
    print(&told)?;
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn manual() -> anyhow::Result<ExitCode> {
    let page = clap_mangen::Man::new(Args::command()).section("8");
    page.render(&mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}
