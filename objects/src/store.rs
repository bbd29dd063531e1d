//! What is asked of a bucket. Each request ends within a written time; one that a busy or a broken server did not answer
//! is made again a few times within that.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _,
    PutMode, PutOptions, PutPayload, RetryConfig,
};

use crate::credentials::Credentials;
use crate::place::{Addressing, Place};
use crate::trouble::{Doing, Kind, Trouble};

/// Until a connection is there.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// One try of a request that carries little. All tries together stay below a worker's lease (10 s): who waits for an
/// answer about a file holds up no heartbeat for longer.
const SMALL_WITHIN: Duration = Duration::from_millis(2_500);
const SMALL_TRIES: usize = 2;
const SMALL_ALL_WITHIN: Duration = Duration::from_millis(3_500);
/// One try of a request that carries much: this, and a second for so many bytes. A connection that is slower counts as
/// broken.
const LARGE_WITHIN: Duration = Duration::from_secs(15);
const SLOWEST_BYTES_PER_S: u64 = 256 * 1024;
const LARGE_TRIES: u32 = 3;
/// Tries of a large request that the server refuses for the time being.
const BUSY_TRIES: usize = 5;
const BUSY_WITHIN: Duration = Duration::from_secs(20);
/// After a server was silent, small requests fail at once for as long: a hundred that wait for the same would wait one
/// after the other.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// Bytes of an object that is read as one.
pub const GET_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A bucket. A cheap handle.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    credentials: Arc<Credentials>,
    /// For what carries little.
    small: AmazonS3,
    large: AmazonS3,
    /// For what the crate does not ask.
    client: HttpClient,
    silent: Mutex<Option<(Instant, Trouble)>>,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub size_bytes: u64,
    /// Another one wherever the object is written anew.
    pub etag: String,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Without the place's prefix.
    pub key: String,
    pub size_bytes: u64,
    /// By the server's clock.
    pub modified: DateTime<Utc>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.inner.place)
    }
}

impl Store {
    /// Makes ready. Nothing is asked yet.
    ///
    /// # Errors
    /// The authority's file cannot be used, or the place makes no URL.
    pub fn open(place: &Place) -> Result<Self, Trouble> {
        // Whoever is first: the daemons have no other.
        let _is_first = rustls::crypto::ring::default_provider().install_default();
        let credentials = Arc::new(Credentials::new(&place.credentials));
        let small = client(place, Some(SMALL_WITHIN))?;
        // Its time follows from its bytes, which a client cannot know: see `large`.
        let large = client(place, None)?;
        let build = |client: &HttpClient, retry: RetryConfig| {
            let builder = AmazonS3Builder::new()
                .with_bucket_name(&place.bucket)
                .with_region(&place.region)
                .with_credentials(Arc::clone(&credentials) as _)
                .with_http_connector(Ready(client.clone()))
                .with_retry(retry)
                .with_virtual_hosted_style_request(place.addressing == Addressing::Virtual)
                // One by one, which every server knows.
                .with_disable_bulk_delete(true);
            let builder = match &place.endpoint {
                None => builder,
                // With the bucket in the host's name the crate wants all of that.
                Some(_) if place.addressing == Addressing::Virtual => {
                    builder.with_endpoint(place.url())
                }
                Some(endpoint) => builder.with_endpoint(endpoint),
            };
            builder
                .build()
                .map_err(|error| Trouble::of(place, READY, &error))
        };
        Ok(Self {
            inner: Arc::new(Inner {
                small: build(&small, retries(SMALL_TRIES - 1, SMALL_ALL_WITHIN))?,
                large: build(&large, retries(BUSY_TRIES, BUSY_WITHIN))?,
                place: place.clone(),
                credentials,
                client: small,
                silent: Mutex::default(),
            }),
        })
    }

