//! Why a request could not be served, and what of that the client may know.

use std::time::Duration;

use berry_core::error::ErrorKind;
use berry_core::id::BackendId;
use berry_loadbalance::eligibility::Exclusion;
use berry_loadbalance::outcome::FailureClass;
use berry_loadbalance::selector::{NoRoute, Shortage};
use http::StatusCode;

/// An error with all that it was caused by.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no answer from an upstream. `Display` is for us; [`ForwardError::public_message`] is for the client.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Nothing to send it to.
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    /// No connection: nothing was sent.
    #[error("{backend}: no connection")]
    Unreachable {
        /// Where.
        backend: BackendId,
        /// Why it failed.
        #[source]
        source: BoxError,
    },
    /// A connection that broke.
    #[error("{backend}: {what}")]
    Network {
        /// Where.
        backend: BackendId,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: BoxError,
    },
    /// Silence.
    #[error("{backend}: {what} did not come within {waited:?}")]
    Timeout {
        /// Where.
        backend: BackendId,
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// It refused our key.
    #[error("{backend}: refused our key with status {status}")]
    KeyRefused {
        /// Where.
        backend: BackendId,
        /// 401 or 403.
        status: StatusCode,
    },
    /// The request cannot be said in the backend's dialect.
    #[error("{backend}: {why}")]
    Untranslatable {
        /// Where.
        backend: BackendId,
        /// Why, for the client.
        why: String,
    },
    /// It answered with something that is no answer.
    #[error("{backend}: {why}")]
    BadAnswer {
        /// Where.
        backend: BackendId,
        /// What is wrong with it.
        why: String,
    },
    /// It answered with an error status.
    #[error("{backend}: status {status}")]
    Rejected {
        /// Where.
        backend: BackendId,
        /// Its status, which the client gets as well.
        status: StatusCode,
        /// What that says about the backend; `None` = the caller's own fault.
        class: Option<FailureClass>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A stream that ended without its terminal event.
    #[error("{backend}: the stream ended before its end event")]
    Incomplete {
        /// Where.
        backend: BackendId,
    },
    /// The time that the client or the settings give the whole request is over.
    #[error("the request was not answered within {0:?}")]
    TotalTimeout(Duration),
    /// The gateway is shutting down and its grace period is over.
    #[error("the gateway is shutting down")]
    Shutdown,
    /// The gateway holds as many bytes as it may.
    #[error("the limit of buffered bytes is reached")]
    Overloaded,
    /// A bug of ours, or a model name that no URL can carry.
    #[error("{0}")]
    Internal(String),
}

impl ForwardError {
    /// The closed kind, which decides the status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRoute(NoRoute::UnknownModel(_)) => ErrorKind::ModelNotFound,
            Self::NoRoute(NoRoute::UnknownProvider { .. }) => ErrorKind::UnknownBackend,
            Self::NoRoute(NoRoute::Tags { .. }) => ErrorKind::NoBackendForTags,
            Self::NoRoute(NoRoute::NothingEligible { shortage: Shortage::Cooling, .. }) => ErrorKind::RateLimitExceeded,
            Self::NoRoute(_) | Self::Unreachable { .. } | Self::Shutdown => ErrorKind::NoBackendAvailable,
            Self::Network { .. } | Self::BadAnswer { .. } | Self::Rejected { .. } => ErrorKind::UpstreamError,
            Self::Untranslatable { .. } => ErrorKind::InvalidRequest,
            Self::Timeout { .. } | Self::TotalTimeout(_) => ErrorKind::UpstreamTimeout,
            Self::KeyRefused { .. } => ErrorKind::UpstreamAuthError,
            Self::Incomplete { .. } => ErrorKind::StreamIncomplete,
            Self::Overloaded => ErrorKind::Overloaded,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// For the log: what happened, and what caused it in the end.
    pub fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {}", root_cause(source)),
            None => self.to_string(),
        }
    }

    /// When it is worth asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoRoute(no_route) => no_route.retry_after(),
            Self::Rejected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The status that the upstream answered with, where the client is to get the same.
    pub fn upstream_status(&self) -> Option<StatusCode> {
        match self {
            Self::Rejected { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the backend did, where it was one's fault.
    pub fn failure_class(&self) -> Option<FailureClass> {
        match self {
            Self::Unreachable { .. } | Self::Network { .. } => Some(FailureClass::Network),
            Self::Timeout { .. } => Some(FailureClass::Timeout),
            Self::KeyRefused { .. } => Some(FailureClass::Auth),
            Self::BadAnswer { .. } => Some(FailureClass::Server),
            Self::Rejected { class, .. } => *class,
            Self::Incomplete { .. } => Some(FailureClass::StreamIncomplete),
            Self::NoRoute(_)
            | Self::Untranslatable { .. }
            | Self::TotalTimeout(_)
            | Self::Shutdown
            | Self::Overloaded
            | Self::Internal(_) => None,
        }
    }

    /// What the client is told: what happened and what to do, with no address and no key in it.
    pub fn public_message(&self) -> String {
        match self {
            Self::NoRoute(NoRoute::Tags { tags, .. }) => format!(
                "No backend of this model is open to the tags of your user ({}). Ask the operator for a common tag.",
                tags.join(", ")
            ),
            Self::NoRoute(NoRoute::UnknownProvider { .. }) => {
                "The provider named by `backend` serves no enabled backend of this model. Leave `backend` out, or name one \
                 that does."
                    .to_owned()
            }
            Self::NoRoute(NoRoute::UnknownModel(model)) => format!("The model `{model}` does not exist."),
            Self::NoRoute(NoRoute::NothingEligible { skipped, shortage: Shortage::Lasting, .. })
                if skipped.iter().any(|(_, reason)| *reason == Exclusion::Unpriced) =>
            {
                "Nobody states what this model costs, and this gateway refuses such requests. Ask its operator.".to_owned()
            }
            Self::NoRoute(NoRoute::NothingEligible { .. }) => {
                "No backend of this model can take the request now. Try again later.".to_owned()
            }
            Self::Unreachable { .. } => "The upstream could not be reached. Try again.".to_owned(),
            Self::Network { .. } => "The upstream broke the connection. Try again.".to_owned(),
            Self::Timeout { what, waited, .. } => {
                format!("The upstream kept silent: {what} did not come within {} s. Try again.", waited.as_secs_f64())
            }
            Self::KeyRefused { .. } => {
                "The upstream refused the gateway's own key. This is for the gateway's operator to mend; your token is fine."
                    .to_owned()
            }
            Self::Untranslatable { why, .. } => why.clone(),
            Self::BadAnswer { why, .. } => format!("The upstream's answer cannot be used: {why}. Try again."),
            Self::Rejected { status, .. } => format!("The upstream answered with status {}.", status.as_u16()),
            Self::Incomplete { .. } => {
                "The upstream ended the stream before it was complete. What came of it, if anything, is cut short.".to_owned()
            }
            Self::TotalTimeout(limit) => {
                format!("The request was not answered within {} s.", limit.as_secs_f64())
            }
            Self::Shutdown => "The gateway is shutting down. Try again; another instance will answer.".to_owned(),
            Self::Overloaded => {
                "The gateway holds as much data as it may (server.max_buffered_bytes). Try again shortly.".to_owned()
            }
            Self::Internal(_) => "The gateway made a mistake. Its log has the details under this request id.".to_owned(),
        }
    }
}

/// The innermost cause says what happened; what is around it only says that it happened.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_why_there_was_no_connection_and_the_client_is_not() {
        let certificate = std::io::Error::other("invalid peer certificate: Expired");
        let source = Box::new(std::io::Error::other(certificate));
        let error = ForwardError::Unreachable {
            backend: BackendId { model: "m".into(), provider: "p".into(), upstream: "x".into(), repeat: 0 },
            source,
        };
        assert_eq!(error.with_cause(), format!("{error}: invalid peer certificate: Expired"));
        assert!(!error.public_message().contains("certificate"));
    }
}
