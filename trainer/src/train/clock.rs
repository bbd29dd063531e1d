//! Where a step's time goes, and steps that a GPU still works on.
//!
//! A CPU has finished its work when the call returns, so the host's clock gives the time of a phase. A
//! GPU works in the background: the call only queues the work. There, marks in the queue record when the
//! GPU came to the end of each phase, and the results of a step become known some steps later.
//!
//! Waiting for the GPU after each step would leave it idle while the host prepares the next one. So the
//! host waits only when it is more than [`AHEAD`] steps ahead, and at the end of a window of steps.
//! Invariant: the results of a step are handed out once, in order, and on all ranks after the same step.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::pulse::Phase as Standing;
use marquee_domain::report::PhaseTimes;
use tch::{Device, Tensor};

use crate::error::RunError;
use crate::ffi::{self, Mark};
use crate::rendezvous::Peers;

/// How many steps the host may be ahead of the GPU: enough that the GPU always has work, few enough that
/// its memory holds few batches.
const AHEAD: usize = 2;
/// Time between two looks at whether the GPU has finished: short beside a step, which takes milliseconds.
const POLL: Duration = Duration::from_micros(50);

/// The phases of a step between its begin and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Forward,
    Backward,
    AllReduce,
    Optimizer,
}

/// The results of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepResult {
    /// Sum over this rank's pictures of their losses, each averaged over classes.
    pub(crate) loss_sum: f64,
    /// Whether any rank was asked to stop.
    pub(crate) stop_agreed: bool,
    /// Whether its gradients overflowed and were not used.
    pub(crate) skipped: bool,
}

/// Measures the phases of steps on one device.
#[derive(Debug)]
pub(super) enum PhaseClock {
    Host {
        since: Instant,
    },
    /// As `Host`, but no phase is measured: for a benchmark of what measuring costs.
    Stopped,
    Gpu(InFlight),
}

impl PhaseClock {
    pub(super) fn of(device: Device) -> Self {
        match ffi::gpu_index(device) {
            Some(index) => Self::Gpu(InFlight::new(index)),
            None => Self::Host {
                since: Instant::now(),
            },
        }
    }

    /// Turns the measuring of phases on a CPU on or off. On a GPU it stays on, since the same marks tell
    /// the host which steps are done.
    pub(super) fn set_running(&mut self, running: bool) {
        match self {
            Self::Host { .. } | Self::Stopped if running => {
                *self = Self::Host {
                    since: Instant::now(),
                }
            }
            Self::Host { .. } | Self::Stopped => *self = Self::Stopped,
            Self::Gpu(_) => {}
        }
    }

    /// A step begins. `waited_s` is how long the host waited for its batch.
    pub(super) fn begin(&mut self, waited_s: f64, phases: &mut PhaseTimes) -> Result<(), RunError> {
        match self {
            Self::Host { since } => {
                phases.input_s += waited_s;
                *since = Instant::now();
                Ok(())
            }
            Self::Stopped => Ok(()),
            Self::Gpu(in_flight) => in_flight.begin(waited_s),
        }
    }

    /// A phase of the step ends.
    pub(super) fn end(&mut self, phase: Phase, phases: &mut PhaseTimes) -> Result<(), RunError> {
        match self {
            Self::Host { since } => {
                *place(phases, phase) += since.elapsed().as_secs_f64();
                *since = Instant::now();
                Ok(())
            }
            Self::Stopped => Ok(()),
            Self::Gpu(in_flight) => in_flight.end(phase),
        }
    }

    /// Runs the backward pass. The time after the last gradient, in which it waits for other ranks, is
    /// counted as the phase `waiting`.
    pub(super) fn backward(
        &mut self,
        loss: &Tensor,
        waiting: Phase,
        phases: &mut PhaseTimes,
    ) -> Result<(), RunError> {
        match self {
            Self::Host { since } => {
                let times = ffi::backward(loss)?;
                phases.backward_s += times.compute_s;
                *place(phases, waiting) += times.waiting_s;
                *since = Instant::now();
                Ok(())
            }
            Self::Stopped => Ok(ffi::backward_untimed(loss)?),
            Self::Gpu(in_flight) => {
                let computed = in_flight.spare()?;
                ffi::backward_marked(loss, Some((&computed, in_flight.index)))?;
                in_flight.laps.push((Phase::Backward, computed));
                in_flight.end(waiting)
            }
        }
    }

