//! How the ranks of an attempt find each other, the group that they form, and how it goes on when
//! some of them are lost. The store at which they meet lives outside the ranks, for a rank may die.

mod arrive;
mod carry;
mod exchange;
mod gathering;
mod peers;
mod place;
mod regroup;
mod server;

pub(crate) use exchange::Exchange;
pub(crate) use gathering::Standing;
pub(crate) use peers::Peers;
pub(crate) use place::Place;
pub(crate) use server::StoreServer;
