//! One film of the API: its details, then its poster.

use marquee_domain::artifact::Digest;

use super::Catalogue;
use super::answers::Movie;
use crate::fetch::PICTURE_MAX_BYTES;
use crate::fetch::address::Base;
use crate::fetch::answer::{Body, Conditional, NoAnswer, Validators};
use crate::fetch::miss::{Miss, MissClass};
use crate::fetch::outcome::{Details, Fetched, Outcome, Settled, clipped};
use crate::fetch::plan::PlanEntry;
use crate::job::JobError;
use crate::sniff::{NO_PICTURE, format_of};

/// Bytes of a poster's path, at most: longer ones no server takes.
const PATH_MAX_BYTES: usize = 2_000;

/// Why a film has no picture.
enum NotHad {
    Missed(Miss),
    /// No other film will have one either.
    Over(JobError),
}

impl From<Miss> for NotHad {
    fn from(miss: Miss) -> Self {
        Self::Missed(miss)
    }
}

impl Catalogue<'_> {
    /// What becomes of an entry of the plan. `known`: the details of a film that came before.
    pub(super) async fn settle(
        &self,
        entry: PlanEntry,
        known: Option<Box<Details>>,
        images: &Base,
    ) -> Settled {
        let had = match (entry, known) {
            (PlanEntry::Film(id), Some(known)) => self.poster(id, *known, images).await,
            (PlanEntry::Film(id), None) => self.details(id).await,
            (PlanEntry::Kept(id), _) => self.keep(&id).map_err(NotHad::from),
            (PlanEntry::Picture { id, .. } | PlanEntry::Rejected { id, .. }, _) => {
                let detail = format!("{id} is no film of an API");
                Err(Miss::failed(MissClass::NoFilm, detail).into())
            }
        };
        match had {
            Ok(settled) => settled,
            Err(NotHad::Missed(miss)) => Settled::missed(miss),
            Err(NotHad::Over(error)) => Settled::Over(error),
        }
    }

    /// The row of the earlier dataset, as it is.
    fn keep(&self, id: &str) -> Result<Settled, Miss> {
        match self.place.earlier(id) {
            Some(row) => Ok(fetched(Fetched::earlier(row), Body::default())),
            None => {
                let detail = "the earlier dataset has it no longer";
                Err(Miss::failed(MissClass::NoEarlierRow, detail))
            }
        }
    }

    /// The film's details: whether there is a poster to ask for, and where.
    async fn details(&self, id: i64) -> Result<Settled, NotHad> {
        let row = self.place.earlier(&id.to_string());
        let known = Validators {
            etag: row.and_then(|row| row.details_etag.clone()),
            last_modified: None,
        };
        let url = self.settings.api.join(&format!("movie/{id}"));
        let answer = self.client.json::<Movie>(url, &known).await;
        let answer = answer.map_err(|answer| self.of_the_api(answer))?;
        let (movie, details) = match (answer, row) {
            (Conditional::New { value, validators }, _) => (value, validators),
            // Neither the film's poster nor its genres are others.
            (Conditional::Unchanged, Some(row)) => {
                return Ok(fetched(Fetched::earlier(row), Body::default()));
            }
            (Conditional::Unchanged, None) => return Err(unasked_for().into()),
        };
        let place = usable_poster(&movie, id)?.to_owned();
        let replaced_text = movie.has_replaced_text();
        if replaced_text {
            tracing::warn!(id, "a text of the film has characters that cannot be read");
        }
        let genres = movie.genres.iter().flatten();
        Ok(Settled::Known(Box::new(Details {
            labels: genres
                .map(|genre| (Some(genre.id), genre.name.clone().unwrap_or_default()))
                .collect(),
            group: movie.group(),
            title: movie.title().map(clipped),
            release_date: movie.release_date(),
            popularity: movie.popularity,
            language: movie.original_language.map(clipped),
            details,
            replaced_text,
            ..Details::at(place)
        })))
    }

    /// The film's poster.
    async fn poster(&self, id: i64, film: Details, images: &Base) -> Result<Settled, NotHad> {
        let row = self.place.earlier(&id.to_string());
        let url = images.join(&format!("{}/{}", self.settings.poster_size, film.place));
        let known = row.map_or_else(Validators::default, Validators::of_picture);
        let answer = self.client.image(url, PICTURE_MAX_BYTES, &known).await;
        let answer = answer.map_err(|answer| self.of_an_image(answer))?;
        match (answer, row) {
            (Conditional::New { value, .. }, _) if format_of(&value.bytes).is_none() => {
                Err(Miss::rejected(MissClass::UnknownFormat, NO_PICTURE).into())
            }
            (Conditional::New { value, validators }, _) => {
                let digest = Digest::of(&value.bytes);
                Ok(fetched(film.with_picture(digest, validators, false), value))
            }
            (Conditional::Unchanged, Some(row)) => {
                let film = film.with_picture(row.picture_digest.clone(), known, true);
                Ok(fetched(film, Body::default()))
            }
            (Conditional::Unchanged, None) => Err(unasked_for().into()),
        }
    }

    fn of_the_api(&self, answer: NoAnswer) -> NotHad {
        match answer {
            NoAnswer::Unauthorized { detail } => NotHad::Over(self.unauthorized(&detail)),
            NoAnswer::Gone { detail } => Miss::Gone { detail }.into(),
            NoAnswer::Failed { class, detail } => Miss::failed(class, detail).into(),
            // Every film needs the API: what is left is for another attempt, not a row of misses.
            NoAnswer::Down { detail } => NotHad::Over(self.down(&detail)),
        }
    }

    fn of_an_image(&self, answer: NoAnswer) -> NotHad {
        match answer {
            NoAnswer::Gone { detail } => Miss::rejected(MissClass::PosterMissing, detail).into(),
            // The image host knows no credentials: it refuses this file, not us.
            NoAnswer::Unauthorized { detail } => Miss::failed(MissClass::Http(401), detail).into(),
            // Asking again for more than is taken would change nothing.
            NoAnswer::Failed {
                class: class @ MissClass::TooLarge,
                detail,
            } => Miss::rejected(class, detail).into(),
            NoAnswer::Failed { class, detail } => Miss::failed(class, detail).into(),
            NoAnswer::Down { detail } => NotHad::Over(self.down(&detail)),
        }
    }
}

