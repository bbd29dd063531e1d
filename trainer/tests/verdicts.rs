//! That each part of a step, slowed on purpose in a real run, is what the verdict names.
//!
//! A [`Brake`] stops single threads of a rank again and again, as a debugger would: the input thread,
//! the threads of the exchange, or the whole process by SIGSTOP. No clock of the test decides: a brake
//! holds for a number of the run's own steps, as long as those take on the machine as it is just then.

#![allow(clippy::print_stdout, reason = "figures for whoever runs it")]
#![allow(
    unsafe_code,
    reason = "stopping one thread of another process takes ptrace, which has no safe form here"
)]

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::{Gang, Run, settings, write_shards, write_shards_of};
use marquee_domain::bottleneck::{Bottleneck, diagnose_steps};
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::TrainSettings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// 32 steps an epoch: few checkpoints, which come at the ends of epochs.
const ROWS: [usize; 3] = [1_024, 0, 0];
/// How long something braked runs before it stands still again.
const RUNNING: Duration = Duration::from_millis(5);
/// How long a whole process stands still: most of the time.
const STOPPED: Duration = Duration::from_millis(20);
/// For how many steps the input thread stands still: it works four ahead, so far fewer would go unseen.
const INPUT_STEPS: u32 = 15;
/// For how many steps the exchange does: longer than what is computed meanwhile.
const EXCHANGE_STEPS: u32 = 2;

/// Slows something down until dropped.
struct Brake {
    released: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Brake {
    fn new(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let released = Arc::new(AtomicBool::new(false));
        let flag = released.clone();
        Self {
            released,
            thread: Some(thread::spawn(move || work(&flag))),
        }
    }

    /// On all threads of `pid` whose name starts with `name`.
    fn on_threads(pid: Pid, name: &'static str, stopped: Duration) -> Self {
        let threads = threads_of(pid, name);
        assert!(!threads.is_empty(), "no thread {name:?}");
        // All calls for a traced thread must come from the thread that traces it.
        Self::new(move |released| brake_threads(&threads, stopped, released))
    }

    /// On the whole process.
    fn on_process(pid: Pid) -> Self {
        Self::new(move |released| {
            while !released.load(Ordering::Relaxed) && kill(pid, Signal::SIGSTOP).is_ok() {
                thread::sleep(STOPPED);
                let _ = kill(pid, Signal::SIGCONT);
                thread::sleep(RUNNING);
            }
        })
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.released.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn threads_of(pid: Pid, name: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| task.unwrap().path())
        .filter(|task| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name))
        })
        .map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap())
        .collect()
}

fn brake_threads(threads: &[i32], still: Duration, released: &AtomicBool) {
    let none = null_mut::<libc::c_void>();
    // SAFETY: these calls name threads of a child process; no memory of ours is handed over.
    let trace = |request, thread: i32| unsafe { libc::ptrace(request, thread, none, none) };
    let seized: Vec<i32> = threads
        .iter()
        .copied()
        .filter(|thread| trace(libc::PTRACE_SEIZE, *thread) == 0)
        .collect();
    assert!(!seized.is_empty(), "no thread lets itself be stopped");
    let stop = |thread: i32| {
        let mut status = 0;
        trace(libc::PTRACE_INTERRUPT, thread) == 0
            // SAFETY: `status` outlives the call.
            && unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } == thread
            && libc::WIFSTOPPED(status)
    };
    while !released.load(Ordering::Relaxed) {
        let stopped: Vec<i32> = seized
            .iter()
            .copied()
            .filter(|thread| stop(*thread))
            .collect();
        if stopped.is_empty() {
            return;
        }
        thread::sleep(still);
        for thread in stopped {
            trace(libc::PTRACE_CONT, thread);
        }
        thread::sleep(RUNNING);
    }
}

fn long() -> TrainSettings {
    TrainSettings {
        epochs: 3,
        batch_size: 32,
        ..settings()
    }
}

