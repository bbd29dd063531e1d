//! The labels of a fetch, by the ids and names that its source has for them.

use std::collections::BTreeMap;

/// A label of a picture, with the source's id of it where it has one.
pub(super) type Label = (Option<i64>, String);

/// Labels by id and name, in the source's own order.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) names: Vec<String>,
    by_id: BTreeMap<i64, usize>,
    by_name: BTreeMap<String, usize>,
}

impl Labels {
    pub(super) fn new(known: &[Label]) -> Self {
        let mut labels = Self {
            names: Vec::new(),
            by_id: BTreeMap::new(),
            by_name: BTreeMap::new(),
        };
        for label in known {
            labels.name_of(label);
        }
        labels
    }

    /// The name that a label goes by. One that the source did not list is added at the end; one
    /// that it lists by another name (another language) keeps the listed one.
    pub(super) fn name_of(&mut self, (id, name): &Label) -> String {
        if let Some(known) = id.and_then(|id| self.by_id.get(&id)) {
            return self.names[*known].clone();
        }
        let name = match id {
            // A label without a name still tells pictures apart.
            Some(id) if name.is_empty() => format!("genre-{id}"),
            Some(_) | None => name.clone(),
        };
        // Two ids of one name are one label: nobody could tell them apart.
        let next = self.names.len();
        let at = *self.by_name.entry(name.clone()).or_insert(next);
        if at == next {
            self.names.push(name.clone());
        }
        if let Some(id) = id {
            self.by_id.insert(*id, at);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genres_keep_the_lists_order_and_strangers_come_last() {
        let label = |id, name: &str| (Some(id), name.to_owned());
        let mut labels = Labels::new(&[label(28, "Action"), label(12, "Adventure")]);
        assert_eq!(labels.name_of(&label(12, "Abenteuer")), "Adventure");
        assert_eq!(labels.name_of(&label(10769, "Foreign")), "Foreign");
        assert_eq!(labels.name_of(&label(5, "")), "genre-5");
        assert_eq!(labels.name_of(&(None, "Action".to_owned())), "Action");
        assert_eq!(labels.names, ["Action", "Adventure", "Foreign", "genre-5"]);
    }
}
