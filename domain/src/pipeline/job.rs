//! What all kinds of jobs have in common.

use std::collections::BTreeMap;

use super::array::Array;
use super::sharing::sharing;
use super::table::Table;
use super::{Capacity, array, needs, secrets, settings};
use crate::child::env::input_variable;
use crate::ids::JobName;
use crate::limits;
use crate::project::ProjectName;
use crate::resources::{DeviceKind, Resources};
use crate::spec::{InputRef, JobKind, JobSpec, NeedOn, Sharing, Source, Watch, Work};

/// Default of `max_attempts`: two faults of the world are borne, a third is a pattern.
const MAX_ATTEMPTS: u32 = 3;
/// Longest `timeout`: a year, beyond which a typing error is likelier than a wish.
const TIMEOUT_MAX_S: u64 = 365 * 24 * 3600;
/// Devices of one rank.
const DEVICES_PER_RANK_MAX: u32 = 64;

/// A job as far as it could be read: enough to check it against the others even where some of its
/// own keys are wrong, so that one error does not hide or invent another.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: JobName,
    pub(super) kind: Option<JobKind>,
    pub(super) needs: Vec<JobName>,
    /// How those must end of which it is not their success that is waited for.
    pub(super) needs_on: BTreeMap<JobName, NeedOn>,
    pub(super) inputs: BTreeMap<String, InputRef>,
    rest: Option<Rest>,
}

/// What no other job has to know of.
#[derive(Debug)]
struct Rest {
    work: Work,
    resources: Resources,
    priority: i32,
    max_attempts: u32,
    timeout_s: Option<u32>,
    reuse: bool,
    array: Option<Array>,
    watch: Watch,
    sharing: Sharing,
}

impl Draft {
    /// The finished spec, where all of the job could be read.
    pub(super) fn into_spec(self) -> Option<JobSpec> {
        let Rest {
            work,
            resources,
            priority,
            max_attempts,
            timeout_s,
            reuse,
            array,
            watch,
            sharing,
        } = self.rest?;
        let Self {
            name,
            needs,
            needs_on,
            inputs,
            ..
        } = self;
        let (size, array) = array.map(|array| (array.size, array)).unzip();
        let Array {
            may_fail, values, ..
        } = array.unwrap_or_default();
        Some(JobSpec {
            name,
            work,
            needs,
            needs_on,
            inputs,
            resources,
            priority,
            max_attempts,
            timeout_s,
            reuse,
            array: size,
            may_fail,
            element: None,
            values,
            watch,
            sharing,
        })
    }
}

/// Reads `[jobs.<key>]`.
pub(super) fn job(
    key: &str,
    mut table: Table<'_>,
    cluster: Option<Capacity>,
    project: &ProjectName,
) -> Option<Draft> {
    let name = match key.parse::<JobName>() {
        Ok(name) => Some(name),
        Err(why) => {
            table.errors().add(
                format!("jobs.{key}"),
                format!("{key:?} is no name of a job: it {why}"),
            );
            None
        }
    };
    let kinds = JobKind::ALL.map(|kind| (kind.as_str(), kind));
    let kind = table.choice("kind", &kinds, None);
    let (needs, needs_on) = needs::needs(&mut table);
    let inputs = inputs(&mut table);
    // Without a kind nothing can be said of the other keys, so they are left alone.
    let rest = kind.and_then(|kind| rest(kind, table, cluster, project));
    Some(Draft {
        name: name?,
        kind,
        needs,
        needs_on,
        inputs,
        rest,
    })
}

