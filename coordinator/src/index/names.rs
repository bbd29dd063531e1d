//! Texts and rules that jobs name, as small numbers: what stands in line by them is compared at once, whatever
//! users write.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers for values, from 1, for as long as anybody uses them.
#[derive(Debug)]
pub(super) struct Names<T> {
    numbers: HashMap<T, u32>,
    values: HashMap<u32, (T, usize)>,
    newest: u32,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            values: HashMap::new(),
            newest: 0,
        }
    }
}

impl<T: Clone + Eq + Hash> Names<T> {
    /// The number of a value, which counts as used once more.
    pub(super) fn take(&mut self, value: &T) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            if let Some((_, users)) = self.values.get_mut(number) {
                *users += 1;
            }
            return *number;
        }
        loop {
            self.newest = self.newest.wrapping_add(1);
            // After four billion names the first numbers come again, those in use left out.
            if self.newest != 0 && !self.values.contains_key(&self.newest) {
                break;
            }
        }
        self.numbers.insert(value.clone(), self.newest);
        self.values.insert(self.newest, (value.clone(), 1));
        self.newest
    }

    /// One user less; with the last one the number is forgotten.
    pub(super) fn leave(&mut self, number: u32) {
        let Some((value, users)) = self.values.get_mut(&number) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.numbers.remove(value);
            self.values.remove(&number);
        }
    }

    /// Every value in use, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.values
            .iter()
            .map(|(number, (value, _))| (*number, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_number_until_its_last_user_leaves() {
        let mut names: Names<String> = Names::default();
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!((names.take(&a), names.take(&b), names.take(&a)), (1, 2, 1));
        names.leave(1);
        assert_eq!(names.take(&a), 1);
        names.leave(1);
        names.leave(1);
        names.leave(1);
        assert_eq!(names.iter().collect::<Vec<_>>(), [(2, &b)]);
        assert_eq!(names.take(&a), 3);
    }
}
