//! Who the client is to the server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::command::Command;
use super::error::{Error, NotSent};
use super::options::Credential;
use super::send::{AbandonOnDrop, decoded, encoded};
use super::ticket::Ticket;
use super::{Client, deadline_after};
use crate::jute::List;
use crate::proto::acl::ClientInfo;
use crate::proto::op_code::OpCode;

/// An identity of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How it was established.
    pub scheme: String,
    /// Who it is: for `digest` the user, for `ip` the address.
    pub user: String,
}

/// # Identities
impl Client {
    /// The identities that the server knows this connection by.
    ///
    /// # Errors
    /// Servers before 3.7 say `Unimplemented` and close the connection.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the answer is lost.
    pub async fn who_am_i(&self) -> Result<Vec<Identity>, Error> {
        let reply = self.send(encoded(OpCode::WhoAmI, &()), None).await?;
        let identities: List<'_, ClientInfo<'_>> = decoded(&reply)?;
        let identity = |info: ClientInfo<'_>| Identity {
            scheme: info.scheme.to_owned(),
            user: info.user.unwrap_or_default().to_owned(),
        };
        Ok(identities.iter().map(identity).collect())
    }

    /// Whether this client presents an identity of its own, so that it may put
    /// [`CREATOR`](crate::proto::acl::Acl::CREATOR) into an access control list: one that is configured, or
    /// that was added.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.shared.is_identified.load(Ordering::Relaxed)
    }

    /// Adds an identity to this connection and to all later ones.
    ///
    /// # Errors
    /// `AuthFailed`, after which the server closes the connection; the identity is then not added. After
    /// an unknown outcome it is added if the server takes it.
    ///
    /// # Cancel safety
    /// As after an unknown outcome.
    pub async fn add_auth(&self, credential: Credential) -> Result<(), Error> {
        let ticket = Arc::new(Ticket::default());
        let _abandon = AbandonOnDrop(&ticket);
        let (reply, answer) = oneshot::channel();
        let command = Command::AddCredential {
            credential,
            ticket: Arc::clone(&ticket),
            reply,
        };
        let done = async {
            self.shared
                .commands
                .send(command)
                .await
                .map_err(|_| NotSent::Closed)?;
            answer.await.map_err(|_| NotSent::Closed)
        };
        match timeout_at(deadline_after(self.operation_timeout), done).await {
            Ok(Ok(answer)) => {
                if answer.is_ok() {
                    self.shared.is_identified.store(true, Ordering::Relaxed);
                }
                answer
            }
            Ok(Err(_)) if ticket.is_sent() => Err(Error::ConnectionLoss),
            Ok(Err(closed)) => Err(Error::NotSent(closed)),
            Err(_) if ticket.abandon() => Err(Error::DeadlineExceeded),
            Err(_) => Err(Error::NotSent(NotSent::Deadline)),
        }
    }
}
