//! Films and posters from a TMDb-compatible API: daily export, then details, then poster.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use marquee_domain::artifact::Digest;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{Rights, Source};

use self::address::{Base, check_rights};
use self::answers::{Configuration, ExportLine, GenreList, Movie};
use self::credential::Credential;
use self::export::Entry;
use self::http::{Manners, NoAnswer, PoliteClient};
use self::labels::Labels;
use super::PICTURE_MAX_BYTES;
use super::books::{Books, Miss};
use crate::dataset::{DatasetWriter, FilmRow};
use crate::dice::Dice;
use crate::job::{Context, JobError, Step};

mod address;
mod answers;
mod credential;
mod export;
mod http;
mod labels;
mod pace;

/// Films that may be under way for each request in flight. Results are taken in the export's
/// order, so that equal sources give equal datasets; the others wait for a slow one this far.
const AHEAD: usize = 4;
/// Films in a row that failed before the service counts as gone: each was tried as often as the
/// settings say, so this is no passing fault.
const FAILED_IN_A_ROW_MAX: u32 = 100;

/// The settings of a `tmdb` source.
#[derive(Debug)]
pub(super) struct Settings {
    api: Base,
    exports: Base,
    images: Option<Base>,
    poster_size: String,
    credential: Option<Credential>,
    limit: Option<u64>,
    manners: Manners,
    rights: Option<Rights>,
}

impl Settings {
    pub(super) fn from_source(source: &Source) -> Result<Self, JobError> {
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
            },
            rights: rights.clone(),
        })
    }
}

/// What is asked for each film.
struct Catalogue {
    client: PoliteClient,
    api: Base,
    images: Base,
    poster_size: String,
}

/// What became of one entry of the export.
enum Outcome {
    Fetched {
        movie: Movie,
        digest: Digest,
        picture: Vec<u8>,
    },
    Missed(Miss),
    /// The service takes the credential no longer.
    Unauthorized {
        detail: String,
    },
}

pub(super) async fn run(
    settings: Settings,
    output: &Path,
    seed: u64,
    context: &Context,
    started: Instant,
) -> Result<FetchSummary, JobError> {
    tokio::select! {
        result = fetch(settings, output, seed, context, started) => result,
        () = context.stop.told() => Err(JobError::Stopped),
    }
}

async fn fetch(
    settings: Settings,
    output: &Path,
    seed: u64,
    context: &Context,
    started: Instant,
) -> Result<FetchSummary, JobError> {
    let bases: Vec<_> = [&settings.api, &settings.exports]
        .into_iter()
        .chain(&settings.images)
        .collect();
    let attribution = check_rights(&bases, settings.rights.as_ref())?;
    let is_loopback = settings.api.is_loopback();
    let client = PoliteClient::new(
        settings.manners,
        settings.credential,
        is_loopback,
        Dice::keyed(&[seed]),
        context.clock,
    )?;
    let configuration: Configuration = ask(&client, &settings.api, "configuration").await?;
    let genres: GenreList = ask(&client, &settings.api, "genre/movie/list").await?;
    let images = match settings.images {
        Some(images) => images,
        None => images_of(&configuration, &settings.api, settings.rights.as_ref())?,
    };
    check_size(&settings.poster_size, &configuration.images.poster_sizes)?;
    let today = (context.clock)().date_naive();
    let entries = export::newest(&client, &settings.exports, today, settings.limit).await?;

    let catalogue = Catalogue {
        client,
        api: settings.api,
        images,
        poster_size: settings.poster_size,
    };
    let mut labels = Labels::of(genres);
    let window = settings.manners.concurrency.max(1) as usize * AHEAD;
    let (books, writer) = drain(&catalogue, entries, window, &mut labels, output, context).await?;
    let note = configuration.source_note(attribution);
    let books = books.close(started.elapsed().as_secs_f64(), note)?;
    writer.finish(labels.names(), &books)?;
    Ok(books.summary)
}

/// Fetches all entries, at most `window` at once, and writes them in their order.
async fn drain(
    catalogue: &Catalogue,
    entries: Vec<Entry>,
    window: usize,
    labels: &mut Labels,
    output: &Path,
    context: &Context,
) -> Result<(Books, DatasetWriter), JobError> {
    let total = entries.len() as u64;
    let mut books = Books::open(total);
    let mut writer = DatasetWriter::create(output)?;
    let mut failed_in_a_row = 0;
    let mut outcomes = stream::iter(entries)
        .map(|entry| async move { (entry, catalogue.outcome_of(entry).await) })
        .buffered(window);
    let mut done = 0;
    while let Some((entry, outcome)) = outcomes.next().await {
        failed_in_a_row = match &outcome {
            Outcome::Missed(Miss::Failed { .. }) => failed_in_a_row + 1,
            Outcome::Missed(_) | Outcome::Fetched { .. } | Outcome::Unauthorized { .. } => 0,
        };
        match outcome {
            Outcome::Fetched {
                movie,
                digest,
                picture,
            } => {
                books.fetched(picture.len());
                writer.push(row_of(&movie, digest, labels), picture)?;
            }
            Outcome::Missed(miss) if failed_in_a_row >= FAILED_IN_A_ROW_MAX => {
                return Err(JobError::network(format!(
                    "{} stopped answering: {failed_in_a_row} films in a row failed, the last with {miss:?}",
                    catalogue.api
                )));
            }
            Outcome::Missed(miss) => books.missed(&name_of(entry), miss),
            Outcome::Unauthorized { detail } => {
                return Err(unauthorized(&catalogue.client, &catalogue.api, &detail));
            }
        }
        done += 1;
        let bytes = books.bytes();
        context.reporter.step(Step {
            phase: "films",
            unit: "films",
            done,
            total,
            bytes,
        });
    }
    Ok((books, writer))
}

