//! Users, their roles and tokens, and who asks.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::project::ProjectName;
use marquee_domain::users::{EVERYWHERE, Grants, Role, TokenState, UserName};
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_store::users::{self, StoredToken, User};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, Changed, LifecycleError, NewToken};
use crate::users::{Known, Means, NotKnown, OwnPage, Who, cookie, is_private, is_tls, session_of};

/// Bytes of a name that an error repeats.
const SHOWN_MAX_BYTES: usize = 100;

/// The service.
#[derive(Debug)]
pub(super) struct UsersService {
    app: App,
}

impl UsersService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    fn identity(&self, caller: &Caller) -> v1::Identity {
        let has_users = self.app.walls.users.are_there();
        let is_admin = caller.is_admin();
        let of = |name: &str, means: &str| v1::Identity {
            name: name.to_owned(),
            means: means.to_owned(),
            has_users,
            is_admin,
            ..v1::Identity::default()
        };
        match caller.who() {
            Who::Open => of(caller.known_as(), "open"),
            Who::Owner => of(caller.known_as(), "account"),
            // A worker is no user, and of a stranger nothing is known.
            Who::Machine | Who::Nobody => of("", ""),
            Who::User {
                user, means, token, ..
            } => {
                let expires_at = token.as_ref().map(|(_, at)| timestamp(*at));
                v1::Identity {
                    token_id: token.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
                    expires_at,
                    grants: encode_grants(&user.grants),
                    ..of(user.name.as_str(), means.as_str())
                }
            }
        }
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, LifecycleError> {
        let mut conn = self.app.db.read().await?;
        Ok(users::list_tokens(&mut conn).await?)
    }

    fn token(&self, token: StoredToken) -> v1::Token {
        let now = self.app.clock.now();
        let state = match TokenState::of(token.expires_at, token.revoked_at, now) {
            TokenState::Valid => "valid",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        v1::Token {
            browsers: self.app.walls.users.browsers_of(&token.id),
            id: token.id,
            user: token.user.to_string(),
            note: token.note,
            state: state.to_owned(),
            created_at: Some(timestamp(token.created_at)),
            created_by: token.created_by,
            expires_at: Some(timestamp(token.expires_at)),
            revoked_at: token.revoked_at.map(timestamp),
            used_at: token.used_at.map(timestamp),
        }
    }

    async fn changed(&self, changed: Changed) -> Result<Response<v1::UserChanged>, Status> {
        let tokens = self.tokens().await?;
        let now = self.app.clock.now();
        Ok(Response::new(v1::UserChanged {
            user: Some(user(changed.user, &tokens, now)),
            before: encode_grants(&changed.before),
            warnings: changed.warnings,
            tokens_ended: u32::try_from(changed.tokens_ended).unwrap_or(u32::MAX),
        }))
    }
}

#[tonic::async_trait]
impl v1::users_server::Users for UsersService {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        Ok(Response::new(self.identity(&Caller::of(&request))))
    }

    async fn log_in(
        &self,
        request: Request<v1::LogInRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        // A program sends its token with each request; a session is for what cannot: a browser, on our own page.
        if request.extensions().get::<OwnPage>().is_none() {
            let why =
                "a session is for browsers; send the token with each request (\"marquee login\")";
            return Err(ErrorCode::InvalidRequest.status(why));
        }
        let caller = Caller::of(&request);
        let is_tls = is_tls(request.extensions());
        // A session over a wire that others hear would be theirs, too.
        if !is_private(request.extensions()) {
            let why = NotKnown::InTheClear.to_string();
            return Err(ErrorCode::NotLoggedIn.status(why));
        }
        let now = self.app.clock.now();
        let token = request.into_inner().token;
        // As it was pasted: what is copied from a terminal often has a blank behind it.
        let found = self.app.walls.users.of_token(token.trim(), now);
        let found = found.map_err(|why| {
            self.app.walls.users.say_refused(None, &why);
            ErrorCode::NotLoggedIn.status(format!("that is no valid token: {why}"))
        })?;
        let (secret, expires_at) =
            lifecycle::log_in(&self.app, &found.token, found.expires_at, &caller).await?;
        let lives_s = (expires_at - now).num_seconds();
        let Known { name, grants, .. } = &*found.user;
        let mut answer = Response::new(v1::Identity {
            name: name.to_string(),
            means: Means::Browser.as_str().to_owned(),
            has_users: true,
            is_admin: grants.everywhere() >= Some(Role::Admin),
            grants: encode_grants(grants),
            expires_at: Some(timestamp(expires_at)),
            token_id: found.token,
        });
        set_cookie(&mut answer, secret.as_str(), lives_s, is_tls)?;
        Ok(answer)
    }

    async fn log_out(
        &self,
        request: Request<v1::LogOutRequest>,
    ) -> Result<Response<v1::LogOutResponse>, Status> {
        let caller = Caller::of(&request);
        let is_tls = is_tls(request.extensions());
        let headers = request.metadata().clone().into_headers();
        // From our own page alone: no other page may end a session in the name of who looks at it.
        if request.extensions().get::<OwnPage>().is_some()
            && let Some(session) = session_of(&headers)
        {
            lifecycle::log_out(&self.app, &session, &caller).await?;
        }
        let mut answer = Response::new(v1::LogOutResponse {});
        set_cookie(&mut answer, "", 0, is_tls)?;
        Ok(answer)
    }

    async fn list_users(
        &self,
        _: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
        let all = users::list_users(&mut conn)
            .await
            .map_err(LifecycleError::from)?;
        // Handed back before the next is taken: else requests that hold one wait for each other.
        drop(conn);
        let tokens = self.tokens().await?;
        let now = self.app.clock.now();
        let users = all.into_iter().map(|one| user(one, &tokens, now)).collect();
        Ok(Response::new(v1::ListUsersResponse { users }))
    }

