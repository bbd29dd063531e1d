//! A real Postgres for tests: one server for each test process, one database for each test.
//!
//! The server starts from a data folder that was made and migrated once and is kept beside the
//! build (`marquee-test-postgres-<key>`), so that a test has its database in about 0.3 s. A shell
//! holds the server: when its stdin closes, that is when this process ends in whatever way, it
//! stops the server and removes what it left.
//!
//! Not here: anything for production; fsync is off.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Db, Result, Tx};

/// The folder of the Postgres programs, where they are not in one of the usual places.
const BIN_VARIABLE: &str = "MARQUEE_POSTGRES_BIN";
const TEMPLATE: &str = "marquee_template";
/// How long a server may take to accept connections on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
/// Connections of one test's pool.
const CONNECTIONS_MAX: u32 = 10;

/// Runs the server until stdin closes, then removes its folder. `QUIT` stops it without a last
/// checkpoint; what it holds is thrown away.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
    -c synchronous_commit=off -c max_connections=200 -c autovacuum=off >"$2/log" 2>&1 &
server=$!
cat >/dev/null
kill -"$3" "$server" 2>/dev/null
wait "$server"
[ "$3" = QUIT ] && rm -rf "$2"
exit 0
"#;

/// A migrated, empty database of a test's own.
#[derive(Debug)]
pub struct TestDatabase {
    pub db: Db,
    /// For processes that the test starts.
    pub url: String,
}

