//! Random numbers of a training run.
//!
//! Invariant: each is a function of the seed and of what it is for: an epoch, a position, a row. How
//! many ranks there are and where a run was interrupted changes nothing, and no generator's state has
//! to be saved.

/// What a random number is for. Part of the key, so that no two uses of one seed share their numbers:
/// else, say, pictures early in an epoch would also be those that are mirrored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Order = 1,
    Flip = 2,
    Change = 3,
    Draw = 4,
    Mix = 5,
    /// Where the runs of a shuffle by shards begin, their order, and the order within a buffer.
    Runs = 6,
    RunOrder = 7,
    Buffer = 8,
}

/// Mixes all bits of a number into all bits of the result (the finaliser of splitmix64).
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Bits that look random and follow from these four numbers.
pub(super) fn bits(seed: u64, epoch: u32, purpose: Purpose, index: u64) -> u64 {
    mix(mix(mix(seed) ^ (u64::from(epoch) << 8 | purpose as u64)) ^ index)
}

/// Whether the picture `row` is mirrored in this epoch.
pub(crate) fn is_flipped(seed: u64, epoch: u32, row: u64) -> bool {
    bits(seed, epoch, Purpose::Flip, row) & 1 == 1
}

/// Two numbers from 0 to below 1 for the draw at `position` of this epoch.
pub(crate) fn draw(seed: u64, epoch: u32, position: u64) -> [f64; 2] {
    let drawn = bits(seed, epoch, Purpose::Draw, position);
    // 53 bits: as many as an f64 holds, so that the number stays below 1.
    [1, 2].map(|index| (mix(drawn ^ index) >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Random bits for what else happens to the picture `row` in this epoch.
pub(crate) fn dice(seed: u64, epoch: u32, row: u64) -> u64 {
    bits(seed, epoch, Purpose::Change, row)
}

/// Random bits for the mixing of the picture at `position` of this epoch.
pub(crate) fn mixing_dice(seed: u64, epoch: u32, position: u64) -> u64 {
    bits(seed, epoch, Purpose::Mix, position)
}

/// The number `index` of a stream that starts with `dice`, from 0 to below 1.
pub(crate) fn roll(dice: u64, index: u64) -> f64 {
    (mix(dice ^ mix(index)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The same as a whole number from 0 to below `end`.
pub(crate) fn roll_below(dice: u64, index: u64, end: u64) -> u64 {
    // The upper half of a product, and not a remainder, which would favour small numbers.
    let product = u128::from(mix(dice ^ mix(index))) * u128::from(end);
    u64::try_from(product >> u64::BITS).expect("the upper half of a product has 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_half_of_the_pictures_are_mirrored() {
        let count = (0..10_000).filter(|&row| is_flipped(3, 1, row)).count();
        assert!((4_700..5_300).contains(&count), "{count}");
    }
}
