//! Users from the outside: who is let in, who may do what in which project, and what becomes of tokens.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod doors;
mod floods;
mod projects;
mod secrets;
mod traces;

use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::secrets_client::SecretsClient;
use marquee_proto::v1::users_client::UsersClient;
use marquee_proto::v1::workers_client::WorkersClient;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::support::{channel, request};

/// Who asks. By default the coordinator's own account, which these tests run as.
#[derive(Debug, Clone, Default)]
struct Asks {
    token: Option<String>,
    /// A proxy on this host asks for somebody else.
    is_proxied: bool,
}

impl Interceptor for Asks {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse();
            headers.insert("authorization", value.map_err(|_| Status::internal("odd"))?);
        }
        if self.is_proxied {
            headers.insert("x-forwarded-for", "10.0.0.9".parse().unwrap());
        }
        Ok(request)
    }
}

type Wire = InterceptedService<Channel, Asks>;

/// Somebody, with a client of each service.
struct Person {
    jobs: JobsClient<Wire>,
    artifacts: ArtifactsClient<Wire>,
    audit: AuditClient<Wire>,
    cluster: ClusterClient<Wire>,
    projects: ProjectsClient<Wire>,
    secrets: SecretsClient<Wire>,
    users: UsersClient<Wire>,
    workers: WorkersClient<Wire>,
}

impl Person {
    fn of(channel: &Channel, asks: Asks) -> Self {
        let wire = || InterceptedService::new(channel.clone(), asks.clone());
        Self {
            jobs: JobsClient::new(wire()),
            artifacts: ArtifactsClient::new(wire()),
            audit: AuditClient::new(wire()),
            cluster: ClusterClient::new(wire()),
            projects: ProjectsClient::new(wire()),
            secrets: SecretsClient::new(wire()),
            users: UsersClient::new(wire()),
            workers: WorkersClient::new(wire()),
        }
    }

    async fn owner(address: &str) -> Self {
        Self::of(&channel(address).await, Asks::default())
    }

    async fn stranger(address: &str) -> Self {
        let asks = Asks {
            is_proxied: true,
            ..Asks::default()
        };
        Self::of(&channel(address).await, asks)
    }

    async fn with(address: &str, token: &str) -> Self {
        let asks = Asks {
            token: Some(token.to_owned()),
            is_proxied: true,
        };
        Self::of(&channel(address).await, asks)
    }

    async fn add(&mut self, name: &str, grants: &[(&str, &str)]) {
        let grants = grants.iter().map(|(project, role)| v1::Grant {
            project: (*project).to_owned(),
            role: (*role).to_owned(),
        });
        let request = v1::AddUserRequest {
            name: name.to_owned(),
            grants: grants.collect(),
            dry_run: false,
        };
        self.users.add_user(request).await.unwrap();
    }

    async fn token(&mut self, user: &str) -> String {
        let request = v1::CreateTokenRequest {
            user: user.to_owned(),
            ..v1::CreateTokenRequest::default()
        };
        let made = self.users.create_token(request).await.unwrap();
        made.into_inner().secret
    }

    /// A new user, and a client with a token of his.
    async fn user(&mut self, address: &str, name: &str, grants: &[(&str, &str)]) -> Self {
        self.add(name, grants).await;
        let token = self.token(name).await;
        Self::with(address, &token).await
    }

    async fn project(&mut self, name: &str) {
        let request = v1::SetProjectRequest {
            name: name.to_owned(),
            ..v1::SetProjectRequest::default()
        };
        self.projects.set_project(request).await.unwrap();
    }

    async fn submit(&mut self, keys: &str) -> Result<v1::Job, Status> {
        let body = format!("[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n");
        let request = request(&format!("request-{}", uuid::Uuid::new_v4()), &body);
        let answer = self.jobs.submit_pipeline(request).await?;
        Ok(answer.into_inner().jobs.remove(0))
    }

    async fn listed(&mut self) -> Vec<i64> {
        let request = v1::ListJobsRequest::default();
        let page = self.jobs.list_jobs(request).await.unwrap().into_inner();
        page.jobs.iter().map(|job| job.id).collect()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: &str) -> Status {
    let status = answer.expect_err("it was let through");
    assert_eq!(
        PublicError::from(&status).code.as_deref(),
        Some(code),
        "{status}"
    );
    status
}

const NOT_LOGGED_IN: &str = "MQ0370";
const ROLE_TOO_LOW: &str = "MQ0371";
