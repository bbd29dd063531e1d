//! The HTTP side of the catalogue.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, RETRY_AFTER,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use chrono::{Days, NaiveDate};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use marquee_datasets::clock::Clock;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::answers;
use super::count::Counter;
use super::faults::{FaultKind, FaultRule, Faults, RetryAfter, Route};
use super::film::{Fate, Film, Films, GENERATOR_VERSION};
use super::image_file::{Painter, Style};
use super::storm::{Plant, Storm};

mod answer;
mod befall;

use answer::Answer;

const INVALID_KEY: &str = "Invalid API key: You must be granted a valid key.";
const NOT_FOUND: &str = "The resource you requested could not be found.";

/// What the catalogue is to serve.
#[derive(Debug, Clone)]
pub struct CatalogueOptions {
    pub films: usize,
    pub seed: u64,
    /// The key or token that requests must bring. None: every request is served.
    pub key: Option<String>,
    pub faults: Vec<FaultRule>,
    /// Faults by seed besides.
    pub storm: Option<Storm>,
    /// Posters are small and quickly painted, and nothing can be learned from them.
    pub sketches: bool,
    /// Requests a second that are served; more get 429 with code 25. None: all.
    pub rate_limit: Option<u32>,
    /// Is told of each request.
    pub log: Option<RequestLog>,
    /// Posters painted at once, at most.
    pub painters: usize,
}

/// Is told the path of each request, before its answer goes out.
#[derive(Clone)]
pub struct RequestLog(Arc<dyn Fn(&str) + Send + Sync>);

impl RequestLog {
    /// A log that `write` writes.
    pub fn new(write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }
}

impl std::fmt::Debug for RequestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestLog")
    }
}

/// A catalogue that listens.
#[derive(Debug)]
pub struct CatalogueServer {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

#[derive(Debug)]
struct App {
    log: Option<RequestLog>,
    counter: Counter,
    painter: Painter,
    limiter: Option<Mutex<Bucket>>,
    seed: u64,
    ceiling: f64,
    key: Option<String>,
    faults: Faults,
    /// Painting is pure computation: more at once than there are cores only adds memory.
    painters: Semaphore,
    address: SocketAddr,
    clock: Clock,
}

impl CatalogueServer {
    /// Listens on `address`; port 0 is any free one.
    pub async fn bind(
        address: SocketAddr,
        options: CatalogueOptions,
        clock: Clock,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let films = Films::new(options.seed, options.films);
        let app = App {
            log: options.log,
            counter: Counter::default(),
            ceiling: films.f1_micro_ceiling(),
            painter: Painter {
                films,
                storm: options.storm,
                style: if options.sketches {
                    Style::Sketch
                } else {
                    Style::Full
                },
            },
            limiter: options
                .rate_limit
                .map(|limit| Mutex::new(Bucket::new(limit))),
            seed: options.seed,
            key: options.key,
            faults: Faults::new(options.faults, options.storm),
            painters: Semaphore::new(options.painters.max(1)),
            address,
            clock,
        };
        Ok(Self {
            listener,
            address,
            app: Arc::new(app),
        })
    }

    /// Base of the API, as a fetch job takes it.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}/3", self.address)
    }

    /// The best micro F1 that a classifier of the posters can expect.
    #[must_use]
    pub fn f1_micro_ceiling(&self) -> f64 {
        self.app.ceiling
    }

    /// Writes what must become of every line of the export to `file`, one JSON object a line.
    pub fn write_truth(&self, file: &std::path::Path) -> io::Result<()> {
        let mut to = io::BufWriter::new(std::fs::File::create(file)?);
        let painter = &self.app.painter;
        let mut fault = None;
        let truth = |truth| {
            let written = serde_json::to_writer(&mut to, &truth)
                .map_err(io::Error::from)
                .and_then(|()| to.write_all(b"\n"));
            fault = fault.take().or(written.err());
        };
        answers::write_export(
            &painter.films,
            painter.storm.as_ref(),
            &mut io::sink(),
            truth,
        )?;
        match fault {
            Some(fault) => Err(fault),
            None => to.flush(),
        }
    }

