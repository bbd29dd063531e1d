//! Workers as jobs of a Slurm that runs on this host alone: the file that users submit, as they submit it.
//!
//! Needs root and Debian's slurm-wlm and munge; where they are not there, the test says so by name.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::TestCluster;
use marquee_e2e::process::bin_dir;
use nix::unistd::{Uid, User, chown};

/// Slurm's daemons find each other within seconds; a busy machine takes longer.
const DEADLINE: Duration = Duration::from_secs(90);

/// Hands back what it has when it is told to leave, and ends at once the next time.
const JOB: &str = r#"
name = "pilot"
[jobs.long]
kind = "command"
argv = ["sh", "-c", '''
if [ "$MARQUEE_ATTEMPT" != 1 ]; then echo "attempt $MARQUEE_ATTEMPT"; exit 0; fi
trap 'echo saved; exit 3' TERM
echo begun
while :; do sleep 0.2; done
''']
max_attempts = 1
"#;

/// A Slurm of one host, in a folder.
struct Slurm {
    folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Slurm {
    /// `None`: this host has no Slurm, or this user may not start it.
    fn start() -> Result<Option<Self>> {
        let user = User::from_name("munge")?;
        let has = |program: &str| Path::new("/usr/sbin").join(program).exists();
        let (true, true, true, true, Some(user)) = (
            Uid::effective().is_root(),
            has("munged"),
            has("slurmctld"),
            has("slurmd"),
            user,
        ) else {
            eprintln!("skipped: needs root, slurm-wlm and munge (apt install slurm-wlm munge)");
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("mqslurm").tempdir()?;
        let root = folder.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        for name in ["state", "spool", "munge"] {
            fs::create_dir(root.join(name))?;
        }
        let munge = root.join("munge");
        let mut key = [0; 128];
        fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
        fs::write(munge.join("key"), key)?;
        fs::set_permissions(munge.join("key"), fs::Permissions::from_mode(0o400))?;
        for path in [munge.clone(), munge.join("key")] {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        let (controller, host) = (free_port()?, free_port()?);
        let at = root.display();
        let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let name = name.trim().split('.').next().unwrap_or_default();
        fs::write(
            root.join("slurm.conf"),
            format!(
                "ClusterName=test\nSlurmctldHost={name}(127.0.0.1)\nSlurmctldPort={controller}\nSlurmdPort={host}\n\
                 SlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\nAuthInfo=socket={at}/munge/socket\n\
                 StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool\nSlurmctldPidFile={at}/slurmctld.pid\n\
                 SlurmdPidFile={at}/slurmd.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
                 SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nReturnToService=2\nMpiDefault=none\n\
                 NodeName={name} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN\n\
                 PartitionName=all Nodes=ALL Default=YES State=UP\n"
            ),
        )?;
        let mut slurm = Self {
            folder,
            daemons: Vec::new(),
        };
        let of_munge = |name: &str| format!("--{name}={}", munge.join(name).display());
        let mut munged = Command::new("/usr/sbin/munged");
        munged
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .arg("--foreground");
        munged.arg(format!("--key-file={}", munge.join("key").display()));
        munged.args(["socket", "pid-file", "log-file", "seed-file"].map(of_munge));
        slurm.run("munged", munged)?;
        slurm.until("munge's socket", || Ok(munge.join("socket").exists()))?;
        for (program, words) in [("slurmctld", vec!["-D", "-c"]), ("slurmd", vec!["-D"])] {
            let mut daemon = Command::new(Path::new("/usr/sbin").join(program));
            daemon.args(words);
            slurm.run(program, daemon)?;
        }
        slurm.until("an idle node", || {
            Ok(slurm.ask("sinfo", &["--noheader", "--format=%T"])?.trim() == "idle")
        })?;
        Ok(Some(slurm))
    }

    fn run(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = fs::File::create(self.folder.path().join(format!("{name}.log")))?;
        let daemon = command
            .env("SLURM_CONF", self.folder.path().join("slurm.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// What a command of Slurm's prints.
    fn ask(&self, program: &str, words: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(words)
            .env("SLURM_CONF", self.folder.path().join("slurm.conf"))
            .output()
            .with_context(|| format!("running {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !holds()? {
            let logs = || -> String {
                let logs = ["munged", "slurmctld", "slurmd"]
                    .map(|name| fs::read_to_string(self.folder.path().join(format!("{name}.log"))));
                logs.into_iter().flatten().collect()
            };
            ensure!(start.elapsed() < DEADLINE, "no {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What its daemons and the allocations wrote.
    fn logs(&self) -> String {
        let files = fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        let text = |file: fs::DirEntry| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            format!("{}:\n{text}\n", file.file_name().display())
        };
        logs.map(text).collect()
    }

    /// Submits the file of `deploy/slurm` as its first lines say. Gives the number of the allocation.
    fn allocate(&self, cluster: &TestCluster) -> Result<String> {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm/marquee-worker.sbatch");
        let export = format!(
            "--export=PATH=/usr/bin:/bin,HOME={at},MARQUEE_SCRATCH={at},MARQUEE_WORKER_BIN={bin}",
            at = self.scratch().display(),
            bin = bin_dir()?.join("marquee-worker").display()
        );
        let log = format!(
            "--output={}",
            self.folder.path().join("allocation-%j.log").display()
        );
        let file = file.display().to_string();
        let words = ["--parsable", "--time=10", &export, &log, &file];
        let id = self.ask(
            "sbatch",
            &[&words[..], &["--coordinator", &cluster.url()]].concat(),
        )?;
        ensure!(!id.trim().is_empty(), "sbatch gave no number");
        Ok(id.trim().to_owned())
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // An allocation that is left ends as at its time limit; what outlives that would outlive Slurm.
        let _ = self.ask("scancel", &["--user=root", "--batch", "--signal=TERM"]);
        let _ = self.until("end of the allocations", || {
            Ok(self.ask("squeue", &["--noheader"])?.trim().is_empty())
        });
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allocation_that_ends_hands_its_job_to_the_next() -> Result<()> {
    let Some(slurm) = Slurm::start()? else {
        return Ok(());
    };
    let cluster = TestCluster::start(0).await?;
    let first = slurm.allocate(&cluster)?;
    let online = cluster.wait_online(1).await;
    online.with_context(|| slurm.logs())?;
    let job = cluster.submit("pilot", JOB, &[]).await?.jobs[0].id;
    let start = Instant::now();
    while !cluster.log_of(job).await?.contains("begun") {
        ensure!(start.elapsed() < DEADLINE, "the job did not begin");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What Slurm sends before the time limit, to the script alone.
    slurm.ask("scancel", &["--batch", "--signal=TERM", &first])?;
    slurm.until("end of the allocation", || {
        Ok(slurm.ask("squeue", &["--noheader"])?.trim().is_empty())
    })?;
    let left: Vec<_> = fs::read_dir(slurm.scratch())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("marquee-"))
        .collect();
    ensure!(
        left.is_empty(),
        "the worker's folder is still there: {left:?}"
    );
    slurm.allocate(&cluster)?;
    // One attempt was all that it had: the hand-over has spent none.
    cluster.wait_success(job, DEADLINE).await?;
    let log = cluster.log_of(job).await?;
    assert!(log.contains("attempt 2"), "{log}");
    Ok(())
}
