//! Users by the command line, on a real coordinator: from nobody to a token in its place, without a secret on any stream
//! that nobody asked for.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result};
use marquee_e2e::TestCluster;
use serde_json::Value;

/// Runs a command as one person, whose home is `home`; `token` is in the environment.
fn run(cluster: &TestCluster, home: &str, line: &str, token: Option<&str>) -> Result<Output> {
    let home = cluster.folder().join(home);
    std::fs::create_dir_all(&home)?;
    let arguments: Vec<&str> = line.split(' ').collect();
    let mut command = cluster.cli_command(&arguments);
    command
        .env("MARQUEE_CONTEXT", home.join("context.toml"))
        .current_dir(&home)
        .stdin(Stdio::null());
    if let Some(token) = token {
        command.env("MARQUEE_TOKEN", token);
    }
    command.output().context("running marquee")
}

#[track_caller]
fn fine(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(output: &Output, code: i32, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(says), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_made_given_a_token_logged_in_and_removed() -> Result<()> {
    let cluster = TestCluster::start(0).await?;
    let owner = |line: &str| run(&cluster, "owner", line, None);
    assert!(fine(&owner("whoami")?).contains("has no users"));
    // What the first user ends is said before, and nobody can be asked here.
    let add = "admin user add ada --role viewer";
    refused(&owner(add)?, 2, "first user");
    assert!(fine(&owner(&format!("{add} --dry-run"))?).contains("would be added"));
    fine(&owner(&format!("{add} --yes"))?);
    let listed: Value = serde_json::from_str(&fine(&owner("admin user list -o json")?))?;
    assert_eq!(listed[0]["roles"][0]["role"], "viewer");

    // A token goes into a file for its owner alone, and stands nowhere else.
    let made = owner("admin token create ada --ttl 2h --note laptop --out ada.token")?;
    let path = cluster.folder().join("owner/ada.token");
    let token = std::fs::read_to_string(&path)?;
    assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    let told = format!("{}{}", fine(&made), String::from_utf8_lossy(&made.stderr));
    assert!(!told.contains(&token[20..50]), "{told}");
    refused(
        &owner("admin token create ada --out ada.token")?,
        1,
        "cannot make the file",
    );

    // The test's account is the coordinator's own, which needs no token: who shows one is its user all the same.
    let mut login = cluster.cli_command(&["login", "--token-file", "-"]);
    let home = cluster.folder().join("ada");
    std::fs::create_dir_all(&home)?;
    let mut login = login
        .env("MARQUEE_CONTEXT", home.join("context.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = login.stdin.take().context("its stdin")?;
    stdin.write_all(token.as_bytes())?;
    drop(stdin);
    fine(&login.wait_with_output()?);
    let kept = home.join("tokens.toml").metadata()?;
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    let ada = |line: &str| run(&cluster, "ada", line, None);
    let who: Value = serde_json::from_str(&fine(&ada("whoami -o json")?))?;
    assert_eq!(
        (&who["user"], &who["means"]),
        (&"ada".into(), &"token".into())
    );
    fine(&ada("jobs")?);
    refused(&ada("admin user list")?, 1, "MQ0371");
    refused(&ada("admin settings")?, 1, "MQ0371");

    // One that is none is refused in words, from wherever it is.
    refused(
        &run(&cluster, "eve", "jobs", Some(&token[..40]))?,
        2,
        "copied whole",
    );
    let forged = format!("{}0000", &token.trim()[..token.trim().len() - 4]);
    refused(&run(&cluster, "eve", "jobs", Some(&forged))?, 1, "MQ0370");
    let mut elsewhere = cluster.cli_command(&["jobs"]);
    elsewhere.args(["--addr", "http://10.255.255.1:7700"]);
    let elsewhere = elsewhere.env("MARQUEE_TOKEN", token.trim()).output()?;
    refused(&elsewhere, 2, "over TLS or within this host");

    let tokens: Value = serde_json::from_str(&fine(&owner("admin token list -o json")?))?;
    let id = tokens[0]["id"].as_str().context("an id")?;
    assert_eq!(tokens[0]["note"], "laptop");
    refused(&owner(&format!("admin token revoke {id}"))?, 2, "--yes");
    fine(&owner(&format!("admin token revoke {id} --yes"))?);
    refused(&ada("jobs")?, 1, "was revoked");
    fine(&ada("logout")?);
    assert!(!std::fs::read_to_string(home.join("tokens.toml"))?.contains(id));

    let settings: Value = serde_json::from_str(&fine(&owner("admin settings -o json")?))?;
    let all = settings.as_array().context("a list")?;
    assert!(all.iter().any(|one| one["key"] == "listen"), "{settings}");
    let audit = fine(&owner("admin audit log --who via --all -o json")?);
    assert!(audit.contains("token_revoked") && !audit.contains(&token[20..50]));
    refused(&owner("admin user remove ada")?, 2, "--yes");
    fine(&owner("admin user remove ada --yes")?);
    assert!(fine(&owner("admin user list")?).contains("there are no users"));
    assert!(
        !cluster.coordinator_log().contains(&token[20..50]),
        "a secret stands in the log"
    );
    Ok(())
}
