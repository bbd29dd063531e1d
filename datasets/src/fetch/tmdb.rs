//! Films and posters from a TMDb-compatible API: a list of ids, then details, then poster.
//!
//! Not here: how requests are made (`client`), what becomes of one film (`film`), and what keeps the
//! whole complete (`engine`).

use std::path::Path;

use marquee_domain::artifact::Digest;
use marquee_domain::report::{FetchSummary, Remarks, SourceNote};
use marquee_domain::spec::{FetchSettings, FilmList};
use reqwest::Url;

use self::answers::{Configuration, GenreList};
use self::settings::{Settings, fingerprint};
use super::address::{Base, check_rights};
use super::answer::{Conditional, NoAnswer, Validators};
use super::client::PoliteClient;
use super::engine::Engine;
use super::miss::MissClass;
use super::place::{Workplace, on_disk};
use super::plan::{self, FetchPlan, PlanWriter};
use super::terms;
use crate::dice::Dice;
use crate::job::{Context, JobError};

mod answers;
mod export;
mod film;
mod lists;
mod settings;

pub use self::answers::{read_any_answer, read_any_export_line};

/// What is asked, and whom.
struct Catalogue<'a> {
    client: PoliteClient,
    settings: Settings,
    place: &'a Workplace<'a>,
}

pub(super) async fn run(
    fetch: &FetchSettings,
    place: &Workplace<'_>,
    seed: u64,
    context: &Context,
) -> Result<FetchSummary, JobError> {
    let mut settings = Settings::from_source(&fetch.source)?;
    settings.manners = place.manners(settings.manners);
    let bases: Vec<_> = [&settings.api, &settings.exports]
        .into_iter()
        .chain(&settings.images)
        .collect();
    // Before the first request: a service whose terms nobody has agreed to is not asked at all.
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
        // Stopped half way, a plan leaves nothing behind that counts: without its last file there
        // is none, and the next attempt asks for the lists anew.
        None => tokio::select! {
            plan = catalogue.plan(fetch, &dir, fingerprint, context) => plan?,
            () = context.stop.told() => return Err(JobError::Stopped),
        },
    };
    // From the plan, not asked for anew: an attempt that goes on asks the host that the first one asked.
    let images = plan.pictures.as_deref().unwrap_or_default();
    let images = Base::parse("image_url", images)?;
    check_rights(&[&images], catalogue.settings.rights.as_ref())?;
    catalogue.client.declare([images.join("file")]);
    let concurrency = catalogue.settings.manners.concurrency;
    let (catalogue, images) = (&catalogue, &images);
    Engine::open(dir, plan, "films", place, context)?
        .run(concurrency, |entry, known| {
            catalogue.settle(entry, known, images)
        })
        .await
}

impl Catalogue<'_> {
    /// Asks the service what it has, and writes down what to fetch.
    async fn plan(
        &self,
        fetch: &FetchSettings,
        dir: &Path,
        fingerprint: Digest,
        context: &Context,
    ) -> Result<FetchPlan, JobError> {
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
        // No changes are an answer, and make a dataset of what was there.
        if writer.listed() == 0 && self.settings.films != FilmList::Changes {
            return Err(JobError::bad_input(format!(
                "{api} lists no film; check limit, from and to"
            )));
        }
        let plan = FetchPlan {
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
            remarks: Remarks::default(),
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

    pub(super) fn down(&self, detail: &str) -> JobError {
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
            Ok(Conditional::New { value, .. }) => Ok(value),
            Ok(Conditional::Unchanged) => Err(network("HTTP 304")),
            Err(NoAnswer::Unauthorized { detail }) => Err(self.unauthorized(&detail)),
            Err(NoAnswer::Gone { detail }) => Err(JobError::user(format!(
                "{api} has no {what} ({detail}); check that api_url ends in the API's version, such as /3"
            ))),
            // It will be sent on in the same way again.
            Err(NoAnswer::Failed {
                class: MissClass::Redirects,
                detail,
            }) => Err(JobError::user(format!(
                "{what} of {api} cannot be had: {detail}"
            ))),
            Err(NoAnswer::Failed { detail, .. } | NoAnswer::Down { detail }) => {
                Err(network(&detail))
            }
        }
    }

    pub(super) fn unauthorized(&self, detail: &str) -> JobError {
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

fn images_of(configuration: &Configuration, api: &Base) -> Result<Base, JobError> {
    let images = &configuration.images;
    // As the API is asked: one in the clear, as tests have it, serves no certificate for its pictures either.
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
