//! Before a rank's child can start: inputs in the cache, folders, and a place to meet.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use marquee_domain::failure::Failure;
use marquee_domain::spec::JobKind;
use marquee_domain::{FailureClass, Rendezvous};
use serde::Deserialize;
use tracing::warn;

use super::task::{Interrupt, RankTask, disk_fault, local_fault};
use super::{furnish, temporary};
use crate::cache::CacheError;
use crate::fault::is_full;
use crate::process::launcher::{Child, Launch, Status, stderr_path, stdout_path};
use crate::transfer::{TransferError, is_disk_full};
use crate::{durable, files};

/// How long the rendezvous store may take to listen: it loads libtorch, from a cold disk if need be.
const STORE_START_MAX: Duration = Duration::from_secs(60);
/// How long a keeper may take to end what it keeps before its session is killed around it.
pub(super) const KEEPER_KILL_MAX: Duration = Duration::from_secs(3);
/// How often a child that is to end is told so again.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// Inputs and checkpoint as folders.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) folders: BTreeMap<String, PathBuf>,
    pub(super) resume: Option<PathBuf>,
}

/// What `marquee-trainer store` says when it listens.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum StoreEvent {
    Listening { host: String, port: u16 },
}

/// What no attempt has come back for in this time is left from a job that ended elsewhere.
const SCRATCH_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Removes the folders beside `own` that nothing was made in for long. One that cannot be removed
/// is tried again with the next job.
fn sweep_scratch(own: &std::path::Path, now: SystemTime) {
    let Some(Ok(folders)) = own.parent().map(fs::read_dir) else {
        return;
    };
    for folder in folders.flatten().map(|entry| entry.path()) {
        // The journal's folder changes with each of its files, its parent does not.
        let journal = folder.join(".journal");
        let changed = [&folder, &journal]
            .into_iter()
            .filter_map(|path| fs::metadata(path).and_then(|found| found.modified()).ok())
            .max();
        let is_old = changed
            .and_then(|changed| now.duration_since(changed).ok())
            .is_some_and(|age| age > SCRATCH_KEPT_FOR);
        if folder != own && is_old {
            durable::remove_or_leave(&folder);
        }
    }
}

impl RankTask {
    /// Brings all inputs into the cache.
    pub(super) async fn fetch_inputs(&self) -> Result<Inputs, Interrupt> {
        let mut inputs = Inputs::default();
        let now = || SystemTime::from(self.host.env.clock.now());
        for (name, manifest) in &self.rank.assignment.inputs {
            let folder = self
                .host
                .cache
                .ensure(manifest, &self.host.transfers, now())
                .await;
            inputs
                .folders
                .insert(name.clone(), folder.map_err(|e| input_failure(name, &e))?);
        }
        if let Some(resume) = &self.rank.assignment.resume {
            let folder = self
                .host
                .cache
                .ensure(&resume.manifest, &self.host.transfers, now())
                .await;
            let name = format!("checkpoint of step {}", resume.step);
            inputs.resume = Some(folder.map_err(|e| input_failure(&name, &e))?);
        }
        Ok(inputs)
    }

