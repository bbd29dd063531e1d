//! Films and posters from a TMDb-compatible API: a list of ids, then details, then poster.
//!
//! Not here: how requests are made (`http`), and what keeps them complete (`engine`).

use std::time::Duration;

use marquee_domain::artifact::Digest;
use marquee_domain::report::{FetchSummary, SourceNote};
use marquee_domain::spec::{FetchSettings, FilmList, Rights, Source};
use reqwest::Url;

use self::answers::{Configuration, GenreList, Movie};
use super::PICTURE_MAX_BYTES;
use super::address::{Base, check_rights};
use super::credential::Credential;
use super::engine::{Engine, Fetched, Outcome, Place, Settled, on_disk};
use super::http::{Answer, Body, Manners, NoAnswer, PoliteClient, Validators};
use super::plan::{self, Entry, Plan, PlanWriter};
use super::terms;
use crate::dice::Dice;
use crate::job::{Context, JobError};
use crate::sniff::format_of;

mod answers;
mod export;
mod lists;

pub use self::answers::{read_any_answer, read_any_export_line};

/// The settings of a `tmdb` source, checked.
#[derive(Debug)]
struct Settings {
    api: Base,
    exports: Base,
    images: Option<Base>,
    poster_size: String,
    credential: Option<Credential>,
    limit: Option<u64>,
    manners: Manners,
    films: FilmList,
    from: Option<String>,
    to: Option<String>,
    rights: Option<Rights>,
}

impl Settings {
    fn from_source(source: &Source) -> Result<Self, JobError> {
        let Source::Tmdb {
            api_url,
            export_url,
            image_url,
            poster_size,
            credential_env,
            credential_file,
            limit,
            requests_per_second,
            concurrency,
            request_timeout_s,
            request_attempts,
            outage_s,
            films,
            from,
            to,
            rights,
        } = source
        else {
            return Err(JobError::crash("the source is no TMDb-compatible API"));
        };
        let api = Base::parse("api_url", api_url)?;
        let exports = match export_url {
            Some(url) => Base::parse("export_url", url)?,
            None => api.sibling("/p/exports"),
        };
        let images = image_url
            .as_ref()
            .map(|url| Base::parse("image_url", url))
            .transpose()?;
        let credential = Credential::load(
            credential_env.as_deref(),
            credential_file.as_deref(),
            |name| std::env::var(name).ok(),
        )?;
        if credential.is_some() && !api.is_https() && !api.is_loopback() {
            return Err(JobError::user(format!(
                "api_url {api} would send the credential unencrypted; use https"
            )));
        }
        Ok(Self {
            api,
            exports,
            images,
            poster_size: poster_size.clone(),
            credential,
            limit: *limit,
            manners: Manners {
                requests_per_second: *requests_per_second,
                concurrency: *concurrency,
                timeout: Duration::from_secs(u64::from(*request_timeout_s)),
                attempts: *request_attempts,
                outage: Duration::from_secs(u64::from(*outage_s)),
            },
            films: *films,
            from: from.clone(),
            to: to.clone(),
            rights: rights.clone(),
        })
    }
}

/// What is asked, and whom.
struct Catalogue<'a> {
    client: PoliteClient,
    settings: Settings,
    place: &'a Place<'a>,
}

pub(super) async fn run(
    fetch: &FetchSettings,
    place: &Place<'_>,
    seed: u64,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let mut settings = Settings::from_source(&fetch.source)?;
    settings.manners = place.manners(settings.manners);
    let bases: Vec<_> = [&settings.api, &settings.exports]
        .into_iter()
        .chain(&settings.images)
        .collect();
    check_rights(&bases, settings.rights.as_ref())?;
    let client = PoliteClient::new(
        settings.manners,
        settings.credential.take(),
        settings.api.is_loopback(),
        Dice::keyed(&[seed]),
        context.clock,
        place.shares,
    )?;
    client.declare([settings.api.join("movie"), settings.exports.join("file")]);
    let catalogue = Catalogue {
        client,
        settings,
        place,
    };
    let fingerprint = fingerprint(fetch, place);
    let dir = place.journal_dir(&fingerprint)?;
    let plan = match plan::read(&dir) {
        Some(plan) => plan,
        None => tokio::select! {
            plan = catalogue.plan(fetch, &dir, fingerprint, context) => plan?,
            () = context.stop.told() => return Err(JobError::Stopped),
        },
    };
    let images = plan.pictures.as_deref().unwrap_or_default();
    let images = Base::parse("image_url", images)?;
    check_rights(&[&images], catalogue.settings.rights.as_ref())?;
    catalogue.client.declare([images.join("file")]);
    let concurrency = catalogue.settings.manners.concurrency;
    let (catalogue, images) = (&catalogue, &images);
    Engine::open(dir, plan, place, context)?
        .run(concurrency, |entry| catalogue.settle(entry, images))
        .await
}

