//! Changes of users, tokens and sessions. Each is one transaction, which the database's own audit writes down with who
//! asked; afterwards everything is read again, so that a change counts from its answer on.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::project::ProjectName;
use marquee_domain::users::{
    GRANTS_MAX, Grants, NOTE_MAX_BYTES, Role, SESSION_TTL, SESSIONS_OF_TOKEN_MAX, TOKEN_TTL,
    TOKEN_TTL_MAX, TOKENS_OF_USER_MAX, Token, TokenState, USERS_MAX, UserName,
};
use marquee_store::users::{Session, StoredToken, User};
use marquee_store::{Tx, projects, users};

use super::{LifecycleError, Result};
use crate::app::App;
use crate::caller::Caller;

/// The shortest life of a token: below it is over before it is used.
const TTL_MIN: TimeDelta = TimeDelta::seconds(60);
/// How long a token that has ended is still listed.
const ENDED_KEPT: TimeDelta = TimeDelta::days(30);

/// A user as changed, or as he would be.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) user: User,
    pub(crate) before: Grants,
    pub(crate) warnings: Vec<String>,
    pub(crate) tokens_ended: usize,
}

/// A token that was asked for.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) user: UserName,
    /// None: as long as most.
    pub(crate) ttl: Option<TimeDelta>,
    pub(crate) note: String,
}

fn bad(why: String) -> LifecycleError {
    LifecycleError::BadSetting(why)
}

/// Begins a change, with all others kept out.
async fn begin(app: &App, operation: &'static str, caller: &Caller) -> Result<Tx> {
    let mut tx = app.db.write_as(operation, &caller.to_string()).await?;
    users::lock_users(&mut tx).await?;
    Ok(tx)
}

/// Commits, and reads what is there now: both, also where whoever asked goes away meanwhile.
async fn end(app: &App, tx: Tx) -> Result<()> {
    let app = app.clone();
    let both = tokio::spawn(async move {
        tx.commit().await?;
        let users = &app.walls.users;
        users.again(&app.db, &app.role, &*app.clock).await
    });
    Ok(both.await.map_err(|_| LifecycleError::Stopping)??)
}

/// Roles are of projects that are there: a slip would give a role in one that somebody makes later.
async fn check_grants(tx: &mut Tx, grants: &Grants) -> Result<()> {
    if grants.len() > GRANTS_MAX {
        return Err(bad(format!(
            "grants: {} roles, at most {GRANTS_MAX}; give one in all projects instead",
            grants.len()
        )));
    }
    let known = projects::list_projects(tx).await?;
    for (project, _) in grants.iter() {
        let is_there = known.iter().any(|known| known.name.as_str() == project);
        if project != marquee_domain::users::EVERYWHERE && !is_there {
            return Err(LifecycleError::ProjectNotFound(project.to_owned()));
        }
    }
    Ok(())
}

/// Makes a user.
pub(crate) async fn add_user(
    app: &App,
    name: UserName,
    grants: Grants,
    dry_run: bool,
    caller: &Caller,
) -> Result<Changed> {
    let mut tx = begin(app, "add user", caller).await?;
    check_grants(&mut tx, &grants).await?;
    let all = users::list_users(&mut tx).await?;
    if all.len() >= USERS_MAX {
        return Err(bad(format!("there are {USERS_MAX} users, and no more fit")));
    }
    let user = User {
        name,
        grants,
        created_at: app.clock.now(),
        created_by: caller.to_string(),
    };
    if !users::insert_user(&mut tx, &user).await? {
        return Err(LifecycleError::UserExists(user.name));
    }
    let mut warnings = Vec::new();
    if all.is_empty() {
        warnings.push(
            "this is the first user: from now on requests without a token are refused, but for workers and for this \
             coordinator's own account on its own host"
                .to_owned(),
        );
    }
    // A dry run does everything but the commit, so that what it says is what would be.
    if !dry_run {
        end(app, tx).await?;
        tracing::info!(user = %user.name, roles = %user.grants, %caller, "user added");
    }
    Ok(Changed {
        user,
        before: Grants::default(),
        warnings,
        tokens_ended: 0,
    })
}