fn rest(
    kind: JobKind,
    mut table: Table<'_>,
    cluster: Option<Capacity>,
    project: &ProjectName,
) -> Option<Rest> {
    let resources = resources(&mut table, kind, cluster);
    let priority = table.int("priority", -1_000..=1_000, Some(0));
    let max_attempts = table.int("max_attempts", 1..=limits::ATTEMPTS_MAX, Some(MAX_ATTEMPTS));
    let timeout_s = timeout(&mut table);
    let watch = super::watch::watch(&mut table, kind);
    let reuse = reuse(&mut table, kind);
    let array = array::array(&mut table, kind);
    let size = array.as_ref().map(|array| array.size);
    let mut sharing = sharing(&mut table, size, project);
    if sharing.gpu_memory_mib.is_some() && resources.device == DeviceKind::Cpu {
        table.add_error(
            "gpu_memory",
            "is what each GPU of the job must have, and this job asks for none; give device = \"gpu\", or leave it out",
        );
    }
    let work = match kind {
        JobKind::Fetch => settings::fetch(&mut table).map(Work::Fetch),
        JobKind::Preprocess => Some(Work::Preprocess(settings::preprocess(&mut table))),
        JobKind::Train => settings::train(&mut table).map(Work::Train),
        JobKind::Eval => Some(Work::Eval(settings::eval(&mut table))),
        JobKind::Command => Some(Work::Command(settings::command(&mut table))),
    };
    if let Some(Work::Train(train)) = &work
        // A rank without a picture would hold the others up at each step and add nothing.
        && train.batch_size < resources.ranks
    {
        let (batch, ranks) = (train.batch_size, resources.ranks);
        table.add_error(
            "batch_size",
            format!("{batch} pictures cannot be spread over {ranks} ranks; give {ranks} or more"),
        );
    }
    if let (Some(size), Some(Work::Fetch(fetch))) = (size, &work) {
        check_fetch_array(&table, size, &fetch.source);
    }
    // After the work, which tells whether the job reads any.
    sharing.secrets = secrets::secrets(&mut table, kind, work.as_ref());
    table.finish();
    // Only now: every key has been read, so that one wrong key hides no other.
    let work = work?;
    Some(Rest {
        watch: watch.of(&work, resources.ranks),
        work,
        resources,
        priority,
        max_attempts,
        timeout_s,
        reuse,
        array,
        sharing,
    })
}

/// Whether an identical step's artifact may be taken.
fn reuse(table: &mut Table<'_>, kind: JobKind) -> bool {
    let wanted = table.flag("reuse", true);
    if wanted && table.has("reuse") && !kind.is_reusable() {
        table.add_error(
            "reuse",
            format!(
                "a {kind} job always runs: code, settings and inputs alone do not decide its result; \
                 leave it out"
            ),
        );
    }
    wanted
}

/// What a source must give for each element of an array to have a share of it.
fn check_fetch_array(table: &Table<'_>, size: u32, source: &Source) {
    match source {
        Source::Tmdb {
            requests_per_second,
            concurrency,
            ..
        }
        | Source::List {
            requests_per_second,
            concurrency,
            ..
        } => {
            // Rates are whole requests: an element that was given less than one would ask nobody, and never end.
            let least = (*requests_per_second).min(*concurrency);
            if size > least {
                table.add_error(
                    "array",
                    format!(
                        "{size} elements share {requests_per_second} requests a second, {concurrency} at once, and each \
                         needs one; give at most {least} elements, or raise both"
                    ),
                );
            }
        }
        // Reading a folder is not what takes the time, and elements on other hosts would find another folder, or
        // none.
        Source::Folder { .. } => table.add_error(
            "array",
            "a folder lies on one worker, which reads it at once; leave it out",
        ),
    }
}

fn inputs(table: &mut Table<'_>) -> BTreeMap<String, InputRef> {
    let mut inputs: BTreeMap<String, InputRef> = BTreeMap::new();
    for (name, text) in table.text_map("inputs") {
        if table.errors().is_full() {
            break;
        }
        let field = format!("inputs.{name}");
        if name.parse::<JobName>().is_err() {
            table.add_error(
                &field,
                format!("{name:?} is no name of an input: use a-z, 0-9, \"-\" and \"_\""),
            );
            continue;
        }
        // Refused rather than given another variable: scripts know an input by the name that docs/pipeline.md gives it.
        let variable = input_variable(&name);
        let twin = inputs
            .keys()
            .find(|other| input_variable(other) == variable);
        if let Some(twin) = twin {
            table.add_error(
                &field,
                format!("a rank would see it as {variable}, and \"{twin}\" too; call one of them otherwise"),
            );
            continue;
        }
        match input_ref(&text) {
            Some(input) => drop(inputs.insert(name, input)),
            None => table.add_error(
                &field,
                format!(
                    "{text:?} names no artifact; write \"<job>.<output>\" or \"artifact:<digest>\""
                ),
            ),
        }
    }
    inputs
}

