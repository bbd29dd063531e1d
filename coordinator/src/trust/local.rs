//! Commands on the coordinator's own host that ask the coordinator that runs there. The kernel tells it whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use marquee_proto::convert::datetime;
use marquee_proto::v1;
use marquee_proto::v1::trust_client::TrustClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::authority::{Bundle, COORDINATOR_NAME, Files};
use crate::config::Config;

/// How long it may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// The coordinator that runs with these settings.
async fn connect(config: &Config) -> anyhow::Result<TrustClient<Channel>> {
    let at = dialled(config.listen);
    let is_own = config.tls.as_ref().is_some_and(|tls| tls.is_own());
    let endpoint = match &config.tls {
        None => Endpoint::from_shared(format!("http://{at}"))?,
        Some(_) if is_own => {
            let bundle = Bundle::read(&Files::of(&config.data_dir))?;
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(bundle.pem))
                // Each coordinator's certificate of ours has it; the address that is dialled need not be in it.
                .domain_name(COORDINATOR_NAME);
            Endpoint::from_shared(format!("https://{at}"))?.tls_config(tls)?
        }
        Some(_) => bail!(
            "tls.cert in coordinator.toml names certificates that were made elsewhere, so that workers do not join by tokens; see docs/deploy.md, \"Certificates of your own\""
        ),
    };
    let channel = endpoint
        .connect_timeout(WITHIN)
        .timeout(WITHIN)
        .connect()
        .await
        .with_context(|| {
            format!("the coordinator does not answer on {at}; is it running (systemctl status marquee-coordinator)?")
        })?;
    Ok(TrustClient::new(channel))
}

/// This host's side of an address to listen on.
fn dialled(listen: SocketAddr) -> SocketAddr {
    // An address that stands for all of them is one to listen on, and none to dial.
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Makes a join token: the token itself, and what to say of it.
pub async fn create_token(
    config: &Config,
    request: v1::CreateJoinTokenRequest,
) -> anyhow::Result<(String, String)> {
    let answer = connect(config).await?.create_join_token(request).await;
    let answer = answer.map_err(said)?.into_inner();
    let token = answer.token.unwrap_or_default();
    let who = match token.name.as_str() {
        "" if token.uses == 1 => "one worker".to_owned(),
        "" => format!("{} workers", token.uses),
        name => format!("worker {name:?}"),
    };
    let told = format!(
        "a token for {who}, good until {}; its id is {}, and it is not shown again\n",
        time(token.expires_at.as_ref()),
        token.id
    );
    Ok((answer.text, told))
}

/// A table of the tokens that are kept.
pub async fn list_tokens(config: &Config) -> anyhow::Result<String> {
    let answer = connect(config)
        .await?
        .list_join_tokens(v1::ListJoinTokensRequest {})
        .await;
    let tokens = answer.map_err(said)?.into_inner().tokens;
    if tokens.is_empty() {
        return Ok("no join tokens; \"marquee-coordinator token create\" makes one\n".to_owned());
    }
    let mut text = format!(
        "{:<36}  {:<8}  {:<6}  {:<20}  {:<23}  BY\n",
        "ID", "STATE", "USED", "FOR", "EXPIRES"
    );
    for token in tokens {
        let used = format!("{}/{}", token.used, token.uses);
        let name = if token.name.is_empty() {
            "any worker"
        } else {
            &token.name
        };
        let expires = time(token.expires_at.as_ref());
        text.push_str(&format!(
            "{:<36}  {:<8}  {used:<6}  {name:<20}  {expires:<23}  {}\n",
            token.id, token.state, token.created_by
        ));
    }
    Ok(text)
}

/// Ends a token; what to say of it.
pub async fn revoke_token(config: &Config, id: String) -> anyhow::Result<String> {
    let request = v1::RevokeJoinTokenRequest { id };
    let answer = connect(config).await?.revoke_join_token(request).await;
    let token = answer.map_err(said)?.into_inner();
    Ok(format!(
        "token {} lets nobody in any more; workers that joined by it stay\n",
        token.id
    ))
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| datetime(at).ok());
    at.map_or_else(
        || "?".to_owned(),
        |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

fn said(status: Status) -> anyhow::Error {
    if status.code() == Code::Unimplemented {
        return anyhow::anyhow!("the coordinator that runs is of an older version; start it again");
    }
    anyhow::anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_this_host() {
        let cases = [
            ("0.0.0.0:7700", "127.0.0.1:7700"),
            ("[::]:7700", "[::1]:7700"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:1", "[::1]:1"),
            ("10.0.0.7:7700", "10.0.0.7:7700"),
            ("[2001:db8::7]:7700", "[2001:db8::7]:7700"),
        ];
        for (listen, at) in cases {
            assert_eq!(dialled(listen.parse().unwrap()).to_string(), at);
        }
    }

    #[test]
    fn a_time_that_is_none_is_shown_as_unknown() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        assert_eq!(time(None), "?");
        assert_eq!(time(Some(&at(i64::MAX))), "?");
        assert_eq!(time(Some(&at(1_800_000_000))), "2027-01-15 08:00:00 UTC");
    }

    #[test]
    fn an_older_coordinator_is_named_as_the_cause_and_other_errors_are_said_as_they_are() {
        let old = said(Status::unimplemented("unknown service marquee.v1.Trust"));
        assert!(
            old.to_string().contains("older version; start it again"),
            "{old}"
        );
        let refused = said(Status::permission_denied("only an administrator may"));
        assert_eq!(refused.to_string(), "only an administrator may");
    }
}
