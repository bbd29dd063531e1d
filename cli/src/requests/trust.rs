//! Questions about who joined the cluster, and changes of that.

use marquee_proto::v1;

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// Workers that joined, by name.
pub(crate) async fn members(remote: &Remote) -> Result<Vec<v1::Member>> {
    let answer = remote
        .call(Repeat::Safe, async || {
            let request = v1::ListMembersRequest {};
            remote.trust().list_members(quick(request)).await
        })
        .await?;
    Ok(answer.members)
}

/// The authority behind the cluster's certificates.
pub(crate) async fn authority(remote: &Remote) -> Result<v1::Authority> {
    remote
        .call(Repeat::Safe, async || {
            let request = v1::GetAuthorityRequest::default();
            remote.trust().get_authority(quick(request)).await
        })
        .await
}

/// How far a rotation of the authority is.
pub(crate) async fn rotation(remote: &Remote) -> Result<v1::Rotation> {
    remote
        .call(Repeat::Safe, async || {
            let request = v1::GetRotationRequest {};
            remote.trust().get_rotation(quick(request)).await
        })
        .await
}

/// Takes a step of it, or says what is in its way.
pub(crate) async fn rotate(
    remote: &Remote,
    request: v1::RotateAuthorityRequest,
) -> Result<v1::Rotation> {
    // Taken twice it is refused, which would hide that it was taken.
    let repeat = if request.dry_run {
        Repeat::Safe
    } else {
        Repeat::Unsafe
    };
    remote
        .call(repeat, async || {
            remote.trust().rotate_authority(quick(request)).await
        })
        .await
}

/// Join tokens of late, the newest first.
pub(crate) async fn tokens(remote: &Remote) -> Result<Vec<v1::JoinToken>> {
    let answer = remote
        .call(Repeat::Safe, async || {
            let request = v1::ListJoinTokensRequest {};
            remote.trust().list_join_tokens(quick(request)).await
        })
        .await?;
    Ok(answer.tokens)
}

/// Makes one. Not asked again where the answer was lost: there would be two.
pub(crate) async fn create_token(
    remote: &Remote,
    request: v1::CreateJoinTokenRequest,
) -> Result<v1::CreateJoinTokenResponse> {
    remote
        .call(Repeat::Unsafe, async || {
            remote
                .trust()
                .create_join_token(quick(request.clone()))
                .await
        })
        .await
}

/// Ends one.
pub(crate) async fn revoke_token(remote: &Remote, id: &str) -> Result<v1::JoinToken> {
    let request = v1::RevokeJoinTokenRequest { id: id.to_owned() };
    remote
        .call(Repeat::Safe, async || {
            remote
                .trust()
                .revoke_join_token(quick(request.clone()))
                .await
        })
        .await
}

/// Shuts a worker out.
pub(crate) async fn revoke(remote: &Remote, name: &str, reason: &str) -> Result<v1::Member> {
    let request = v1::RevokeMemberRequest {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    remote
        .call(Repeat::Safe, async || {
            // The moment and the reason of the first one stay.
            remote.trust().revoke_member(quick(request.clone())).await
        })
        .await
}

/// Gives a worker another name.
pub(crate) async fn rename(remote: &Remote, name: &str, new_name: &str) -> Result<v1::Member> {
    let request = v1::RenameMemberRequest {
        name: name.to_owned(),
        new_name: new_name.to_owned(),
    };
    remote
        // A second one would find nobody of the old name, and call what went well a failure.
        .call(Repeat::Unsafe, async || {
            remote.trust().rename_member(quick(request.clone())).await
        })
        .await
}

/// Removes a worker.
pub(crate) async fn forget(remote: &Remote, name: &str) -> Result<v1::Member> {
    let request = v1::ForgetMemberRequest {
        name: name.to_owned(),
    };
    remote
        // As with a new name: the second finds nobody.
        .call(Repeat::Unsafe, async || {
            remote.trust().forget_member(quick(request.clone())).await
        })
        .await
}
