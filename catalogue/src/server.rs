//! The HTTP side of the catalogue.

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use marquee_datasets::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::app::App;
use self::bucket::Bucket;
use crate::answers;
use crate::count::Counter;
use crate::faults::{FaultRule, Faults};
use crate::film::Films;
use crate::image_file::{Painter, Style};
use crate::storm::Storm;

mod app;
mod befall;
mod bucket;
mod log;
mod reply;
mod routes;

pub use self::log::RequestLog;

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

/// A catalogue that listens.
#[derive(Debug)]
pub struct CatalogueServer {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
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
            // Once: it goes through thousands of patterns, and does not change.
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
            // None would let every request for a poster wait for ever.
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
            // The first one: those after it follow from it.
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
        let routes = routes::all(self.app);
        tokio::select! {
            result = axum::serve(self.listener, routes) => result,
            // Those who are served meanwhile are cut off: a fetch job has to bear that of any
            // server.
            () = stop => Ok(()),
        }
    }
}