    /// Serves until `stop` completes; requests in flight are then cut off.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let routes = Router::new()
            .route("/3/configuration", get(configuration))
            .route("/3/authentication", get(authentication))
            .route("/3/genre/movie/list", get(genres))
            .route("/3/movie/changes", get(changes))
            .route("/3/discover/movie", get(discover))
            .route("/3/movie/{id}", get(movie))
            .route("/p/exports/{file}", get(export))
            .route("/t/p/{size}/{file}", get(poster))
            .fallback(async || {
                Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response()
            })
            .layer(axum::middleware::from_fn_with_state(
                self.app.clone(),
                count,
            ))
            // Not counted itself.
            .route("/requests", get(requests))
            .layer(axum::middleware::from_fn_with_state(self.app.clone(), log))
            .with_state(self.app.clone());
        tokio::select! {
            result = axum::serve(self.listener, routes) => result,
            () = stop => Ok(()),
        }
    }
}

async fn log(
    State(app): State<Arc<App>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    if let Some(RequestLog(write)) = &app.log {
        write(request.uri().path());
    }
    next.run(request).await
}

async fn count(
    State(app): State<Arc<App>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    app.counter.note(std::time::Instant::now());
    next.run(request).await
}

/// How many requests came, and how many in the busiest second.
async fn requests(State(app): State<Arc<App>>) -> Response {
    let count = serde_json::to_value(app.counter.count()).unwrap_or_default();
    Answer::json(&count).into_response()
}

type Params = Query<HashMap<String, String>>;

async fn configuration(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    // Behind whatever name or forwarded port the client reached us, it will again.
    let own = app.address.to_string();
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or(&own);
    let image_base = format!("http://{host}/t/p/");
    let body = answers::configuration(&image_base, &app.painter.films, app.seed, app.ceiling);
    app.deliver(Route::Configuration, 0, Answer::json(&body))
        .await
}

async fn authentication(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let success =
        serde_json::json!({"success": true, "status_code": 1, "status_message": "Success."});
    app.refuse(&headers, &params)
        .unwrap_or_else(|| Answer::json(&success).into_response())
}

async fn genres(State(app): State<Arc<App>>, headers: HeaderMap, params: Params) -> Response {
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    app.deliver(Route::Genres, 0, Answer::json(&answers::genre_list()))
        .await
}

async fn movie(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    let films = &app.painter.films;
    let position = id.parse().ok().and_then(|id| films.position_of(id));
    let film = position.map(|position| films.listed_at(position));
    let answer = match (film, position) {
        (Some(film), Some(position)) if film.fate != Fate::Vanished => {
            let plant = app
                .painter
                .storm
                .as_ref()
                .and_then(|storm| storm.plant_at(position));
            let mut body = answers::movie(&film);
            if plant == Some(Plant::WrongFilm) {
                body["id"] = (film.id + 1).into();
            }
            Answer::json(&body)
        }
        (Some(_) | None, _) => Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND),
    };
    app.deliver_known(Route::Movie, position.unwrap_or(0), answer, &headers)
        .await
}