fn fetched(film: Fetched, poster: Body) -> Settled {
    Settled::As(Outcome::Fetched(Box::new(film)), poster)
}

/// A service that says "unchanged" of what we never had.
fn unasked_for() -> Miss {
    Miss::failed(
        MissClass::Nonsense,
        "the service says that it is unchanged, and there is no earlier one",
    )
}

/// The path of the film's poster, if the film is one to learn from.
fn usable_poster(movie: &Movie, id: i64) -> Result<&str, Miss> {
    // Before all else: what the details of another film say is no reason to reject this one. A
    // failure and not a rejection, since the service may answer rightly the next time.
    if movie.id != id {
        let detail = format!("film {} came instead", movie.id);
        return Err(Miss::failed(MissClass::WrongFilm, detail));
    }
    if movie.adult == Some(true) {
        return Err(Miss::rejected(MissClass::Adult, "its details say so"));
    }
    if movie.genres.as_ref().is_none_or(Vec::is_empty) {
        return Err(Miss::rejected(MissClass::NoLabels, "it has no genres"));
    }
    match movie
        .poster_path
        .as_deref()
        .map(|path| path.trim_matches('/'))
    {
        None | Some("") => Err(Miss::rejected(MissClass::NoPoster, "it has no poster")),
        Some(path) if path.len() > PATH_MAX_BYTES || path.split('/').any(|part| part == "..") => {
            let detail = "its poster's path leads elsewhere, or is too long";
            Err(Miss::rejected(MissClass::OddPosterPath, detail))
        }
        Some(path) => Ok(path),
    }
}