/// Of all that decides which ids are asked for and what is kept of them; how fast is no part of it.
fn fingerprint(fetch: &FetchSettings, place: &Place<'_>) -> Digest {
    let mut asked = fetch.clone();
    if let Source::Tmdb {
        credential_env,
        credential_file,
        requests_per_second,
        concurrency,
        request_timeout_s,
        request_attempts,
        outage_s,
        ..
    } = &mut asked.source
    {
        (*credential_env, *credential_file) = (None, None);
        (*requests_per_second, *concurrency) = (0, 0);
        (*request_timeout_s, *request_attempts, *outage_s) = (0, 0, 0);
    }
    let earlier = place.previous.as_ref().map(|dataset| dataset.books());
    Digest::of(&serde_json::to_vec(&(asked, earlier)).unwrap_or_default())
}

impl Catalogue<'_> {
    /// Asks the service what it has, and writes down what to fetch.
    async fn plan(
        &self,
        fetch: &FetchSettings,
        dir: &std::path::Path,
        fingerprint: Digest,
        context: &Context,
    ) -> Result<Plan, JobError> {
        let api = &self.settings.api;
        let today = (context.clock)().date_naive();
        let configuration: Configuration =
            self.ask(api.join("configuration"), "configuration").await?;
        let genres: GenreList = self
            .ask(api.join("genre/movie/list"), "genre/movie/list")
            .await?;
        let images = match &self.settings.images {
            Some(images) => images.clone(),
            None => images_of(&configuration, api)?,
        };
        check_rights(&[&images], self.settings.rights.as_ref())?;
        check_size(
            &self.settings.poster_size,
            &configuration.images.poster_sizes,
        )?;
        let mut writer =
            PlanWriter::create(dir, self.place.element).map_err(|error| on_disk(dir, &error))?;
        match self.settings.films {
            FilmList::Export => self.plan_export(&mut writer, dir, today).await?,
            FilmList::Changes => self.plan_changes(&mut writer, dir, today).await?,
            FilmList::Discover => self.plan_discover(&mut writer, dir, today).await?,
        }
        if writer.listed() == 0 && self.settings.films != FilmList::Changes {
            return Err(JobError::bad_input(format!(
                "{api} lists no film; check limit, from and to"
            )));
        }
        let plan = Plan {
            fingerprint,
            entries: writer.entries(),
            labels: genres
                .genres
                .into_iter()
                .map(|genre| (Some(genre.id), genre.name.unwrap_or_default()))
                .collect(),
            note: self.note(&configuration, &images, fetch, today)?,
            pictures: Some(images.to_string()),
            listed_on: today.to_string(),
        };
        writer.finish(&plan).map_err(|error| on_disk(dir, &error))?;
        Ok(plan)
    }

    fn note(
        &self,
        configuration: &Configuration,
        images: &Base,
        fetch: &FetchSettings,
        today: chrono::NaiveDate,
    ) -> Result<SourceNote, JobError> {
        let rights = self.settings.rights.as_ref();
        let bases = [&self.settings.api, &self.settings.exports, images];
        let name = if configuration.is_synthetic() {
            "generated catalogue".to_owned()
        } else {
            self.settings.api.host().to_owned()
        };
        Ok(SourceNote {
            synthetic: configuration.is_synthetic(),
            name,
            attribution: check_rights(&bases, rights)?,
            f1_micro_ceiling: configuration.ceiling(),
            licence: fetch.licence.clone(),
            use_until: terms::use_until(fetch, rights.is_some(), today),
            rights: rights.cloned(),
        })
    }

    async fn settle(&self, entry: Entry, images: &Base) -> Settled {
        let settled = match entry {
            Entry::Film(id) => self.film(id, images).await,
            Entry::Kept(id) => Ok(self.keep(&id)),
            Entry::Place { id, .. } | Entry::Rejected { id, .. } => {
                Err(NotHad::Missed(Outcome::Failed {
                    class: "no_film".to_owned(),
                    detail: format!("{id} is no film of an API"),
                }))
            }
        };
        match settled {
            Ok((outcome, body)) => Settled::As(outcome, body),
            Err(NotHad::Missed(outcome)) => Settled::As(outcome, Body::default()),
            Err(NotHad::Over(error)) => Settled::Over(error),
        }
    }

    /// The row of the earlier dataset, as it is.
    fn keep(&self, id: &str) -> (Outcome, Body) {
        let Some(row) = self.place.earlier(id) else {
            let outcome = Outcome::Failed {
                class: "no_earlier_row".to_owned(),
                detail: "the earlier dataset has it no longer".to_owned(),
            };
            return (outcome, Body::default());
        };
        (
            Outcome::Fetched(Box::new(Fetched::earlier(row))),
            Body::default(),
        )
    }

    /// Details, then poster.
    async fn film(&self, id: i64, images: &Base) -> Result<(Outcome, Body), NotHad> {
        let row = self.place.earlier(&id.to_string());
        let known = Validators {
            etag: row.and_then(|row| row.details_etag.clone()),
            last_modified: None,
        };
        let url = self.settings.api.join(&format!("movie/{id}"));
        let answer = self.client.json::<Movie>(url, &known).await;
        let answer = answer.map_err(|answer| self.of_the_api(answer))?;
        let (movie, details) = match (answer, row) {
            (Answer::New { value, validators }, _) => (value, validators),
            // Neither the film's poster nor its genres are others.
            (Answer::Unchanged, Some(row)) => {
                return Ok((
                    Outcome::Fetched(Box::new(Fetched::earlier(row))),
                    Body::default(),
                ));
            }
            (Answer::Unchanged, None) => {
                return Err(NotHad::Missed(failed("nonsense", "unchanged, but unknown")));
            }
        };
        let path = usable_poster(&movie, id)?;
        let url = images.join(&format!("{}/{path}", self.settings.poster_size));
        let known = row.map_or_else(Validators::default, |row| Validators {
            etag: row.picture_etag.clone(),
            last_modified: row.picture_modified.clone(),
        });
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
            details: details.clone(),
            picture,
            earlier,
        };
        Ok(match (answer, row) {
            (Answer::New { value, .. }, _) if format_of(&value.bytes).is_none() => {
                return Err(NotHad::Missed(Outcome::Rejected {
                    class: "unknown_format".to_owned(),
                    detail: "its poster is no JPEG, PNG or WebP".to_owned(),
                }));
            }
            (Answer::New { value, validators }, _) => {
                let film = film(Digest::of(&value.bytes), validators, false);
                (Outcome::Fetched(Box::new(film)), value)
            }
            (Answer::Unchanged, Some(row)) => {
                let film = film(row.picture_digest.clone(), known, true);
                (Outcome::Fetched(Box::new(film)), Body::default())
            }
            (Answer::Unchanged, None) => {
                return Err(NotHad::Missed(failed("nonsense", "unchanged, but unknown")));
            }
        })
    }

    fn of_the_api(&self, answer: NoAnswer) -> NotHad {
        match answer {
            NoAnswer::Unauthorized { detail } => NotHad::Over(self.unauthorized(&detail)),
            NoAnswer::Gone { detail } => NotHad::Missed(Outcome::Gone { detail }),
            NoAnswer::Failed { class, detail } => NotHad::Missed(Outcome::Failed { class, detail }),
            NoAnswer::Down { detail } => NotHad::Over(self.down(&detail)),
        }
    }

    fn of_an_image(&self, answer: NoAnswer) -> NotHad {
        match answer {
            NoAnswer::Gone { detail } => NotHad::Missed(Outcome::Rejected {
                class: "poster_missing".to_owned(),
                detail,
            }),
            // The image host knows no credentials: it refuses this file, not us.
            NoAnswer::Unauthorized { detail } => NotHad::Missed(failed("http_401", &detail)),
            // Asking again for more than is taken would change nothing.
            NoAnswer::Failed { class, detail } if class == "too_large" => {
                NotHad::Missed(Outcome::Rejected { class, detail })
            }
            NoAnswer::Failed { class, detail } => NotHad::Missed(Outcome::Failed { class, detail }),
            NoAnswer::Down { detail } => NotHad::Over(self.down(&detail)),
        }
    }

    fn down(&self, detail: &str) -> JobError {
        JobError::network(format!(
            "{} stopped answering: {detail}; what was fetched before is kept for the next attempt",
            self.settings.api
        ))
    }

    /// Asks for something without which there is no job.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        url: Url,
        what: &str,
    ) -> Result<T, JobError> {
        let api = &self.settings.api;
        let network =
            |detail: &str| JobError::network(format!("{what} of {api} cannot be had: {detail}"));
        match self.client.json(url, &Validators::default()).await {
            Ok(Answer::New { value, .. }) => Ok(value),
            Ok(Answer::Unchanged) => Err(network("HTTP 304")),
            Err(NoAnswer::Unauthorized { detail }) => Err(self.unauthorized(&detail)),
            Err(NoAnswer::Gone { detail }) => Err(JobError::user(format!(
                "{api} has no {what} ({detail}); check that api_url ends in the API's version, such as /3"
            ))),
            Err(NoAnswer::Failed { detail, .. } | NoAnswer::Down { detail }) => {
                Err(network(&detail))
            }
        }
    }

    fn unauthorized(&self, detail: &str) -> JobError {
        let api = &self.settings.api;
        JobError::user(match self.client.credential() {
            Some(credential) => format!(
                "{api} refuses the key ({detail}); check {}",
                credential.origin()
            ),
            None => format!(
                "{api} wants a key ({detail}); name the environment variable that holds it in credential_env"
            ),
        })
    }
}

