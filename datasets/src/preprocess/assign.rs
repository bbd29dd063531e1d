//! Which film goes to which split, and in which order the films stand there.

use std::collections::HashMap;

use marquee_domain::artifact::Digest;
use marquee_domain::spec::Splits;

use super::classes::Classes;
use super::stratify::{Unit, stratify};
use crate::dataset::FilmRow;
use crate::dice::Dice;

/// The splits, in the order in which they are written.
pub(super) const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// A film with its split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assigned {
    /// Its place in the dataset.
    pub(super) film: usize,
    /// Its place in [`SPLITS`].
    pub(super) split: usize,
}

/// Assigns the `usable` films. Films of one group, and films with the very same picture, stay in
/// one split. Within a split they stand in random order, so that a reader who shuffles shard by
/// shard meets all classes in each.
pub(super) fn assign(
    films: &[FilmRow],
    usable: &[usize],
    classes: &Classes,
    shares: Splits,
    seed: u64,
) -> Vec<Assigned> {
    let mut dice = Dice::keyed(&[seed]);
    let (unit_of, count) = units_of(films, usable);
    let empty = Unit {
        rows: 0,
        classes: vec![0; classes.names().len()],
    };
    let mut units = vec![empty; count];
    for (film, unit) in usable.iter().zip(&unit_of) {
        units[*unit].rows += 1;
        for class in classes.of(&films[*film]) {
            units[*unit].classes[class] += 1;
        }
    }
    let shares = [shares.train, shares.validation, shares.test];
    let split_of = stratify(&units, &shares, &mut dice);
    let mut rows: Vec<Assigned> = usable
        .iter()
        .zip(&unit_of)
        .map(|(film, unit)| Assigned {
            film: *film,
            split: split_of[*unit],
        })
        .collect();
    dice.shuffle(&mut rows);
    // A stable sort: the random order stays within each split.
    rows.sort_by_key(|row| row.split);
    rows
}

/// The unit of each usable film, numbered from 0 in order of appearance, and how many there are.
fn units_of(films: &[FilmRow], usable: &[usize]) -> (Vec<usize>, usize) {
    let mut sets = DisjointSets::new(usable.len());
    let mut by_group: HashMap<&str, usize> = HashMap::new();
    let mut by_picture: HashMap<&Digest, usize> = HashMap::new();
    for (at, film) in usable.iter().map(|film| &films[*film]).enumerate() {
        if let Some(group) = &film.group {
            sets.join(at, *by_group.entry(group).or_insert(at));
        }
        sets.join(at, *by_picture.entry(&film.picture_digest).or_insert(at));
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

/// Union-find with path halving.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::super::classes::choose;
    use super::super::classes::tests::film;
    use super::*;

    const SHARES: Splits = Splits {
        train: 0.6,
        validation: 0.2,
        test: 0.2,
    };

    #[test]
    fn groups_and_equal_pictures_never_cross_splits_even_when_they_chain() {
        let mut films: Vec<_> = (0..300)
            .map(|at| film(at, "a", Some(&format!("g{}", at / 3))))
            .collect();
        // Groups 0 and 1 share a picture, so all six of their films belong together.
        films[3].picture_digest = films[2].picture_digest.clone();
        films[7].group = None;
        let (classes, _) = choose(&["a".to_owned()], &films, None, 1).unwrap();
        for seed in 0..30 {
            let usable: Vec<_> = (0..films.len()).collect();
            let rows = assign(&films, &usable, &classes, SHARES, seed);
            let mut split_of = vec![9; films.len()];
            for row in &rows {
                split_of[row.film] = row.split;
            }
            assert!(split_of[..6].iter().all(|split| *split == split_of[0]));
            for (at, film) in films
                .iter()
                .enumerate()
                .filter(|(_, film)| film.group.is_some())
            {
                let mate = films
                    .iter()
                    .position(|other| other.group == film.group)
                    .unwrap();
                assert_eq!(split_of[at], split_of[mate], "{:?}", film.group);
            }
            assert_eq!(rows.len(), films.len());
        }
    }
}
