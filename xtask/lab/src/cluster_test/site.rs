//! The hosts of the test, and what people do on them: two heads with a coordinator each, of which the first also runs
//! Postgres; two workers; and a desk, where somebody submits jobs. Two folders are a file server's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::host::{Host, Shared};
use super::network::Network;

/// Names and addresses (TEST-NET-1, which nobody has).
const HOSTS: [(&str, &str); 5] = [
    ("head-1", "192.0.2.11"),
    ("head-2", "192.0.2.12"),
    ("worker-1", "192.0.2.21"),
    ("worker-2", "192.0.2.22"),
    ("desk", "192.0.2.31"),
];
/// Where hosts see the packages, and the pictures that jobs fetch.
pub(super) const PACKAGES_AT: &str = "/srv/packages";
pub(super) const PICTURES_AT: &str = "/srv/pictures";
/// Where both heads see the artifacts.
pub(super) const ARTIFACTS_AT: &str = "/srv/marquee";

/// Waits end with an error after this.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Site {
    pub network: Network,
    hosts: Vec<Host>,
    /// Where files of the test lie that hosts do not see.
    pub folder: PathBuf,
    pub packages: PathBuf,
    pub pictures: PathBuf,
    /// Commands that a person typed.
    typed: RefCell<BTreeMap<String, u32>>,
    /// Where the person sits who submits jobs.
    seat: Cell<Seat>,
}

/// Where somebody asks the coordinator from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// As root on the first head.
    Head,
    /// On a host of his own, with a token.
    Desk,
}

