//! A server for one test or task: a folder of its own in memory or below /tmp, no fsync, gone when it is dropped.
//!
//! Invariant: when the process that started it ends, in whatever way, the server ends and its folder goes. A
//! small shell stands between the two and waits on a pipe whose other end only we hold; the kernel closes
//! that end even when we are killed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::PostgresError;
use crate::server::is_ready;

/// How long a server on a busy machine may take to accept connections.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// The file system that lies in memory, and what must be free there. Containers often have 64 MiB of it.
const MEMORY: &str = "/dev/shm";
const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// Starts the command given as arguments, and when stdin closes sends it the signal named second. Then it
/// removes the folder named first, unless a file in it asks for it to be kept.
const GUARD: &str = r#"
folder=$1; signal=$2; shift 2
"$@" </dev/null &
server=$!
while read -r _; do :; done
kill -"$signal" "$server" 2>/dev/null
wait "$server"
[ -e "$folder/keep" ] || rm -rf "$folder"
exit 0
"#;

/// What every such server runs with.
const SETTINGS: [&str; 4] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
];

/// A running server.
#[derive(Debug)]
pub struct Throwaway {
    guard: Child,
    folder: PathBuf,
    user: String,
}

impl Throwaway {
    /// Makes a cluster with the programs in `bin`, owned by the database user `user`, and starts it.
    /// `initdb` are more arguments for that program, `settings` more settings of the server.
    pub fn make(
        bin: &Path,
        user: &str,
        initdb: &[&str],
        settings: &[&str],
    ) -> Result<Self, PostgresError> {
        let folder = server_folder()?;
        let made = run(
            "initdb",
            unprivileged(&bin.join("initdb"))
                .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
                .arg(format!("--username={user}"))
                .args(initdb)
                .arg("--pgdata")
                .arg(folder.join("data")),
        );
        made.and_then(|()| Self::start(bin, folder.clone(), user, settings, "INT"))
            .inspect_err(|_| remove(&folder))
    }

    /// Starts a copy of the cluster in the folder `data`, which was made with the same programs and
    /// stopped in order.
    pub fn copy(
        bin: &Path,
        user: &str,
        data: &Path,
        settings: &[&str],
    ) -> Result<Self, PostgresError> {
        // Copied files spare each of dozens of tests an initdb of its own.
        let folder = server_folder()?;
        let copied = run(
            "cp",
            Command::new("cp")
                .arg("-Rp")
                .arg(data)
                .arg(folder.join("data")),
        );
        // Nobody reads it again: it need not write down what it holds.
        copied
            .and_then(|()| Self::start(bin, folder.clone(), user, settings, "QUIT"))
            .inspect_err(|_| remove(&folder))
    }

