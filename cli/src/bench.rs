//! `marquee bench`: how fast a model trains here, over devices, inputs and TensorBoard, at equal
//! global batch.
//!
//! Invariant: it runs as jobs like any other, one after the other so that none disturbs the next,
//! and everything shown is read back from what those jobs reported; so the results of a bench that
//! nobody watched can be shown later. What a job's name says is what it measured ([`case::Case`]).

mod case;
mod chart;
mod devices;
mod findings;
mod gather;
mod here;
mod page;
mod plan;
mod results;
mod run;
mod shown;

pub(crate) use case::Input;
pub(crate) use devices::Devices;
pub(crate) use gather::gather;
pub(crate) use here::Here;
pub(crate) use plan::{BenchPlan, Length, Size, Source};
pub(crate) use run::{choose_devices, finish, start};
pub(crate) use shown::Shown;
