//! The history checker: what must be true of every world, whatever went wrong in it.
//!
//! A rule says what is wrong in words that name the job; none says why. Each has a history of its own in the tests
//! that breaks it alone.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::resources::Device;

use crate::clients::Told;
use crate::faults::Planned;
use crate::history::{Array, History, Job, Pipeline};
use crate::processes::{Ended, Life};

/// A worker that was cut off takes so long to be heard again at most: until it notices, and until its next try comes
/// through.
const RECOVERY_MS: u64 = 15_000;
/// How long what is left of an attempt may take to leave: the longest fault, a lease, a way back and the grace.
const LEAVES_WITHIN_MS: u64 = 45_000;
/// The lease, as everywhere.
const LEASE_MS: u64 = 10_000;

/// All that is wrong with a history; empty: nothing.
#[must_use]
pub fn check(history: &History, at_rest: bool) -> Vec<String> {
    let mut wrong = history.wrong.clone();
    wrong.extend(acknowledged(history));
    wrong.extend(numbers(history));
    wrong.extend(commits(history));
    wrong.extend(work_was_done(history));
    wrong.extend(results(history));
    wrong.extend(devices(history));
    wrong.extend(reports(history));
    wrong.extend(cancels(history));
    wrong.extend(order(history));
    wrong.extend(arrays(history));
    if !at_rest {
        wrong.extend(unrest(history));
    }
    wrong
}

/// Each acknowledged request has one pipeline with all its jobs.
fn acknowledged(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names: BTreeMap<&str, u32> = BTreeMap::new();
    for pipeline in &history.pipelines {
        *names.entry(&pipeline.name).or_default() += 1;
    }
    for (name, count) in names.iter().filter(|(_, count)| **count > 1) {
        wrong.push(format!(
            "{name} was submitted once and is there {count} times"
        ));
    }
    for told in &history.told {
        let Told::Submitted {
            request,
            pipeline,
            count,
            ..
        } = told
        else {
            continue;
        };
        let found = history.pipelines.iter().find(|row| row.id == *pipeline);
        match found {
            None => wrong.push(format!(
                "{request} was acknowledged, and its pipeline {pipeline} is not there"
            )),
            Some(row) if !is_of_request(row, request) => {
                wrong.push(format!(
                    "{request} was given pipeline {pipeline}, which is of {}",
                    row.request_id
                ));
            }
            Some(_) => {
                let jobs = history
                    .jobs
                    .values()
                    .filter(|job| job.pipeline_id == *pipeline);
                // Elements of arrays are counted from the outset, and become jobs later.
                let no_jobs = history.arrays.iter().filter_map(|array| {
                    let of_pipeline = history.jobs.get(&array.job_id)?.pipeline_id == *pipeline;
                    of_pipeline.then_some(array.to_come + array.dropped)
                });
                let there = jobs.count() as u64 + no_jobs.sum::<i64>().unsigned_abs();
                if there != *count {
                    wrong.push(format!(
                        "{request} makes {count} jobs, and {there} are there"
                    ));
                }
            }
        }
    }
    wrong
}

/// Whether a pipeline is stored under this request's id. The planted bug `submit-without-request-id` writes a time
/// behind it; that world is to be found by the pipeline that is there twice, and not by this.
fn is_of_request(row: &Pipeline, request: &str) -> bool {
    let rest = row.request_id.strip_prefix(request);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" at "))
}

/// A job's attempts are numbered 1, 2, 3 and so on, and the job knows the newest.
fn numbers(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for job in history.jobs.values() {
        let attempts = history.attempts.iter().filter(|row| row.job_id == job.id);
        let numbers: Vec<u32> = attempts.map(|row| row.number).collect();
        let expected: Vec<u32> = (1..=job.attempt).collect();
        if numbers != expected {
            wrong.push(format!(
                "job {}: attempts {numbers:?}, and it says that {} is its newest",
                job.id, job.attempt
            ));
        }
    }
    wrong
}

