//! The local catalogue: a TMDb-compatible server of generated films and posters. The demo and the
//! tests fetch from it over HTTP, as they would from a real service.
//!
//! Invariant: what it serves depends on (generator version, seed, number of films) alone, is
//! labelled synthetic (`/3/configuration` has an object `marquee`), and the labels were drawn
//! before the pictures.
//! Not here: lists, searches and changes, which the fetch job does not use yet.

mod answers;
mod faults;
mod film;
mod genres;
mod image_file;
mod poster;
mod server;
mod words;

pub use faults::{FaultRule, InvalidFault};
pub use server::{CatalogueOptions, CatalogueServer};