fn input_ref(text: &str) -> Option<InputRef> {
    if let Some(digest) = text.strip_prefix("artifact:") {
        // As `sha256sum --tag`, OCI and others write it.
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        return digest.parse().ok().map(InputRef::Artifact);
    }
    let (job, output) = text.split_once('.')?;
    Some(InputRef::Job {
        job: job.parse().ok()?,
        output: output.to_owned(),
    })
}

/// `ranks = 4`, or `ranks = { count = 4, min = 2 }`: with how few of them the job goes on.
fn ranks(table: &mut Table<'_>, kind: JobKind) -> (u32, Option<u32>) {
    if !table.is_table("ranks") {
        return (table.int("ranks", 1..=limits::RANKS_MAX, Some(1)), None);
    }
    let Some(mut ranks) = table.table("ranks") else {
        return (1, None);
    };
    let count = ranks.int("count", 1..=limits::RANKS_MAX, None);
    let min = ranks
        .has("min")
        .then(|| ranks.int("min", 1..=limits::RANKS_MAX, None));
    if let Some(min) = min {
        if kind != JobKind::Train {
            // Only training can share its work out anew among fewer; any other gang has lost a part of its
            // result.
            ranks.add_error(
                "min",
                format!("a {kind} job cannot go on without a rank; only train jobs can"),
            );
        } else if ranks.has("count") && min > count {
            ranks.add_error("min", format!("{min} is more than count, {count}"));
        }
    }
    ranks.finish();
    // With all of them needed nothing goes on without one.
    (count, min.filter(|min| *min < count))
}

fn resources(table: &mut Table<'_>, kind: JobKind, cluster: Option<Capacity>) -> Resources {
    let (ranks, min_ranks) = ranks(table, kind);
    let devices_per_rank = table.int("devices_per_rank", 1..=DEVICES_PER_RANK_MAX, Some(1));
    let kinds = DeviceKind::ALL.map(|kind| (kind.as_str(), kind));
    // A network is trained on GPUs where there are any; the other kinds would hold one for nothing.
    let default = match kind {
        JobKind::Train | JobKind::Eval => DeviceKind::Any,
        JobKind::Fetch | JobKind::Preprocess | JobKind::Command => DeviceKind::Cpu,
    };
    let device = table
        .choice("device", &kinds, Some(default))
        .unwrap_or(default);
    if ranks > 1 && !matches!(kind, JobKind::Train | JobKind::Command) {
        table.add_error(
            "ranks",
            format!("{ranks} ranks do not help a {kind} job, which is one process; leave it out"),
        );
    }
    if let Some(cluster) = cluster {
        let wanted = ranks.saturating_mul(devices_per_rank);
        let (has, what) = match device {
            DeviceKind::Cpu => (cluster.cpu_slots, "CPU devices"),
            DeviceKind::Gpu => (cluster.gpus, "GPUs"),
            DeviceKind::Any => (cluster.cpu_slots.max(cluster.gpus), "devices of one kind"),
        };
        if wanted > has {
            let message = format!(
                "{ranks} ranks need {wanted} {what}, but all workers together have {has}; \
                 ask for fewer ranks, or start more workers first"
            );
            table.add_error("ranks", message);
        }
    }
    Resources {
        ranks,
        min_ranks,
        device,
        devices_per_rank,
    }
}

/// `"2h"`, `"30m"`, `"90s"`, or nothing.
fn timeout(table: &mut Table<'_>) -> Option<u32> {
    let text = table.text("timeout")?;
    let seconds = super::watch::duration_s(&text).filter(|s| (1..=TIMEOUT_MAX_S).contains(s));
    let seconds = seconds.and_then(|s| u32::try_from(s).ok());
    if seconds.is_none() {
        table.add_error(
            "timeout",
            format!("{text:?} is no duration up to a year; write \"90s\", \"30m\" or \"2h\""),
        );
    }
    seconds
}