/// A job has one commit at most, by its newest attempt, and it has one just when it has succeeded.
fn commits(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for job in history.jobs.values() {
        let id = job.id;
        let succeeded: Vec<u32> = history
            .attempts
            .iter()
            .filter(|row| row.job_id == id && row.state == "succeeded")
            .map(|row| row.number)
            .collect();
        let artifact = history.artifacts.iter().find(|row| row.job_id == id);
        match (job.state.as_str(), artifact, succeeded.as_slice()) {
            ("succeeded", Some(artifact), [attempt])
                if artifact.attempt == *attempt && job.attempt == *attempt => {}
            // An array is committed by its last element, with an attempt or without one.
            ("succeeded", Some(_), []) if job.array_size.is_some() => {}
            ("succeeded", artifact, attempts) => wrong.push(format!(
                "job {id} succeeded with attempt {}, its artifact is of {:?}, and {attempts:?} say that they succeeded",
                job.attempt,
                artifact.map(|row| row.attempt),
            )),
            (state, artifact, attempts) => {
                if artifact.is_some() || !attempts.is_empty() {
                    wrong.push(format!(
                        "job {id} is {state}, and has an artifact ({}) or attempts that succeeded ({attempts:?})",
                        artifact.is_some()
                    ));
                }
            }
        }
        let live = |state: &str| matches!(state, "assigned" | "running");
        let open: Vec<u32> = history
            .attempts
            .iter()
            .filter(|row| row.job_id == id && live(&row.state))
            .map(|row| row.number)
            .collect();
        if !(open.is_empty() || open == [job.attempt] && job.state == "running") {
            wrong.push(format!(
                "job {id} is {}, and its attempts {open:?} are live",
                job.state
            ));
        }
    }
    wrong
}

/// An attempt that succeeded had every rank, each of which ran once and left in order.
fn work_was_done(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for attempt in history
        .attempts
        .iter()
        .filter(|row| row.state == "succeeded")
    {
        let of_attempt =
            |life: &&Life| life.key.job.0 == attempt.job_id && life.key.attempt.0 == attempt.number;
        let lives: Vec<&Life> = history.lives.iter().filter(of_attempt).collect();
        if history
            .jobs
            .get(&attempt.job_id)
            .is_some_and(|job| job.array_size.is_some())
        {
            continue;
        }
        // At least one rank is looked for, so that a success without any child is found.
        let size = lives.first().map_or(1, |life| life.world_size);
        for rank in 0..size {
            let ends: Vec<_> = lives
                .iter()
                .filter(|life| life.key.rank.0 == rank)
                .map(|life| life.ended.as_ref().map(|(_, how)| how))
                .collect();
            if ends != [Some(&Ended::Left(0))] {
                wrong.push(format!(
                    "attempt {} of job {} succeeded, and its rank {rank} ended as {ends:?}",
                    attempt.number, attempt.job_id
                ));
            }
        }
    }
    for (key, count) in starts(history) {
        if count > 1 {
            wrong.push(format!("rank {key:?} was started {count} times"));
        }
    }
    wrong
}

fn starts(history: &History) -> BTreeMap<(i64, u32, u32), u32> {
    let mut starts = BTreeMap::new();
    for life in &history.lives {
        *starts.entry(key(life)).or_default() += 1;
    }
    starts
}

fn key(life: &Life) -> (i64, u32, u32) {
    (life.key.job.0, life.key.attempt.0, life.key.rank.0)
}

/// What was committed is there, and is what the attempt's first rank wrote.
fn results(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for artifact in &history.artifacts {
        for (path, digest) in &artifact.files {
            let name = digest.as_str();
            // Blobs lie in folders by the first two digits of their digest.
            let file = history.blobs.join(&name[..2]).join(name);
            let Ok(text) = std::fs::read_to_string(&file) else {
                wrong.push(format!(
                    "job {}: blob of {path} is not there",
                    artifact.job_id
                ));
                continue;
            };
            let is_array = history
                .jobs
                .get(&artifact.job_id)
                .is_some_and(|job| job.array_size.is_some());
            let expected = format!("{}-{}-0\n", artifact.job_id, artifact.attempt);
            if !is_array && path == "result" && text != expected {
                wrong.push(format!(
                    "job {}: its result is {text:?}, and attempt {} wrote {expected:?}",
                    artifact.job_id, artifact.attempt
                ));
            }
        }
    }
    wrong
}