    async fn add_user(
        &self,
        request: Request<v1::AddUserRequest>,
    ) -> Result<Response<v1::UserChanged>, Status> {
        let caller = Caller::of(&request);
        let v1::AddUserRequest {
            name,
            grants,
            dry_run,
        } = request.into_inner();
        let mut given = Grants::default();
        for (project, role) in read_grants(grants)? {
            given.set(project.as_ref(), role);
        }
        let name = user_name("name", &name)?;
        let changed = lifecycle::add_user(&self.app, name, given, dry_run, &caller).await?;
        self.changed(changed).await
    }

    async fn set_role(
        &self,
        request: Request<v1::SetRoleRequest>,
    ) -> Result<Response<v1::UserChanged>, Status> {
        let caller = Caller::of(&request);
        let v1::SetRoleRequest {
            name,
            grants,
            dry_run,
        } = request.into_inner();
        let name = user_name("name", &name)?;
        let roles = read_grants(grants)?;
        let changed = lifecycle::set_roles(&self.app, &name, roles, dry_run, &caller).await?;
        self.changed(changed).await
    }

    async fn remove_user(
        &self,
        request: Request<v1::RemoveUserRequest>,
    ) -> Result<Response<v1::UserChanged>, Status> {
        let caller = Caller::of(&request);
        let v1::RemoveUserRequest { name, dry_run } = request.into_inner();
        let name = user_name("name", &name)?;
        let changed = lifecycle::remove_user(&self.app, &name, dry_run, &caller).await?;
        self.changed(changed).await
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let caller = Caller::of(&request);
        let wanted = request.into_inner().user;
        let mut tokens = self.tokens().await?;
        let is_seen = |of: &UserName| {
            (wanted.is_empty() || of.as_str() == wanted)
                && (caller.is_admin() || caller.user() == Some(of.as_str()))
        };
        tokens.retain(|token| is_seen(&token.user));
        let tokens = tokens.into_iter().map(|token| self.token(token)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::CreateTokenRequest {
            user,
            ttl_seconds,
            note,
        } = request.into_inner();
        let seconds = i64::try_from(ttl_seconds)
            .ok()
            .and_then(TimeDelta::try_seconds);
        let ttl = seconds.ok_or_else(|| BadField::invalid("ttl_seconds", "it is too long"))?;
        let new = NewToken {
            user: user_name("user", &user)?,
            ttl: (ttl_seconds != 0).then_some(ttl),
            note,
        };
        let (stored, token) = lifecycle::create_token(&self.app, new, &caller).await?;
        Ok(Response::new(v1::CreateTokenResponse {
            token: Some(self.token(stored)),
            secret: token.reveal(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        let caller = Caller::of(&request);
        let v1::RevokeTokenRequest { id, dry_run } = request.into_inner();
        let token = lifecycle::revoke_token(&self.app, &id, dry_run, &caller).await?;
        Ok(Response::new(self.token(token)))
    }
}

fn set_cookie<T>(
    answer: &mut Response<T>,
    secret: &str,
    lives_s: i64,
    is_tls: bool,
) -> Result<(), Status> {
    let value = MetadataValue::try_from(cookie(secret, lives_s, is_tls));
    let value = value.map_err(|error| ErrorCode::Internal.status(error.to_string()))?;
    answer.metadata_mut().insert("set-cookie", value);
    Ok(())
}

fn user_name(field: &'static str, text: &str) -> Result<UserName, BadField> {
    text.parse().map_err(|why| {
        let shown = &text[..text.floor_char_boundary(SHOWN_MAX_BYTES)];
        BadField::invalid(field, format!("{shown:?} {why}"))
    })
}

type Roles = Vec<(Option<ProjectName>, Option<Role>)>;

fn read_grants(grants: Vec<v1::Grant>) -> Result<Roles, BadField> {
    let read = |v1::Grant { project, role }: v1::Grant| {
        let shown = |text: &str| text[..text.floor_char_boundary(SHOWN_MAX_BYTES)].to_owned();
        let project = match project.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|why| {
                BadField::invalid("grants.project", format!("{:?} {why}", shown(name)))
            })?),
        };
        let role = match role.as_str() {
            "" => None,
            word => Some(Role::from_word(word).ok_or_else(|| {
                let why = format!(
                    "{:?} is no role; give viewer, submitter or admin",
                    shown(word)
                );
                BadField::invalid("grants.role", why)
            })?),
        };
        Ok((project, role))
    };
    grants.into_iter().map(read).collect()
}

fn encode_grants(grants: &Grants) -> Vec<v1::Grant> {
    let grant = |(project, role): (&str, Role)| v1::Grant {
        project: match project {
            EVERYWHERE => String::new(),
            project => project.to_owned(),
        },
        role: role.as_str().to_owned(),
    };
    grants.iter().map(grant).collect()
}

fn user(user: User, tokens: &[StoredToken], now: DateTime<Utc>) -> v1::User {
    let own = || tokens.iter().filter(|token| token.user == user.name);
    let valid = own().filter(|token| {
        TokenState::of(token.expires_at, token.revoked_at, now) == TokenState::Valid
    });
    v1::User {
        tokens: u32::try_from(valid.count()).unwrap_or(u32::MAX),
        used_at: own().filter_map(|token| token.used_at).max().map(timestamp),
        grants: encode_grants(&user.grants),
        created_at: Some(timestamp(user.created_at)),
        created_by: user.created_by.clone(),
        name: user.name.to_string(),
    }
}

#[cfg(test)]
mod tests;
