//! Which example goes to which split, and in which order the examples stand there.

use std::collections::{BTreeSet, HashMap};

use marquee_domain::artifact::Digest;
use marquee_domain::spec::Splits;

use super::classes::Classes;
use super::similar::DisjointSets;
use super::stratify::{Unit, stratify};
use crate::dataset::Example;
use crate::dice::Dice;

/// The splits, in the order in which they are written.
pub(super) const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// An example with its split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assigned {
    /// Its place in the dataset.
    pub(super) example: usize,
    /// Its place in [`SPLITS`].
    pub(super) split: usize,
}

/// What decides where examples go.
#[derive(Debug)]
pub(super) struct Deal<'a> {
    pub(super) examples: &'a [Example],
    pub(super) classes: &'a Classes,
    /// Sets of examples that belong together besides groups and equal files.
    pub(super) together: &'a [Vec<usize>],
    pub(super) shares: Splits,
    pub(super) seed: u64,
    /// Exactly this many rows in the test split, of those that `is_clean`.
    pub(super) test_rows: Option<u32>,
    /// By example: whether nothing is wrong with its picture.
    pub(super) is_clean: &'a [bool],
    /// At most this many training pictures of a class.
    pub(super) max_per_class: Option<u32>,
}

/// Where the examples went.
#[derive(Debug)]
pub(super) struct Dealt {
    pub(super) rows: Vec<Assigned>,
    /// Training examples that were left out to keep classes balanced.
    pub(super) left_out: Vec<usize>,
}

/// Assigns the `usable` examples. Examples of one group, examples with the very same picture and those that
/// belong `together` stay in one split. Within a split they stand in random order, so that a reader
/// who shuffles shard by shard meets all classes in each.
pub(super) fn assign(deal: &Deal<'_>, usable: &[usize]) -> Result<Dealt, String> {
    let mut dice = Dice::keyed(&[deal.seed]);
    // Sets that share a member are one unit, however long the chain: only whole units are dealt out.
    let (unit_of, count) = units_of(deal, usable);
    let empty = Unit {
        rows: 0,
        classes: vec![0; deal.classes.names().len()],
    };
    let mut units = vec![empty; count];
    let mut is_clean = vec![true; count];
    for (example, unit) in usable.iter().zip(&unit_of) {
        units[*unit].rows += 1;
        is_clean[*unit] &= deal.is_clean[*example];
        for class in deal.classes.of(&deal.examples[*example]) {
            units[*unit].classes[class] += 1;
        }
    }
    let shares = [deal.shares.train, deal.shares.validation, deal.shares.test];
    let split_of = match deal.test_rows {
        None => stratify(&units, &shares, &mut dice),
        Some(rows) => with_exact_test(&units, &is_clean, shares, rows, &mut dice)?,
    };
    let mut rows: Vec<Assigned> = usable
        .iter()
        .zip(&unit_of)
        .map(|(example, unit)| Assigned {
            example: *example,
            split: split_of[*unit],
        })
        .collect();
    dice.shuffle(&mut rows);
    // A stable sort: the random order stays within each split.
    rows.sort_by_key(|row| row.split);
    let left_out = match deal.max_per_class {
        None => BTreeSet::new(),
        Some(cap) => above_the_cap(deal, &rows, u64::from(cap)),
    };
    rows.retain(|row| !left_out.contains(&row.example));
    Ok(Dealt {
        rows,
        left_out: left_out.into_iter().collect(),
    })
}

