//! One film of the API: its details, then its poster.

use marquee_domain::artifact::Digest;

use super::Catalogue;
use super::answers::Movie;
use crate::fetch::PICTURE_MAX_BYTES;
use crate::fetch::address::Base;
use crate::fetch::answer::{Body, Conditional, NoAnswer, Validators};
use crate::fetch::miss::{Miss, MissClass};
use crate::fetch::outcome::{Fetched, Outcome, Settled};
use crate::fetch::plan::PlanEntry;
use crate::job::JobError;
use crate::sniff::format_of;

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
    /// What becomes of an entry of the plan.
    pub(super) async fn settle(&self, entry: PlanEntry, images: &Base) -> Settled {
        let had = match entry {
            PlanEntry::Film(id) => self.film(id, images).await,
            PlanEntry::Kept(id) => self.keep(&id).map_err(NotHad::from),
            PlanEntry::Picture { id, .. } | PlanEntry::Rejected { id, .. } => {
                let detail = format!("{id} is no film of an API");
                Err(Miss::failed(MissClass::NoFilm, detail).into())
            }
        };
        match had {
            Ok((fetched, body)) => Settled::As(Outcome::Fetched(Box::new(fetched)), body),
            Err(NotHad::Missed(miss)) => Settled::missed(miss),
            Err(NotHad::Over(error)) => Settled::Over(error),
        }
    }

    /// The row of the earlier dataset, as it is.
    fn keep(&self, id: &str) -> Result<(Fetched, Body), Miss> {
        match self.place.earlier(id) {
            Some(row) => Ok((Fetched::earlier(row), Body::default())),
            None => {
                let detail = "the earlier dataset has it no longer";
                Err(Miss::failed(MissClass::NoEarlierRow, detail))
            }
        }
    }

    /// Details, then poster.
    async fn film(&self, id: i64, images: &Base) -> Result<(Fetched, Body), NotHad> {
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
                return Ok((Fetched::earlier(row), Body::default()));
            }
            (Conditional::Unchanged, None) => return Err(unasked_for().into()),
        };
        let path = usable_poster(&movie, id)?;
        let url = images.join(&format!("{}/{path}", self.settings.poster_size));
        let known = row.map_or_else(Validators::default, Validators::of_picture);
        let answer = self.client.image(url, PICTURE_MAX_BYTES, &known).await;
        let answer = answer.map_err(|answer| self.of_an_image(answer))?;
        let film = |digest, picture, earlier| Fetched {
            labels: movie
                .genres
                .iter()
                .flatten()
                .map(|genre| (Some(genre.id), genre.name.clone().unwrap_or_default()))
                .collect(),
            group: movie.group(),
            title: movie.title(),
            release_date: movie.release_date(),
            popularity: movie.popularity,
            language: movie.original_language.clone(),
            digest,
            details,
            picture,
            earlier,
        };
        match (answer, row) {
            (Conditional::New { value, .. }, _) if format_of(&value.bytes).is_none() => {
                let detail = "its poster is no JPEG, PNG or WebP";
                Err(Miss::rejected(MissClass::UnknownFormat, detail).into())
            }
            (Conditional::New { value, validators }, _) => {
                Ok((film(Digest::of(&value.bytes), validators, false), value))
            }
            (Conditional::Unchanged, Some(row)) => Ok((
                film(row.picture_digest.clone(), known, true),
                Body::default(),
            )),
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

/// A service that says "unchanged" of what we never had.
fn unasked_for() -> Miss {
    Miss::failed(
        MissClass::Nonsense,
        "the service says that it is unchanged, and there is no earlier one",
    )
}

/// The path of the film's poster, if the film is one to learn from.
fn usable_poster(movie: &Movie, id: i64) -> Result<&str, Miss> {
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
        Some(path) if path.split('/').any(|part| part == "..") => {
            let detail = "its poster's path leads elsewhere";
            Err(Miss::rejected(MissClass::OddPosterPath, detail))
        }
        Some(path) => Ok(path),
    }
}
