//! The identities of a client: presented on every connection.

use tokio::sync::oneshot;

use super::error::Error;
use super::options::Credential;
use super::outgoing::request_frame;
use super::state::DisconnectCause;
use crate::proto::error_code::ErrorCode;
use crate::proto::op_code::{OpCode, XID_AUTH};
use crate::proto::session::Auth;

/// Who waits for the server's word on an identity.
pub(crate) type Waiter = oneshot::Sender<Result<(), Error>>;

/// The identities of a client, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    held: Vec<Held>,
    made: u64,
}

#[derive(Debug)]
struct Held {
    number: u64,
    credential: Credential,
    /// Who added it and does not know yet whether the server takes it.
    waiter: Option<Waiter>,
}

impl Credentials {
    /// Adds one; the server's next word on it goes to the waiter.
    pub(crate) fn add(&mut self, credential: Credential, waiter: Option<Waiter>) -> (u64, Vec<u8>) {
        self.made += 1;
        let held = Held {
            number: self.made,
            credential,
            waiter,
        };
        let presented = held.present();
        self.held.push(held);
        presented
    }

    /// The requests that present all of them, with their numbers.
    pub(crate) fn present(&self) -> Vec<(u64, Vec<u8>)> {
        self.held.iter().map(Held::present).collect()
    }

    /// The server has taken, or refused, the one with this number.
    ///
    /// One that was just added and is refused is not held any longer: who added it is told. One that is
    /// configured, or was taken before, is: the server may be what is wrong.
    pub(crate) fn answered(&mut self, number: u64, error: i32) -> Result<(), DisconnectCause> {
        let Some(index) = self.held.iter().position(|held| held.number == number) else {
            return Ok(());
        };
        let waiter = self.held[index].waiter.take();
        let added = waiter.is_some();
        let answer = ErrorCode::from_code(error).map_or(Ok(()), |code| Err(Error::Server(code)));
        let refused = answer.is_err();
        if let Some(waiter) = waiter {
            // A caller who has gone does not need the answer.
            let _ = waiter.send(answer);
        }
        let scheme = self.held[index].credential.scheme.clone();
        let twice = self.held[..index]
            .iter()
            .any(|held| held.credential == self.held[index].credential);
        if added && (refused || twice) {
            self.held.remove(index);
        }
        if refused {
            Err(DisconnectCause::AuthFailed(scheme))
        } else {
            Ok(())
        }
    }
}

impl Held {
    fn present(&self) -> (u64, Vec<u8>) {
        let Credential { scheme, auth } = &self.credential;
        let body = Auth {
            kind: 0,
            scheme,
            auth: Some(auth),
        };
        (self.number, request_frame(XID_AUTH, OpCode::Auth, &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(credentials: &Credentials) -> Vec<u64> {
        credentials
            .present()
            .into_iter()
            .map(|(number, _)| number)
            .collect()
    }

    #[test]
    fn what_is_refused_when_added_is_not_held() {
        let mut credentials = Credentials::default();
        credentials.add(Credential::digest("configured", ""), None);
        let (waiter, mut answer) = oneshot::channel();
        let (number, _) = credentials.add(Credential::digest("added", ""), Some(waiter));
        assert_eq!(numbers(&credentials), [1, 2]);
        let refused = ErrorCode::AuthFailed;
        assert!(credentials.answered(number, refused.code()).is_err());
        assert_eq!(answer.try_recv().unwrap(), Err(Error::Server(refused)));
        assert!(credentials.answered(1, refused.code()).is_err());
        assert_eq!(numbers(&credentials), [1]);
    }

    #[test]
    fn the_same_one_is_held_once() {
        let mut credentials = Credentials::default();
        for _ in 0..3 {
            let (waiter, mut answer) = oneshot::channel();
            let (number, _) = credentials.add(Credential::digest("user", ""), Some(waiter));
            assert_eq!(credentials.answered(number, 0), Ok(()));
            assert_eq!(answer.try_recv().unwrap(), Ok(()));
        }
        assert_eq!(numbers(&credentials), [1]);
    }
}