    /// Returns once the device has done all that this step asked it for, and no exchange has failed.
    pub(super) fn wait(&mut self, peers: &Peers) -> Result<(), RunError> {
        match self {
            Self::Host { .. } | Self::Stopped => Ok(()),
            Self::Gpu(in_flight) => {
                let here = in_flight.spare()?;
                here.set(in_flight.index)?;
                wait_for(&here, peers)?;
                in_flight.spares.push(here);
                Ok(())
            }
        }
    }

    /// All work of the step is queued. `told` holds the three numbers of its [`StepResult`], on the
    /// device. Returns the results that are known by now, of this step or of earlier ones.
    pub(super) fn finish(
        &mut self,
        told: &Tensor,
        peers: &Peers,
        phases: &mut PhaseTimes,
    ) -> Result<Vec<StepResult>, RunError> {
        match self {
            Self::Host { .. } | Self::Stopped => Ok(vec![read(told)?]),
            Self::Gpu(in_flight) => {
                in_flight.finish(told)?;
                let mut known = Vec::new();
                // By number, and not by which are done by now: that differs between ranks, which
                // have to take a stop in after the same step.
                while in_flight.open.len() > AHEAD {
                    known.extend(in_flight.settle(peers, phases)?);
                }
                Ok(known)
            }
        }
    }

    /// Waits for all steps, and returns the results that were not handed out yet.
    pub(super) fn drain(
        &mut self,
        peers: &Peers,
        phases: &mut PhaseTimes,
    ) -> Result<Vec<StepResult>, RunError> {
        match self {
            Self::Host { .. } | Self::Stopped => Ok(Vec::new()),
            Self::Gpu(in_flight) => {
                let mut known = Vec::new();
                while let Some(told) = in_flight.settle(peers, phases)? {
                    known.push(told);
                }
                // The pause until the next step is not idle time of the GPU: nobody gave it work.
                in_flight.spares.extend(in_flight.before.take());
                Ok(known)
            }
        }
    }

    /// Forgets steps whose results will never be known, because their exchange failed.
    pub(super) fn forget(&mut self) {
        if let Self::Gpu(in_flight) = self {
            *in_flight = InFlight::new(in_flight.index);
        }
    }
}

fn place(phases: &mut PhaseTimes, phase: Phase) -> &mut f64 {
    match phase {
        Phase::Forward => &mut phases.forward_s,
        Phase::Backward => &mut phases.backward_s,
        Phase::AllReduce => &mut phases.all_reduce_s,
        Phase::Optimizer => &mut phases.optimizer_s,
    }
}

fn read(told: &Tensor) -> Result<StepResult, RunError> {
    let mut numbers = [0.0_f64; 3];
    told.f_copy_data(&mut numbers, 3)?;
    let [loss_sum, wish, found] = numbers;
    Ok(StepResult {
        loss_sum,
        stop_agreed: wish > 0.0,
        skipped: found > 0.0,
    })
}

fn wait_for(mark: &Mark, peers: &Peers) -> Result<(), RunError> {
    ffi::stand(Standing::Device);
    while !mark.is_passed()? {
        peers.check()?;
        thread::sleep(POLL);
    }
    // After an aborted exchange the GPU goes on as well, with wrong numbers: only `check` tells.
    peers.check()
}

/// Steps that a GPU works on, the oldest first.
#[derive(Debug)]
pub(super) struct InFlight {
    index: usize,
    /// Marks of finished steps, to be used again: making one is a call of the driver.
    spares: Vec<Mark>,
    /// Of the step that is being asked for.
    begun: Option<(Mark, f64)>,
    laps: Vec<(Phase, Mark)>,
    open: VecDeque<Open>,
    /// The end of the last step whose results were taken.
    before: Option<Mark>,
}

