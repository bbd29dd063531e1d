//! Threads that read the next batches while the current one is trained on.
//!
//! Invariant: batches come in the order of their requests, however many threads there are: thread i
//! of n reads every n-th request from the i-th on, and is asked in turn.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::batch::Batch;
use super::reader::SplitReader;
use super::request::Request;
use crate::error::RunError;

/// Batches that lie ready over all threads: enough to ride over a slow read, few enough to keep
/// memory small. Each thread has at least two: one to hand over, one to work on.
const BATCHES_AHEAD: usize = 4;
const BATCHES_AHEAD_OF_THREAD: usize = 2;

/// Batches in the order of their requests. Dropping it ends the threads.
#[derive(Debug)]
pub(crate) struct Prefetch {
    threads: Vec<Receiver<Result<Batch, RunError>>>,
    turn: Cell<usize>,
}

impl Prefetch {
    /// Starts to read `requests` from `reader` with so many threads.
    pub(crate) fn start(
        reader: &SplitReader,
        threads: usize,
        requests: impl Iterator<Item = Request> + Clone + Send + 'static,
    ) -> Result<Self, RunError> {
        let count = threads.max(1);
        // Shared out among the threads, or memory for batches would grow with their number.
        let ahead = (BATCHES_AHEAD / count).max(BATCHES_AHEAD_OF_THREAD);
        let mut threads = Vec::with_capacity(count);
        for place in 0..count {
            let (sender, batches) = sync_channel(ahead);
            let (reader, requests) = (reader.clone(), requests.clone());
            thread::Builder::new()
                .name(format!("input-{place}"))
                .spawn(move || {
                    for request in requests.skip(place).step_by(count) {
                        let batch = reader.read(&request);
                        let is_last = batch.is_err();
                        // An error here means that nobody wants more.
                        if sender.send(batch).is_err() || is_last {
                            return;
                        }
                    }
                })
                .map_err(|error| {
                    RunError::host(format!("cannot start an input thread: {error}"))
                })?;
            threads.push(batches);
        }
        Ok(Self {
            threads,
            turn: Cell::new(0),
        })
    }

    /// The next batch; None after the last one, or after an error.
    pub(crate) fn next(&self) -> Option<Result<Batch, RunError>> {
        let turn = self.turn.get();
        self.turn.set((turn + 1) % self.threads.len());
        self.threads.get(turn)?.recv().ok()
    }
}
