//! `marquee project` and `marquee quota`: who shares the cluster, and how much each may have.

use clap::Subcommand;
use marquee_domain::idle::check_stop;
use marquee_domain::project::{ProjectName, Reset, check_weight};
use marquee_proto::v1;
use marquee_view::projects::{Projects, QuotasOf};

use super::drain::{When, parse_when};
use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::{clock, requests};

/// Share the cluster between projects: weights and quotas
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee project list
  marquee project set vision --weight 2 --gpus 8
  marquee project set vision --gpu-hours-week 41 --reset mon
  marquee project set vision --gpus none

A job belongs to the project that its document names (project = \"vision\"), or --project of submit, or
MARQUEE_PROJECT, or else \"default\". Jobs of a higher priority go first; of one priority, those of the
project that used least for its weight, half of what was used being forgotten after 7 days.
Quotas keep jobs from starting; nothing that runs is stopped for one.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Set(Set),
}

/// List projects with what they use
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee project list
  marquee project list --output json")]
struct List {}

/// Make a project, or change its weight, quotas, how long it keeps what ended and which idle jobs it stops; what is
/// not given stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee project set vision
  marquee project set vision --weight 2 --gpus 8 --queued 5000
  marquee project set vision --gpu-hours-week none
  marquee project set vision --keep-days 90 --keep-log-days 14
  marquee project set vision --idle-stop 30m

\"marquee gc --dry-run\" says what would go. It goes within the hour.")]
struct Set {
    /// 1 to 63 of a-z, 0-9, - and _, a letter first
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    /// Share beside other projects: 2 is given twice as much as 1
    #[arg(long, value_name = "NUMBER", value_parser = parse_weight)]
    weight: Option<f64>,
    /// GPUs at once, or none for no quota
    #[arg(long, value_name = "NUMBER|none", value_parser = parse_quota::<u32>)]
    gpus: Option<Quota<u32>>,
    /// CPU slots at once, or none for no quota
    #[arg(long, value_name = "NUMBER|none", value_parser = parse_quota::<u32>)]
    cpu_slots: Option<Quota<u32>>,
    /// Jobs that wait or are queued, each element of an array counted, or none for no quota
    #[arg(long, value_name = "NUMBER|none", value_parser = parse_quota::<u32>)]
    queued: Option<Quota<u32>>,
    /// GPU-hours in a week, or none for no quota
    #[arg(long, value_name = "HOURS|none", value_parser = parse_hours)]
    gpu_hours_week: Option<Quota<f64>>,
    /// When used GPU-hours are given back: rolling (each 168 hours later), or on a day at 00:00 UTC
    #[arg(long, value_name = "rolling|mon|...|sun", value_parser = parse_reset)]
    reset: Option<String>,
    /// Days after their end after which pipelines go, with logs, metrics, checkpoints and artifacts, or none for never
    #[arg(long, value_name = "DAYS|none", value_parser = parse_quota::<u32>)]
    keep_days: Option<Quota<u32>>,
    /// Days after their end after which logs and metrics of jobs go, or none to keep them with their pipeline
    #[arg(long, value_name = "DAYS|none", value_parser = parse_quota::<u32>)]
    keep_log_days: Option<Quota<u32>>,
    /// After so long a train or command job whose GPUs do nothing is stopped, 5 minutes to 7 days (30m, 2h), or none for
    /// never
    #[arg(long, value_name = "SPAN|none", value_parser = parse_minutes)]
    idle_stop: Option<Quota<u32>>,
    /// Only say what would be set, beside what is now
    #[arg(long)]
    dry_run: bool,
}

/// Show what a project has used of its quotas, and when it frees
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee quota
  marquee quota vision
  marquee quota vision --output json | jq '.[0].quotas'")]
pub(super) struct QuotaArgs {
    /// Only this project, with who changed it
    #[arg(value_name = "PROJECT", value_parser = parse_name)]
    project: Option<String>,
}

/// A quota as typed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Quota<T> {
    None,
    Of(T),
}