    fn start(
        bin: &Path,
        folder: PathBuf,
        user: &str,
        settings: &[&str],
        signal: &str,
    ) -> Result<Self, PostgresError> {
        let log = folder.join("log");
        let file = File::create(&log).map_err(PostgresError::io("create", &log))?;
        let also = file.try_clone().map_err(PostgresError::io("open", &log))?;
        let server = unprivileged(&bin.join("postgres"));
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARD, "sh"])
            .arg(&folder)
            .arg(signal)
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(&folder);
        for setting in SETTINGS.iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        // A group of its own: Ctrl-C is for us, and the guard must outlive us.
        let guard = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(also)
            .stderr(file)
            .spawn()
            .map_err(PostgresError::io("start", Path::new("sh")))?;
        let mut started = Self {
            guard,
            folder,
            user: user.to_owned(),
        };
        started.wait_until_ready()?;
        Ok(started)
    }

    fn wait_until_ready(&mut self) -> Result<(), PostgresError> {
        let deadline = Instant::now() + READY_WITHIN;
        let data = self.folder.join("data");
        while !is_ready(&data, None) {
            let log = self.folder.join("log");
            let said = fs::read_to_string(&log).unwrap_or_default();
            // The guard waits for us, not for the server, so that only the log tells of its end.
            if Instant::now() > deadline || said.contains("FATAL:") {
                let why = format!("it said {said:?}");
                return Err(PostgresError::NotReady { why, log });
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(())
    }

    /// The folder of its socket, log and data. It goes with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// For sqlx and everything else that takes a URL.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{}@localhost/{database}?host={}",
            self.user,
            self.folder.display()
        )
    }

    /// Stops it in order and moves its data to `to`, which [`copy`](Self::copy) can start from.
    pub fn stop_and_keep(mut self, to: &Path) -> Result<(), PostgresError> {
        let mark = self.folder.join("keep");
        fs::write(&mark, "").map_err(PostgresError::io("create", &mark))?;
        self.end();
        let data = self.folder.join("data");
        // cp: the two folders may be on different disks.
        let moved = run("cp", Command::new("cp").arg("-Rp").arg(&data).arg(to));
        remove(&self.folder);
        moved
    }

    fn end(&mut self) {
        drop(self.guard.stdin.take());
        // It can fail only where somebody else has waited for our child: then it is gone.
        let _ = self.guard.wait();
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where files lie in memory, if there is room for a server: a database is three hundred files, and making and removing
/// them is most of what one costs that lives for a second.
#[must_use]
pub fn memory() -> Option<PathBuf> {
    let room = nix::sys::statvfs::statvfs(MEMORY).ok()?;
    let bytes = room.blocks_available() as u64 * room.fragment_size() as u64;
    (bytes >= MEMORY_BYTES_MIN).then(|| PathBuf::from(MEMORY))
}

/// A new private folder directly below /tmp: a socket's path may not exceed 107 bytes.
pub fn fresh_folder() -> Result<PathBuf, PostgresError> {
    fresh_folder_in(Path::new("/tmp"))
}

fn server_folder() -> Result<PathBuf, PostgresError> {
    fresh_folder_in(memory().as_deref().unwrap_or(Path::new("/tmp")))
}

fn fresh_folder_in(above: &Path) -> Result<PathBuf, PostgresError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = above.join(format!("marquee-pg-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            // A process of that number was killed together with its guard.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PostgresError::io("create", &folder)(error)),
        }
    }
}

/// `program`, not as root, which Postgres refuses: in a user namespace without a mapping it does not see
/// that it is. A program of its own does it here, for we have threads and a test no launcher.
fn unprivileged(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.arg("--user").arg(program);
    command
}

fn run(program: &'static str, command: &mut Command) -> Result<(), PostgresError> {
    let path = PathBuf::from(command.get_program());
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(PostgresError::io("start", &path))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let mut output = String::from_utf8_lossy(&text).trim_end().to_owned();
    if path.file_name() == Some(OsStr::new("unshare")) {
        output.push_str("\nPostgres does not run as root; where this is no user namespace (unshare --user), run this as another user");
    }
    Err(PostgresError::Program { program, output })
}

/// Removes a folder that is ours; what is left in /tmp harms nobody.
fn remove(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin() -> PathBuf {
        crate::by_environment().unwrap().folder
    }

    fn postmaster(folder: &Path) -> PathBuf {
        let text = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
        Path::new("/proc").join(text.lines().next().unwrap())
    }

    #[test]
    fn it_leaves_nothing_and_what_was_kept_starts_again() {
        let server = Throwaway::make(&bin(), "tester", &[], &[]).unwrap();
        let folder = server.folder().to_owned();
        assert!(folder.join(".s.PGSQL.5432").exists());
        assert!(server.url("postgres").contains("tester@"));
        let process = postmaster(&folder);
        assert!(process.exists());
        let kept = fresh_folder().unwrap();
        server.stop_and_keep(&kept.join("data")).unwrap();
        assert!(!process.exists() && !folder.exists());

        let server = Throwaway::copy(&bin(), "tester", &kept.join("data"), &[]).unwrap();
        let (folder, process) = (server.folder().to_owned(), postmaster(server.folder()));
        drop(server);
        assert!(!process.exists(), "the server still runs");
        assert!(!folder.exists(), "{folder:?} is still there");
        fs::remove_dir_all(kept).unwrap();
    }

    #[test]
    fn a_server_that_cannot_start_says_why_and_leaves_no_folder() {
        let error = Throwaway::make(&bin(), "tester", &[], &["port=none"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("port"), "{text}");
        let error = Throwaway::make(Path::new("/nowhere"), "tester", &[], &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nowhere") || text.contains("initdb"),
            "{text}"
        );
        let error = Throwaway::make(&bin(), "tester", &["--nonsense"], &[]).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
    }
}