/// A device's use: from when to when, and by whom.
type Use = (u64, u64, String);

/// No two children are on one device at once.
fn devices(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let given: BTreeMap<(i64, u32, u32), (&str, &[Device])> = history
        .ranks
        .iter()
        .map(|row| {
            (
                (row.job_id, row.attempt, row.rank),
                (row.worker.as_str(), row.devices.as_slice()),
            )
        })
        .collect();
    let mut uses: BTreeMap<(String, String), Vec<Use>> = BTreeMap::new();
    for life in &history.lives {
        let Some((worker, devices)) = given.get(&key(life)) else {
            wrong.push(format!(
                "rank {} ran on {}, and nobody gave it a device",
                life.key, life.host
            ));
            continue;
        };
        if *worker != life.host {
            wrong.push(format!(
                "rank {} was given to {worker}, and ran on {}",
                life.key, life.host
            ));
        }
        // A child that never ended has its devices to the end of the world.
        let end = life.ended.as_ref().map_or(u64::MAX, |(at, _)| *at);
        for device in *devices {
            let place = (life.host.clone(), format!("{device:?}"));
            uses.entry(place)
                .or_default()
                .push((life.began_ms, end, life.key.to_string()));
        }
    }
    for ((host, device), mut uses) in uses {
        uses.sort();
        for pair in uses.windows(2) {
            let ((_, end, first), (begin, _, second)) = (&pair[0], &pair[1]);
            if begin < end {
                wrong.push(format!(
                    "{host}, {device}: rank {second} began while rank {first} ran there"
                ));
            }
        }
    }
    wrong
}

/// What is stored of a rank is what it said, in order, each line once; all of it where the rank has finished.
fn reports(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let none = Vec::new();
    for row in &history.ranks {
        let key_of_row = (row.job_id, row.attempt, row.rank);
        let stored = history.lines.get(&key_of_row).unwrap_or(&none);
        let life = history.lives.iter().find(|life| key(life) == key_of_row);
        let said = life.map_or(&none, |life| &life.said);
        // Only then has the worker sent all of it. Of others the last lines may be lost with their
        // host.
        let is_whole = row.state == "finished";
        if !said.starts_with(stored) || is_whole && said.len() != stored.len() {
            wrong.push(format!(
                "rank {key_of_row:?} ({}) said {said:?}, and stored is {stored:?}",
                row.state
            ));
        }
    }
    wrong
}

/// A job whose cancel was acknowledged ends cancelled, unless it had finished already or was brought back.
fn cancels(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for told in &history.told {
        let Told::Cancelled { job, .. } = told else {
            continue;
        };
        let Some(row) = history.jobs.get(job) else {
            continue;
        };
        let is_back = brought_back(history, row);
        // An array fails with the failure that is one too many, and stays so when what goes on of it is cancelled.
        let has_failed = row.state == "failed"
            && history
                .jobs
                .values()
                .any(|job| job.array_job_id == Some(row.id) && job.state == "failed");
        let has_ended = has_failed || matches!(row.state.as_str(), "cancelled" | "succeeded");
        if !is_back && !has_ended {
            wrong.push(format!(
                "the cancel of job {job} was acknowledged, and it is {}",
                row.state
            ));
        }
    }
    for life in history.lives.iter().filter(|life| life.ended.is_none()) {
        let state = history
            .jobs
            .get(&life.key.job.0)
            .map(|job| job.state.as_str());
        if !matches!(state, Some("running")) {
            wrong.push(format!(
                "rank {} still runs on {}, and its job is {state:?}",
                life.key, life.host
            ));
        }
    }
    wrong
}