/// A step that the GPU works on.
#[derive(Debug)]
struct Open {
    begun: Mark,
    /// How long the host waited for its input.
    waited_s: f64,
    /// The end of each phase, in order; at least one.
    laps: Vec<(Phase, Mark)>,
    told: Tensor,
}

impl InFlight {
    fn new(index: usize) -> Self {
        Self {
            index,
            spares: Vec::new(),
            begun: None,
            laps: Vec::new(),
            open: VecDeque::new(),
            before: None,
        }
    }

    fn spare(&mut self) -> Result<Mark, RunError> {
        match self.spares.pop() {
            Some(mark) => Ok(mark),
            None => Ok(Mark::new()?),
        }
    }

    fn begin(&mut self, waited_s: f64) -> Result<(), RunError> {
        let mark = self.spare()?;
        mark.set(self.index)?;
        self.begun = Some((mark, waited_s));
        Ok(())
    }

    fn end(&mut self, phase: Phase) -> Result<(), RunError> {
        let mark = self.spare()?;
        mark.set(self.index)?;
        self.laps.push((phase, mark));
        Ok(())
    }

    fn finish(&mut self, told: &Tensor) -> Result<(), RunError> {
        // Before the mark: once that is passed, the numbers are here.
        let told = ffi::download(told)?;
        self.end(Phase::Optimizer)?;
        let (begun, waited_s) = self
            .begun
            .take()
            .ok_or_else(|| RunError::host("a step ended that had not begun"))?;
        self.open.push_back(Open {
            begun,
            waited_s,
            laps: std::mem::take(&mut self.laps),
            told,
        });
        Ok(())
    }

    /// Waits for the oldest step, and books its times; None if there is none.
    fn settle(
        &mut self,
        peers: &Peers,
        phases: &mut PhaseTimes,
    ) -> Result<Option<StepResult>, RunError> {
        let Some(step) = self.open.pop_front() else {
            return Ok(None);
        };
        if let Some((_, last)) = step.laps.last() {
            wait_for(last, peers)?;
        }
        // The GPU was idle for want of input only while both held: it had no work, and the host waited.
        phases.input_s += match self.before.take() {
            Some(before) => {
                let gap = step.begun.seconds_since(&before)?;
                self.spares.push(before);
                gap.min(step.waited_s)
            }
            None => step.waited_s,
        };
        let mut from = step.begun;
        for (phase, mark) in step.laps {
            *place(phases, phase) += mark.seconds_since(&from)?;
            self.spares.push(std::mem::replace(&mut from, mark));
        }
        self.before = Some(from);
        read(&step.told).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn on_the_host_a_step_tells_at_once_and_its_phases_make_up_its_time() {
        let (peers, mut phases) = (Peers::alone(), PhaseTimes::default());
        let mut clock = PhaseClock::of(Device::Cpu);
        let started = Instant::now();
        clock.begin(0.25, &mut phases).unwrap();
        clock.end(Phase::Forward, &mut phases).unwrap();
        let weight = Tensor::from_slice(&[1.0_f32, 2.0]).set_requires_grad(true);
        let loss = (&weight * 2.0).sum(Kind::Float);
        clock
            .backward(&loss, Phase::AllReduce, &mut phases)
            .unwrap();
        clock.end(Phase::Optimizer, &mut phases).unwrap();
        let told = Tensor::from_slice(&[1.5, 0.5, 0.0]);
        let known = clock.finish(&told, &peers, &mut phases).unwrap();
        let expected = StepResult {
            loss_sum: 1.5,
            stop_agreed: true,
            skipped: false,
        };
        assert_eq!(known, [expected]);
        assert!(clock.drain(&peers, &mut phases).unwrap().is_empty());
        let sum = phases.forward_s + phases.backward_s + phases.all_reduce_s + phases.optimizer_s;
        assert!(sum > 0.0 && sum <= started.elapsed().as_secs_f64());
        assert!((phases.input_s - 0.25).abs() < 1e-12);
    }

    #[test]
    fn without_libtorchs_cuda_half_a_gpu_has_no_clock() {
        let mut clock = PhaseClock::of(Device::Cuda(0));
        assert!(clock.begin(0.0, &mut PhaseTimes::default()).is_err());
    }
}
