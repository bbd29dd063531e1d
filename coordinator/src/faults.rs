//! Device faults of ranks, by the GPU on which they came: several in a row, of jobs that have nothing else in common, speak
//! against the GPU.
//!
//! Invariant: a job alone condemns no GPU. What counts are different pipelines, none of which had a device fault on another
//! GPU, with no success on this one in between. In memory alone: a coordinator that starts counts anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::evidence::{Evidence, EvidenceKind, clean};
use marquee_domain::ids::{JobId, PipelineId, WorkerId};

/// Pipelines whose jobs must have failed on a GPU.
pub const PIPELINES_MIN: usize = 3;
/// Within this time.
pub const WITHIN: TimeDelta = TimeDelta::hours(24);
/// Faults that are remembered: a program that has one on every GPU of a cluster pushes out others, which then count less.
const FAULTS_MAX: usize = 10_000;

/// A GPU, whatever its number.
pub type GpuId = (WorkerId, String);

/// A rank that had one GPU failed on it.
#[derive(Debug, Clone)]
pub struct Fault {
    pub at: DateTime<Utc>,
    pub gpu: GpuId,
    pub pipeline: PipelineId,
    pub job: JobId,
    pub message: String,
}

/// The newest device faults. A handle.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<VecDeque<Fault>>>);

impl Faults {
    /// Whether there is nothing to forget or to judge.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub fn add(&self, fault: Fault) {
        let mut faults = self.lock();
        if faults.len() >= FAULTS_MAX {
            faults.pop_front();
        }
        faults.push_back(fault);
    }

    /// Work succeeded on a GPU, or what spoke against it is settled.
    pub fn forget(&self, gpu: &GpuId) {
        self.lock().retain(|fault| fault.gpu != *gpu);
    }

    /// What speaks against which GPUs now.
    #[must_use]
    pub fn against(&self, now: DateTime<Utc>) -> Vec<(GpuId, Evidence)> {
        let mut faults = self.lock();
        faults.retain(|fault| now - fault.at <= WITHIN);
        judge(faults.make_contiguous())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        // Each change is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(faults: &[Fault]) -> Vec<(GpuId, Evidence)> {
    let mut gpus_of: BTreeMap<PipelineId, BTreeSet<&GpuId>> = BTreeMap::new();
    for fault in faults {
        gpus_of
            .entry(fault.pipeline)
            .or_default()
            .insert(&fault.gpu);
    }
    let mut by_gpu: BTreeMap<&GpuId, Vec<&Fault>> = BTreeMap::new();
    // A program that fails on two GPUs is the likelier cause.
    let counts = |fault: &&Fault| gpus_of[&fault.pipeline].len() == 1;
    for fault in faults.iter().filter(counts) {
        by_gpu.entry(&fault.gpu).or_default().push(fault);
    }
    let condemned = by_gpu.into_iter().filter_map(|(gpu, faults)| {
        let pipelines: BTreeSet<PipelineId> = faults.iter().map(|fault| fault.pipeline).collect();
        let (first, last) = (faults.first()?, faults.last()?);
        if pipelines.len() < PIPELINES_MIN {
            return None;
        }
        let jobs: BTreeSet<JobId> = faults.iter().map(|fault| fault.job).collect();
        let jobs: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        let text = format!("jobs {}: {}", jobs.join(", "), last.message);
        let evidence = Evidence {
            kind: EvidenceKind::DeviceFaults,
            code: 0,
            first_at: first.at,
            last_at: last.at,
            count: u64::try_from(faults.len()).unwrap_or(u64::MAX),
            text: clean(&text),
        };
        Some((gpu.clone(), evidence))
    });
    condemned.collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + 60 * minute, 0).unwrap()
    }

    fn gpu(name: &str) -> GpuId {
        (WorkerId(Uuid::from_u128(1)), name.to_owned())
    }

    fn fault(name: &str, pipeline: i64, minute: i64) -> Fault {
        Fault {
            at: at(minute),
            gpu: gpu(name),
            pipeline: PipelineId(pipeline),
            job: JobId(10 * pipeline),
            message: "CUDA error: an illegal memory access".into(),
        }
    }

    fn against(faults: &Faults, minute: i64) -> Vec<String> {
        let found = faults.against(at(minute)).into_iter();
        found.map(|((_, uuid), _)| uuid).collect()
    }

    #[test]
    fn three_pipelines_in_a_row_speak_against_a_gpu_and_a_job_alone_does_not() {
        let faults = Faults::default();
        // A job that is submitted as an array, or tried again and again.
        for _ in 0..100 {
            faults.add(fault("a", 1, 0));
        }
        faults.add(fault("a", 2, 1));
        assert_eq!(against(&faults, 2), [""; 0]);
        faults.add(fault("a", 3, 2));
        assert_eq!(against(&faults, 3), ["a"]);
        let (_, evidence) = faults.against(at(3)).remove(0);
        assert_eq!((evidence.count, evidence.last_at), (102, at(2)));
        assert!(
            evidence.text.starts_with("jobs 10, 20, 30: CUDA error"),
            "{}",
            evidence.text
        );
        // A success says more than they.
        faults.forget(&gpu("a"));
        assert!(faults.is_empty());
    }

    #[test]
    fn a_program_that_fails_everywhere_costs_no_gpu() {
        let faults = Faults::default();
        for pipeline in 1..=50 {
            for name in ["a", "b"] {
                faults.add(fault(name, pipeline, pipeline));
            }
        }
        assert_eq!(against(&faults, 60), [""; 0]);
        for pipeline in 61..=63 {
            faults.add(fault("b", pipeline, pipeline));
        }
        assert_eq!(against(&faults, 64), ["b"]);
    }

    #[test]
    fn what_is_long_ago_does_not_count_and_memory_is_bounded() {
        let faults = Faults::default();
        faults.add(fault("a", 1, 0));
        faults.add(fault("a", 2, 10));
        faults.add(fault("a", 3, 24 * 60 + 1));
        assert_eq!(against(&faults, 24 * 60 + 1), [""; 0]);
        for _ in 0..FAULTS_MAX + 10 {
            faults.add(fault("b", 9, 24 * 60));
        }
        assert_eq!(faults.lock().len(), FAULTS_MAX);
    }
}