/// Whether somebody was told that a job of the same pipeline is retried, or may have been without hearing so.
fn brought_back(history: &History, job: &Job) -> bool {
    let pipeline = |id: &i64| history.jobs.get(id).map(|job| job.pipeline_id);
    history.told.iter().any(|told| match told {
        Told::Retried { job: other, .. } => pipeline(other) == Some(job.pipeline_id),
        // A refusal may follow a first try that was taken and whose answer got lost. It begins with
        // the wish as it is written for debugging.
        Told::Refused { what } => what.starts_with("Retry"),
        Told::Submitted { .. }
        | Told::Cancelled { .. }
        | Told::Drained { .. }
        | Told::Resumed { .. } => false,
    })
}

/// A job begins when what it needs is done.
fn order(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let array_of = |id: i64| history.jobs.get(&id).and_then(|job| job.array_job_id);
    let began = |id: i64| {
        let mine = history
            .lives
            .iter()
            .filter(move |life| life.key.job.0 == id || array_of(life.key.job.0) == Some(id));
        mine.map(|life| life.began_ms).min()
    };
    for need in &history.needs {
        let Some(began) = began(need.job_id) else {
            continue;
        };
        let of_need: BTreeSet<i64> = match history.jobs.get(&need.needs_job_id) {
            Some(job) if job.array_size.is_some() => history
                .jobs
                .values()
                .filter(|element| element.array_job_id == Some(job.id))
                .map(|element| element.id)
                .collect(),
            Some(_) | None => BTreeSet::from([need.needs_job_id]),
        };
        for id in of_need {
            let is_done = history.lives.iter().any(|life| {
                let ended_well = matches!(&life.ended, Some((at, Ended::Left(0))) if *at <= began);
                life.key.job.0 == id && ended_well
            });
            if !is_done {
                wrong.push(format!(
                    "job {} began at {began} ms, and job {id}, which it needs, had not finished",
                    need.job_id
                ));
            }
        }
    }
    wrong
}

/// The elements of an array that are jobs are its first ones, each once; the others are to come, or were cancelled with
/// it. What its row says of how they ended is how they ended.
fn arrays(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for array in &history.arrays {
        let Array {
            job_id: id,
            size,
            to_come,
            dropped,
            ..
        } = array;
        let of_array = |job: &&Job| job.array_job_id == Some(*id);
        let elements: Vec<&Job> = history.jobs.values().filter(of_array).collect();
        let mut indexes: Vec<i64> = elements.iter().filter_map(|job| job.array_index).collect();
        indexes.sort_unstable();
        let first: Vec<i64> = (0..size - to_come - dropped).collect();
        if indexes != first {
            wrong.push(format!(
                "array {id} has {size} elements, of which {to_come} are to come and {dropped} were dropped, and jobs of \
                 its own are {indexes:?}"
            ));
        }
        let ended = |state: &str| elements.iter().filter(|job| job.state == state).count() as i64;
        let counted = [array.succeeded, array.failed, array.cancelled];
        let found = [
            ended("succeeded"),
            ended("failed"),
            ended("cancelled") + dropped,
        ];
        if counted != found {
            wrong.push(format!(
                "array {id} counts {counted:?} elements that succeeded, failed and were cancelled, and there are {found:?}"
            ));
        }
        let state = history.jobs.get(id).map(|job| job.state.as_str());
        if *dropped > 0 && !matches!(state, Some("cancelled" | "failed")) {
            wrong.push(format!(
                "array {id} is {state:?}, and {dropped} of its elements were cancelled before they became jobs"
            ));
        }
    }
    wrong
}

/// What kept a world from coming to rest.
fn unrest(history: &History) -> Vec<String> {
    let open = |state: &str| matches!(state, "waiting" | "queued" | "running");
    let jobs = history.jobs.values().filter(|job| open(&job.state));
    let mut wrong: Vec<String> = jobs
        .map(|job| {
            format!(
                "job {} is still {} (attempt {})",
                job.id, job.state, job.attempt
            )
        })
        .collect();
    let to_come = history.arrays.iter().filter(|array| array.to_come > 0);
    wrong.extend(to_come.map(|array| {
        format!(
            "{} elements of array {} never became jobs",
            array.to_come, array.job_id
        )
    }));
    if wrong.is_empty() {
        wrong
            .push("no job is open, and yet a worker holds a rank or a client has no answer".into());
    }
    wrong
}

