//! `marquee bench`: how fast a model trains here, over devices, inputs and TensorBoard, at equal
//! global batch.
//!
//! Invariant: it runs as jobs like any other, one after the other so that none disturbs the next,
//! and everything shown is read back from what those jobs reported; so the results of a bench that
//! nobody watched can be shown later. What a job's name says is what it measured ([`plan::Case`]).

mod chart;
mod gather;
mod here;
mod page;
mod plan;
mod results;

pub(crate) use chart::svg;
pub(crate) use gather::gather;
pub(crate) use here::Here;
pub(crate) use plan::{Devices, Input, Length, Plan, Size, Source, available};
pub(crate) use results::Results;