impl<T: Copy> Quota<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Of(value) => Some(value),
        }
    }
}

fn parse_quota<T: std::str::FromStr>(text: &str) -> Result<Quota<T>, String> {
    if text == "none" {
        return Ok(Quota::None);
    }
    let number = text.parse().map(Quota::Of);
    number.map_err(|_| "write a number from 0, or none for no quota".to_owned())
}

/// Hours are a number that is one: what is compared with it must come to an answer.
fn parse_hours(text: &str) -> Result<Quota<f64>, String> {
    match parse_quota(text) {
        Ok(Quota::Of(hours)) if !(f64::is_finite(hours) && hours >= 0.0) => {
            Err("write hours from 0, or none for no quota".to_owned())
        }
        parsed => parsed,
    }
}

fn parse_minutes(text: &str) -> Result<Quota<u32>, String> {
    if text == "none" {
        return Ok(Quota::None);
    }
    let span = match parse_when(text) {
        Ok(When::In(span)) => span,
        Ok(When::At(_)) | Err(_) => {
            return Err("write a span such as 30m or 2h, or none".to_owned());
        }
    };
    // Up: nobody is stopped earlier than he wanted.
    let minutes = span.num_seconds().unsigned_abs().div_ceil(60);
    let minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
    // By the coordinator's own rule: it refuses the same, and here the flag's name stands beside
    // it.
    check_stop(minutes)?;
    Ok(Quota::Of(minutes))
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let name: ProjectName = text
        .parse()
        .map_err(|why| format!("a project's name {why}"))?;
    Ok(name.to_string())
}

fn parse_weight(text: &str) -> Result<f64, String> {
    let weight = text
        .parse()
        .map_err(|_| "write a number, such as 2 or 0.5".to_owned())?;
    check_weight(weight)
}