/// No worker was given a device twice: it lets the second child wait then, and says so.
#[must_use]
pub fn given_twice(timeline: &str) -> Vec<String> {
    let said = timeline
        .lines()
        .filter(|line| line.contains("a device was given to two ranks: "));
    said.map(|line| format!("a worker had to keep two ranks apart: {line}"))
        .collect()
}

/// Nobody is lost whose words reached the coordinator within the lease: only what cuts a worker off makes it silent.
#[must_use]
pub fn losses(timeline: &str, faults: &[Planned]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Loss { at_ms, index, line } in lost(timeline) {
        let is_cut_off = |planned: &Planned| {
            planned.fault.silences() == index
                && planned.begin_ms <= at_ms
                && at_ms <= planned.end_ms + LEASE_MS + RECOVERY_MS
        };
        if !faults.iter().any(is_cut_off) {
            wrong.push(format!(
                "worker-{index:?} was judged lost, and nothing had kept it silent: {line}"
            ));
        }
    }
    wrong
}

/// The children of an earlier attempt leave when a newer one is there: they are being stopped, which their grace and a
/// link that is cut delay. They live on only where their worker was judged lost, out of everybody's reach.
///
/// That the two are there at once is right, and was called wrong until seed 69. The contract (docs/reliability.md)
/// promises that one attempt commits (2), that nothing of the old one is taken and that its devices are free only once
/// nothing of it is left (9), and that a lost host's job is placed again within 15 s (6). It does not promise that the
/// old children have left when the new ones begin: to wait for one that does not listen would cost its whole grace, and
/// to wait for one that cannot be reached would have no end. So the newer attempt begins on other devices; `devices`
/// holds that these are others, `commits` and the audit's rule 3c hold that the old one gives nothing any more. What is
/// left to ask here is that the old one is really being stopped, and that is a matter of time.
#[must_use]
pub fn generations(history: &History, timeline: &str) -> Vec<String> {
    let lost: Vec<Loss<'_>> = lost(timeline).collect();
    let mut of_job: BTreeMap<i64, Vec<&Life>> = BTreeMap::new();
    for life in &history.lives {
        of_job.entry(life.key.job.0).or_default().push(life);
    }
    let mut wrong = Vec::new();
    for lives in of_job.values() {
        for later in lives {
            let at = later.began_ms;
            let lives_on = |earlier: &&&Life| {
                let end = earlier.ended.as_ref().map_or(u64::MAX, |(at, _)| *at);
                // Judged lost before the later one began: else the coordinator could reach it, and
                // had it stopped.
                let was_lost = lost.iter().any(|loss| {
                    let name = loss.index.map(|index| format!("worker-{index}"));
                    name.as_ref() == Some(&earlier.host)
                        && (earlier.began_ms..=at).contains(&loss.at_ms)
                });
                earlier.key.attempt < later.key.attempt && end > at + LEAVES_WITHIN_MS && !was_lost
            };
            for earlier in lives.iter().filter(lives_on) {
                wrong.push(format!(
                    "rank {} began at {at} ms, and rank {} of an earlier attempt ran on {}, which was not lost",
                    later.key, earlier.key, earlier.host
                ));
            }
        }
    }
    wrong
}

/// A worker that was judged lost, as the time line says.
struct Loss<'a> {
    at_ms: u64,
    index: Option<usize>,
    line: &'a str,
}

fn lost(timeline: &str) -> impl Iterator<Item = Loss<'_>> {
    let lines = timeline.lines();
    lines
        .filter(|line| line.contains("worker lost: "))
        .map(|line| {
            let at = line.split_whitespace().next();
            let at_ms = at.and_then(|at| at.replace('.', "").parse().ok());
            let name = line.split("name=worker-").nth(1);
            let index = name.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            Loss {
                at_ms: at_ms.unwrap_or(0),
                index,
                line,
            }
        })
}

#[cfg(test)]
mod tests;