/// Gives a user roles, or takes them away: None in place of a role.
pub(crate) async fn set_roles(
    app: &App,
    name: &UserName,
    roles: Vec<(Option<ProjectName>, Option<Role>)>,
    dry_run: bool,
    caller: &Caller,
) -> Result<Changed> {
    let mut tx = begin(app, "set role", caller).await?;
    let all = users::list_users(&mut tx).await?;
    let mut all = all.into_iter();
    let user = all.find(|user| user.name == *name);
    let mut user = user.ok_or_else(|| LifecycleError::UserNotFound(name.clone()))?;
    let before = user.grants.clone();
    for (project, role) in roles {
        user.grants.set(project.as_ref(), role);
    }
    check_grants(&mut tx, &user.grants).await?;
    users::mark_grants(&mut tx, name, &user.grants).await?;
    if !dry_run {
        end(app, tx).await?;
        tracing::info!(user = %name, roles = %user.grants, %before, %caller, "user's roles set");
    }
    Ok(Changed {
        user,
        before,
        warnings: Vec::new(),
        tokens_ended: 0,
    })
}

/// Removes a user with all tokens.
pub(crate) async fn remove_user(
    app: &App,
    name: &UserName,
    dry_run: bool,
    caller: &Caller,
) -> Result<Changed> {
    let mut tx = begin(app, "remove user", caller).await?;
    let now = app.clock.now();
    let mut all = users::list_users(&mut tx).await?;
    let at = all.iter().position(|user| user.name == *name);
    let user = all.remove(at.ok_or_else(|| LifecycleError::UserNotFound(name.clone()))?);
    let tokens = users::list_tokens(&mut tx).await?;
    let ends = tokens.iter().filter(|token| is_valid(token, name, now));
    let tokens_ended = ends.count();
    users::delete_user(&mut tx, name).await?;
    let mut warnings = Vec::new();
    if all.is_empty() {
        warnings.push(
            "this is the last user: without users, whoever may connect may do everything"
                .to_owned(),
        );
    }
    if !dry_run {
        end(app, tx).await?;
        tracing::info!(user = %name, %caller, "user removed");
    }
    Ok(Changed {
        before: user.grants.clone(),
        user,
        warnings,
        tokens_ended,
    })
}

fn is_valid(token: &StoredToken, user: &UserName, now: DateTime<Utc>) -> bool {
    token.user == *user
        && TokenState::of(token.expires_at, token.revoked_at, now) == TokenState::Valid
}

/// A secret of 256 bits that nobody can guess, of twice as many from the kernel.
fn draw(app: &App) -> Digest {
    let bits: Vec<u8> = (0..4)
        .flat_map(|_| app.random.uuid().into_bytes())
        .collect();
    Digest::of(&bits)
}

