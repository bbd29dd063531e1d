//! The local catalogue: a TMDb-compatible server of generated films and posters. The demo and the
//! tests fetch from it over HTTP, as they would from a real service.
//!
//! Invariant: what it serves depends on (generator version, seed, number of films) alone, is
//! labelled synthetic (`/3/configuration` has an object `marquee`), and the labels were drawn
//! before the pictures.
//! With a [`Storm`] it misbehaves by seed, and a truth file says what must become of every id.
//!
//! The same generated films are what [`mod@fuzz`] and [`mod@bench`] try and measure the data path with. All of
//! this is a crate and a program of its own so that `marquee-prep`, which reads files from strangers
//! on every training host, holds nothing that it does not need there.
//! Not here: searches, people, series, which no fetch job asks for.

#![allow(
    clippy::cast_possible_truncation,
    reason = "pixels and colours are cut to size on purpose; counts and ids are converted checked"
)]

pub mod animation;
mod answers;
pub mod bench;
mod count;
mod drawings;
mod fault;
mod faults;
mod film;
pub mod fuzz;
mod genres;
mod image_file;
mod oddities;
mod poster;
mod server;
mod settings;
mod storm;
mod words;

pub use faults::{FaultRule, InvalidFault};
pub use server::{CatalogueOptions, CatalogueServer, RequestLog};
pub use settings::ServeArgs;
pub use storm::Storm;
