//! What is asked of a split: rows, and how each is to be seen.

use super::share::share;

/// One row as a step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) row: u64,
    pub(crate) is_flipped: bool,
    /// Random bits for what else happens to it.
    pub(crate) dice: u64,
}

/// One picture of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) view: View,
    /// What it is mixed with, and random bits that say how.
    pub(crate) partner: Option<(View, u64)>,
}

impl Picture {
    /// A row as it lies in the shards.
    pub(crate) fn plain(row: u64, is_flipped: bool) -> Self {
        let dice = 0;
        Self {
            view: View {
                row,
                is_flipped,
                dice,
            },
            partner: None,
        }
    }
}

/// The pictures of one batch of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// At least one.
    pub(crate) pictures: Vec<Picture>,
    /// This rank has no picture in this step. It computes one all the same, with a weight of 0: without
    /// gradients it could not take part in their exchange, and the other ranks would wait for ever.
    pub(crate) is_stand_in: bool,
    /// Pictures of the step over all ranks.
    pub(crate) global: u64,
    /// Place of this rank's first picture in the step.
    pub(crate) first: u64,
    /// Rows that this rank will read in later steps, sorted as they lie on disk. Empty except in a step
    /// with which a new part of a shuffle by shards begins.
    pub(crate) ahead: Vec<u64>,
}

impl Request {
    /// Rows to read for themselves, each mirrored or not.
    pub(crate) fn of_rows(rows: impl Iterator<Item = (u64, bool)>) -> Self {
        let pictures: Vec<Picture> = rows
            .map(|(row, is_flipped)| Picture::plain(row, is_flipped))
            .collect();
        Self {
            global: pictures.len() as u64,
            pictures,
            is_stand_in: false,
            first: 0,
            ahead: Vec::new(),
        }
    }
}

/// Batches in which one rank scores its share of a split's rows, in order and unmirrored.
pub(crate) fn scoring_requests(
    rows: u64,
    batch_size: u32,
    rank: u32,
    world_size: u32,
) -> impl Iterator<Item = Request> + Clone + use<> {
    let mine = share(rows, rank, world_size);
    let batch_size = u64::from(batch_size.max(1));
    (0..(mine.end - mine.start).div_ceil(batch_size)).map(move |batch| {
        let first = mine.start + batch * batch_size;
        let rows = first..(first + batch_size).min(mine.end);
        let global = rows.end - rows.start;
        // Neither mirrored nor changed: scores of one model over one split must be the same
        // whenever they are computed.
        let pictures = rows.map(|row| Picture::plain(row, false)).collect();
        Request {
            pictures,
            is_stand_in: false,
            global,
            first: 0,
            ahead: Vec::new(),
        }
    })
}
