//! Whole runs of the trainer, as real processes. One program for all files: each would be linked with libtorch by
//! itself otherwise, twice where the flavour for Kepler GPUs is built.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod distributed;
mod jobs;
mod killed_anywhere;
mod overlap;
mod resume;
mod torchscript;
mod transfer;
mod verdicts;
mod zoo;