/// Films that changed in a span of days, 100 a page.
async fn changes(State(app): State<Arc<App>>, headers: HeaderMap, params: Params) -> Response {
    const SPAN_MAX_DAYS: i64 = 14;
    const PER_PAGE: usize = 100;
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    let today = (app.clock)().date_naive();
    let day = |name: &str, otherwise: NaiveDate| match params.get(name) {
        Some(text) => text.parse::<NaiveDate>().ok(),
        None => Some(otherwise),
    };
    let yesterday = today.pred_opt().unwrap_or(today);
    let (Some(start), Some(end)) = (day("start_date", yesterday), day("end_date", today)) else {
        let message = "Invalid date: Should be a valid date in the form YYYY-MM-DD.";
        return Answer::problem(StatusCode::BAD_REQUEST, 23, message).into_response();
    };
    if (end - start).num_days() > SPAN_MAX_DAYS {
        let message = "Invalid date range: Should be a range no longer than 14 days.";
        return Answer::problem(StatusCode::UNPROCESSABLE_ENTITY, 20, message).into_response();
    }
    let films = &app.painter.films;
    let changed = |position: &usize| {
        today
            .checked_sub_days(Days::new(films.changed_days_ago(*position)))
            .is_some_and(|day| (start..=end).contains(&day))
    };
    let found: Vec<usize> = (0..films.count()).filter(changed).collect();
    let answer = app.page_of(&found, PER_PAGE, &params, answers::changes_page);
    app.deliver(Route::Changes, 0, answer).await
}

/// Films released in a span of days, 20 a page, 500 pages at most.
async fn discover(State(app): State<Arc<App>>, headers: HeaderMap, params: Params) -> Response {
    const PER_PAGE: usize = 20;
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    let day = |name: &str| {
        let text = params.get(&format!("primary_release_date.{name}"));
        text.and_then(|text| text.parse::<NaiveDate>().ok())
    };
    let (from, to) = (day("gte"), day("lte"));
    let films = &app.painter.films;
    let mut found: Vec<(Option<NaiveDate>, usize)> = (0..films.count())
        .map(|position| (films.listed_at(position), position))
        .filter(|(film, _)| film.fate != Fate::Adult && film.fate != Fate::Vanished)
        .map(|(film, position)| (film.release_date, position))
        .filter(|(date, _)| from.is_none_or(|from| date.is_some_and(|date| date >= from)))
        .filter(|(date, _)| to.is_none_or(|to| date.is_some_and(|date| date <= to)))
        .collect();
    found.sort_unstable();
    let found: Vec<usize> = found.into_iter().map(|(_, position)| position).collect();
    let answer = app.page_of(&found, PER_PAGE, &params, answers::page);
    app.deliver(Route::Discover, 0, answer).await
}

/// Any day's export: the catalogue never changes. It is written while it is sent.
async fn export(State(app): State<Arc<App>>, Path(file): Path<String>) -> Response {
    const CHUNKS_AHEAD: usize = 4;
    let is_export = file.starts_with("movie_ids_") && file.ends_with(".json.gz");
    if !is_export {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
    let painter = app.painter.clone();
    tokio::task::spawn_blocking(move || {
        let chunks = io::BufWriter::with_capacity(64 * 1024, Chunks(sender));
        let mut file = GzEncoder::new(chunks, Compression::fast());
        // Whoever asked may have gone.
        let _ = answers::write_export(&painter.films, painter.storm.as_ref(), &mut file, |_| {})
            .and_then(|()| file.finish())
            .and_then(|mut chunks| chunks.flush());
    });
    let mut chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, io::Error>(chunk), receiver))
    })
    .boxed();
    if app.faults.is_free(Route::Export) {
        let mut response = Response::new(Body::from_stream(chunks));
        let kind = HeaderValue::from_static("application/gzip");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = chunks.next().await {
        body.extend_from_slice(&chunk);
    }
    let answer = Answer {
        status: StatusCode::OK,
        content_type: "application/gzip",
        body,
    };
    app.deliver(Route::Export, 0, answer).await
}

