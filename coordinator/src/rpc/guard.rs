//! What stands around every request: who may not ask is refused, a panic of its handler is its own error, a
//! coordinator in safe mode or one that stands by refuses what writes, and a message that is still to come whole has a
//! deadline and room that was kept for it. What each method takes stands in `methods`.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_domain::users::Role;
use marquee_proto::error::ErrorCode;
use marquee_store::{Db, users};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::inflow::{Inflow, Metered};
use super::members::Members;
use super::methods::{self, Right};
use super::until::Until;
use crate::access::{Party, remote};
use crate::env::Clock;
use crate::lifecycle::LifecycleError;
use crate::role::Role as Leadership;
use crate::users::{Asker, Who};
use crate::walls::{Panicked, Walls, caught};

/// Puts the guard around a service.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    pub(super) walls: Walls,
    pub(super) role: Leadership,
    pub(super) inflow: Inflow,
    pub(super) clock: Arc<dyn Clock>,
    /// Where users are read from. None in tests that have none.
    pub(super) db: Option<Db>,
    pub(super) members: Members,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded {
            inner,
            guard: Arc::new(self.clone()),
        }
    }
}

/// A guarded service.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<GuardLayer>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready; the copy is asked before the next request.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let guard = self.guard.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            // Apart from the request, whose body no two threads may look at. Each of these is behind a wall of its own, as
            // the handler is: what panics here would end the client's connection, with all its other requests.
            let ready = match caught(guard.know_users()).await {
                Ok(ready) => ready,
                Err(panicked) => return Ok(fault(&path, &panicked)),
            };
            let admits = AssertUnwindSafe(|| guard.let_in(&mut request, &path, ready));
            let (who, worker) = match catch_unwind(admits) {
                Ok(Ok(admitted)) => admitted,
                Ok(Err(status)) => return Ok(status.into_http()),
                Err(panic) => return Ok(fault(&path, &Panicked::from_panic(panic.as_ref()))),
            };
            let from = remote(&request).map(|from| from.ip().to_canonical());
            let waits = async {
                // First: what a flood would ask of the database is not asked.
                let open = guard.wait_for_turn(&who, worker, from).await?;
                guard.is_member(worker).await?;
                Ok::<_, Status>(open)
            };
            let open = match caught(waits).await {
                Ok(Ok(open)) => open,
                Ok(Err(status)) => return Ok(status.into_http()),
                Err(panicked) => return Ok(fault(&path, &panicked)),
            };
            request.extensions_mut().insert(who.clone());
            let room = guard.inflow.of(remote(&request));
            let request = request.map(|body| Body::new(Metered::new(body, room)));
            let begins = AssertUnwindSafe(|| inner.call(request));
            let answer = match catch_unwind(begins) {
                Ok(answer) => answer,
                Err(panic) => return Ok(fault(&path, &Panicked::from_panic(panic.as_ref()))),
            };
            match caught(answer).await {
                Ok(answer) => Ok(match open {
                    None => answer?,
                    Some(open) => guard.until(answer?, &who, open),
                }),
                Err(panicked) => Ok(fault(&path, &panicked)),
            }
        })
    }
}