/// The splits with exactly `wanted` rows in the test split, all from clean units.
fn with_exact_test(
    units: &[Unit],
    is_clean: &[bool],
    shares: [f64; 3],
    wanted: u32,
    dice: &mut Dice,
) -> Result<Vec<usize>, String> {
    let clean: Vec<usize> = (0..units.len()).filter(|unit| is_clean[*unit]).collect();
    let rows: u32 = clean.iter().map(|unit| units[*unit].rows).sum();
    // As many are too few as well: training would have no clean picture left.
    if rows <= wanted {
        return Err(format!(
            "test_rows asks for {wanted} pictures without a quality flag, and there are {rows}; lower it"
        ));
    }
    let of_clean: Vec<Unit> = clean.iter().map(|unit| units[*unit].clone()).collect();
    // Dealt as if there were two splits only, so that the test split too has its share of every
    // class.
    let share = f64::from(wanted) / f64::from(rows);
    let mut is_test: Vec<bool> = stratify(&of_clean, &[1.0 - share, share], dice)
        .iter()
        .map(|split| *split == 1)
        .collect();
    // Stratification comes close; units of one row make it exact.
    let mut order: Vec<usize> = (0..of_clean.len()).collect();
    dice.shuffle(&mut order);
    let count = |is_test: &[bool]| -> u32 {
        let tested = of_clean
            .iter()
            .zip(is_test)
            .filter(|(_, is_test)| **is_test);
        tested.map(|(unit, _)| unit.rows).sum()
    };
    let mut have = count(&is_test);
    for unit in order {
        let rows = of_clean[unit].rows;
        if is_test[unit] && have > wanted && have - wanted >= rows {
            is_test[unit] = false;
            have -= rows;
        } else if !is_test[unit] && have < wanted && wanted - have >= rows {
            is_test[unit] = true;
            have += rows;
        }
    }
    if have != wanted {
        return Err(format!(
            "test_rows asks for {wanted} pictures, but groups that stay whole allow {have}; choose that"
        ));
    }
    let tested: BTreeSet<usize> = clean
        .iter()
        .zip(&is_test)
        .filter(|(_, is_test)| **is_test)
        .map(|(unit, _)| *unit)
        .collect();
    // The others share out what is left in the proportion that they have to each other.
    let others: Vec<usize> = (0..units.len())
        .filter(|unit| !tested.contains(unit))
        .collect();
    let of_others: Vec<Unit> = others.iter().map(|unit| units[*unit].clone()).collect();
    let rest = shares[0] + shares[1];
    let dealt = stratify(&of_others, &[shares[0] / rest, shares[1] / rest], dice);
    let mut splits = vec![2; units.len()];
    for (unit, split) in others.iter().zip(dealt) {
        splits[*unit] = split;
    }
    Ok(splits)
}

/// The training examples that have to go so that no class has more than `cap`. Examples of rare classes
/// are kept first, as common ones would fill their places.
fn above_the_cap(deal: &Deal<'_>, rows: &[Assigned], cap: u64) -> BTreeSet<usize> {
    // Training alone is balanced. What is measured on keeps the frequencies that the data has.
    let train = || rows.iter().filter(|row| row.split == 0);
    let classes_of = |example: usize| deal.classes.of(&deal.examples[example]);
    let mut totals = vec![0_u64; deal.classes.names().len()];
    for row in train() {
        for class in classes_of(row.example) {
            totals[class] += 1;
        }
    }
    let mut order: Vec<usize> = train().map(|row| row.example).collect();
    order.sort_by_key(|example| classes_of(*example).map(|class| totals[class]).min());
    let mut taken = vec![0_u64; totals.len()];
    let mut left_out = BTreeSet::new();
    for example in order {
        if classes_of(example).any(|class| taken[class] >= cap) {
            left_out.insert(example);
            continue;
        }
        for class in classes_of(example) {
            taken[class] += 1;
        }
    }
    left_out
}

/// The unit of each usable example, numbered from 0 in order of appearance, and how many there are.
fn units_of(deal: &Deal<'_>, usable: &[usize]) -> (Vec<usize>, usize) {
    let mut sets = DisjointSets::new(usable.len());
    let mut by_group: HashMap<&str, usize> = HashMap::new();
    let mut by_picture: HashMap<&Digest, usize> = HashMap::new();
    let mut place_of: HashMap<usize, usize> = HashMap::new();
    for (at, place) in usable.iter().enumerate() {
        let example = &deal.examples[*place];
        place_of.insert(*place, at);
        // Whoever made the set knows better than we do what belongs together.
        if let Some(group) = &example.group {
            sets.join(at, *by_group.entry(group).or_insert(at));
        }
        // The same file in training and in test would be a question whose answer was learned by heart.
        sets.join(at, *by_picture.entry(&example.picture_digest).or_insert(at));
    }
    for cluster in deal.together {
        let mut members = cluster.iter().filter_map(|example| place_of.get(example));
        if let Some(first) = members.next() {
            for member in members {
                sets.join(*first, *member);
            }
        }
    }
    let mut numbers: HashMap<usize, usize> = HashMap::new();
    let units = (0..usable.len())
        .map(|at| {
            let next = numbers.len();
            *numbers.entry(sets.root(at)).or_insert(next)
        })
        .collect();
    (units, numbers.len())
}

#[cfg(test)]
mod tests {
    use super::super::classes::choose;
    use super::super::classes::tests::example;
    use super::*;

    const SHARES: Splits = Splits {
        train: 0.6,
        validation: 0.2,
        test: 0.2,
    };

    fn deal<'a>(examples: &'a [Example], classes: &'a Classes, seed: u64) -> Deal<'a> {
        Deal {
            examples,
            classes,
            together: &[],
            shares: SHARES,
            seed,
            test_rows: None,
            is_clean: &[true; 1_000],
            max_per_class: None,
        }
    }

    fn all(examples: &[Example]) -> Vec<usize> {
        (0..examples.len()).collect()
    }

