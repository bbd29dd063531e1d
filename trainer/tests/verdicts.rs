//! That each part of a step, slowed on purpose in a real run, is what the verdict names.
//!
//! A [`Brake`] stops single threads of a rank again and again, as a debugger would: the input thread,
//! the threads of the exchange, or the whole process by SIGSTOP.

#![allow(clippy::print_stdout, reason = "figures for whoever runs it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(
    unsafe_code,
    reason = "stopping one thread of another process takes ptrace, which has no safe form here"
)]

mod common;

use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Gang, Run, settings, write_shards};
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::TrainSettings;
use marquee_domain::verdict::{Bottleneck, diagnose};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// 32 steps an epoch: few checkpoints, which come at the ends of epochs.
const ROWS: [usize; 3] = [1_024, 0, 0];
/// How long a braked thread stands still, and then runs.
const STOPPED: Duration = Duration::from_millis(20);
const RUNNING: Duration = Duration::from_millis(5);
/// The input thread works ahead, so it has to stand still for longer than that lasts.
const INPUT_STOPPED: Duration = Duration::from_millis(300);

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

/// Waits until training is under way, brakes, and gives the verdict over the whole run.
fn verdict(run: &Run, ranks: u32, brake: impl FnOnce(&Gang) -> Option<Brake>) -> Bottleneck {
    let mut gang = run.start(ranks);
    gang.ranks[0].wait_for_checkpoint(4);
    let brake = brake(&gang);
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
    let verdict = diagnose(&summaries).unwrap();
    println!("{}", verdict.words());
    for summary in summaries {
        println!("  rank {}: {:?}", summary.rank, summary.phases);
    }
    verdict
}

#[test]
#[ignore = "times a run: needs a machine that does nothing else"]
fn a_run_that_nothing_slows_computes() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 1, |_| None);
    assert!(matches!(verdict, Bottleneck::Compute { .. }), "{verdict:?}");
}

#[test]
#[ignore = "times a run: needs a machine that does nothing else"]
fn a_slow_input_thread_makes_a_run_input_bound() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 1, |gang| {
        Some(Brake::on_threads(
            gang.ranks[0].pid(),
            "input-0",
            INPUT_STOPPED,
        ))
    });
    assert!(
        matches!(verdict, Bottleneck::Input { decodes: false, .. }),
        "{verdict:?}"
    );
}

#[test]
#[ignore = "times a run: needs a machine that does nothing else"]
fn a_slow_exchange_makes_a_run_communication_bound() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 2, |gang| {
        let pids: Vec<Pid> = gang.ranks.iter().map(common::RankProcess::pid).collect();
        let threads: Vec<i32> = pids
            .iter()
            .flat_map(|pid| threads_of(*pid, "pt_gloo"))
            .collect();
        assert!(!threads.is_empty(), "no threads of the exchange");
        Some(Brake::new(move |released| {
            brake_threads(&threads, STOPPED, released)
        }))
    });
    assert!(
        matches!(verdict, Bottleneck::Communication { .. }),
        "{verdict:?}"
    );
}

#[test]
#[ignore = "times a run: needs a machine that does nothing else"]
fn a_rank_that_is_held_back_is_named_as_the_straggler() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let verdict = verdict(&Run::train(folder.path(), long()), 2, |gang| {
        Some(Brake::on_process(gang.ranks[1].pid()))
    });
    assert!(
        matches!(verdict, Bottleneck::Straggler { rank: 1, .. }),
        "{verdict:?}"
    );
}

#[test]
#[ignore = "times a run: needs a machine that does nothing else"]
fn a_checkpoint_after_each_step_makes_a_run_checkpoint_bound() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let often = TrainSettings {
        epochs: 1,
        checkpoint_every_steps: 1,
        ..long()
    };
    let verdict = verdict(&Run::train(folder.path(), often), 1, |_| None);
    assert!(
        matches!(verdict, Bottleneck::Checkpoint { .. }),
        "{verdict:?}"
    );
}