/// Lets one epoch pass, brakes by the length of its steps, and gives the verdict over the whole run.
fn verdict(
    run: &Run,
    ranks: u32,
    brake: impl FnOnce(&Gang, Duration) -> Option<Brake>,
) -> Bottleneck {
    let mut gang = run.start(ranks);
    let (steps, seconds) = gang.ranks[0].wait_for(|event| match event {
        ChildEvent::Metrics { step, values } => {
            values.get("epoch/seconds").map(|seconds| (*step, *seconds))
        }
        ChildEvent::Progress { .. }
        | ChildEvent::Checkpoint { .. }
        | ChildEvent::Regrouped { .. }
        | ChildEvent::Finished { .. }
        | ChildEvent::Failed { .. } => None,
    });
    let step = Duration::from_secs_f64(seconds / steps as f64);
    let brake = brake(&gang, step);
    let summaries: Vec<TrainSummary> = gang
        .ranks
        .iter_mut()
        .map(|rank| {
            let (events, code) = rank.finish();
            assert_eq!(code, Some(0), "{events:#?}");
            match events.last() {
                Some(ChildEvent::Finished { summary }) => {
                    serde_json::from_value(summary.clone()).unwrap()
                }
                other => panic!("{other:?}"),
            }
        })
        .collect();
    drop(brake);
    // The runs are short, so that their start may be most of them; what is tried here are their steps.
    let verdict = diagnose_steps(&summaries).unwrap();
    println!("{step:?} a step; {}", verdict.words());
    for summary in summaries {
        println!("  rank {}: {:?}", summary.rank, summary.phases);
    }
    verdict
}

#[test]
fn a_run_that_nothing_slows_computes() {
    let folder = tempfile::tempdir().unwrap();
    // Steps so long that reading a batch is nothing beside them, whoever else wants the cores.
    write_shards_of(folder.path(), [64, 0, 0], (64, 64));
    let slow = TrainSettings {
        model: "resnet18".into(),
        epochs: 2,
        ..long()
    };
    let verdict = verdict(&Run::train(folder.path(), slow), 1, |_, _| None);
    assert!(matches!(verdict, Bottleneck::Compute { .. }), "{verdict:?}");
}

#[test]
fn a_slow_input_thread_makes_a_run_input_bound() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 1, |gang, step| {
        let still = step * INPUT_STEPS;
        Some(Brake::on_threads(gang.ranks[0].pid(), "input-0", still))
    });
    assert!(
        matches!(verdict, Bottleneck::Input { decodes: false, .. }),
        "{verdict:?}"
    );
}

#[test]
#[cfg_attr(
    libtorch_2_0,
    ignore = "the threads of libtorch 2.0's Gloo have no names to find them by"
)]
fn a_slow_exchange_makes_a_run_communication_bound() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 2, |gang, step| {
        let pids: Vec<Pid> = gang
            .ranks
            .iter()
            .map(crate::common::RankProcess::pid)
            .collect();
        let threads: Vec<i32> = pids
            .iter()
            .flat_map(|pid| threads_of(*pid, "pt_gloo"))
            .collect();
        assert!(!threads.is_empty(), "no threads of the exchange");
        Some(Brake::new(move |released| {
            brake_threads(&threads, step * EXCHANGE_STEPS, released);
        }))
    });
    assert!(
        matches!(verdict, Bottleneck::Communication { .. }),
        "{verdict:?}"
    );
}

#[test]
fn a_rank_that_is_held_back_is_named_as_the_straggler() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 2, |gang, _| {
        Some(Brake::on_process(gang.ranks[1].pid()))
    });
    assert!(
        matches!(verdict, Bottleneck::Straggler { rank: 1, .. }),
        "{verdict:?}"
    );
}

#[test]
fn a_checkpoint_after_each_step_makes_a_run_checkpoint_bound() {
    let folder = tempfile::tempdir().unwrap();
    // Many weights and tiny pictures: a step is short beside what it takes to write 90 MB.
    write_shards_of(folder.path(), [32, 0, 0], (32, 32));
    let often = TrainSettings {
        model: "resnet18".into(),
        epochs: 3,
        batch_size: 8,
        checkpoint_every_steps: 1,
        ..settings()
    };
    let verdict = verdict(&Run::train(folder.path(), often), 1, |_, _| None);
    assert!(
        matches!(verdict, Bottleneck::Checkpoint { .. }),
        "{verdict:?}"
    );
}
