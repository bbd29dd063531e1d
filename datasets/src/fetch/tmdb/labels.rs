//! Genres as labels: known by id, named by the service's list.

use std::collections::HashMap;

use super::answers::{Genre, GenreList};

/// The labels of a catalogue, in its own order.
#[derive(Debug, Default)]
pub(super) struct Labels {
    names: Vec<String>,
    by_id: HashMap<i64, usize>,
}

impl Labels {
    pub(super) fn of(list: GenreList) -> Self {
        let mut labels = Self::default();
        for genre in list.genres {
            labels.name_of(&genre);
        }
        labels
    }

    /// The label of a genre. One that the list has not (old films have such) is added at the end.
    pub(super) fn name_of(&mut self, genre: &Genre) -> String {
        if let Some(known) = self.by_id.get(&genre.id) {
            return self.names[*known].clone();
        }
        let name = genre.name.clone().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("genre-{}", genre.id));
        // Two ids of one name are one label: nobody could tell them apart.
        let at = self
            .names
            .iter()
            .position(|known| *known == name)
            .unwrap_or_else(|| {
                self.names.push(name.clone());
                self.names.len() - 1
            });
        self.by_id.insert(genre.id, at);
        name
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genres_keep_the_lists_order_and_strangers_come_last() {
        let genre = |id, name: &str| Genre {
            id,
            name: Some(name.to_owned()),
        };
        let mut labels = Labels::of(GenreList {
            genres: vec![genre(28, "Action"), genre(12, "Adventure")],
        });
        assert_eq!(labels.name_of(&genre(12, "Abenteuer")), "Adventure");
        assert_eq!(labels.name_of(&genre(10769, "Foreign")), "Foreign");
        assert_eq!(labels.name_of(&Genre { id: 5, name: None }), "genre-5");
        assert_eq!(
            labels.names(),
            ["Action", "Adventure", "Foreign", "genre-5"]
        );
    }
}