/// Sends what is written to it.
struct Chunks(tokio::sync::mpsc::Sender<Bytes>);

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn poster(
    State(app): State<Arc<App>>,
    Path((size, file)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Response {
    let films = &app.painter.films;
    let position = answers::poster_id(&file).and_then(|id| films.position_of(id));
    let (Some(position), Some(width)) = (position, answers::poster_width(&size)) else {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    };
    if let Some(refusal) = app.over_the_limit() {
        return refusal;
    }
    if matches!(
        films.fate_at(position),
        Fate::WithoutPoster | Fate::Vanished
    ) {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    }
    // Who was sent on once is not sent on again.
    let is_sent_on = params.contains_key("again");
    if !is_sent_on && let Some(fault) = app.faults.meet(Route::Image, position) {
        let answer = app.painted(position, width).await;
        return app
            .befall(&fault, answer, &format!("/t/p/{size}/{file}"))
            .await;
    }
    let etag = app.etag(&format!("{position}-{width}"));
    if is_known(&headers, &etag) {
        return not_modified(&etag);
    }
    with_etag(app.painted(position, width).await.into_response(), &etag)
}

/// Whether the request says that it has what `etag` stands for.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known == etag)
}

fn not_modified(etag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    with_etag(response, etag)
}

fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = etag.parse() {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// Requests of the current second.
#[derive(Debug)]
struct Bucket {
    limit: u32,
    second: i64,
    count: u32,
}

impl Bucket {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            second: 0,
            count: 0,
        }
    }

    /// Whether one more is served in this second.
    fn takes(&mut self, second: i64) -> bool {
        if self.second != second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        self.count <= self.limit
    }
}

impl App {
    /// A page of the films at `found`, as `list` writes it.
    fn page_of(
        &self,
        found: &[usize],
        per_page: usize,
        params: &Params,
        list: fn(&[Film], usize, usize, usize) -> Value,
    ) -> Answer {
        const PAGES_MAX: usize = 500;
        let page = match params.get("page").map(|page| page.parse::<usize>()) {
            None => 1,
            Some(Ok(page)) if (1..=PAGES_MAX).contains(&page) => page,
            Some(_) => {
                let message = "Invalid page: Pages start at 1 and max at 500. They are expected to be an integer.";
                return Answer::problem(StatusCode::BAD_REQUEST, 22, message);
            }
        };
        let pages = found.len().div_ceil(per_page);
        let films: Vec<Film> = found
            .iter()
            .skip((page - 1) * per_page)
            .take(per_page)
            .map(|position| self.painter.films.listed_at(*position))
            .collect();
        Answer::json(&list(&films, page, pages, found.len()))
    }

    async fn painted(self: &Arc<Self>, position: usize, width: u32) -> Answer {
        let Ok(_permit) = self.painters.acquire().await else {
            return Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error");
        };
        let painter = self.painter.clone();
        let painted = tokio::task::spawn_blocking(move || painter.file(position, width));
        match painted.await {
            Ok(file) => Answer {
                status: StatusCode::OK,
                content_type: file.content_type,
                body: file.bytes,
            },
            Err(_) => Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error"),
        }
    }

    fn etag(&self, what: &str) -> String {
        format!("\"{GENERATOR_VERSION}-{}-{what}\"", self.seed)
    }

    /// The refusal of a request above the rate, if there is one.
    fn over_the_limit(&self) -> Option<Response> {
        let mut bucket = self
            .limiter
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if bucket.takes((self.clock)().timestamp()) {
            return None;
        }
        let message = format!(
            "Your request count ({}) is over the allowed limit of {}.",
            bucket.count, bucket.limit
        );
        let mut response =
            Answer::problem(StatusCode::TOO_MANY_REQUESTS, 25, &message).into_response();
        response.headers_mut().insert(RETRY_AFTER, 1.into());
        Some(response)
    }

    /// The answer to a request without the right key or above the rate, if this is one.
    fn refuse(&self, headers: &HeaderMap, params: &Params) -> Option<Response> {
        if let Some(refusal) = self.over_the_limit() {
            return Some(refusal);
        }
        let key = self.key.as_deref()?;
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let is_right =
            bearer == Some(key) || params.get("api_key").map(String::as_str) == Some(key);
        let refusal = || Answer::problem(StatusCode::UNAUTHORIZED, 7, INVALID_KEY).into_response();
        (!is_right).then(refusal)
    }
}