    #[test]
    fn pictures_that_look_the_same_stay_together() {
        let examples: Vec<_> = (0..300).map(|at| example(at, "a", None)).collect();
        let (classes, _) = choose(&["a".to_owned()], &examples, None, 1).unwrap();
        let together: Vec<Vec<usize>> = (0..50).map(|at| vec![at, at + 100, at + 250]).collect();
        let rows = assign(
            &Deal {
                together: &together,
                ..deal(&examples, &classes, 1)
            },
            &all(&examples),
        );
        let split_of: HashMap<usize, usize> = rows
            .unwrap()
            .rows
            .iter()
            .map(|row| (row.example, row.split))
            .collect();
        for cluster in together {
            assert!(
                cluster
                    .iter()
                    .all(|example| split_of[example] == split_of[&cluster[0]])
            );
        }
    }

    #[test]
    fn the_test_split_has_exactly_the_rows_asked_for_and_all_of_them_clean() {
        let examples: Vec<_> = (0..600)
            .map(|at| {
                example(
                    at,
                    if at % 5 == 0 { "a b" } else { "a" },
                    Some(&format!("g{}", at / (1 + at % 3))),
                )
            })
            .collect();
        let (classes, _) = choose(&["a".to_owned(), "b".to_owned()], &examples, None, 1).unwrap();
        let is_clean: Vec<bool> = (0..600).map(|at| at % 4 != 0).collect();
        for wanted in [50, 77, 100] {
            let deal = Deal {
                test_rows: Some(wanted),
                is_clean: &is_clean,
                ..deal(&examples, &classes, 3)
            };
            let rows = assign(&deal, &all(&examples)).unwrap().rows;
            let test: Vec<_> = rows.iter().filter(|row| row.split == 2).collect();
            assert_eq!(test.len(), wanted as usize);
            assert!(test.iter().all(|row| is_clean[row.example]));
            assert_eq!(rows.len(), 600);
        }
        let deal = Deal {
            test_rows: Some(590),
            is_clean: &is_clean,
            ..deal(&examples, &classes, 3)
        };
        assert!(
            assign(&deal, &all(&examples))
                .unwrap_err()
                .contains("lower it")
        );
    }

    #[test]
    fn the_balanced_set_has_no_class_above_its_cap_and_rare_ones_whole() {
        let examples: Vec<_> = (0..900)
            .map(|at| {
                let labels = match at % 30 {
                    0 => "rare common",
                    1..=9 => "middle",
                    _ => "common",
                };
                example(at, labels, None)
            })
            .collect();
        let names = ["common", "middle", "rare"].map(str::to_owned);
        let (classes, _) = choose(&names, &examples, None, 1).unwrap();
        let deal = Deal {
            max_per_class: Some(40),
            ..deal(&examples, &classes, 3)
        };
        let dealt = assign(&deal, &all(&examples)).unwrap();
        let count = |split: usize, class: usize| {
            let of = dealt.rows.iter().filter(|row| row.split == split);
            of.filter(|row| {
                classes
                    .of(&examples[row.example])
                    .any(|found| found == class)
            })
            .count()
        };
        assert_eq!([count(0, 0), count(0, 1)], [40, 40]);
        assert!((15..=21).contains(&count(0, 2)), "{}", count(0, 2));
        // What is measured on stays as it is.
        assert!(count(2, 0) > 100);
        assert_eq!(dealt.rows.len() + dealt.left_out.len(), 900);
    }

    #[test]
    fn groups_and_equal_pictures_never_cross_splits_even_when_they_chain() {
        let mut examples: Vec<_> = (0..300)
            .map(|at| example(at, "a", Some(&format!("g{}", at / 3))))
            .collect();
        // Groups 0 and 1 share a picture, so all six of their examples belong together.
        examples[3].picture_digest = examples[2].picture_digest.clone();
        examples[7].group = None;
        let (classes, _) = choose(&["a".to_owned()], &examples, None, 1).unwrap();
        for seed in 0..30 {
            let rows = assign(&deal(&examples, &classes, seed), &all(&examples))
                .unwrap()
                .rows;
            let mut split_of = vec![9; examples.len()];
            for row in &rows {
                split_of[row.example] = row.split;
            }
            assert!(split_of[..6].iter().all(|split| *split == split_of[0]));
            for (at, example) in examples
                .iter()
                .enumerate()
                .filter(|(_, example)| example.group.is_some())
            {
                let mate = examples
                    .iter()
                    .position(|other| other.group == example.group)
                    .unwrap();
                assert_eq!(split_of[at], split_of[mate], "{:?}", example.group);
            }
            assert_eq!(rows.len(), examples.len());
        }
    }
}