impl Site {
    /// Boots all hosts. They have nothing of Marquee.
    pub(super) fn boot(folder: &Path, base: &Path, packages: &Path) -> Result<Self> {
        let network = Network::start()?;
        let disks = folder.join("hosts");
        let share = |name: &str, at: &'static str, mode: u32| -> Result<Shared> {
            let folder = disks.join("shared").join(name);
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?;
            Ok(Shared { folder, at })
        };
        // For everybody: the account that writes there may have another number on each host.
        let artifacts = share("artifacts", ARTIFACTS_AT, 0o777)?;
        let pictures = share("pictures", PICTURES_AT, 0o755)?;
        let from_dist = Shared {
            folder: packages.to_owned(),
            at: PACKAGES_AT,
        };
        let mut site = Self {
            network,
            hosts: Vec::new(),
            folder: folder.to_owned(),
            packages: packages.to_owned(),
            pictures: pictures.folder.clone(),
            typed: RefCell::default(),
            seat: Cell::new(Seat::Head),
        };
        let names: String = HOSTS
            .iter()
            .map(|(name, address)| format!("{address} {name}\n"))
            .collect();
        for (name, address) in HOSTS {
            let shared = match name.split('-').next() {
                Some("head") => vec![from_dist.clone(), artifacts.clone()],
                Some("worker") => vec![from_dist.clone(), pictures.clone()],
                _ => vec![from_dist.clone()],
            };
            let host = Host::new(name, address, &site.network, (&disks, base), shared)?;
            host.write("/etc/hosts", &format!("127.0.0.1 localhost\n{names}"))?;
            site.hosts.push(host);
        }
        for host in &mut site.hosts {
            host.power_on()?;
        }
        // All are switched on before any is waited for: they boot side by side.
        for host in &mut site.hosts {
            host.until_up()?;
        }
        Ok(site)
    }

    pub(super) fn host(&self, name: &str) -> Result<&Host> {
        let host = self.hosts.iter().find(|host| host.name == name);
        host.with_context(|| format!("no host {name:?}"))
    }

    pub(super) fn host_mut(&mut self, name: &str) -> Result<&mut Host> {
        let host = self.hosts.iter_mut().find(|host| host.name == name);
        host.with_context(|| format!("no host {name:?}"))
    }

    /// Runs on a host, as the test's own doing.
    pub(super) fn on(&self, host: &str, script: &str) -> Result<String> {
        self.host(host)?.run(script)
    }

    /// Runs on a host what docs/deploy.md has people type, and counts it.
    pub(super) fn type_on(&self, host: &str, line: &str) -> Result<String> {
        *self.typed.borrow_mut().entry(host.to_owned()).or_default() += 1;
        self.on(host, line)
    }

    /// How many commands were typed, and on which host.
    pub(super) fn typed(&self) -> (u32, String) {
        let typed = self.typed.borrow();
        let each = typed
            .iter()
            .map(|(host, count)| format!("{count} on {host}"));
        let each = each.collect::<Vec<_>>().join(", ");
        (typed.values().sum(), each)
    }

    /// From now on jobs are submitted from there.
    pub(super) fn sit_down_at(&self, seat: Seat) {
        self.seat.set(seat);
    }

    /// Runs the command line where the person sits who submits jobs, as that person.
    pub(super) fn at_desk(&self, words: &str) -> Result<String> {
        match self.seat.get() {
            Seat::Head => self.on("head-1", &format!("marquee {words}")),
            Seat::Desk => self.on(
                "desk",
                &format!("MARQUEE_TOKEN_FILE=/root/token marquee {words}"),
            ),
        }
    }

    /// Puts a file where that person sits.
    pub(super) fn lay_on_desk(&self, path: &str, text: &str) -> Result<()> {
        let host = match self.seat.get() {
            Seat::Head => "head-1",
            Seat::Desk => "desk",
        };
        self.host(host)?.write(path, text)
    }

    /// Asks at the desk, and gives the answer.
    pub(super) fn marquee(&self, words: &[&str]) -> Result<Value> {
        let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let text = self.at_desk(&format!("--output json {}", quoted.join(" ")))?;
        serde_json::from_str(&text).with_context(|| format!("marquee {}: {text}", words.join(" ")))
    }

    /// Submits a document and gives the number of its only job.
    pub(super) fn submit(&self, document: &str) -> Result<u64> {
        self.lay_on_desk("/root/job.toml", document)?;
        // --fresh: scenes submit the same document again and again, and its step would be reused.
        let pipeline = self.at_desk("--output quiet submit --fresh /root/job.toml")?;
        let jobs = self.marquee(&["show", pipeline.trim()])?;
        jobs["jobs"][0]["id"]
            .as_u64()
            .with_context(|| format!("no job in {jobs}"))
    }

    pub(super) fn job(&self, job: u64) -> Result<Value> {
        self.marquee(&["show", &job.to_string()])
    }

    /// The worker on which rank 0 of a job's newest attempt runs; None where it does not run.
    pub(super) fn runs_on(&self, job: u64) -> Result<Option<String>> {
        let detail = self.job(job)?;
        let newest = detail["attempts"]
            .as_array()
            .and_then(|all| all.iter().max_by_key(|attempt| attempt["number"].as_u64()));
        let rank = newest.map(|attempt| &attempt["ranks"][0]);
        let running = rank.filter(|rank| rank["state"] == "running");
        let name = running.and_then(|rank| rank["worker_name"].as_str());
        Ok(name.map(str::to_owned))
    }

    /// Waits until a job runs, and says where.
    pub(super) fn until_running(&self, job: u64) -> Result<String> {
        let mut place = None;
        until(&format!("job {job} to run"), || {
            place = self.runs_on(job)?;
            Ok(place.is_some())
        })?;
        place.context("it runs somewhere")
    }

    /// Waits for a job's end, which must be a good one.
    pub(super) fn until_succeeded(&self, job: u64) -> Result<Value> {
        let mut detail = Value::Null;
        until(&format!("job {job} to end"), || {
            detail = self.job(job)?;
            let state = detail["state"].as_str().unwrap_or_default();
            Ok(["succeeded", "failed", "cancelled"].contains(&state))
        })?;
        match detail["state"].as_str() {
            Some("succeeded") => Ok(detail),
            _ => bail!("job {job} did not succeed: {detail:#}"),
        }
    }

    /// What the coordinator says of a worker.
    pub(super) fn worker(&self, name: &str) -> Result<Option<Value>> {
        let workers = self.marquee(&["workers"])?;
        let found = workers
            .as_array()
            .or_else(|| workers["workers"].as_array())
            .into_iter()
            .flatten()
            .find(|worker| worker["name"] == name);
        Ok(found.cloned())
    }

    pub(super) fn until_online(&self, name: &str) -> Result<()> {
        until(&format!("{name} to be online"), || {
            let worker = self.worker(name)?;
            Ok(worker.is_some_and(|worker| worker["state"] == "online"))
        })
    }

    /// The name of the host whose coordinator leads; None while nobody does, or nobody answers.
    pub(super) fn leader(&self) -> Option<String> {
        let answer = self.marquee(&["coordinators"]).ok()?;
        let leader = answer["leader"].as_str()?;
        HOSTS
            .iter()
            .find(|(name, _)| leader.contains(name))
            .map(|(name, _)| (*name).to_owned())
    }

    pub(super) fn keep_logs(&self, logs: &Path) -> Result<()> {
        for host in &self.hosts {
            host.keep_logs(logs)?;
        }
        Ok(())
    }
}

/// Waits for something to become true. Errors on the way count as "not yet": parts of the cluster are away on purpose.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = is_so();
        if let Ok(true) = now {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return match now {
                Err(error) => Err(error).with_context(|| format!("waited in vain for {what}")),
                Ok(_) => bail!("waited in vain for {what}"),
            };
        }
        sleep(POLL);
    }
}

/// A word for the shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_through_the_shell_as_it_was() {
        for word in ["plain", "it's", "a b;$HOME"] {
            let script = format!("printf %s {}", quoted(word));
            let said = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(String::from_utf8_lossy(&said.unwrap().stdout), word);
        }
    }
}
