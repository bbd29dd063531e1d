//! Real programs, tried from the outside. One test program for all files: each would be linked by itself otherwise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod backup;
mod bench;
mod burn_in;
mod chaos;
mod cli;
mod commands;
mod elastic;
mod hangs;
mod hostile;
mod kills;
mod pipeline;
mod rates;
mod secrets;
mod slurm;
mod torchrun;
mod trust;
