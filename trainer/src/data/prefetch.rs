//! A thread that reads the next batches while the current one is trained on.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::{Batch, Request, SplitReader};
use crate::error::RunError;

/// Batches that lie ready: enough to ride over a slow read, few enough to keep memory small.
const BATCHES_AHEAD: usize = 4;

/// Batches in the order of their requests. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Prefetch {
    batches: Receiver<Result<Batch, RunError>>,
}

impl Prefetch {
    /// Starts to read `requests` from `reader`.
    pub(crate) fn start(
        reader: SplitReader,
        requests: impl Iterator<Item = Request> + Send + 'static,
    ) -> Result<Self, RunError> {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                for request in requests {
                    let batch = reader.read(&request);
                    let is_last = batch.is_err();
                    // An error here means that nobody wants more.
                    if sender.send(batch).is_err() || is_last {
                        return;
                    }
                }
            })
            .map_err(|error| RunError::host(format!("cannot start the input thread: {error}")))?;
        Ok(Self { batches })
    }

    /// The next batch; None after the last one, or after an error.
    pub(crate) fn next(&self) -> Option<Result<Batch, RunError>> {
        self.batches.recv().ok()
    }
}
