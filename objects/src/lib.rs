//! A bucket of S3-compatible storage, through the `object_store` crate.
//!
//! Invariants: every request ends within a written time, whatever the server does; every error says what is wrong and
//! the way out, and holds no secret; credentials come from a file, which is read anew when it changes, and from nowhere
//! else.
//! Not here: what lies in the bucket and why (`marquee-coordinator`'s `blobs::bucket`).

mod credentials;
mod parts;
mod place;
mod probe;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod trouble;
mod unfinished;

pub use place::{Addressing, Place};
pub use probe::Probed;
pub use store::{Found, GET_MAX_BYTES, Listed, Store};
pub use trouble::{Kind, Trouble};
pub use unfinished::Unfinished;
