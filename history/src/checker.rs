//! Takes a history line by line, and what is stored at its end.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::rank::RankKey;

use crate::event::{Event, What};
use crate::finding::{Report, Rule};
use crate::line::{Findings, Limits, Line};
use crate::rules;
use crate::state::{End, Held, Live, RankLife, State};
use crate::stored::{MissingFile, StoredJob, StoredPipeline, StoredRank};

/// Checks one history.
#[derive(Debug)]
pub struct Checker {
    limits: Limits,
    state: State,
    findings: Findings,
    pipelines_seen: HashSet<PipelineId>,
    stored_pipelines: bool,
    stored_jobs: bool,
}

impl Default for Checker {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Checker {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::default(),
            findings: Findings::default(),
            pipelines_seen: HashSet::new(),
            stored_pipelines: false,
            stored_jobs: false,
        }
    }

    /// The next line of the history.
    pub fn event(&mut self, event: &Event) {
        self.findings.report.events += 1;
        let mut line = Line {
            state: &self.state,
            limits: self.limits,
            at: event.at,
            number: event.number,
            findings: &mut self.findings,
        };
        // Before the line is taken in: the rules ask what was true until it came.
        rules::judge(&mut line, event);
        self.take_in(event);
    }

    /// Remembers what a line changes.
    fn take_in(&mut self, event: &Event) {
        let state = &mut self.state;
        let report = &mut self.findings.report;
        // The highest so far. A late line of an old leader is one finding, and must not lower the
        // bar for its next one.
        state.epoch = state.epoch.max(event.epoch);
        match &event.what {
            What::Began { last_job } => state.last_old_job = Some(*last_job),
            What::Submitted {
                pipeline,
                request_id,
            } => {
                state.requests.insert(rules::jobs::hash(request_id));
                state.accepted.entry(*pipeline).or_default();
            }
            What::Added { pipeline, jobs } => {
                report.jobs += jobs;
                *state.accepted.entry(*pipeline).or_default() += jobs;
            }
            What::Granted {
                key,
                worker,
                devices,
            } => {
                report.grants += 1;
                let job = state.job(key.job);
                job.newest = job.newest.max(key.attempt.0);
                let live = state.live.entry(key.job).or_insert_with(|| Live::new(*key));
                // The ranks of an attempt come one line each. Only a newer attempt takes the place
                // of the one that is known.
                if live.number < key.attempt {
                    *live = Live::new(*key);
                }
                live.ranks.insert(key.rank.0, RankLife::Held);
                for device in devices {
                    state.devices.insert((*worker, device.clone()), *key);
                }
                let held = Held {
                    worker: *worker,
                    devices: devices.clone(),
                    since: event.at,
                    attempt_ended_at: None,
                };
                state.held.insert(*key, held);
            }
            What::Started { job, attempt } => {
                if let Some(live) = state.live.get_mut(job)
                    && live.number == *attempt
                {
                    live.started = true;
                }
            }
            What::RankStarted { .. } => {}
            What::RankLost { key } => set_rank(state, *key, RankLife::Lost),
            What::Reported { key, to, .. } => {
                state.reported.insert(*key, *to);
            }
            What::Released {
                key,
                state: rank_state,
                ..
            } => {
                set_rank(state, *key, RankLife::Ended(*rank_state));
                // Kept only while the rank holds devices: what is remembered must not grow with all
                // that ever ran.
                state.reported.remove(key);
                if let Some(held) = state.held.remove(key) {
                    for device in held.devices {
                        let place = (held.worker, device);
                        // A device that was granted twice is a finding by now; it belongs to the
                        // later rank, and does not become free with the earlier one.
                        if state.devices.get(&place) == Some(key) {
                            state.devices.remove(&place);
                        }
                    }
                }
            }
            What::AttemptEnded { job, attempt, .. } => {
                end_attempt(state, *job, attempt.0, event.at)
            }
            What::Committed { job, attempt, .. } => {
                report.commits += 1;
                end_attempt(state, *job, attempt.0, event.at);
                let job = state.job(*job);
                // An attempt without ranks (an array's, a reused step's) is first heard of here.
                job.newest = job.newest.max(attempt.0);
                job.end = Some(End::Committed);
            }
            What::CancelAsked { job } => {
                state.job(*job).cancel_asked = true;
                if let Some(live) = state.live.get_mut(job) {
                    live.cancel_asked_at = Some(event.at);
                }
            }
            What::JobEnded { job, state: how } => {
                let job = state.job(*job);
                // A second end is a finding; the first one stays.
                let end = match how {
                    JobStateName::Cancelled => End::Cancelled,
                    JobStateName::Failed
                    | JobStateName::Waiting
                    | JobStateName::Queued
                    | JobStateName::Running
                    | JobStateName::Succeeded => End::Failed,
                };
                job.end.get_or_insert(end);
            }
            What::Revived { job } | What::MadeAgain { job } => {
                let job = state.job(*job);
                job.end = None;
                job.cancel_asked = false;
            }
            What::WorkerOnline { worker } => {
                let worker = state.workers.entry(*worker).or_default();
                worker.is_online = true;
                // Only of the newest return: what it held before it was away counts from then on
                // (rule 9a).
                worker.online_since = Some(event.at);
            }
            What::WorkerHeard { worker } => {
                state.workers.entry(*worker).or_default().heard_at = Some(event.at);
            }
            What::WorkerLost { worker, .. }
            | What::WorkerShutOut { worker }
            | What::WorkerLeft { worker } => {
                state.workers.entry(*worker).or_default().is_online = false;
            }
            What::Leader { epoch } => {
                state.epoch = state.epoch.max(Some(*epoch));
                state.led_since = Some(event.at);
            }
            What::Removed { pipeline } => {
                state.accepted.remove(pipeline);
            }
        }
    }

    /// A pipeline that is stored at the end.
    pub fn pipeline(&mut self, stored: &StoredPipeline) {
        self.stored_pipelines = true;
        self.pipelines_seen.insert(stored.id);
        rules::stored::all_jobs_are_there(&self.state, stored, &mut self.findings);
    }

    /// A job that is stored at the end.
    pub fn job(&mut self, stored: &StoredJob) {
        self.stored_jobs = true;
        rules::stored::as_it_happened(&self.state, stored, &mut self.findings);
        // Whoever is left has no row.
        self.state.jobs.remove(&stored.id);
    }

    /// A rank that is stored at the end.
    pub fn rank(&mut self, stored: &StoredRank) {
        rules::reports::no_row_without_its_number(stored, &mut self.findings);
    }

    /// A file that an artifact names and that is not there, or not whole.
    pub fn missing(&mut self, file: &MissingFile) {
        let subject = (file.job, file.attempt);
        self.findings
            .add(Rule::FilesThere, None, subject, file.what.clone());
    }

    /// Ends the history at `now`. `quiet`: faults have stopped, and everything had the time to come to rest.
    #[must_use]
    pub fn finish(mut self, now: DateTime<Utc>, quiet: bool) -> Report {
        // Without one stored row nothing was given to compare with: then nothing is said to be
        // missing.
        if self.stored_pipelines {
            rules::stored::no_pipeline_lost(&self.state, &self.pipelines_seen, &mut self.findings);
        }
        if self.stored_jobs {
            rules::stored::no_job_lost(&self.state, &mut self.findings);
        }
        rules::quiet::nothing_stuck(&self.state, self.limits, now, &mut self.findings);
        if quiet {
            rules::quiet::nothing_open(&self.state, &mut self.findings);
        }
        self.findings.report
    }

    /// Jobs that the history leaves open, for whoever waits until all is quiet.
    #[must_use]
    pub fn live_jobs(&self) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = self.state.live.keys().copied().collect();
        jobs.sort_unstable();
        jobs
    }
}

impl Live {
    fn new(key: RankKey) -> Self {
        Self {
            number: key.attempt,
            started: false,
            cancel_asked_at: None,
            ranks: BTreeMap::new(),
        }
    }
}

fn set_rank(state: &mut State, key: RankKey, life: RankLife) {
    if let Some(live) = state.live.get_mut(&key.job)
        && live.number == key.attempt
        && let Some(rank) = live.ranks.get_mut(&key.rank.0)
        // Who was lost stays lost, whatever becomes of it.
        && *rank != RankLife::Lost
    {
        *rank = life;
    }
}

/// The attempt lives no longer; what its ranks hold they hold until they are released.
fn end_attempt(state: &mut State, job: JobId, attempt: u32, at: DateTime<Utc>) {
    let Some(live) = state.live.get(&job).filter(|live| live.number.0 == attempt) else {
        return;
    };
    for rank in live.ranks.keys() {
        let key = RankKey::new(job.0, attempt, *rank);
        if let Some(held) = state.held.get_mut(&key) {
            held.attempt_ended_at = Some(at);
        }
    }
    state.live.remove(&job);
}