fn parse_reset(text: &str) -> Result<String, String> {
    match Reset::from_word(text) {
        Some(reset) => Ok(reset.as_str().to_owned()),
        None => Err("write rolling, or a day: mon, tue, wed, thu, fri, sat, sun".to_owned()),
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    match args.command {
        Command::List(List {}) => {
            let projects = requests::projects::list(&remote, None).await?;
            session.output.show(&Projects(&projects), clock::now())?;
        }
        Command::Set(set) if set.dry_run => {
            let set = request(set);
            // The coordinator has no dry run of this: what is there now is asked for, and whether
            // it would take the change is not known yet.
            let all = requests::projects::list(&remote, None).await?;
            let now: Vec<v1::Project> = all
                .into_iter()
                .filter(|project| project.name == set.name)
                .collect();
            let verb = if now.is_empty() { "made" } else { "changed" };
            say!("project {} would be {verb}: {}", set.name, changes(&set));
            session.output.show(&QuotasOf(&now), clock::now())?;
        }
        Command::Set(set) => {
            let project = requests::projects::set(&remote, request(set)).await?;
            session.output.show(&QuotasOf(&[project]), clock::now())?;
        }
    }
    Ok(())
}

/// What a request sets and lifts, by the options' names.
fn changes(set: &v1::SetProjectRequest) -> String {
    let quotas = set.quotas.clone().unwrap_or_default();
    let number = |name: &str, value: Option<String>| value.map(|value| format!("{name} {value}"));
    let text = |value: Option<u32>| value.map(|value| value.to_string());
    let reset = Some(quotas.reset).filter(|reset| !reset.is_empty());
    let set_to = [
        number("weight", set.weight.map(|value| value.to_string())),
        number("gpus", text(quotas.gpus)),
        number("cpu_slots", text(quotas.cpu_slots)),
        number("queued", text(quotas.queued)),
        number(
            "gpu_hours_week",
            quotas.gpu_hours_week.map(|value| value.to_string()),
        ),
        number("reset", reset),
        number("keep_days", text(set.keep_days)),
        number("keep_log_days", text(set.keep_log_days)),
        number(
            "idle_stop",
            text(set.idle_stop_min).map(|minutes| format!("{minutes} min")),
        ),
    ];
    let lifted = set.lift.iter().map(|name| format!("{name} none"));
    let all: Vec<String> = set_to.into_iter().flatten().chain(lifted).collect();
    if all.is_empty() {
        "nothing is set".to_owned()
    } else {
        all.join(", ")
    }
}

fn request(set: Set) -> v1::SetProjectRequest {
    // Quotas to take away are listed by name, since on the wire a field that is left out means "as
    // it is", and 0 means that nothing may start.
    let mut lift = Vec::new();
    let mut lifts = |name: &str, is_lifted: bool| lift.extend(is_lifted.then(|| name.to_owned()));
    lifts("gpus", set.gpus == Some(Quota::None));
    lifts("cpu_slots", set.cpu_slots == Some(Quota::None));
    lifts("queued", set.queued == Some(Quota::None));
    lifts("gpu_hours_week", set.gpu_hours_week == Some(Quota::None));
    lifts("keep_days", set.keep_days == Some(Quota::None));
    lifts("keep_log_days", set.keep_log_days == Some(Quota::None));
    lifts("idle_stop", set.idle_stop == Some(Quota::None));
    v1::SetProjectRequest {
        name: set.name,
        weight: set.weight,
        quotas: Some(v1::Quotas {
            gpus: set.gpus.and_then(Quota::value),
            cpu_slots: set.cpu_slots.and_then(Quota::value),
            queued: set.queued.and_then(Quota::value),
            gpu_hours_week: set.gpu_hours_week.and_then(Quota::value),
            reset: set.reset.unwrap_or_default(),
        }),
        lift,
        keep_days: set.keep_days.and_then(Quota::value),
        keep_log_days: set.keep_log_days.and_then(Quota::value),
        idle_stop_min: set.idle_stop.and_then(Quota::value),
    }
}

pub(super) async fn quota(args: QuotaArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let projects = requests::projects::list(&remote, args.project.as_deref()).await?;
    session.output.show(&QuotasOf(&projects), clock::now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_are_refused_at_the_door() {
        for name in ["", "Vision", "a b", "../x", "\u{1b}[2J", "é"] {
            assert!(
                parse_name(name).unwrap_err().contains("must be 1 to 63"),
                "{name:?}"
            );
        }
        for weight in ["0", "-1", "NaN", "inf", "two", "1e12"] {
            assert!(parse_weight(weight).is_err(), "{weight}");
        }
        assert!(parse_quota::<u32>("-1").is_err());
        assert_eq!(parse_quota::<u32>("none"), Ok(Quota::None));
        assert_eq!(parse_minutes("2h"), Ok(Quota::Of(120)));
        assert_eq!(parse_minutes("301s"), Ok(Quota::Of(6)));
        assert_eq!(parse_minutes("none"), Ok(Quota::None));
        for odd in ["", "30", "4m", "8d", "-5m", "2027-03-01T06:00:00Z", "m"] {
            assert!(parse_minutes(odd).is_err(), "{odd:?}");
        }
        assert_eq!(
            parse_reset("Mon").unwrap_err().split(',').next(),
            Some("write rolling")
        );
    }

    #[test]
    fn what_is_not_given_is_not_sent() {
        let set = Set {
            name: "vision".into(),
            weight: None,
            gpus: Some(Quota::None),
            cpu_slots: None,
            queued: Some(Quota::Of(5)),
            gpu_hours_week: None,
            reset: None,
            keep_days: Some(Quota::Of(90)),
            keep_log_days: Some(Quota::None),
            idle_stop: Some(Quota::Of(30)),
            dry_run: false,
        };
        let request = request(set);
        let quotas = request.quotas.unwrap();
        assert_eq!(
            (quotas.gpus, quotas.queued, quotas.cpu_slots),
            (None, Some(5), None)
        );
        assert_eq!(request.lift, ["gpus", "keep_log_days"]);
        assert_eq!((request.keep_days, request.keep_log_days), (Some(90), None));
        assert_eq!(request.idle_stop_min, Some(30));
    }
}