impl Catalogue {
    async fn outcome_of(&self, entry: Entry) -> Outcome {
        let rejected = |class, detail: &str| {
            Outcome::Missed(Miss::Rejected {
                class,
                detail: detail.to_owned(),
            })
        };
        match entry {
            Entry::Film(ExportLine { adult: true, .. }) => rejected("adult", "the export says so"),
            Entry::Film(film) => self.film(film.id).await.unwrap_or_else(|outcome| outcome),
            Entry::Duplicate(_) => rejected("duplicate_id", "the export lists it twice"),
            Entry::Unreadable(line) => rejected(
                "unreadable_line",
                &format!("line {line} of the export is no film"),
            ),
        }
    }

    /// Details, then poster; either side of the result is an outcome.
    async fn film(&self, id: i64) -> Result<Outcome, Outcome> {
        let url = self.api.join(&format!("movie/{id}"));
        let movie: Movie = self.client.json(url).await.map_err(|answer| match answer {
            NoAnswer::Unauthorized { detail } => Outcome::Unauthorized { detail },
            NoAnswer::Gone { detail } => Outcome::Missed(Miss::Gone { detail }),
            NoAnswer::Failed { class, detail } => Outcome::Missed(Miss::Failed { class, detail }),
        })?;
        let path = usable_poster(&movie, id).map_err(Outcome::Missed)?;
        let url = self.images.join(&format!("{}/{path}", self.poster_size));
        let picture =
            self.client
                .image(url, PICTURE_MAX_BYTES)
                .await
                .map_err(|answer| match answer {
                    NoAnswer::Gone { detail } => Outcome::Missed(Miss::Rejected {
                        class: "poster_missing",
                        detail,
                    }),
                    // The image host knows no credentials: it refuses this file, not us.
                    NoAnswer::Unauthorized { detail } => Outcome::Missed(Miss::Failed {
                        class: "http_401".to_owned(),
                        detail,
                    }),
                    NoAnswer::Failed { class, detail } => {
                        Outcome::Missed(Miss::Failed { class, detail })
                    }
                })?;
        Ok(Outcome::Fetched {
            digest: Digest::of(&picture),
            movie,
            picture,
        })
    }
}

/// The path of the film's poster, if the film is one to learn from.
fn usable_poster(movie: &Movie, id: i64) -> Result<&str, Miss> {
    let rejected = |class, detail: &str| {
        Err(Miss::Rejected {
            class,
            detail: detail.to_owned(),
        })
    };
    if movie.id != id {
        let detail = format!("film {} came instead", movie.id);
        return Err(Miss::Failed {
            class: "wrong_film".to_owned(),
            detail,
        });
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

fn row_of(movie: &Movie, digest: Digest, labels: &mut Labels) -> FilmRow {
    FilmRow {
        id: movie.id.to_string(),
        labels: movie
            .genres
            .iter()
            .flatten()
            .map(|genre| labels.name_of(genre))
            .collect(),
        group: movie.group(),
        title: movie.title(),
        release_date: movie.release_date(),
        popularity: movie.popularity,
        picture_digest: digest,
    }
}

fn name_of(entry: Entry) -> String {
    match entry {
        Entry::Film(film) => film.id.to_string(),
        Entry::Duplicate(id) => id.to_string(),
        Entry::Unreadable(line) => format!("line {line}"),
    }
}

/// Asks for something without which there is no job.
async fn ask<T: serde::de::DeserializeOwned>(
    client: &PoliteClient,
    api: &Base,
    path: &str,
) -> Result<T, JobError> {
    client.json(api.join(path)).await.map_err(|answer| match answer {
        NoAnswer::Unauthorized { detail } => unauthorized(client, api, &detail),
        NoAnswer::Gone { detail } => JobError::user(format!(
            "{api} has no {path} ({detail}); check that api_url ends in the API's version, such as /3"
        )),
        NoAnswer::Failed { detail, .. } => {
            JobError::network(format!("{path} of {api} cannot be had: {detail}"))
        }
    })
}

fn unauthorized(client: &PoliteClient, api: &Base, detail: &str) -> JobError {
    JobError::user(match client.credential() {
        Some(credential) => format!(
            "{api} refuses the key ({detail}); check {}",
            credential.origin()
        ),
        None => format!(
            "{api} wants a key ({detail}); name the environment variable that holds it in credential_env"
        ),
    })
}

fn images_of(
    configuration: &Configuration,
    api: &Base,
    rights: Option<&Rights>,
) -> Result<Base, JobError> {
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
    let base = Base::parse("image_url", url)?;
    check_rights(&[&base], rights)?;
    Ok(base)
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
