//! What the child says: one JSON object a line on its event channel, flushed at once.
//!
//! Invariant: values are finite, for JSON has no NaN. A failure to write is not an error: the rank goes on,
//! and its last word and exit code tell what came of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use marquee_datasets::channel::Channel;
use marquee_domain::child::ChildEvent;

/// Shortest time between two progress lines: a bar that moves twice a second looks alive.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two metrics lines of single steps; curves need no more.
const METRICS_EVERY: Duration = Duration::from_millis(200);

/// The way out for events.
pub(crate) struct Events {
    state: Mutex<State>,
}

struct State {
    out: Channel,
    broken: bool,
    progress_at: Option<Instant>,
    progress_phase: String,
    metrics_at: Option<Instant>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    #[must_use]
    pub(crate) fn to(out: Channel) -> Self {
        let state = State {
            out,
            broken: false,
            progress_at: None,
            progress_phase: String::new(),
            metrics_at: None,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Writes `event`.
    pub(crate) fn emit(&self, event: &ChildEvent) {
        self.lock().write(event);
    }

    /// Writes the event that decides about the job, and waits for room where the disk is full.
    pub(crate) fn last_word(&self, event: &ChildEvent) {
        let mut state = self.lock();
        state.write(event);
        if !state.broken
            && let Err(error) = state.out.finish()
        {
            tracing::error!(%error, "the last word cannot be written");
        }
    }

    /// Writes a line that is an event already.
    pub(crate) fn forward(&self, line: &str) {
        self.lock().write_line(line);
    }

    /// Reports progress, unless the last report of the same phase was a moment ago. The last report
    /// of a phase, with `done` at `total`, always goes out.
    pub(crate) fn progress(&self, phase: &str, done: u64, total: u64, unit: &str) {
        let mut state = self.lock();
        let same_phase = state.progress_phase == phase;
        let is_recent = state
            .progress_at
            .is_some_and(|at| at.elapsed() < PROGRESS_EVERY);
        // The last one of a phase goes out whenever it comes, or a bar would stop at 98 %.
        if same_phase && is_recent && done < total {
            return;
        }
        state.progress_at = Some(Instant::now());
        phase.clone_into(&mut state.progress_phase);
        state.write(&ChildEvent::Progress {
            phase: phase.to_owned(),
            done,
            total: Some(total),
            unit: unit.to_owned(),
            bytes: None,
            problems: BTreeMap::new(),
        });
    }

    /// Reports values of one step, unless others went out a moment ago.
    pub(crate) fn step_metrics(&self, step: u64, values: &[(&str, f64)]) {
        let is_recent = self
            .lock()
            .metrics_at
            .is_some_and(|at| at.elapsed() < METRICS_EVERY);
        if !is_recent {
            self.metrics(step, values);
        }
    }

    /// Reports values; those that are not finite are left out.
    pub(crate) fn metrics(&self, step: u64, values: &[(&str, f64)]) {
        let values: BTreeMap<String, f64> = values
            .iter()
            // A loss that is no number ends the run elsewhere, with a message; as a point in a curve nothing
            // could store it.
            .filter(|(_, value)| value.is_finite())
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        if values.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.metrics_at = Some(Instant::now());
        state.write(&ChildEvent::Metrics { step, values });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, event: &ChildEvent) {
        match serde_json::to_string(event) {
            Ok(line) => self.write_line(&line),
            Err(error) => tracing::error!(%error, "an event could not be written as JSON"),
        }
    }

    fn write_line(&mut self, line: &str) {
        if self.broken {
            return;
        }
        let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        if let Err(error) = written {
            // Said once and never tried again: a pipe that nobody reads would otherwise cost an
            // error for each step.
            self.broken = true;
            tracing::warn!(%error, "nobody reads our events any more; going on without");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(sink: &Sink) -> Vec<String> {
        String::from_utf8(sink.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn progress_is_thinned_out_but_the_first_and_the_last_line_of_a_phase_are_there() {
        let sink = Sink::default();
        let events = Events::to(Channel::to(Box::new(sink.clone())));
        for done in 0..=100 {
            events.progress("epoch 1/2", done, 100, "images");
        }
        events.progress("epoch 2/2", 0, 100, "images");
        let lines = lines(&sink);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].contains("\"done\":0") && lines[1].contains("\"done\":100"),
            "{lines:?}"
        );
    }

    #[test]
    fn values_that_json_cannot_hold_are_left_out() {
        let sink = Sink::default();
        let events = Events::to(Channel::to(Box::new(sink.clone())));
        events.metrics(7, &[("a", 1.5), ("b", f64::NAN)]);
        events.metrics(8, &[("b", f64::INFINITY)]);
        assert_eq!(
            lines(&sink),
            [r#"{"event":"metrics","step":7,"values":{"a":1.5}}"#]
        );
    }
}
