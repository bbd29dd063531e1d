//! The wire: generated messages and services, their conversions to domain types, and the one place
//! where an error becomes a gRPC status.

pub mod certificate;
pub mod convert;
pub mod error;
pub mod gpu;
mod secret;

/// Messages, clients and servers of package `marquee.v1`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("marquee.v1");
}

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/marquee.v1.bin"));
