//! `marquee bench --here`: a cluster of this machine alone, with generated posters to train on.

use marquee_view::units;
use tokio::time::Instant;

use super::plan::{BenchPlan, Source};
use super::run::{choose_devices, finish, start};
use super::shown::Shown;
use crate::client::Remote;
use crate::cluster::{ClusterOptions, Layout, LocalCluster, free_port};
use crate::demo::catalogue;
use crate::error::{CliError, Result};
use crate::say::say;
use crate::signals::Signals;

/// A private cluster in a temporary folder.
#[derive(Debug)]
pub(crate) struct Here {
    films: u32,
    folder: tempfile::TempDir,
}

impl Here {
    pub(crate) fn new(films: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("marquee-bench-")
            .tempdir()?;
        Ok(Self { films, folder })
    }

    /// Runs the bench and stops everything, whatever happens.
    pub(crate) async fn run(&self, plan: BenchPlan, shown: &Shown) -> Result<()> {
        let mut signals = Signals::catch()?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let options = ClusterOptions {
            listen: free_port(([127, 0, 0, 1], 0).into())?,
            workers: 1,
            // One thread each: so many ranks are so many times the cores.
            slots_per_worker: u32::try_from(threads).unwrap_or(1),
            threads_per_slot: 1,
        };
        let mut cluster = LocalCluster::new(Layout::lock(self.folder.path())?, options)?;
        // No `?` from here to the stop: what fails, and whoever presses Ctrl-C, must leave no
        // daemon behind.
        let outcome = tokio::select! {
            outcome = self.measure(&mut cluster, plan, shown) => outcome,
            () = signals.next() => Err(CliError::Interrupted { hint: None }),
        };
        say!("stopping");
        cluster.stop(&mut signals).await;
        outcome
    }

    async fn measure(
        &self,
        cluster: &mut LocalCluster,
        mut plan: BenchPlan,
        shown: &Shown,
    ) -> Result<()> {
        let started = Instant::now();
        say!("starting a coordinator, its Postgres and a worker");
        cluster.start().await?;
        say!(
            "starting a film catalogue with {} generated posters",
            units::count(self.films.into())
        );
        let (catalogue, api_url) = catalogue::start(cluster.layout(), self.films).await?;
        cluster.keep(catalogue);
        let remote = Remote::new(cluster.place())?;
        choose_devices(&mut plan, &remote).await?;
        let id = start(&remote, &plan, &Source::Api(api_url)).await?;
        tokio::select! {
            outcome = finish(&remote, id, shown) => outcome?,
            gave_up = cluster.supervise() => match gave_up {
                Err(error) => return Err(error),
                Ok(never) => match never {},
            },
        }
        say!("the bench took {}", units::duration(started.elapsed()));
        Ok(())
    }
}
