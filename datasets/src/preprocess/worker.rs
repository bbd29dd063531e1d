//! One of the threads that prepare pictures: by itself, or through a helper process.

use std::path::Path;

use marquee_domain::artifact::Digest;
use marquee_domain::spec::PreprocessSettings;

use super::helper::Helper;
use super::prepare::{Prepared, Preparer};
use crate::dataset::Example;
use crate::job::JobError;

/// Prepares pictures, in a helper process where there is a program for one.
pub(super) enum Worker {
    Here(Box<Preparer>),
    Helper(Helper),
}

impl Worker {
    pub(super) fn new(settings: &PreprocessSettings, program: Option<&Path>) -> Self {
        let (width, height, encoding) = (settings.width, settings.height, settings.encoding);
        match program {
            Some(program) => Self::Helper(Helper::new(program, width, height, encoding)),
            None => Self::Here(Box::new(Preparer::new(width, height, encoding))),
        }
    }

    pub(super) fn prepare(&mut self, example: &Example, file: &[u8]) -> Result<Prepared, JobError> {
        // Here and not when the dataset is opened: each byte is read anyway, and on all threads.
        if Digest::of(file) != example.picture_digest {
            return Err(JobError::bad_input(format!(
                "the picture {} is not the one that was fetched: its digest differs from \
                 {}; run the fetch job again",
                example.id, example.picture_digest
            )));
        }
        match self {
            Self::Here(preparer) => Ok(preparer.prepare(file)),
            Self::Helper(helper) => helper
                .prepare(file)
                .map_err(|error| JobError::crash(format!("no helper can be started: {error}"))),
        }
    }
}