/// Why a film has no picture.
enum NotHad {
    Missed(Outcome),
    Over(JobError),
}

fn failed(class: &str, detail: &str) -> Outcome {
    Outcome::Failed {
        class: class.to_owned(),
        detail: detail.to_owned(),
    }
}

/// The path of the film's poster, if the film is one to learn from.
fn usable_poster(movie: &Movie, id: i64) -> Result<&str, NotHad> {
    let rejected = |class: &str, detail: &str| {
        Err(NotHad::Missed(Outcome::Rejected {
            class: class.to_owned(),
            detail: detail.to_owned(),
        }))
    };
    if movie.id != id {
        let detail = format!("film {} came instead", movie.id);
        return Err(NotHad::Missed(failed("wrong_film", &detail)));
    }
    if movie.adult == Some(true) {
        return rejected("adult", "its details say so");
    }
    if movie.genres.as_ref().is_none_or(Vec::is_empty) {
        return rejected("no_labels", "it has no genres");
    }
    match movie
        .poster_path
        .as_deref()
        .map(|path| path.trim_matches('/'))
    {
        None | Some("") => rejected("no_poster", "it has no poster"),
        Some(path) if path.split('/').any(|part| part == "..") => {
            rejected("odd_poster_path", "its poster's path leads elsewhere")
        }
        Some(path) => Ok(path),
    }
}

fn images_of(configuration: &Configuration, api: &Base) -> Result<Base, JobError> {
    let images = &configuration.images;
    let url = if api.is_https() {
        &images.secure_base_url
    } else {
        &images.base_url
    };
    let url = url.as_deref().ok_or_else(|| {
        JobError::user(format!(
            "the configuration of {api} has no base of images; set image_url"
        ))
    })?;
    Base::parse("image_url", url)
}

fn check_size(size: &str, known: &[String]) -> Result<(), JobError> {
    // A service that lists no sizes may still have them.
    if known.is_empty() || known.iter().any(|known| known == size) {
        return Ok(());
    }
    Err(JobError::user(format!(
        "poster_size {size:?} is unknown to the service; it has {}",
        known.join(", ")
    )))
}