/// Makes a token. Its text is nowhere else than in what comes back.
pub(crate) async fn create_token(
    app: &App,
    new: NewToken,
    caller: &Caller,
) -> Result<(StoredToken, Token)> {
    let NewToken { user, ttl, note } = new;
    let ttl = ttl.unwrap_or(TOKEN_TTL);
    if ttl < TTL_MIN || ttl > TOKEN_TTL_MAX {
        return Err(bad(format!(
            "ttl_seconds: {} is out of range; give {} to {}",
            ttl.num_seconds(),
            TTL_MIN.num_seconds(),
            TOKEN_TTL_MAX.num_seconds()
        )));
    }
    if note.len() > NOTE_MAX_BYTES || note.contains(char::is_control) {
        let why = format!("note: it must be plain words of at most {NOTE_MAX_BYTES} bytes");
        return Err(bad(why));
    }
    let now = app.clock.now();
    let mut tx = begin(app, "create token", caller).await?;
    // Those that ended long ago make room before the limit is looked at.
    users::delete_ended_tokens(&mut tx, now - ENDED_KEPT).await?;
    let all = users::list_users(&mut tx).await?;
    if !all.iter().any(|known| known.name == user) {
        return Err(LifecycleError::UserNotFound(user));
    }
    let tokens = users::list_tokens(&mut tx).await?;
    let valid = tokens.iter().filter(|token| is_valid(token, &user, now));
    if valid.count() >= TOKENS_OF_USER_MAX {
        return Err(bad(format!(
            "user {user} has {TOKENS_OF_USER_MAX} tokens, and no more fit; revoke some (\"marquee admin token list \
             {user}\")"
        )));
    }
    // Two draws: the id is shown in listings and logs, and must tell nothing of the secret.
    let token = Token::new(&draw(app), &draw(app));
    let stored = StoredToken {
        id: token.id().to_owned(),
        user,
        hash: token.hash(),
        note,
        created_at: now,
        created_by: caller.to_string(),
        expires_at: now + ttl,
        revoked_at: None,
        used_at: None,
    };
    users::insert_token(&mut tx, &stored).await?;
    end(app, tx).await?;
    tracing::info!(user = %stored.user, token = stored.id, expires_at = %stored.expires_at, %caller, "token created");
    Ok((stored, token))
}

/// Ends a token. One that has ended before stays as it is.
pub(crate) async fn revoke_token(
    app: &App,
    id: &str,
    dry_run: bool,
    caller: &Caller,
) -> Result<StoredToken> {
    let is_id = id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_id {
        // It may be a whole token: nothing of it is repeated.
        let why = "id: it must be the twelve digits behind \"mqu_\" alone".to_owned();
        return Err(bad(why));
    }
    let now = app.clock.now();
    let mut tx = begin(app, "revoke token", caller).await?;
    let tokens = users::list_tokens(&mut tx).await?;
    // To somebody else's token who is no administrator hears what he would of one that is not there.
    let own = |token: &StoredToken| caller.is_admin() || caller.user() == Some(token.user.as_str());
    let mut named = tokens
        .into_iter()
        .filter(|token| token.id == id && own(token));
    let mut token = named
        .next()
        .ok_or_else(|| LifecycleError::TokenNotFound(id.to_owned()))?;
    if users::mark_token_revoked(&mut tx, id, now).await? {
        token.revoked_at = Some(now);
    }
    if !dry_run {
        end(app, tx).await?;
        tracing::info!(user = %token.user, token = token.id, %caller, "token revoked");
    }
    Ok(token)
}

/// Logs a browser in by a token. Gives the secret of its cookie, and when that ends.
pub(crate) async fn log_in(
    app: &App,
    token: &str,
    expires_at: DateTime<Utc>,
    caller: &Caller,
) -> Result<(Digest, DateTime<Utc>)> {
    let now = app.clock.now();
    let secret = draw(app);
    let session = Session {
        hash: Digest::of(secret.as_str().as_bytes()),
        token: token.to_owned(),
        created_at: now,
        expires_at: expires_at.min(now + SESSION_TTL),
    };
    let mut tx = begin(app, "log in", caller).await?;
    // The oldest browser of a token goes when one too many comes: whoever loses his cookies must be able to
    // log in again.
    let keep = u32::try_from(SESSIONS_OF_TOKEN_MAX).unwrap_or(u32::MAX);
    users::insert_session(&mut tx, &session, keep).await?;
    end(app, tx).await?;
    Ok((secret, session.expires_at))
}

/// Ends a browser's session.
pub(crate) async fn log_out(app: &App, session: &Digest, caller: &Caller) -> Result<()> {
    let mut tx = begin(app, "log out", caller).await?;
    users::delete_session(&mut tx, session).await?;
    end(app, tx).await
}
