//! Reading what a worker says of itself and of what it holds.

use std::collections::BTreeMap;

use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use marquee_domain::job::RankState;
use marquee_domain::limits::{HOST_TEXT_MAX_BYTES, NAME_MAX_BYTES};
use marquee_proto::convert::{self, BadField};
use marquee_proto::v1;
use marquee_store::ranks::RankKey;
use marquee_store::workers::WorkerHello;

use crate::caller::Caller;
use crate::rates::Asks;

/// Ranks that one worker may say it holds: what runs, and what waits for its acknowledgement.
pub(super) const HELD_MAX: usize = 10_000;
/// Bytes of a name that an error repeats.
const SHOWN_MAX_BYTES: usize = 100;

/// A rank that a worker holds, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) state: RankState,
    pub(super) last_sequence: u64,
}

pub(super) type HeldRanks = BTreeMap<RankKey, Held>;

/// Reads a Hello: who it is, by its own word and by its certificate, and what it holds.
pub(super) fn read(
    hello: v1::Hello,
    caller: &Caller,
) -> Result<(WorkerHello, HeldRanks), BadField> {
    let name = hello.name;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(plain) {
        let start = &name[..name.floor_char_boundary(SHOWN_MAX_BYTES)];
        let why =
            format!("{start:?} is not 1 to {NAME_MAX_BYTES} of a-z, 0-9, \"-\", \"_\" and \".\"");
        return Err(BadField::invalid("name", why));
    }
    let inventory = hello
        .inventory
        .ok_or_else(|| BadField::missing("inventory"))?
        .try_into()?;
    let worker = WorkerHello {
        id: hello
            .worker_id
            .parse()
            .map_err(|e| BadField::invalid("worker_id", e))?,
        name,
        boot_id: hello
            .boot_id
            .parse()
            .map_err(|e| BadField::invalid("boot_id", e))?,
        instance_id: hello
            .instance_id
            .parse()
            .map_err(|e| BadField::invalid("instance_id", e))?,
        version: convert::text("version", hello.version, HOST_TEXT_MAX_BYTES)?,
        prep_code: convert::text("prep_code", hello.prep_code, HOST_TEXT_MAX_BYTES)?,
        identity: caller.identity().map(str::to_owned),
        inventory,
    };
    Ok((worker, held(hello.held)?))
}

/// Reads a list of held ranks.
pub(super) fn held(held: Vec<v1::HeldRank>) -> Result<HeldRanks, BadField> {
    if held.len() > HELD_MAX {
        return Err(BadField::invalid(
            "held",
            format!("{} ranks, at most {HELD_MAX}", held.len()),
        ));
    }
    held.into_iter()
        .map(|rank| {
            let state = rank.state().try_into()?;
            let key = key(rank.job_id, rank.attempt, rank.rank);
            Ok((
                key,
                Held {
                    state,
                    last_sequence: rank.last_sequence,
                },
            ))
        })
        .collect()
}

/// What the held ranks say of their requests. Nonsense counts as silence: such a rank gets nothing.
pub(super) fn rates(held: &[v1::HeldRank]) -> Vec<(RankKey, Asks)> {
    let asking = held.iter().filter_map(|rank| {
        let asks = Asks::new(rank.rate.clone()?)?;
        Some((key(rank.job_id, rank.attempt, rank.rank), asks))
    });
    asking.collect()
}

pub(super) fn key(job: i64, attempt: u32, rank: u32) -> RankKey {
    RankKey {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
        rank: Rank(rank),
    }
}

#[cfg(test)]
mod tests;
