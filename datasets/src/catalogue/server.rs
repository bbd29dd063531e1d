//! The HTTP side of the catalogue.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::answers;
use super::faults::{FaultKind, FaultRule, Faults, RetryAfter, Route};
use super::film::{Fate, Films};
use super::image_file;
use crate::clock::Clock;

const JSON: &str = "application/json;charset=utf-8";
/// Between the half of a truncated answer and the end of its connection.
const CUT_AFTER: Duration = Duration::from_millis(50);
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
    /// Posters painted at once, at most.
    pub painters: usize,
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
    films: Films,
    seed: u64,
    ceiling: f64,
    key: Option<String>,
    faults: Faults,
    /// Painting is pure computation: more at once than there are cores only adds memory.
    painters: Semaphore,
    address: SocketAddr,
    clock: Clock,
}

/// An answer before a fault befalls it.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
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
            ceiling: films.f1_micro_ceiling(),
            films,
            seed: options.seed,
            key: options.key,
            faults: Faults::new(options.faults),
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

    /// Serves until `stop` completes; requests in flight are then cut off.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let routes = Router::new()
            .route("/3/configuration", get(configuration))
            .route("/3/authentication", get(authentication))
            .route("/3/genre/movie/list", get(genres))
            .route("/3/movie/{id}", get(movie))
            .route("/p/exports/{file}", get(export))
            .route("/t/p/{size}/{file}", get(poster))
            .fallback(async || {
                Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response()
            })
            .with_state(self.app);
        tokio::select! {
            result = axum::serve(self.listener, routes) => result,
            () = stop => Ok(()),
        }
    }
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
    let body = answers::configuration(&image_base, &app.films, app.seed, app.ceiling);
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
    let position = id.parse().ok().and_then(|id| app.films.position_of(id));
    let film = position.map(|position| app.films.film_at(position));
    let answer = match film {
        Some(film) if film.fate != Fate::Vanished => Answer::json(&answers::movie(&film)),
        Some(_) | None => Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND),
    };
    app.deliver(Route::Movie, position.unwrap_or(0), answer)
        .await
}

/// Any day's export: the catalogue never changes.
async fn export(State(app): State<Arc<App>>, Path(file): Path<String>) -> Response {
    let is_export = file.starts_with("movie_ids_") && file.ends_with(".json.gz");
    if !is_export {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    }
    let films = app.films.clone();
    let made = tokio::task::spawn_blocking(move || answers::export(&films)).await;
    let answer = match made {
        Ok(Ok(body)) => Answer {
            status: StatusCode::OK,
            content_type: "application/gzip",
            body,
        },
        Ok(Err(_)) | Err(_) => {
            Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error")
        }
    };
    app.deliver(Route::Export, 0, answer).await
}

async fn poster(
    State(app): State<Arc<App>>,
    Path((size, file)): Path<(String, String)>,
) -> Response {
    let position = answers::poster_id(&file).and_then(|id| app.films.position_of(id));
    let (Some(position), Some(width)) = (position, answers::poster_width(&size)) else {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    };
    if matches!(
        app.films.fate_at(position),
        Fate::WithoutPoster | Fate::Vanished
    ) {
        return Answer::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response();
    }
    let painter = app.clone();
    let painted = async {
        let _permit = painter.painters.acquire().await.ok()?;
        let films = painter.films.clone();
        tokio::task::spawn_blocking(move || image_file::make(&films, position, width))
            .await
            .ok()
    };
    let answer = match painted.await {
        Some(file) => Answer {
            status: StatusCode::OK,
            content_type: file.content_type,
            body: file.bytes,
        },
        None => Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, 11, "Internal error"),
    };
    app.deliver(Route::Image, position, answer).await
}

impl App {
    /// The answer to a request without the right key, if this is one.
    fn refuse(&self, headers: &HeaderMap, params: &Params) -> Option<Response> {
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

    /// The answer, or what a fault makes of it.
    async fn deliver(&self, route: Route, position: usize, answer: Answer) -> Response {
        let Some(fault) = self.faults.meet(route, position) else {
            return answer.into_response();
        };
        match fault.kind {
            FaultKind::Unauthorized => {
                Answer::problem(StatusCode::UNAUTHORIZED, 7, INVALID_KEY).into_response()
            }
            FaultKind::RateLimited => self.rate_limited(&fault),
            FaultKind::Server(status) => {
                let status =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Answer::problem(status, 11, "Internal error: Something went wrong.").into_response()
            }
            FaultKind::Html => {
                let body =
                    b"<!DOCTYPE html><title>One moment</title><h1>We will be right back</h1>";
                Answer {
                    status: StatusCode::OK,
                    content_type: "text/html",
                    body: body.to_vec(),
                }
                .into_response()
            }
            FaultKind::Empty => Answer {
                body: Vec::new(),
                ..answer
            }
            .into_response(),
            FaultKind::Truncated => answer.into_half_a_response(),
            FaultKind::InvalidId => {
                Answer::problem(StatusCode::OK, 44, "The ID is invalid.").into_response()
            }
            FaultKind::Slow(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                answer.into_response()
            }
        }
    }

    fn rate_limited(&self, fault: &FaultRule) -> Response {
        let message = "Your request count (41) is over the allowed limit of 40.";
        let mut response =
            Answer::problem(StatusCode::TOO_MANY_REQUESTS, 25, message).into_response();
        let wait = match fault.retry_after {
            RetryAfter::None => return response,
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::Date(seconds) => {
                let then = (self.clock)() + Duration::from_secs(seconds);
                then.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
            }
        };
        if let Ok(value) = wait.parse() {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }
}

impl Answer {
    fn json(body: &Value) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: JSON,
            body: body.to_string().into_bytes(),
        }
    }

    fn problem(status: StatusCode, code: u32, message: &str) -> Self {
        Self {
            status,
            ..Self::json(&answers::problem(code, message))
        }
    }

    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, self.content_type.parse().expect("it is ours"));
        response
    }

    /// Announces the whole body, sends half of it, and lets the connection end.
    fn into_half_a_response(self) -> Response {
        let announced = self.body.len();
        let half = Bytes::copy_from_slice(&self.body[..announced / 2]);
        let mut response = Self {
            body: Vec::new(),
            ..self
        }
        .into_response();
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, announced.into());
        let cut = async {
            // Long enough that the half is on its way before the connection ends.
            tokio::time::sleep(CUT_AFTER).await;
            Err(io::Error::other("a fault was asked for"))
        };
        let parts = stream::once(async { Ok(half) }).chain(stream::once(cut));
        *response.body_mut() = Body::from_stream(parts);
        response
    }
}