    #[must_use]
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.inner.credentials
    }

    pub(crate) fn client(&self) -> &HttpClient {
        &self.inner.client
    }

    pub(crate) fn for_large(&self) -> &AmazonS3 {
        &self.inner.large
    }

    pub(crate) fn for_small(&self) -> &AmazonS3 {
        &self.inner.small
    }

    /// An error of this bucket.
    #[must_use]
    pub fn trouble(&self, kind: Kind, doing: &'static str, why: &str) -> Trouble {
        Trouble::new(&self.inner.place, kind, doing, why)
    }

    /// A key as the crate has it. Ours and the prefix hold only what it takes as it is.
    pub(crate) fn path(&self, key: &str) -> Path {
        Path::from(self.inner.place.key(key))
    }

    /// A request that carries little. None: there is no such object.
    pub(crate) async fn small<T>(
        &self,
        doing: Doing,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if let Some(silent) = self.is_silent() {
            return Err(silent);
        }
        // Longer than the client's own limits together, which a body that drips could outlast.
        let within = SMALL_WITHIN * 3;
        let answer = match tokio::time::timeout(within, asked).await {
            Ok(answer) => self.judge(doing, answer),
            Err(_) => Err(Trouble::silence(&self.inner.place, doing, within)),
        };
        if let Err(trouble) = &answer
            && trouble.kind == Kind::Away
        {
            *self.silent() = Some((Instant::now(), trouble.clone()));
        }
        answer
    }

    /// A request that carries so many bytes. None: there is no such object, or no such upload.
    pub(crate) async fn large<T, F>(
        &self,
        doing: Doing,
        bytes: u64,
        ask: impl Fn() -> F,
    ) -> Result<Option<T>, Trouble>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let within = LARGE_WITHIN + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S);
        let mut tries = 1;
        loop {
            let trouble = match tokio::time::timeout(within, ask()).await {
                Ok(answer) => match self.judge(doing, answer) {
                    Err(trouble) if trouble.kind == Kind::Away => trouble,
                    answer => return answer,
                },
                // A connection that froze: the next try makes another one.
                Err(_) => Trouble::silence(&self.inner.place, doing, within),
            };
            if tries == LARGE_TRIES {
                return Err(trouble);
            }
            tries += 1;
        }
    }

    fn judge<T>(
        &self,
        doing: Doing,
        answer: object_store::Result<T>,
    ) -> Result<Option<T>, Trouble> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error @ object_store::Error::NotFound { .. }) => {
                // Of the bucket itself that is said in words, where there are any.
                if error.to_string().contains("NoSuchBucket") {
                    return Err(Trouble::of(&self.inner.place, doing, &error));
                }
                Ok(None)
            }
            Err(error) => Err(Trouble::of(&self.inner.place, doing, &error)),
        }
    }

    fn is_silent(&self) -> Option<Trouble> {
        let silent = self.silent();
        let (since, trouble) = silent.as_ref()?;
        (since.elapsed() < SILENT_FOR).then(|| trouble.clone())
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Trouble)>> {
        self.inner
            .silent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Size and tag of an object; None where there is none. A server that has lost the bucket may say the same.
    ///
    /// # Errors
    /// As each of these: no answer in time, or a refusal.
    pub async fn head(&self, key: &str) -> Result<Option<Found>, Trouble> {
        let path = self.path(key);
        let found = self
            .small("look for an object", self.inner.small.head(&path))
            .await?;
        Ok(found.map(|found| Found {
            size_bytes: found.size,
            etag: found.e_tag.unwrap_or_default(),
        }))
    }

    /// A small object as a whole, and its tag.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, String)>, Trouble> {
        let path = self.path(key);
        let doing = "read an object";
        let read = async {
            let found = self
                .inner
                .small
                .get_opts(&path, GetOptions::default())
                .await?;
            let (size, etag) = (found.meta.size, found.meta.e_tag.clone());
            let bytes = match size > GET_MAX_BYTES {
                true => None,
                false => Some(found.bytes().await?),
            };
            Ok((bytes, size, etag.unwrap_or_default()))
        };
        match self.small(doing, read).await? {
            None => Ok(None),
            Some((Some(bytes), size, etag)) if bytes.len() as u64 == size => {
                Ok(Some((bytes, etag)))
            }
            Some((Some(_), ..)) => Err(self.half(doing)),
            Some((None, size, _)) => {
                let why = format!(
                    "{key} has {size} bytes, and what is read as a whole here has {GET_MAX_BYTES} at most: \
                     somebody else wrote it"
                );
                Err(self.trouble(Kind::Refused, doing, &why))
            }
        }
    }

    /// Bytes of an object that is still the one with this tag. None: it is another one, or none, now.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        etag: &str,
    ) -> Result<Option<Bytes>, Trouble> {
        let path = self.path(key);
        let doing = "read an object";
        let wanted = range.end.saturating_sub(range.start);
        let read = || async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                // Pieces of a file are read one by one: of two objects under one key they must not
                // be mixed. A server that gives no tags is asked without one.
                if_match: Some(etag.to_owned()).filter(|etag| !etag.is_empty()),
                ..GetOptions::default()
            };
            match self.inner.large.get_opts(&path, options).await {
                // In another loop of ours: what breaks in the middle of a body is tried again as a whole.
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::Precondition { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let mut halves = 0;
        loop {
            match self.large(doing, wanted, read).await?.flatten() {
                Some(bytes) if bytes.len() as u64 != wanted => halves += 1,
                read => return Ok(read),
            }
            // It ends in order, and is not what was asked for: a server that is mistaken may be right the next time.
            if halves == LARGE_TRIES {
                return Err(self.half(doing));
            }
        }
    }

    fn half(&self, doing: Doing) -> Trouble {
        let why = "its answer has another length than it says; nothing of it was used";
        self.trouble(Kind::Away, doing, why)
    }

    /// Writes an object, in place of one that is there.
    pub async fn put(&self, key: &str, parts: Vec<Bytes>) -> Result<(), Trouble> {
        let path = self.path(key);
        let doing = "write an object";
        // Made again where its answer was lost: the same bytes under the same key are no harm.
        let payload = PutPayload::from_iter(parts);
        let bytes = payload.content_length() as u64;
        let written = self
            .large(doing, bytes, || {
                self.inner.large.put(&path, payload.clone())
            })
            .await?;
        match written {
            Some(_) => Ok(()),
            None => Err(self.no_bucket(doing)),
        }
    }

    /// Writes a small object where there is none. False: there is one.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, Trouble> {
        let path = self.path(key);
        let doing = "write an object";
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let put = async {
            match self
                .inner
                .small
                .put_opts(&path, PutPayload::from(bytes), options)
                .await
            {
                Ok(_) => Ok(true),
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => Ok(false),
                Err(error) => Err(error),
            }
        };
        match self.small(doing, put).await? {
            Some(created) => Ok(created),
            None => Err(self.no_bucket(doing)),
        }
    }

    fn no_bucket(&self, doing: Doing) -> Trouble {
        let why = "there is no such bucket; make it, or correct s3.bucket";
        self.trouble(Kind::Refused, doing, why)
    }

    /// Deletes objects. Those that are not there are no error.
    pub async fn delete(&self, keys: Vec<String>) -> Result<(), Trouble> {
        let doing = "delete an object";
        let deleted = futures::stream::iter(keys)
            .map(|key| {
                let path = self.path(&key);
                async move { self.small(doing, self.inner.small.delete(&path)).await }
            })
            .buffer_unordered(DELETES_AT_ONCE);
        deleted.try_for_each(|_| std::future::ready(Ok(()))).await
    }

    /// All objects whose keys begin with this folder, such as `blobs`.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed, Trouble>> {
        // The crate says whole keys, and whoever lists knows no prefix.
        let (store, path) = (self.clone(), self.path(folder));
        let skipped = match self.inner.place.prefix.as_str() {
            "" => 0,
            prefix => prefix.len() + 1,
        };
        let pages = self.inner.large.list(Some(&path));
        let listed = pages.map(move |listed| match listed {
            Ok(listed) => Ok(Listed {
                key: listed
                    .location
                    .as_ref()
                    .get(skipped..)
                    .unwrap_or_default()
                    .to_owned(),
                size_bytes: listed.size,
                modified: listed.last_modified,
            }),
            Err(error) => Err(Trouble::of(&store.inner.place, "list objects", &error)),
        });
        // A page that never comes ends the listing.
        let store = self.clone();
        let within = LARGE_WITHIN + BUSY_WITHIN;
        futures::stream::unfold(Some(listed.boxed()), move |pages| {
            let store = store.clone();
            async move {
                let mut pages = pages?;
                match tokio::time::timeout(within, pages.next()).await {
                    Ok(Some(Ok(listed))) => Some((Ok(listed), Some(pages))),
                    Ok(Some(Err(trouble))) => Some((Err(trouble), None)),
                    Ok(None) => None,
                    Err(_) => {
                        let place = &store.inner.place;
                        let trouble = Trouble::silence(place, "list objects", within);
                        Some((Err(trouble), None))
                    }
                }
            }
        })
        .boxed()
    }
}

