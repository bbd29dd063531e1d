//! Trust between this coordinator and its workers: an authority of its own (`authority`), made once (`init`), which
//! signs what workers that join bring (`join`), who of them is trusted still (`manage`), and how another authority
//! follows it while everybody works (`rotate`).
//!
//! Invariant: a worker is known by its certificate alone, and is a worker for as long as its row says so. Not here:
//! what it may ask for (`rpc::guard`), and how connections are encrypted (`tls`).

pub mod authority;
pub(crate) mod belonging;
pub(crate) mod beside;
pub mod enable;
mod follow;
pub mod init;
mod join;
pub mod local;
mod manage;
pub(crate) mod rotate;
mod standing;
pub mod succession;
mod tokens;

pub use follow::{follow, keep};
pub(crate) use join::{Ask, Certified, join, renew};
pub(crate) use manage::{forget, rename, revoke};
pub(crate) use standing::{Known, Says, await_news};
pub(crate) use tokens::{NewToken, create_token, revoke_token, state_of};
