//! What tests share.

pub(crate) mod odd;
pub(crate) mod wire;
