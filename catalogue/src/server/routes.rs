//! The routes of the API: each reads its question and says what there is to it. Whether the client may ask,
//! and which fault befalls the reply, are the `App`'s.

use std::io::{self, Write};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use chrono::{Days, NaiveDate};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use serde_json::Value;

use super::app::{App, Params};
use super::reply::{NOT_FOUND, Reply, is_known, not_modified, with_etag};
use crate::answers;
use crate::fault::Route;
use crate::film::{Fate, Film, Films};
use crate::storm::Plant;

/// All routes.
pub(super) fn all(app: Arc<App>) -> Router {
    Router::new()
        .route("/3/configuration", get(configuration))
        .route("/3/authentication", get(authentication))
        .route("/3/genre/movie/list", get(genres))
        .route("/3/movie/changes", get(changes))
        .route("/3/discover/movie", get(discover))
        .route("/3/movie/{id}", get(movie))
        .route("/p/exports/{file}", get(export))
        .route("/t/p/{size}/{file}", get(poster))
        .fallback(async || Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response())
        .layer(from_fn_with_state(app.clone(), count))
        // Not counted itself.
        .route("/requests", get(requests))
        .layer(from_fn_with_state(app.clone(), log))
        .with_state(app)
}

async fn log(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(log) = &app.log {
        log.note(request.uri().path());
    }
    next.run(request).await
}

async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // Before the limiter: what is judged is what the client sent, served or not.
    app.counter.note(std::time::Instant::now());
    next.run(request).await
}

/// How many requests came, and how many in the busiest second.
async fn requests(State(app): State<Arc<App>>) -> Response {
    let count = serde_json::to_value(app.counter.count()).unwrap_or_default();
    Reply::json(&count).into_response()
}

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
    app.deliver(Route::Configuration, 0, Reply::json(&body))
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
        .unwrap_or_else(|| Reply::json(&success).into_response())
}

async fn genres(State(app): State<Arc<App>>, headers: HeaderMap, params: Params) -> Response {
    if let Some(refusal) = app.refuse(&headers, &params) {
        return refusal;
    }
    app.deliver(Route::Genres, 0, Reply::json(&answers::genre_list()))
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
                // A neighbour's number is the likeliest to be taken unseen.
                body["id"] = (film.id + 1).into();
            }
            Reply::json(&body)
        }
        (Some(_) | None, _) => Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND),
    };
    // Who was sent on once is not sent on again.
    if params.contains_key("again") {
        return answer.into_response();
    }
    app.deliver_known(Route::Movie, position.unwrap_or(0), answer, &headers)
        .await
}

/// Films that changed in a span of days, 100 a page.
async fn changes(State(app): State<Arc<App>>, headers: HeaderMap, params: Params) -> Response {
    // The limits of the real service, so that a client that asks for more is found out here.
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
        return Reply::problem(StatusCode::BAD_REQUEST, 23, message).into_response();
    };
    if (end - start).num_days() > SPAN_MAX_DAYS {
        let message = "Invalid date range: Should be a range no longer than 14 days.";
        return Reply::problem(StatusCode::UNPROCESSABLE_ENTITY, 20, message).into_response();
    }
    let films = &app.painter.films;
    let changed = |position: &usize| {
        today
            .checked_sub_days(Days::new(films.changed_days_ago(*position)))
            .is_some_and(|day| (start..=end).contains(&day))
    };
    let found: Vec<usize> = (0..films.count()).filter(changed).collect();
    let answer = page_of(films, &found, PER_PAGE, &params, answers::changes_page);
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
        // As the real service, which leaves adult films out unless they are asked for.
        .filter(|(film, _)| film.fate != Fate::Adult && film.fate != Fate::Vanished)
        .map(|(film, position)| (film.release_date, position))
        .filter(|(date, _)| from.is_none_or(|from| date.is_some_and(|date| date >= from)))
        .filter(|(date, _)| to.is_none_or(|to| date.is_some_and(|date| date <= to)))
        .collect();
    // By day and then by place, so that a page is the same whenever it is asked for.
    found.sort_unstable();
    let found: Vec<usize> = found.into_iter().map(|(_, position)| position).collect();
    let answer = page_of(films, &found, PER_PAGE, &params, answers::page);
    app.deliver(Route::Discover, 0, answer).await
}

/// Any day's export: the catalogue never changes. It is written while it is sent.
async fn export(State(app): State<Arc<App>>, Path(file): Path<String>) -> Response {
    const CHUNKS_AHEAD: usize = 4;
    // No key either: the daily files of the real service are open to all.
    let is_export = file.starts_with("movie_ids_") && file.ends_with(".json.gz");
    if !is_export {
        return Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
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
    // An export of millions of lines goes out as it is written. Only a fault needs the whole body first.
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
    let answer = Reply {
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
        return Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    };
    // The rate alone: pictures ask for no key, as with the real service.
    if let Some(refusal) = app.over_the_limit() {
        return refusal;
    }
    if matches!(
        films.fate_at(position),
        Fate::WithoutPoster | Fate::Vanished
    ) {
        return Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    }
    // Who was sent on once is not sent on again.
    let is_sent_on = params.contains_key("again");
    if !is_sent_on && let Some(fault) = app.faults.meet(Route::Image, position) {
        let answer = app.painted(position, width).await;
        return app
            .befall(&fault, answer, &format!("/t/p/{size}/{file}"))
            .await;
    }
    // Known before the poster is painted: "not modified" costs no painting.
    let etag = app.etag(&format!("{position}-{width}"));
    if is_known(&headers, &etag) {
        return not_modified(&etag);
    }
    with_etag(app.painted(position, width).await.into_response(), &etag)
}

/// A page of the films at `found`, as `list` writes it.
fn page_of(
    films: &Films,
    found: &[usize],
    per_page: usize,
    params: &Params,
    list: fn(&[Film], usize, usize, usize) -> Value,
) -> Reply {
    const PAGES_MAX: usize = 500;
    let page = match params.get("page").map(|page| page.parse::<usize>()) {
        None => 1,
        Some(Ok(page)) if (1..=PAGES_MAX).contains(&page) => page,
        Some(_) => {
            let message = "Invalid page: Pages start at 1 and max at 500. They are expected to be an integer.";
            return Reply::problem(StatusCode::BAD_REQUEST, 22, message);
        }
    };
    let pages = found.len().div_ceil(per_page);
    let listed: Vec<Film> = found
        .iter()
        .skip((page - 1) * per_page)
        .take(per_page)
        .map(|position| films.listed_at(*position))
        .collect();
    Reply::json(&list(&listed, page, pages, found.len()))
}