    /// Makes the rank's folders, empty, and finds or makes the one that its job's attempts share.
    pub(super) fn make_folders(&self, kind: JobKind) -> Result<(), Interrupt> {
        if kind == JobKind::Fetch {
            let scratch = self.rank.dir.scratch(self.rank.key);
            // What another account has made may lead anywhere: it is none of ours to go on from.
            let is_others = furnish::is_given(&scratch);
            let make = match self.host.cages_for(kind) {
                None if is_others => files::make_new_folder,
                Some(_) | None => files::make_folder,
            };
            make(&scratch).map_err(|e| disk_fault("the scratch folder cannot be made", &e))?;
            sweep_scratch(&scratch, SystemTime::from(self.host.env.clock.now()));
        }
        let dir = &self.rank.dir;
        let mut folders = vec![dir.work(), dir.output()];
        match kind {
            // Nobody tells it of any other.
            JobKind::Command => {}
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => {
                folders.extend([dir.checkpoints(), dir.rate()]);
            }
        }
        for folder in folders {
            files::make_new_folder(&folder)
                .map_err(|e| disk_fault("a folder of the rank cannot be made", &e))?;
        }
        let is_caged = self.host.cages_for(kind).is_some();
        if is_caged && matches!(kind, JobKind::Train | JobKind::Eval) {
            // Before its place in the environment is asked for.
            files::make_new_folder(&dir.pulse())
                .map_err(|e| disk_fault("a folder of the rank cannot be made", &e))?;
        }
        // The other place for it is the worker's own /tmp, where no other account comes.
        let made = if is_caged {
            files::make_new_folder(&dir.tmp())
        } else {
            temporary::make(dir)
        };
        made.map_err(|e| disk_fault("the rank's temporary folder cannot be made", &e))?;
        Ok(())
    }

    /// A place for the attempt's ranks to meet, where this worker hosts it.
    pub(super) async fn host_rendezvous(
        &self,
        kind: JobKind,
    ) -> Result<Option<Rendezvous>, Interrupt> {
        if !self.rank.assignment.hosts_rendezvous {
            return Ok(None);
        }
        match kind {
            JobKind::Train | JobKind::Eval => self.start_store(kind).await.map(Some),
            // Rank 0's own program will listen, as under torchrun.
            JobKind::Command | JobKind::Fetch | JobKind::Preprocess => {
                let host = self.host.inventory.address.clone();
                // It is free now. Should somebody take it before the program listens, this attempt fails and
                // the next one asks anew.
                let port = self.host.env.machine.free_port(&host).map_err(|e| {
                    local_fault(&format!("no port for the rendezvous at {host}: {e}; check the worker's \"address\" setting"))
                })?;
                Ok(Some(Rendezvous { host, port }))
            }
        }
    }

    /// Starts the store in a process of its own: it outlives every rank, and the daemon.
    async fn start_store(&self, kind: JobKind) -> Result<Rendezvous, Interrupt> {
        let project = self.spec()?.sharing.project.clone();
        let dir = self.rank.dir.store();
        let fault =
            |e: io::Error| local_fault(&format!("the rendezvous store cannot be started: {e}"));
        files::make_folder(&dir).map_err(fault)?;
        let launcher = &self.host.env.launcher;
        let mut store = match launcher.adopt(&dir).map_err(fault)? {
            Some(store) => store,
            None => {
                // It listens to the job's ranks, and is no safer from them than they are from each other.
                let caged = self
                    .host
                    .cages_for(kind)
                    .map(|cages| furnish::furnish_store(cages, &project, &self.rank.dir))
                    .transpose()
                    .map_err(fault)?;
                let mut env = self.host.base_env.own();
                if let Some(caged) = &caged {
                    caged.name(&self.host.base_env.own(), &mut env);
                }
                launcher
                    .start(&Launch {
                        dir: &dir,
                        work_dir: &dir,
                        argv: vec![
                            self.host.config.bin_dir.join("marquee-trainer").into(),
                            "store".into(),
                            "--host".into(),
                            self.host.inventory.address.clone().into(),
                            // The system chooses: a port that was free a moment ago may be taken.
                            "--port".into(),
                            "0".into(),
                        ],
                        env,
                        events: false,
                        fence: None,
                        cage: caged.map(|caged| caged.cage),
                        tasks_max: self.host.config.tasks_max,
                    })
                    .map_err(fault)?
            }
        };
        let listening = async {
            loop {
                // In this order: what it said before it ended is there when its end is seen.
                let status = store.status().map_err(fault)?;
                if let Some(rendezvous) =
                    listening(&files::read(&stdout_path(&dir)).unwrap_or_default())
                {
                    return Ok(rendezvous);
                }
                if let Status::Gone(exit) = status {
                    let said = files::read(&stderr_path(&dir)).unwrap_or_default();
                    return Err(local_fault(&format!(
                        "the rendezvous store ended before it listened ({exit:?}): {}",
                        String::from_utf8_lossy(&said).trim()
                    )));
                }
                news_of(store.as_mut()).await;
            }
        };
        let too_long = |_| Err(local_fault("the rendezvous store did not listen in time"));
        tokio::time::timeout(STORE_START_MAX, listening)
            .await
            .unwrap_or_else(too_long)
    }

