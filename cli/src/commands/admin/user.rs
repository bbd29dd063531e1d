//! `marquee admin user`: who may use the cluster, and in which role.

use clap::Subcommand;
use marquee_domain::users::Role;
use marquee_proto::v1;
use marquee_view::users::{Changed, Users};

use super::confirm;
use crate::commands::project::parse_name as parse_project;
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::{clock, requests};

/// Make, list and remove users, and give them roles
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user add ada --role admin
  marquee admin user add bob --role submitter --project vision
  marquee admin user role bob --role viewer
  marquee admin user list
  marquee admin user remove bob

viewer: looks at jobs, logs, metrics and artifacts. submitter: submits, cancels, retries, holds, moves and removes jobs as
well. admin in a project: says how long it keeps things, and gives priorities above 0. admin everywhere: all there is.")]
pub(in crate::commands) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Role(SetRole),
    Remove(Remove),
}

/// Make a user
///
/// From the first one on, requests without a token are refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user add ada --role admin
  marquee admin user add bob --role submitter --project vision --project text
  marquee admin user add bob --role viewer --dry-run")]
struct Add {
    /// 1 to 63 of a-z, 0-9, -, _ and ., a letter first
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    role: GivenRole,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, where something else comes of it
    #[arg(long, short)]
    yes: bool,
}

/// List users with their roles
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user list
  marquee admin user list --output json")]
struct List {}

/// Give a user a role, or take one away
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user role bob --role submitter --project vision
  marquee admin user role bob --role none --project text

What he has in other projects stays. It counts at once: his streams end and begin anew.")]
struct SetRole {
    /// The user
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    role: GivenRole,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Remove a user; all tokens and browsers of his are refused at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user remove bob
  marquee admin user remove bob --yes

His jobs go on, and what he did stays in the audit.")]
struct Remove {
    /// The user
    #[arg(value_name = "NAME")]
    name: String,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct GivenRole {
    /// viewer, submitter or admin; none takes it away
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    role: RoleWord,
    /// In this project alone; may be given several times [default: everywhere]
    #[arg(long = "project", value_name = "PROJECT", value_parser = parse_project)]
    projects: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct RoleWord(Option<Role>);

fn parse_role(text: &str) -> Result<RoleWord, String> {
    if text == "none" {
        return Ok(RoleWord(None));
    }
    let role = Role::from_word(text).map(|role| RoleWord(Some(role)));
    role.ok_or_else(|| "write viewer, submitter, admin or none".to_owned())
}

impl GivenRole {
    fn grants(&self) -> Vec<v1::Grant> {
        // On the wire an empty role takes away the one that there was, and an empty project means
        // everywhere.
        let role = self.role.0.map_or("", Role::as_str);
        let grant = |project: &str| v1::Grant {
            project: project.to_owned(),
            role: role.to_owned(),
        };
        if self.projects.is_empty() {
            return vec![grant("")];
        }
        self.projects.iter().map(|project| grant(project)).collect()
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Add(args) => add(args, session).await,
        Command::List(List {}) => {
            let users = requests::users::list(&session.remote()?).await?;
            session.output.show(&Users(&users), clock::now())?;
            Ok(())
        }
        Command::Role(args) => set_role(args, session).await,
        Command::Remove(args) => remove(args, session).await,
    }
}

fn show(
    session: &Session,
    changed: &v1::UserChanged,
    verbs: [&str; 2],
    dry_run: bool,
) -> Result<()> {
    let view = Changed {
        changed,
        verb: if dry_run { verbs[0] } else { verbs[1] },
        dry_run,
    };
    Ok(session.output.show(&view, clock::now())?)
}

async fn add(args: Add, session: &Session) -> Result<()> {
    if args.role.role.0.is_none() {
        let text = "--role none gives nothing; name the role, or \"marquee admin user role\" takes one away";
        return Err(CliError::Usage(text.to_owned()));
    }
    let remote = session.remote()?;
    let mut request = v1::AddUserRequest {
        name: args.name,
        grants: args.role.grants(),
        dry_run: true,
    };
    let verbs = ["would be added", "added"];
    // Asked without doing it first: only the coordinator knows what comes of it, as when the first
    // user shuts out whoever has no token.
    let would = requests::users::add(&remote, &request).await?;
    if args.dry_run {
        return show(session, &would, verbs, true);
    }
    if !args.yes && !would.warnings.is_empty() {
        confirm(&would.warnings, "nothing was changed")?;
    }
    request.dry_run = false;
    let changed = requests::users::add(&remote, &request).await?;
    show(session, &changed, verbs, false)
}

async fn set_role(args: SetRole, session: &Session) -> Result<()> {
    let request = v1::SetRoleRequest {
        name: args.name,
        grants: args.role.grants(),
        dry_run: args.dry_run,
    };
    let changed = requests::users::set_role(&session.remote()?, &request).await?;
    show(session, &changed, ["would be", "is now"], args.dry_run)
}

async fn remove(args: Remove, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let verbs = ["would be removed", "removed"];
    let would = requests::users::remove(&remote, &args.name, true).await?;
    if args.dry_run {
        return show(session, &would, verbs, true);
    }
    if !args.yes {
        let mut lines = vec![format!(
            "user {} and {} token(s) would go",
            args.name, would.tokens_ended
        )];
        lines.extend(would.warnings);
        confirm(&lines, "nothing was removed")?;
    }
    let changed = requests::users::remove(&remote, &args.name, false).await?;
    show(session, &changed, verbs, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_everywhere_or_in_each_project_that_is_named() {
        let given = |role, projects: &[&str]| GivenRole {
            role: parse_role(role).unwrap(),
            projects: projects.iter().map(ToString::to_string).collect(),
        };
        let grants = given("viewer", &[]).grants();
        assert_eq!(
            (grants[0].project.as_str(), grants[0].role.as_str()),
            ("", "viewer")
        );
        let grants = given("none", &["vision", "text"]).grants();
        assert_eq!(grants.len(), 2);
        assert!(grants.iter().all(|grant| grant.role.is_empty()));
        for odd in ["", "Admin", "root", "reader"] {
            assert!(parse_role(odd).unwrap_err().contains("viewer"), "{odd}");
        }
    }
}