impl GuardLayer {
    /// Sees to it that what is known of users is current.
    async fn know_users(&self) -> Result<(), Status> {
        let users = &self.walls.users;
        match &self.db {
            Some(db) if !users.is_current(&self.role) => {
                let ready = users.ready(db, &self.role, &*self.clock).await;
                ready.map_err(|error| LifecycleError::from(error).into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a worker that joined is one still.
    async fn is_member(&self, worker: Option<WorkerId>) -> Result<(), Status> {
        match worker {
            Some(worker) => self.members.check(worker).await,
            None => Ok(()),
        }
    }

    /// Who asks, and which worker it is, of one that joined; an error where he may not. Where the users could not be
    /// read, `ready` says why: what anybody may ask is answered all the same.
    fn let_in(
        &self,
        request: &mut Request<Body>,
        path: &str,
        ready: Result<(), Status>,
    ) -> Result<(Who, Option<WorkerId>), Status> {
        let method = methods::of(path);
        let is_read = method.is_some_and(|method| method.is_read);
        // A method that no table names takes the most: what is forgotten there is open to nobody.
        let right = method.map_or(Right::Govern, |method| method.right);
        // In this order: who is not let in learns neither who he would be nor what is wrong with this
        // coordinator.
        self.walls.access.mark(request);
        let worker = match self.walls.access.admit(request) {
            Ok(Party::Person) => None,
            // It submits nothing, lists nothing and changes nothing, whatever its account may.
            Ok(Party::Worker(worker)) if right.is_a_workers() => Some(worker),
            Ok(Party::Worker(_)) => {
                return Err(ErrorCode::NotForWorkers.status(format!(
                    "a worker's certificate was shown, and workers may not ask for {path}; ask as yourself"
                )));
            }
            // Where there are users, a token says more than the account behind a connection.
            Err(_) if self.walls.users.are_there() || methods::is_for_strangers(path) => None,
            Err(refused) => return Err(refused.code().status(refused.to_string())),
        };
        let who = match ready {
            Ok(()) => self.who(request)?,
            Err(_) if right == Right::Anybody => Who::Nobody,
            Err(status) => return Err(status),
        };
        allow(right, &who)?;
        if let Some(why) = &self.walls.safe_mode
            && !is_read
        {
            return Err(ErrorCode::SafeMode.status(why.as_ref()));
        }
        if !methods::is_about(path)
            && let Some(status) = self.role.refusal(path, is_read)
        {
            return Err(status);
        }
        Ok((who, worker))
    }

    fn who(&self, request: &Request<Body>) -> Result<Who, Status> {
        let users = &self.walls.users;
        match users.who(request, self.clock.now()) {
            Ok(who) => {
                self.note_use(&who);
                Ok(who)
            }
            Err(why) => {
                users.say_refused(remote(request), &why);
                let text = format!("log in again (\"marquee login\"): {why}");
                Err(ErrorCode::NotLoggedIn.status(text))
            }
        }
    }

    /// Writes down that a token is used, once an hour; whoever asks does not wait for that.
    fn note_use(&self, who: &Who) {
        let Who::User {
            token: Some((id, _)),
            is_news: true,
            ..
        } = who
        else {
            return;
        };
        // One that stands by writes nothing; its users are seen when they ask the leader.
        let Some(db) = self.db.clone().filter(|_| self.role.leads_as().is_some()) else {
            return;
        };
        let (id, now) = (id.clone(), self.clock.now());
        tokio::spawn(async move {
            let noted = async {
                let mut tx = db.write("token used").await?;
                users::mark_token_used(&mut tx, &id, now).await?;
                tx.commit().await
            };
            if let Err(error) = noted.await {
                tracing::debug!(token = id, %error, "that a token is used was not written down");
            }
        });
    }

    /// Waits where its user, its worker, or whoever is at its address asks too much. None: nobody counts it.
    async fn wait_for_turn(
        &self,
        who: &Who,
        worker: Option<WorkerId>,
        from: Option<IpAddr>,
    ) -> Result<Option<crate::users::Open>, Status> {
        let asker = match (who, worker, from) {
            (Who::User { user, .. }, ..) => Asker::User(user.name.to_string()),
            (_, Some(worker), _) => Asker::Worker(worker),
            (Who::Nobody, None, Some(from)) => Asker::Address(from),
            (Who::Nobody | Who::Open | Who::Owner | Who::Machine, None, _) => return Ok(None),
        };
        match self.walls.users.flow().take(asker) {
            Ok((open, wait)) => {
                if wait > Duration::ZERO {
                    tokio::time::sleep(wait).await;
                }
                Ok(Some(open))
            }
            Err(much) => Err(ErrorCode::LimitReached.status(much.to_string())),
        }
    }

    /// An answer that ends when whoever asked is nobody any more.
    fn until(&self, answer: Response<Body>, who: &Who, open: crate::users::Open) -> Response<Body> {
        let Who::User { over, token, .. } = who else {
            return answer;
        };
        let left = token.as_ref().map(|(_, expires_at)| {
            let left = *expires_at - self.clock.now();
            left.to_std().unwrap_or_default()
        });
        answer.map(|body| Body::new(Until::new(body, over.clone(), left, open)))
    }
}

/// Whether somebody may ask for something that takes this right.
fn allow(right: Right, who: &Who) -> Result<(), Status> {
    let (user, is_machine) = match who {
        Who::Open | Who::Owner => return Ok(()),
        Who::User {
            user, is_machine, ..
        } => (Some(user), *is_machine),
        Who::Machine => (None, true),
        Who::Nobody => (None, false),
    };
    let has = |role| user.is_some_and(|user| user.grants.anywhere() >= Some(role));
    let governs = || user.is_some_and(|user| user.grants.everywhere() >= Some(Role::Admin));
    let (is_fine, takes) = match right {
        Right::Anybody => (true, ""),
        Right::Look => (has(Role::Viewer), "a role in some project"),
        Right::Act => (has(Role::Submitter), "a submitter"),
        Right::Govern => (governs(), "an administrator of all projects"),
        Right::Work => (is_machine, "a worker"),
        Right::LookOrWork => (is_machine || has(Role::Viewer), "a role in some project"),
    };
    if is_fine {
        return Ok(());
    }
    Err(match user {
        Some(user) => ErrorCode::RoleTooLow.status(format!(
            "it takes {takes}, and user {} is {}; ask an administrator for a role (\"marquee admin user role {0}\")",
            user.name, user.grants
        )),
        None if is_machine => ErrorCode::NotLoggedIn.status(
            "log in first: this certificate or account may bring a worker's work, and is no user's; \"marquee login\" \
             takes a token",
        ),
        None => ErrorCode::NotLoggedIn.status(
            "log in first: this cluster has users, and nobody that it knows asks; \"marquee login\" takes a token, which \
             an administrator makes (\"marquee admin token create NAME\")",
        ),
    })
}

/// The answer to a request whose handler panicked.
fn fault(path: &str, panicked: &Panicked) -> Response<Body> {
    tracing::error!(path, %panicked, "a request failed; everything else goes on");
    ErrorCode::Internal.status(panicked.to_string()).into_http()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    async fn code(walls: Walls, path: &str) -> Option<Code> {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_ne!(request.uri().path(), "/marquee.v1.Jobs/GetJob", "a fault");
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let mut service = GuardLayer {
            walls,
            role: Leadership::default(),
            inflow: Inflow::default(),
            clock: Arc::new(crate::env::SystemClock),
            db: None,
            members: Members::default(),
        }
        .layer(service);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = service.call(request).await.unwrap();
        Status::from_header_map(answer.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_handler_that_panics_answers_with_an_error() {
        let walls = Walls::default;
        let fault = code(walls(), "/marquee.v1.Jobs/GetJob").await;
        assert_eq!(fault, Some(Code::Internal));
        assert_eq!(code(walls(), "/marquee.v1.Jobs/ListJobs").await, None);
    }

    #[tokio::test]
    async fn in_safe_mode_only_reads_are_answered() {
        let walls = || Walls {
            safe_mode: Some("it died three times".into()),
            ..Walls::default()
        };
        for read in [
            "/marquee.v1.Jobs/ListJobs",
            "/marquee.v1.Workers/ListWorkers",
            "/marquee.v1.Artifacts/DownloadBlob",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(code(walls(), read).await, None, "{read}");
        }
        for write in [
            "/marquee.v1.Jobs/SubmitPipeline",
            "/marquee.v1.Jobs/CancelJob",
            "/marquee.v1.Jobs/ListJobsAndMore",
            "/marquee.v1.Artifacts/UploadBlob",
            "/marquee.v1.WorkerSession/Connect",
            "/marquee.v1.Workers",
        ] {
            let refused = code(walls(), write).await;
            assert_eq!(refused, Some(Code::FailedPrecondition), "{write}");
        }
    }

    #[test]
    fn each_right_is_for_those_whose_it_is() {
        use marquee_domain::users::Grants;
        use tokio_util::sync::CancellationToken;

        use crate::users::{Known, Means};

        let user = |grants: Grants, is_machine| Who::User {
            user: Arc::new(Known::new("ada".parse().unwrap(), grants)),
            means: Means::Token,
            token: None,
            is_machine,
            over: CancellationToken::new(),
            is_news: false,
        };
        let everywhere = |role| user(Grants::of([(None, role)]), false);
        let vision = || Some("vision".parse().unwrap());
        let in_vision = |role| user(Grants::of([(vision(), role)]), false);
        use Right::{Act, Anybody, Govern, Look, LookOrWork, Work};
        let all = [Anybody, Look, Act, Govern, Work, LookOrWork];
        for (what, who, may) in [
            ("no users", Who::Open, &all[..]),
            ("own account", Who::Owner, &all),
            ("nobody", Who::Nobody, &[Anybody]),
            ("worker", Who::Machine, &[Anybody, Work, LookOrWork]),
            ("no role", user(Grants::default(), false), &[Anybody]),
            (
                "viewer",
                in_vision(Role::Viewer),
                &[Anybody, Look, LookOrWork],
            ),
            (
                "submitter",
                in_vision(Role::Submitter),
                &[Anybody, Look, Act, LookOrWork],
            ),
            (
                "admin of one",
                in_vision(Role::Admin),
                &[Anybody, Look, Act, LookOrWork],
            ),
            (
                "admin",
                everywhere(Role::Admin),
                &[Anybody, Look, Act, Govern, LookOrWork],
            ),
            (
                "a worker's account that is a user too",
                user(Grants::default(), true),
                &[Anybody, Work, LookOrWork],
            ),
        ] {
            for right in all {
                assert_eq!(
                    allow(right, &who).is_ok(),
                    may.contains(&right),
                    "{what}: {right:?}"
                );
            }
        }
    }
}
