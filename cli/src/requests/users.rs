//! Questions about users and tokens, and changes of them.

use marquee_proto::v1;

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// Who asks, as the coordinator sees it.
pub(crate) async fn who_am_i(remote: &Remote) -> Result<v1::Identity> {
    remote
        .call(Repeat::Safe, async || {
            remote.users().who_am_i(quick(v1::WhoAmIRequest {})).await
        })
        .await
}

pub(crate) async fn list(remote: &Remote) -> Result<Vec<v1::User>> {
    let answer = remote
        .call(Repeat::Safe, async || {
            remote
                .users()
                .list_users(quick(v1::ListUsersRequest {}))
                .await
        })
        .await?;
    Ok(answer.users)
}

/// Makes a user. Sent twice it would find its own.
pub(crate) async fn add(remote: &Remote, request: &v1::AddUserRequest) -> Result<v1::UserChanged> {
    remote
        .call(Repeat::Unsafe, async || {
            remote.users().add_user(quick(request.clone())).await
        })
        .await
}

pub(crate) async fn set_role(
    remote: &Remote,
    request: &v1::SetRoleRequest,
) -> Result<v1::UserChanged> {
    remote
        .call(Repeat::Safe, async || {
            remote.users().set_role(quick(request.clone())).await
        })
        .await
}

pub(crate) async fn remove(remote: &Remote, name: &str, dry_run: bool) -> Result<v1::UserChanged> {
    let request = v1::RemoveUserRequest {
        name: name.to_owned(),
        dry_run,
    };
    remote
        .call(Repeat::Unsafe, async || {
            // A second one would find no such user, and call what went well a failure.
            remote.users().remove_user(quick(request.clone())).await
        })
        .await
}

pub(crate) async fn tokens(remote: &Remote, user: &str) -> Result<Vec<v1::Token>> {
    let request = v1::ListTokensRequest {
        user: user.to_owned(),
    };
    let answer = remote
        .call(Repeat::Safe, async || {
            remote.users().list_tokens(quick(request.clone())).await
        })
        .await?;
    Ok(answer.tokens)
}

/// Makes a token. Sent twice it would make two.
pub(crate) async fn create_token(
    remote: &Remote,
    request: &v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse> {
    remote
        .call(Repeat::Unsafe, async || {
            remote.users().create_token(quick(request.clone())).await
        })
        .await
}

pub(crate) async fn revoke_token(remote: &Remote, id: &str, dry_run: bool) -> Result<v1::Token> {
    let request = v1::RevokeTokenRequest {
        id: id.to_owned(),
        dry_run,
    };
    remote
        .call(Repeat::Safe, async || {
            remote.users().revoke_token(quick(request.clone())).await
        })
        .await
}

/// The settings of the coordinator that answers.
pub(crate) async fn settings(remote: &Remote) -> Result<Vec<v1::Setting>> {
    let answer = remote
        .call(Repeat::Safe, async || {
            let request = quick(v1::ListSettingsRequest {});
            remote.cluster().list_settings(request).await
        })
        .await?;
    Ok(answer.settings)
}
