//! A private Postgres for as long as one task needs it, with psql to speak to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use marquee_postgres::Throwaway;

use crate::process;

const USER: &str = "postgres";
const DATABASE: &str = "postgres";

/// A running server. It and its folder go when it is dropped, or when we end in whatever way.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    server: Throwaway,
    psql: PathBuf,
}

impl PrivatePostgres {
    /// Creates a cluster with the programs in `bin` and waits until it takes connections.
    pub(crate) fn start(bin: &Path) -> Result<Self> {
        let psql = Some(bin.join("psql"))
            .filter(|program| process::is_executable(program))
            .or_else(|| process::on_path("psql"))
            .with_context(|| {
                format!(
                    "psql is neither in {} nor on PATH; it is in the package postgresql-client (Debian) or postgresql (Fedora)",
                    bin.display()
                )
            })?;
        let server = Throwaway::make(bin, USER, &[], &[])?;
        Ok(Self { server, psql })
    }

    /// For sqlx and everything else that takes a URL.
    pub(crate) fn url(&self) -> String {
        self.server.url(DATABASE)
    }

    /// For the databases of all tests: the user that `marquee_store::testing` has, and room for their connections.
    pub(crate) fn start_for_tests(bin: &Path) -> Result<Throwaway> {
        let settings = [
            "max_connections=400",
            // Databases of tests live for seconds; what is put off in them never has to be done.
            "autovacuum=off",
            "max_wal_size=256MB",
        ];
        Ok(Throwaway::make(
            bin,
            "marquee",
            &["--wal-segsize=1"],
            &settings,
        )?)
    }

    /// Removed with everything in it when the server ends.
    pub(crate) fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// Runs a file of SQL in one transaction.
    pub(crate) fn apply(&self, file: &Path) -> Result<()> {
        process::read(
            self.psql()
                // Without these psql goes on after an error and ends well: half a migration would look applied.
                .args(["--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"])
                .arg("--file")
                .arg(file),
        )
        .map(|_| ())
    }

    fn psql(&self) -> Command {
        let mut command = Command::new(&self.psql);
        command
            // A user's ~/.psqlrc may print, prompt or change how SQL is read.
            .args(["--no-psqlrc", "--username", USER, "--dbname", DATABASE])
            .arg("--host")
            .arg(self.folder());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_applied_whole_or_not_at_all() {
        let server = PrivatePostgres::start(&crate::setup::postgres_bin().unwrap()).unwrap();
        let migration = server.folder().join("one.sql");
        std::fs::write(
            &migration,
            "create table job (id int); insert into job values (1);",
        )
        .unwrap();
        server.apply(&migration).unwrap();
        std::fs::write(&migration, "insert into job values (2); select nonsense;").unwrap();
        let error = server.apply(&migration).unwrap_err().to_string();
        assert!(error.contains("nonsense"), "{error}");
        let count = process::read(
            server
                .psql()
                .args(["-At", "-c", "select count(*) from job"]),
        );
        assert_eq!(count.unwrap().trim(), "1");
    }
}
