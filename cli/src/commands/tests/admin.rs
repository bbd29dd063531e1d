//! Every command of `marquee admin` by its request: what it asks for, and that a trial asks for nothing that changes
//! anything. What they answer in JSON, on a real coordinator, is tried by the end-to-end tests (`e2e/tests/cli/admin.rs`).

use std::collections::BTreeSet;

use marquee_proto::v1;
use prost::Message as _;

use super::*;
use crate::tests::wire::{Asked, Wire};

/// Each command that does something itself, what is written behind it, and what it asks for. Empty: nothing without a
/// context that names an authority.
const WALK: [(&str, &str, &str); 28] = [
    ("user add", "ada --role viewer --yes", "Users/AddUser"),
    ("user list", "", "Users/ListUsers"),
    ("user role", "ada --role admin", "Users/SetRole"),
    ("user remove", "ada --yes", "Users/RemoveUser"),
    ("token create", "ada", "Users/CreateToken"),
    ("token list", "", "Users/ListTokens"),
    ("token revoke", "4f0c2a91b6d3 --yes", "Users/RevokeToken"),
    ("project list", "", "Projects/ListProjects"),
    (
        "project set",
        "vision --keep-days 90",
        "Projects/SetProject",
    ),
    ("worker list", "", "Trust/ListMembers"),
    ("worker join-token", "", "Trust/CreateJoinToken"),
    ("worker join-tokens", "", "Trust/ListJoinTokens"),
    (
        "worker revoke-token",
        "3f2a91c0 --yes",
        "Trust/RevokeJoinToken",
    ),
    ("worker rename", "gpu-1 gpu-01", "Trust/RenameMember"),
    ("worker revoke", "gpu-1 --yes", "Trust/RevokeMember"),
    ("worker forget", "gpu-1 --yes", "Trust/ForgetMember"),
    ("ca", "", "Trust/GetAuthority"),
    ("ca save", "", ""),
    ("ca rotate begin", "--yes", "Trust/RotateAuthority"),
    ("ca rotate switch", "--yes", "Trust/RotateAuthority"),
    ("ca rotate finish", "--yes", "Trust/RotateAuthority"),
    ("ca rotate abandon", "--yes", "Trust/RotateAuthority"),
    ("ca rotate status", "", "Trust/GetRotation"),
    ("settings", "", "Cluster/ListSettings"),
    ("audit verify", "", "Audit/Verify"),
    ("audit log", "", "Audit/List"),
    ("status", "", "Workers/ListCoordinators"),
    ("backup", "FOLDER", "Backups/TakeMoment"),
];

/// The words of every command that does something itself, and of groups that do.
fn commands(command: &clap::Command, words: &str, all: &mut BTreeSet<String>) {
    for below in command.get_subcommands() {
        let words = format!("{words} {}", below.get_name()).trim().to_owned();
        if !below.is_subcommand_required_set() {
            all.insert(words.clone());
        }
        commands(below, &words, all);
    }
}

/// What a command asks somebody who answers everything with nothing in it.
async fn asked(words: &str, behind: &str, folder: &std::path::Path) -> Vec<Asked> {
    let wire = Wire::start(|_, _| Ok(vec![Vec::new()])).await;
    let behind = behind.replace("FOLDER", &folder.join("backup").display().to_string());
    let line = format!(
        "marquee --addr {} --output json admin {words} {behind}",
        wire.addr
    );
    let cli = parse(line.trim()).unwrap();
    // Whatever comes of such an answer.
    let _ = run(cli).await;
    wire.heard()
}

#[tokio::test]
async fn every_command_asks_for_what_it_is_named_after() {
    let mut cli = Cli::command();
    cli.build();
    let admin = cli.find_subcommand("admin").unwrap();
    let mut all = BTreeSet::new();
    commands(admin, "", &mut all);
    all.retain(|words| !words.split(' ').any(|word| word == "help"));
    let walked: BTreeSet<String> = WALK.iter().map(|(words, ..)| (*words).to_owned()).collect();
    assert_eq!(all, walked);

    let folder = tempfile::tempdir().unwrap();
    for (words, behind, path) in WALK {
        let heard = asked(words, behind, folder.path()).await;
        if path.is_empty() {
            assert!(heard.is_empty(), "{words}: {heard:?}");
            continue;
        }
        let paths: Vec<&str> = heard.iter().map(|(path, _)| path.as_str()).collect();
        assert!(paths.contains(&path), "{words}: {paths:?}");
    }
}

#[tokio::test]
async fn a_trial_asks_for_nothing_that_changes_anything() {
    let mut cli = Cli::command();
    cli.build();
    let admin = cli.find_subcommand("admin").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for (words, behind, _) in WALK {
        let mut command = admin;
        for word in words.split(' ') {
            command = command.find_subcommand(word).unwrap();
        }
        let has_trial = command
            .get_arguments()
            .any(|one| one.get_long() == Some("dry-run"));
        if !has_trial {
            continue;
        }
        tried += 1;
        for behind in [format!("{behind} --dry-run"), format!("--dry-run {behind}")] {
            for (path, message) in asked(words, behind.trim(), folder.path()).await {
                let message = message.as_slice();
                let is_dry = match path.as_str() {
                    "Users/AddUser" => v1::AddUserRequest::decode(message).unwrap().dry_run,
                    "Users/SetRole" => v1::SetRoleRequest::decode(message).unwrap().dry_run,
                    "Users/RemoveUser" => v1::RemoveUserRequest::decode(message).unwrap().dry_run,
                    "Users/RevokeToken" => v1::RevokeTokenRequest::decode(message).unwrap().dry_run,
                    "Trust/RotateAuthority" => {
                        v1::RotateAuthorityRequest::decode(message).unwrap().dry_run
                    }
                    "Backups/TakeMoment" => v1::TakeMomentRequest::decode(message).unwrap().dry_run,
                    path => ["/List", "/Get", "/WhoAmI"]
                        .iter()
                        .any(|read| path.contains(read)),
                };
                assert!(is_dry, "admin {words} {behind}: {path}");
            }
        }
    }
    assert!(tried > 12, "{tried}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
