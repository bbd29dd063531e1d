//! What jobs need of each other: names that exist, inputs that fit, no cycle, and an order.

use std::collections::{BTreeMap, BTreeSet};

use super::job::Draft;
use super::table::{Errors, unknown};
use crate::ids::JobName;
use crate::spec::{InputRef, JobKind, JobSpec};

/// The kind of each job; None where it could not be read.
type Kinds = BTreeMap<JobName, Option<JobKind>>;

/// Checks needs and inputs, adds the jobs that inputs name to `needs`, and sorts the jobs so that
/// each comes after what it needs (by name where the order is free).
pub(super) fn check_and_sort(mut jobs: Vec<Draft>, errors: &Errors) -> Vec<JobSpec> {
    let kinds: Kinds = jobs
        .iter()
        .map(|job| (job.name.clone(), job.kind))
        .collect();
    for job in &mut jobs {
        if errors.is_full() {
            // Nothing more would be told, and each name is held against all others for it.
            return Vec::new();
        }
        check_needs(job, &kinds, errors);
        check_inputs(job, &kinds, errors);
    }
    // Sorted first and thinned out then: a job whose own keys are wrong still takes part in what
    // others need.
    sort(jobs, errors)
        .into_iter()
        .filter_map(Draft::into_spec)
        .collect()
}

fn check_needs(job: &mut Draft, kinds: &Kinds, errors: &Errors) {
    let names: Vec<&str> = kinds
        .keys()
        .map(JobName::as_str)
        .filter(|name| *name != job.name.as_str())
        .collect();
    for (index, need) in job.needs.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        let field = format!("jobs.{}.needs[{index}]", job.name);
        if *need == job.name {
            errors.add(
                field,
                format!("{:?} is the job itself; leave it out", need.as_str()),
            );
        } else if !kinds.contains_key(need) {
            errors.add(
                field,
                format!(
                    "no job of this pipeline has this name: {}",
                    unknown(need.as_str(), &names)
                ),
            );
        }
    }
    // What is wrong was told. Left in, it would come up again as a cycle, or as a job that can never run.
    let is_sound = |need: &JobName| kinds.contains_key(need) && *need != job.name;
    job.needs.retain(is_sound);
    job.needs_on.retain(|need, _| is_sound(need));
}

fn check_inputs(job: &mut Draft, kinds: &Kinds, errors: &Errors) {
    let Some(kind) = job.kind else { return };
    for required in kind.required_inputs() {
        if !job.inputs.contains_key(*required) {
            let makes_it =
                |kind: &Option<JobKind>| kind.is_some_and(|kind| kind.output() == *required);
            let maker = kinds
                .iter()
                .find(|(_, kind)| makes_it(kind))
                .map(|(name, _)| name.as_str());
            let example = format!(
                "{{ {required} = \"{}.{required}\" }}",
                maker.unwrap_or("<job>")
            );
            errors.add(
                format!("jobs.{}.inputs.{required}", job.name),
                format!(
                    "is missing, and {} needs it; write inputs = {example}",
                    a_job(kind)
                ),
            );
        }
    }
    for (name, input) in &job.inputs {
        match check_input(&job.name, kind, name, input, kinds) {
            Err(message) => errors.add(format!("jobs.{}.inputs.{name}", job.name), message),
            Ok(Some(maker)) if job.needs_on.contains_key(maker) => {
                let on = job.needs_on.get(maker).copied().unwrap_or_default();
                let message = format!(
                    "{:?} makes it only where it succeeds, and needs waits for it to {}; leave it out of needs, or \
                     out of inputs",
                    maker.as_str(),
                    on.verb()
                );
                errors.add(format!("jobs.{}.inputs.{name}", job.name), message);
            }
            // An input is a need by itself: written down in two places, one of them would be
            // forgotten.
            Ok(Some(maker)) if !job.needs.contains(maker) => job.needs.push(maker.clone()),
            Ok(_) => {}
        }
    }
}