impl TestDatabase {
    /// Makes a database, and starts the process's server if this is its first.
    ///
    /// # Panics
    /// When Postgres' programs cannot be found or do not start; the message names the way out.
    pub async fn create() -> Self {
        static SERVER: OnceCell<Server> = OnceCell::const_new();
        let server = SERVER.get_or_init(Server::start).await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        server
            .execute(format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await;
        Self::open(server.url(&name)).await
    }

    /// Makes a database without tables: for tests of the migrations themselves.
    ///
    /// # Panics
    /// As [`create`](Self::create).
    pub async fn create_empty() -> Self {
        let database = Self::create().await;
        database
            .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await;
        database
    }

    /// Runs statements that no function of the store has.
    ///
    /// # Panics
    /// When Postgres refuses one.
    pub async fn execute(&self, statements: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(self.db.pool())
            .await;
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// The number that a query gives.
    ///
    /// # Panics
    /// When it gives none.
    pub async fn number(&self, query: &str) -> i64 {
        let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(self.db.pool())
            .await;
        number.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The words that a query gives, one a row.
    ///
    /// # Panics
    /// When Postgres refuses it.
    pub async fn words(&self, query: &str) -> Vec<String> {
        let words = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_all(self.db.pool())
            .await;
        words.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    async fn open(url: String) -> Self {
        let options = PgConnectOptions::from_str(&url).expect("the URL is made here");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .connect_with(options)
            .await
            .expect("a database that was just made can be opened");
        let db = Db::over(pool);
        Self { db, url }
    }
}

/// The number that a query gives on the database at `url`.
///
/// # Panics
/// When Postgres does not answer, or gives none.
pub async fn number(url: &str, query: &str) -> i64 {
    let options = PgConnectOptions::from_str(url).expect("the test knows its database");
    let mut connection = PgConnection::connect_with(&options)
        .await
        .unwrap_or_else(|error| panic!("the database does not answer: {error}"));
    let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(&mut connection)
        .await;
    let _ = connection.close().await;
    number.unwrap_or_else(|error| panic!("{query}: {error}"))
}

impl Tx {
    /// Runs a statement that no function of the store has. Returns how many rows it changed.
    pub async fn execute_raw(&mut self, statement: &str) -> Result<u64> {
        let done = sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(self.sql())
            .await?;
        Ok(done.rows_affected())
    }
}

/// A running server. It ends with this process.
#[derive(Debug)]
struct Server {
    folder: PathBuf,
    keeper: Child,
    /// Held open for as long as the server shall run.
    stdin: Option<ChildStdin>,
}

impl Server {
    async fn start() -> Self {
        let bin = find_programs();
        let template = template(&bin).await;
        let folder = fresh_folder();
        let data = folder.join("data");
        run(Command::new("cp").arg("-Rp").arg(&template).arg(&data));
        Self::run(&bin, folder, "QUIT").await
    }

    /// Starts a server on `<folder>/data`, to be stopped by `signal`.
    async fn run(bin: &Path, folder: PathBuf, signal: &str) -> Self {
        let mut command = as_ordinary_user("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(bin)
            .arg(&folder)
            .arg(signal);
        // A group of its own: Ctrl-C is for the tests, and the keeper must outlive them.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut keeper = command.spawn().expect("sh can be started");
        let stdin = keeper.stdin.take();
        let mut server = Self {
            folder,
            keeper,
            stdin,
        };
        server.wait_until_ready().await;
        server
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_MAX;
        let options = PgConnectOptions::from_str(&self.url("postgres")).expect("it is made here");
        loop {
            match PgConnection::connect_with(&options).await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return;
                }
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                    panic!("the test Postgres did not start within {START_MAX:?}: {error}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn execute(&self, statement: String) {
        let options = PgConnectOptions::from_str(&self.url("postgres")).expect("it is made here");
        let mut connection = PgConnection::connect_with(&options)
            .await
            .expect("the test Postgres runs");
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut connection)
            .await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        let _ = connection.close().await;
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://marquee@localhost/{database}?host={}",
            self.folder.display()
        )
    }

    /// Stops the server and waits for its end.
    fn stop(mut self) -> PathBuf {
        self.stdin = None;
        self.keeper.wait().expect("the keeper is our child");
        self.folder
    }
}

/// The data folder that every server starts from, made by the first process that needs it.
async fn template(bin: &Path) -> PathBuf {
    let build = build_folder();
    let place = build.join(format!("marquee-test-postgres-{}", template_key(bin)));
    let lock = File::create(build.join("marquee-test-postgres.lock"))
        .expect("the build folder can be written");
    lock.lock().expect("a file beside the build can be locked");
    if place.is_dir() {
        return place;
    }
    let folder = fresh_folder();
    let data = folder.join("data");
    let mut initdb = as_ordinary_user(bin.join("initdb"));
    initdb.args([
        "--auth=trust",
        "--username=marquee",
        "--encoding=UTF8",
        "--locale=C",
    ]);
    run(initdb
        .args(["--no-sync", "--wal-segsize=1", "-D"])
        .arg(&data));
    let server = Server::run(bin, folder, "INT").await;
    server.execute(format!("CREATE DATABASE {TEMPLATE}")).await;
    let database = TestDatabase::open(server.url(TEMPLATE)).await;
    let migrated = database.db.migrate().await;
    migrated.expect("the migrations apply to an empty database");
    database.db.close().await;
    let folder = server.stop();
    // Copied aside and renamed: a process that is killed here leaves no half of a template.
    let aside = build.join(format!("marquee-test-postgres-{}", Uuid::new_v4().simple()));
    run(Command::new("cp").arg("-Rp").arg(&data).arg(&aside));
    fs::rename(&aside, &place).expect("a folder can be renamed beside the build");
    fs::remove_dir_all(&folder).expect("our own folder can be removed");
    place
}

/// Changes when Postgres or a migration does.
fn template_key(bin: &Path) -> String {
    let version = Command::new(bin.join("postgres")).arg("--version").output();
    let version = version.unwrap_or_else(|e| panic!("{bin:?} holds no postgres that runs: {e}"));
    let mut text = String::from_utf8_lossy(&version.stdout).into_owned();
    for migration in crate::db::MIGRATOR.iter() {
        write!(text, "{}:{:?}", migration.version, migration.checksum)
            .expect("writing to a String cannot fail");
    }
    marquee_domain::artifact::Digest::of(text.as_bytes())
        .short()
        .to_owned()
}

/// `<target>`: test programs lie in `<target>/<profile>/deps`.
fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its program");
    program
        .ancestors()
        .nth(3)
        .map_or_else(std::env::temp_dir, Path::to_owned)
}

/// A short path: a socket's may have 107 bytes.
fn fresh_folder() -> PathBuf {
    let folder = tempfile::Builder::new()
        .prefix("marquee-pg-")
        .tempdir_in("/tmp");
    folder.expect("a folder can be made in /tmp").keep()
}

/// `program`, not as root, which Postgres refuses: in a user namespace root is an ordinary user.
fn as_ordinary_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let owner = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
    if owner.is_ok_and(|uid| uid == 0) {
        let mut command = Command::new("unshare");
        command.arg("-U").arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn find_programs() -> PathBuf {
    if let Some(folder) = std::env::var_os(BIN_VARIABLE) {
        return folder.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .max();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    folders.extend(newest.map(|(_, path)| path.join("bin")));
    folders.into_iter().find(|folder| folder.join("initdb").is_file()).unwrap_or_else(|| {
        panic!("no Postgres found for the tests; install one (\"apt install postgresql\"), or name the folder of its programs in {BIN_VARIABLE}")
    })
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
}
