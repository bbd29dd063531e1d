//! What `marquee-catalogue serve` can be told. The tests of other crates, which serve in their own
//! process, read the same words.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::faults::FaultRule;
use crate::server::{CatalogueOptions, RequestLog};
use crate::storm::Storm;

/// The options of a server.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Films in the catalogue
    #[arg(long, default_value_t = 3000)]
    films: usize,
    /// The catalogue is a function of this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 is any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Key or bearer token that requests must bring; without it all are served
    #[arg(long)]
    key: Option<String>,
    /// A fault, such as movie=429,every=50,times=1,retry_after=2; may be given several times
    #[arg(long = "fault", value_name = "RULE")]
    faults: Vec<FaultRule>,
    /// Let faults befall films by this seed: what the network, the service and strangers' files bring
    #[arg(long, value_name = "SEED")]
    storm: Option<u64>,
    /// Share of the films that a storm befalls
    #[arg(long, default_value_t = 0.1, requires = "storm")]
    storm_share: f64,
    /// Write what must become of every line of the export to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Serve small posters that are quickly painted, for rehearsals of many films
    #[arg(long)]
    sketches: bool,
    /// Write the path of each request to stdout, one a line
    #[arg(long)]
    pub log_requests: bool,
    /// Requests a second; more get 429, as from a service with a limit
    #[arg(long, value_name = "N")]
    rate_limit: Option<u32>,
}

impl ServeArgs {
    /// Where to listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// What to serve. `log` is told of each request.
    #[must_use]
    pub fn options(&self, log: Option<RequestLog>) -> CatalogueOptions {
        CatalogueOptions {
            films: self.films,
            seed: self.seed,
            key: self.key.clone(),
            faults: self.faults.clone(),
            storm: self.storm.map(|seed| Storm {
                seed,
                share: self.storm_share,
            }),
            sketches: self.sketches,
            rate_limit: self.rate_limit,
            log,
            // Painting is computation alone: more at once than there are cores would only wait.
            painters: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}
