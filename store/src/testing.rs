//! A real Postgres for tests: one database for each test, on a server for all of them or for this process.
//!
//! Where [`SERVER_VARIABLE`] names a server, as in `cargo xtask test`, it is that one: its first test makes the
//! migrated database that all others are copied from, in about 0.1 s. Else this process starts one, from a data folder
//! that was made and migrated once and is kept beside the build (`marquee-test-postgres-<key>`); that takes about 0.3 s.
//! It ends with this process, however that ends (`marquee_postgres::Throwaway`).
//!
//! Not here: anything for production; fsync is off.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;

use marquee_postgres::Throwaway;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::db::ACQUIRE_TIMEOUT;
use crate::fence::Fence;
use crate::{Db, Result, Tx};

/// Names a server for the databases of all tests, as `Throwaway::url` does with [`DATABASE_MARK`] for the database.
pub const SERVER_VARIABLE: &str = "MARQUEE_TEST_POSTGRES";
/// Stands for a database's name in the value of [`SERVER_VARIABLE`].
pub const DATABASE_MARK: &str = "DATABASE";

/// The role that owns everything.
const USER: &str = "marquee";
const TEMPLATE: &str = "marquee_template";
const SETTINGS: [&str; 2] = ["max_connections=200", "autovacuum=off"];
/// Connections of one test's pool.
const CONNECTIONS_MAX: u32 = 10;

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
        // By the process that made it, so that another one can tell when nobody needs it any more.
        // Its own, so that tests can run side by side and leave nothing for each other.
        let name = format!("test_{}_{}", std::process::id(), Uuid::new_v4().simple());
        let template = &server.template;
        server
            .execute(format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await;
        Self::open(server.url(&name)).await
    }

    /// Makes a database without tables: for tests of the migrations themselves.
    ///
    /// # Panics
    /// As [`create`](Self::create).
    pub async fn create_empty() -> Self {
        let database = Self::create().await;
        // Cheaper than a second kind of template, and the same server.
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
        let options = crate::db::settings_of(options);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            // As the daemons wait, and not as long as an answer may take.
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await
            .expect("a database that was just made can be opened");
        let db = Db::over(pool, Fence::open());
        Self { db, url }
    }
}

/// One connection to a database, past the store, for as many questions as there are: to connect costs Postgres more
/// than most of them.
#[derive(Debug)]
pub struct Asker(PgConnection);

impl Asker {
    /// Connects to the database at `url`.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn connect(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).expect("the test knows its database");
        let connected = PgConnection::connect_with(&options).await;
        Self(connected.unwrap_or_else(|error| panic!("the database does not answer: {error}")))
    }

    /// The number that a query gives.
    ///
    /// # Panics
    /// When it gives none.
    pub async fn number(&mut self, query: &str) -> i64 {
        let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut self.0)
            .await;
        number.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The words that a query gives, one a row.
    ///
    /// # Panics
    /// When Postgres refuses it.
    pub async fn words(&mut self, query: &str) -> Vec<String> {
        let words = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_all(&mut self.0)
            .await;
        words.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Runs statements.
    ///
    /// # Panics
    /// When Postgres refuses one.
    pub async fn execute(&mut self, statements: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.0)
            .await;
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Says goodbye, so that the server's process is gone soon.
    pub async fn close(self) {
        let _ = self.0.close().await;
    }
}

/// The number that a query gives on the database at `url`.
///
/// # Panics
/// When Postgres does not answer, or gives none.
pub async fn number(url: &str, query: &str) -> i64 {
    let mut asker = Asker::connect(url).await;
    let number = asker.number(query).await;
    asker.close().await;
    number
}

/// Runs statements on the database at `url`.
///
/// # Panics
/// When Postgres does not answer, or refuses one.
pub async fn execute(url: &str, statements: &str) {
    let mut asker = Asker::connect(url).await;
    asker.execute(statements).await;
    asker.close().await;
}

