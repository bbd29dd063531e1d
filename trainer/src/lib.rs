//! Train and eval with libtorch, one process a rank: the library behind `marquee-trainer`, and the
//! only crate that links libtorch.
//!
//! Invariants:
//! - It speaks the child contract ([`marquee_domain::child`]) and nothing else: no gRPC, no SQL.
//! - On CPUs in fp32 a run that was interrupted and resumed on as many ranks ends with the same
//!   weights, bit for bit, as one that was not.
//! - `unsafe` is in one module, `ffi`, the border with libtorch's C++.

// What a tensor holds is counted in i64 by libtorch, in usize by Rust and averaged in f64; all
// counts here are far below 2^53.
#![allow(
    clippy::cast_precision_loss,
    reason = "counts of pictures and steps are far below 2^53"
)]

mod burn_in;
mod checkpoint;
mod child;
mod compat;
mod data;
mod device;
mod ema;
mod error;
mod eval;
mod events;
mod facts;
mod ffi;
mod files;
mod lab;
mod launch;
mod learner;
mod loss;
mod model_folder;
mod models;
mod optimizer;
mod outcome;
mod parameters;
mod provenance;
mod rendezvous;
mod run;
mod scaler;
mod schedule;
mod stdout;
mod stop;
mod store;
mod tensorboard;
mod tensors;
mod train;
mod training_record;

pub use burn_in::BurnIn;
pub use child::run_as_child;
pub use error::RunError;
pub use facts::Facts;
pub use lab::Lab;
pub use launch::Size;
pub use stdout::say;
pub use store::serve;

/// Sets what libtorch reads from the environment, where it is not set, and how memory is kept: to be
/// called first of all, before there is a second thread.
pub fn prepare_process() {
    device::set_environment();
    ffi::keep_memory();
}

/// Ends the process without destructors: after a failure, threads may hang in an exchange with a
/// peer that is gone. The caller has flushed what it wrote.
pub fn leave(code: marquee_domain::child::ExitCode) -> ! {
    ffi::exit_now(code.0)
}
