//! The subcommands of `marquee-catalogue`, one a file.

pub(crate) mod bench;
pub(crate) mod fuzz;
pub(crate) mod serve;