/// Brings the tables of the database at `url` to this version.
pub async fn migrate(url: &str) -> Result<()> {
    let db = Db::connect(url, Uuid::nil()).await?;
    let migrated = db.migrate().await;
    db.close().await;
    migrated
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

/// Where the databases of this process are.
#[derive(Debug)]
struct Server {
    place: Place,
    /// The database that others are copied from.
    template: String,
}

#[derive(Debug)]
enum Place {
    /// Started by this process; it ends with it.
    Own(Throwaway),
    /// The value of [`SERVER_VARIABLE`].
    Shared(String),
}

impl Server {
    async fn start() -> Self {
        let bin = programs();
        match std::env::var(SERVER_VARIABLE) {
            Ok(url) if !url.is_empty() => Self::share(&bin, url).await,
            Ok(_) | Err(_) => Self::own(&bin).await,
        }
    }

    async fn own(bin: &Path) -> Self {
        let data = template_folder(bin).await;
        let server = Throwaway::copy(bin, USER, &data, &SETTINGS);
        let server = server.unwrap_or_else(|error| panic!("the test Postgres: {error}"));
        Self {
            place: Place::Own(server),
            template: TEMPLATE.to_owned(),
        }
    }

    async fn share(bin: &Path, url: String) -> Self {
        let server = Self {
            place: Place::Shared(url),
            // Two checkouts may have their tests on one server.
            template: format!("{TEMPLATE}_{}", template_key(bin)),
        };
        let all = server.url("postgres");
        let databases = "SELECT datname::text FROM pg_database";
        // Held while the template is made: whoever comes meanwhile waits for it, and half of one is never copied.
        // A lock of the file system and not of Postgres: it ends with the process, also with one that is
        // killed.
        let lock = File::create(build_folder().join("marquee-test-postgres.lock"))
            .expect("the build folder can be written");
        lock.lock().expect("a file beside the build can be locked");
        let known = Asker::connect(&all).await.words(databases).await;
        if !known.contains(&server.template) {
            // Aside first and then renamed: a half of it is never found under the template's name.
            let making = format!("{}_making", server.template);
            server
                .execute(format!("DROP DATABASE IF EXISTS {making}"))
                .await;
            server.execute(format!("CREATE DATABASE {making}")).await;
            let migrated = migrate_open(&server.url(&making)).await;
            migrated.expect("the migrations apply to an empty database");
            let template = &server.template;
            server
                .execute(format!("ALTER DATABASE {making} RENAME TO {template}"))
                .await;
        }
        drop(lock);
        for name in known.iter().filter(|name| is_left_behind(name)) {
            // Another process may be about to do the same.
            drop_database(&all, name).await;
        }
        server
    }

    async fn execute(&self, statement: String) {
        execute(&self.url("postgres"), &statement).await;
    }

    fn url(&self, database: &str) -> String {
        match &self.place {
            Place::Own(server) => server.url(database),
            Place::Shared(url) => url.replace(DATABASE_MARK, database),
        }
    }
}

/// Whether a database is of a test process that has ended: on a server for all tests they would fill the disk.
fn is_left_behind(name: &str) -> bool {
    let process = name
        .strip_prefix("test_")
        .and_then(|rest| rest.split_once('_'))
        .and_then(|(process, _)| process.parse::<u32>().ok());
    process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
}

async fn drop_database(url: &str, name: &str) {
    let Asker(mut connection) = Asker::connect(url).await;
    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    // Whoever was faster has done it.
    let _ = sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await;
    let _ = connection.close().await;
}

/// Migrates a database that nobody leads.
async fn migrate_open(url: &str) -> Result<()> {
    let database = TestDatabase::open(url.to_owned()).await;
    let migrated = database.db.migrate().await;
    database.db.close().await;
    migrated
}

/// The data folder that every server starts from, made by the first process that needs it.
async fn template_folder(bin: &Path) -> PathBuf {
    let build = build_folder();
    let place = build.join(format!("marquee-test-postgres-{}", template_key(bin)));
    let lock = File::create(build.join("marquee-test-postgres.lock"))
        .expect("the build folder can be written");
    lock.lock().expect("a file beside the build can be locked");
    if place.is_dir() {
        return place;
    }
    let server = Throwaway::make(bin, USER, &["--wal-segsize=1"], &SETTINGS);
    let server = server.unwrap_or_else(|error| panic!("the test Postgres: {error}"));
    let create = format!("CREATE DATABASE {TEMPLATE}");
    execute(&server.url("postgres"), &create).await;
    let migrated = migrate_open(&server.url(TEMPLATE)).await;
    migrated.expect("the migrations apply to an empty database");
    // Copied aside and renamed: a process that is killed here leaves no half of a template.
    let aside = build.join(format!("marquee-test-postgres-{}", Uuid::new_v4().simple()));
    let kept = server.stop_and_keep(&aside);
    kept.unwrap_or_else(|error| panic!("the test Postgres: {error}"));
    fs::rename(&aside, &place).expect("a folder can be renamed beside the build");
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

fn programs() -> PathBuf {
    match marquee_postgres::by_environment() {
        Ok(found) => found.folder,
        Err(error) => panic!(
            "no Postgres for the tests ({} names the folder of its programs): {error}",
            marquee_postgres::BIN_VARIABLE
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_databases_of_processes_that_have_ended_are_left_behind() {
        let mut ended = Command::new("true").spawn().expect("true starts");
        ended.wait().expect("it ends");
        assert!(is_left_behind(&format!("test_{}_abc", ended.id())));
        let ours = format!("test_{}_abc", std::process::id());
        for kept in [
            ours.as_str(),
            "postgres",
            "template1",
            "test_",
            "test_x_y",
            "marquee_template_1_2",
        ] {
            assert!(!is_left_behind(kept), "{kept}");
        }
    }
}