/// The job that makes `input`, if it is one of the pipeline, or what is wrong.
fn check_input<'a>(
    job: &JobName,
    kind: JobKind,
    name: &str,
    input: &'a InputRef,
    kinds: &Kinds,
) -> Result<Option<&'a JobName>, String> {
    let takes_anything = kind == JobKind::Command;
    let is_optional = kind.optional_inputs().contains(&name);
    if !takes_anything && !is_optional && !kind.required_inputs().contains(&name) {
        return Err(format!(
            "is no input of {}: it {}",
            a_job(kind),
            takes(kind)
        ));
    }
    let InputRef::Job { job: from, output } = input else {
        return Ok(None);
    };
    if from == job {
        return Err("names the job itself".into());
    }
    let Some(maker) = kinds.get(from) else {
        let names: Vec<&str> = kinds
            .keys()
            .filter(|name| *name != job)
            .map(JobName::as_str)
            .collect();
        return Err(format!(
            "no job of this pipeline has this name: {}",
            unknown(from.as_str(), &names)
        ));
    };
    // Its kind could not be read, and that was told: nothing is known of its output.
    let Some(maker) = *maker else {
        return Ok(Some(from));
    };
    let right = maker.output();
    if right != output {
        return Err(format!(
            "{} has no output {output:?}; write \"{from}.{right}\"",
            a_job(maker)
        ));
    }
    // What a job may have besides is an earlier output of its own kind; a module may be any program's.
    let is_wanted = match name {
        "module" if is_optional => right == kind.output() || right == JobKind::Command.output(),
        _ if is_optional => right == kind.output(),
        _ => right == name,
    };
    if !takes_anything && !is_wanted {
        return Err(format!(
            "is made by {}; {} {}",
            a_job(maker),
            a_job(kind),
            takes(kind)
        ));
    }
    Ok(Some(from))
}

/// "a train job", "an eval job".
fn a_job(kind: JobKind) -> String {
    let article = if kind == JobKind::Eval { "an" } else { "a" };
    format!("{article} {kind} job")
}

fn takes(kind: JobKind) -> String {
    match (kind.required_inputs(), kind.optional_inputs()) {
        ([], []) => "takes none; leave inputs out".into(),
        ([], names) => format!("takes {} at most", names.join(" and ")),
        (names, []) => format!("takes {} alone", names.join(" and ")),
        (names, more) => format!(
            "takes {}, and {} where given",
            names.join(" and "),
            more.join(" and ")
        ),
    }
}

/// Kahn's algorithm; what is left when no job is free is on a cycle or behind one.
fn sort(jobs: Vec<Draft>, errors: &Errors) -> Vec<Draft> {
    let mut missing: BTreeMap<JobName, usize> = BTreeMap::new();
    let mut needed_by: BTreeMap<JobName, Vec<JobName>> = BTreeMap::new();
    for job in &jobs {
        missing.insert(job.name.clone(), job.needs.len());
        for need in &job.needs {
            let dependents = needed_by.entry(need.clone()).or_default();
            dependents.push(job.name.clone());
        }
    }
    let free = missing.iter().filter(|(_, count)| **count == 0);
    // By name among those that are free: the same document gives the same order, and with it the same numbers of
    // jobs.
    let mut free: BTreeSet<JobName> = free.map(|(name, _)| name.clone()).collect();
    let mut left: BTreeMap<JobName, Draft> = jobs
        .into_iter()
        .map(|job| (job.name.clone(), job))
        .collect();
    let mut sorted: Vec<Draft> = Vec::with_capacity(left.len());
    while let Some(name) = free.pop_first() {
        sorted.extend(left.remove(&name));
        for dependent in needed_by.remove(&name).into_iter().flatten() {
            if let Some(count) = missing.get_mut(&dependent) {
                *count -= 1;
                if *count == 0 {
                    free.insert(dependent);
                }
            }
        }
    }
    if !left.is_empty() {
        let left: Vec<Draft> = left.into_values().collect();
        let cycle = a_cycle(&left);
        errors.add(
            format!("jobs.{}.needs", cycle[0]),
            format!("forms a cycle: {}", cycle.join(" needs ")),
        );
        // They go on, so that other faults of theirs are told in the same answer.
        sorted.extend(left);
    }
    sorted
}

/// Follows needs from the first job until one comes twice. Every job in `left` has a need in it.
fn a_cycle(left: &[Draft]) -> Vec<&str> {
    let mut path: Vec<&Draft> = vec![&left[0]];
    loop {
        let last = path[path.len() - 1];
        let next = left
            .iter()
            .find(|job| last.needs.contains(&job.name))
            .unwrap_or(last);
        let seen = path.iter().position(|job| job.name == next.name);
        path.push(next);
        if let Some(start) = seen {
            return path[start..].iter().map(|job| job.name.as_str()).collect();
        }
    }
}
