//! Iterative stratification of multi-label data: Sechidis, Tsoumakas and Vlahavas, "On the
//! Stratification of Multi-Label Data", ECML PKDD 2011, extended to groups that stay whole.
//!
//! The rarest label is dealt with first, since later there is least room to repair its shares; each
//! unit goes to the split that lacks most of that label, then most of everything.

use crate::dice::Dice;

/// What is assigned as a whole: one picture, or a group of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) rows: u32,
    /// How many of the rows have each class.
    pub(super) classes: Vec<u32>,
}

/// What the splits still lack.
struct Wanted {
    rows: Vec<f64>,
    /// By split, then class.
    classes: Vec<Vec<f64>>,
}

/// The split of each unit. `shares` add up to 1; a split of share 0 stays empty.
pub(super) fn stratify(units: &[Unit], shares: &[f64], dice: &mut Dice) -> Vec<usize> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    dice.shuffle(&mut order);
    // Large groups first: what is left over is then small and can be balanced.
    order.sort_by_key(|unit| std::cmp::Reverse(units[*unit].rows));

    let mut wanted = Wanted::new(units, shares);
    let mut left = totals(units);
    let mut splits: Vec<Option<usize>> = vec![None; units.len()];
    while let Some(rarest) = rarest(&left) {
        // All units of this class now: a class of ten pictures has no room for mistakes later on.
        for unit in &order {
            if splits[*unit].is_none() && units[*unit].classes[rarest] > 0 {
                let split = wanted.choose(Some(rarest), shares, dice);
                wanted.give(split, &units[*unit]);
                splits[*unit] = Some(split);
                for (left, count) in left.iter_mut().zip(&units[*unit].classes) {
                    *left -= u64::from(*count);
                }
            }
        }
    }
    // Those without any class only have to even out the numbers of rows.
    for unit in order {
        if splits[unit].is_none() {
            let split = wanted.choose(None, shares, dice);
            wanted.give(split, &units[unit]);
            splits[unit] = Some(split);
        }
    }
    splits.into_iter().map(Option::unwrap_or_default).collect()
}

fn totals(units: &[Unit]) -> Vec<u64> {
    let classes = units.first().map_or(0, |unit| unit.classes.len());
    let of_class = |class: usize| {
        units
            .iter()
            .map(|unit| u64::from(unit.classes[class]))
            .sum::<u64>()
    };
    (0..classes).map(of_class).collect()
}

/// The class with the fewest rows left, if any has some.
fn rarest(left: &[u64]) -> Option<usize> {
    (0..left.len())
        .filter(|class| left[*class] > 0)
        .min_by_key(|class| left[*class])
}

impl Wanted {
    fn new(units: &[Unit], shares: &[f64]) -> Self {
        let rows: u64 = units.iter().map(|unit| u64::from(unit.rows)).sum();
        let totals = totals(units);
        Self {
            rows: shares.iter().map(|share| rows as f64 * share).collect(),
            classes: shares
                .iter()
                .map(|share| totals.iter().map(|total| *total as f64 * share).collect())
                .collect(),
        }
    }

    /// The split that lacks most of `class`, then of rows; what is still equal is left to chance.
    fn choose(&self, class: Option<usize>, shares: &[f64], dice: &mut Dice) -> usize {
        let lack = |split: usize| {
            let of_class = class.map_or(0.0, |class| self.classes[split][class]);
            (of_class, self.rows[split])
        };
        let mut best: Vec<usize> = Vec::new();
        // A split without a share lacks nothing, and so would be chosen as soon as all others had
        // more than they wanted.
        for split in (0..shares.len()).filter(|split| shares[*split] > 0.0) {
            let ordering = best.first().map(|first| {
                let (a, b) = (lack(split), lack(*first));
                a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
            });
            match ordering {
                None | Some(std::cmp::Ordering::Greater) => best = vec![split],
                Some(std::cmp::Ordering::Equal) => best.push(split),
                Some(std::cmp::Ordering::Less) => {}
            }
        }
        best.get(dice.below(best.len()))
            .copied()
            .unwrap_or_default()
    }

    fn give(&mut self, split: usize, unit: &Unit) {
        self.rows[split] -= f64::from(unit.rows);
        for (wanted, count) in self.classes[split].iter_mut().zip(&unit.classes) {
            *wanted -= f64::from(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: [f64; 3] = [0.8, 0.1, 0.1];

    /// Units with one to three of six classes of very different shares.
    fn units(count: usize, rows_max: usize, dice: &mut Dice) -> Vec<Unit> {
        let shares = [0.5, 0.3, 0.2, 0.1, 0.03, 0.01];
        (0..count)
            .map(|_| {
                let rows = 1 + dice.below(rows_max);
                let mut classes = vec![0; shares.len()];
                for _ in 0..rows {
                    for (class, share) in shares.iter().enumerate() {
                        classes[class] += u32::from(dice.chance(*share));
                    }
                }
                Unit {
                    rows: u32::try_from(rows).unwrap(),
                    classes,
                }
            })
            .collect()
    }

    fn counts(units: &[Unit], splits: &[usize], class: usize) -> [f64; 3] {
        let mut counts = [0.0; 3];
        for (unit, split) in units.iter().zip(splits) {
            counts[*split] += f64::from(unit.classes[class]);
        }
        counts
    }

    #[test]
    fn every_class_keeps_its_share_in_every_split() {
        for seed in 0..20 {
            let mut dice = Dice::keyed(&[seed]);
            let units = units(2_000, 1, &mut dice);
            let splits = stratify(&units, &SHARES, &mut dice);
            for class in 0..6 {
                let counts = counts(&units, &splits, class);
                let total: f64 = counts.iter().sum();
                for (count, share) in counts.iter().zip(SHARES) {
                    assert!(
                        (count - total * share).abs() <= 2.0,
                        "seed {seed} class {class}: {counts:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn groups_are_balanced_as_far_as_their_size_allows() {
        let mut dice = Dice::keyed(&[5]);
        let units = units(1_000, 4, &mut dice);
        let splits = stratify(&units, &SHARES, &mut dice);
        for class in 0..6 {
            let counts = counts(&units, &splits, class);
            let total: f64 = counts.iter().sum();
            assert!(
                (counts[0] / total - 0.8).abs() < 0.04,
                "class {class}: {counts:?}"
            );
        }
    }

    #[test]
    fn the_seed_decides_and_a_share_of_nothing_gets_nothing() {
        let units = units(300, 2, &mut Dice::keyed(&[9]));
        let deal = |seed| stratify(&units, &[0.9, 0.0, 0.1], &mut Dice::keyed(&[seed]));
        assert_eq!(deal(1), deal(1));
        assert_ne!(deal(1), deal(2));
        assert!(!deal(1).contains(&1));
        assert_eq!(
            stratify(&[], &SHARES, &mut Dice::keyed(&[1])),
            Vec::<usize>::new()
        );
    }
}
