//! Asks the coordinator for the secrets that a rank's job names, when its child is started. A daemon that was killed before
//! asks anew; a child that runs has them.

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::spec::JobSpec;
use marquee_proto::v1;
use marquee_proto::v1::secrets_client::SecretsClient;
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::handed::Handed;
use super::task::{Interrupt, RankTask};
use crate::connect;

impl RankTask {
    /// Asks for what the spec names, until the coordinator answers.
    pub(super) async fn take_secrets(&self, spec: &JobSpec) -> Result<Handed, Interrupt> {
        if spec.sharing.secrets.is_empty() {
            return Ok(Handed::default());
        }
        let key = self.rank.key;
        let request = v1::TakeSecretsRequest {
            job_id: key.job.0,
            attempt: key.attempt.0,
            rank: key.rank.0,
            worker_id: self.host.worker_id.to_string(),
        };
        let mut backoff = connect::backoff();
        loop {
            let status = match self.ask_for_secrets(request.clone()).await {
                Ok(answer) => {
                    return Handed::read(spec, answer)
                        .map_err(|why| failed(FailureClass::Crash, why));
                }
                Err(status) => status,
            };
            if !is_away(&status) {
                warn!(rank = %key, error = status.message(), "its secrets were refused");
                return Err(refused(&status));
            }
            debug!(rank = %key, error = connect::why(&status), "its secrets are asked for again");
            let wait = backoff.next_spread(self.host.env.random.unit());
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask_for_secrets(
        &self,
        request: v1::TakeSecretsRequest,
    ) -> Result<v1::TakeSecretsResponse, Status> {
        let channel = self.host.coordinators.channel();
        let channel = channel.map_err(|error| Status::unavailable(connect::with_causes(&error)))?;
        let mut client = SecretsClient::new(channel)
            .max_decoding_message_size(marquee_domain::limits::MESSAGE_MAX_BYTES);
        Ok(client.take_secrets(request).await?.into_inner())
    }
}

/// Whether the coordinator may answer later.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other code is an answer, also those to come"
)]
fn is_away(status: &Status) -> bool {
    match status.code() {
        // What tonic says of a connection that broke, beside UNAVAILABLE.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
        _ => false,
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "of all codes one is for the job's people to mend"
)]
fn refused(status: &Status) -> Interrupt {
    let class = match status.code() {
        Code::NotFound => FailureClass::UserError,
        _ => FailureClass::Crash,
    };
    failed(
        class,
        format!("its secrets cannot be had: {}", status.message()),
    )
}

fn failed(class: FailureClass, message: String) -> Interrupt {
    Interrupt::Failed(Failure { class, message })
}