/// A client of our own making, whatever the crate would make.
#[derive(Debug)]
struct Ready(HttpClient);

impl HttpConnector for Ready {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

/// The crate's own would follow redirects, to whatever server, with the token of a session in a header; and what another
/// server says of an object is no answer.
fn client(place: &Place, within: Option<Duration>) -> Result<HttpClient, Trouble> {
    let wrong = |why: &str| Trouble::new(place, Kind::Refused, READY, why);
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .http1_only()
        .user_agent(concat!("marquee/", env!("CARGO_PKG_VERSION")));
    if let Some(within) = within {
        builder = builder.timeout(within);
    }
    if let Some(file) = &place.ca {
        let pem = std::fs::read(file)
            .map_err(|error| wrong(&format!("s3.ca, {file:?}, cannot be read: {error}")))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| wrong(&format!("s3.ca, {file:?}, is no PEM file: {error}")))?;
        if found.is_empty() {
            return Err(wrong(&format!("s3.ca, {file:?}, has no certificate")));
        }
        for certificate in found {
            builder = builder.add_root_certificate(certificate);
        }
    }
    let client = builder
        .build()
        .map_err(|error| wrong(&format!("its connections cannot be set up: {error}")))?;
    Ok(HttpClient::new(client))
}

const READY: Doing = "make ready to ask";

/// Deletes that are under way at once.
const DELETES_AT_ONCE: usize = 20;

fn retries(max_retries: usize, retry_timeout: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.,
        },
        max_retries,
        retry_timeout,
    }
}
