//! What each request shows of the user.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::bearer::Bearer;
use crate::tokens::may_carry;

/// Shows the user's token with each request, where there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Badge(Option<MetadataValue<Ascii>>);

impl Badge {
    /// What is shown at `addr`: nothing where others on the way could read it.
    pub(super) fn of(token: Option<&Bearer>, addr: &str) -> Self {
        let token = token.filter(|_| may_carry(addr));
        let value = token.and_then(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.reveal()).parse().ok()?;
            // So it is shown by no Debug output, and HTTP/2 keeps it out of the table that both
            // sides remember headers in.
            value.set_sensitive(true);
            Some(value)
        });
        Self(value)
    }
}

impl Interceptor for Badge {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What every client speaks through.
pub(crate) type Wire = InterceptedService<Channel, Badge>;
