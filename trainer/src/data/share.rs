//! How rows are divided among ranks.

/// The part of `0..rows` that belongs to `rank`: parts are in order and differ by one at most.
pub(crate) fn share(
    rows: u64,
    rank: impl Into<u64>,
    world_size: impl Into<u64>,
) -> std::ops::Range<u64> {
    let (rank, world_size) = (rank.into(), world_size.into());
    let bound = |rank: u64| {
        // By bounds and not by a size: neighbours share theirs, so no row is left out or taken
        // twice, whatever the remainder.
        let product = u128::from(rows) * u128::from(rank) / u128::from(world_size);
        u64::try_from(product).expect("a share is no larger than the whole")
    };
    bound(rank)..bound(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_rows_in_order_and_are_even() {
        for rows in [0, 1, 3, 7, 64, 65] {
            for world_size in [1, 2, 3, 4, 7] {
                let shares: Vec<_> = (0..world_size)
                    .map(|rank: u32| share(rows, rank, world_size))
                    .collect();
                assert_eq!(
                    shares.iter().cloned().flatten().collect::<Vec<_>>(),
                    (0..rows).collect::<Vec<_>>()
                );
                let lengths: Vec<u64> =
                    shares.iter().map(|share| share.end - share.start).collect();
                assert!(
                    lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1,
                    "{lengths:?}"
                );
            }
        }
    }
}
