//! Questions about secrets, and changes of them.

use marquee_proto::v1::{
    ListSecretsRequest, RekeySecretsRequest, RekeySecretsResponse, RemoveSecretRequest, Secret,
    SetSecretRequest,
};

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// Every secret that may be seen, or those of one project.
pub(crate) async fn list(remote: &Remote, project: Option<&str>) -> Result<Vec<Secret>> {
    let request = ListSecretsRequest {
        project: project.unwrap_or_default().to_owned(),
    };
    let answer = remote
        .call(Repeat::Safe, async || {
            remote.secrets().list_secrets(quick(request.clone())).await
        })
        .await?;
    Ok(answer.secrets)
}

/// Keeps a secret. Sent twice it does the same as sent once.
pub(crate) async fn set(remote: &Remote, request: SetSecretRequest) -> Result<Secret> {
    remote
        .call(Repeat::Safe, async || {
            remote.secrets().set_secret(quick(request.clone())).await
        })
        .await
}

/// Removes a secret.
pub(crate) async fn remove(remote: &Remote, request: RemoveSecretRequest) -> Result<()> {
    let removed = remote
        // A second one would find no secret, and call what went well a failure.
        .call(Repeat::Unsafe, async || {
            remote.secrets().remove_secret(quick(request.clone())).await
        })
        .await;
    removed.map(|_| ())
}

/// Encrypts all by the current key. Again, it does nothing more.
pub(crate) async fn rekey(remote: &Remote) -> Result<RekeySecretsResponse> {
    remote
        .call(Repeat::Safe, async || {
            let request = RekeySecretsRequest {};
            remote.secrets().rekey_secrets(quick(request)).await
        })
        .await
}