    /// Ends the store, where there is one.
    pub async fn stop_store(&self) {
        let dir = self.rank.dir.store();
        // Its process is gone with its boot, and the number may be another's.
        if !dir.exists() || self.rank.boot != self.host.boot {
            return;
        }
        match self.host.env.launcher.adopt(&dir) {
            Ok(Some(store)) => end(store).await,
            Ok(None) => {}
            Err(error) => {
                warn!(rank = %self.rank.key, %error, "the rendezvous store cannot be found")
            }
        }
    }
}

/// Waits until it is time to look at a child again.
pub(super) async fn news_of(child: &mut dyn Child) {
    let look = child.look_every();
    let _either = tokio::time::timeout(look, child.news()).await;
}

/// Kills a child until nothing of it is left.
pub(crate) async fn end(mut child: Box<dyn Child>) {
    let since = tokio::time::Instant::now();
    while matches!(child.status(), Ok(Status::Starting | Status::Running)) {
        child.kill();
        if since.elapsed() >= KEEPER_KILL_MAX {
            child.kill_session();
        }
        let _either = tokio::time::timeout(KILL_AGAIN, child.news()).await;
    }
    // One whose keeper was killed may have left something; it holds no device, and is not waited for.
    if !child.is_buried() && !child.survivors().is_empty() {
        child.kill_session();
    }
}

fn listening(stdout: &[u8]) -> Option<Rendezvous> {
    // A line that is still being written may end in the middle of the port.
    let whole_lines = stdout
        .split_inclusive(|b| *b == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    whole_lines.into_iter().find_map(|line| {
        let StoreEvent::Listening { host, port } = serde_json::from_slice(line).ok()?;
        Some(Rendezvous { host, port })
    })
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "tonic's codes: the two that name damage are singled out"
)]
fn input_failure(name: &str, error: &CacheError) -> Interrupt {
    let class = match error {
        CacheError::NoRoom { .. } | CacheError::DiskFull { .. } => FailureClass::DiskFull,
        CacheError::Disk { source, .. } if is_full(source) => FailureClass::DiskFull,
        CacheError::Disk { .. } => FailureClass::Crash,
        CacheError::Transfer(transfer) if is_disk_full(transfer) => FailureClass::DiskFull,
        CacheError::Transfer(TransferError::Damaged { .. }) => FailureClass::BadInput,
        CacheError::Transfer(TransferError::Refused { status, .. }) => match status.code() {
            // It is broken where it comes from: no other worker could have it either.
            tonic::Code::NotFound | tonic::Code::DataLoss => FailureClass::BadInput,
            _ => FailureClass::Network,
        },
        CacheError::Transfer(
            TransferError::Disk { .. }
            | TransferError::Unstorable(_)
            | TransferError::NoRoom(_)
            | TransferError::Manifest(_)
            | TransferError::TooLong { .. },
        ) => FailureClass::Crash,
    };
    Interrupt::Failed(Failure {
        class,
        message: format!("input {name:?} cannot be had: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_listens_when_its_line_is_whole() {
        assert_eq!(
            listening(br#"{"event":"listening","host":"h","port":4"#),
            None
        );
        let found =
            listening(b"noise\n{\"event\":\"listening\",\"host\":\"h\",\"port\":41}\n").unwrap();
        assert_eq!(
            found,
            Rendezvous {
                host: "h".into(),
                port: 41
            }
        );
    }
}
