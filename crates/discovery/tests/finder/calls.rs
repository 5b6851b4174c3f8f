//! Steady calls of one service, as its users make them, with every failure counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use livegate_discovery::finder::ServiceClient;
use livegate_discovery::{EndpointState, Outcome, Transition};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::instance::exchange;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Attempts of one call.
const ATTEMPTS: usize = 3;

/// How long one of them may take; only a frozen instance takes that long.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// One call, repeated at other instances; who answered.
pub(crate) async fn call(service: &ServiceClient) -> Result<SocketAddr, String> {
    let mut tried = Vec::new();
    loop {
        let ready = service.ready(PATIENCE).await;
        ready.map_err(|nobody| nobody.to_string())?;
        let pick = service
            .pick(None, &tried)
            .map_err(|nobody| nobody.to_string())?;
        tried.push(pick.endpoint().key());
        let address = pick.endpoint().address();
        let sent = Instant::now();
        match exchange(address, ATTEMPT_MAX).await {
            Ok(answer) => {
                let latency = sent.elapsed();
                let status = 200;
                pick.finish(Outcome::Answered { status, latency }, Instant::now());
                return answer.parse().map_err(|_| answer);
            }
            Err(error) => {
                pick.finish(Outcome::of_error(&error), Instant::now());
                if tried.len() == ATTEMPTS {
                    return Err(format!("{address}: {error}"));
                }
            }
        }
    }
}

/// Calls a service all the time until it is dropped.
pub(crate) struct Load {
    answers: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    failures: Arc<Mutex<Vec<String>>>,
    _callers: JoinSet<()>,
}

impl Load {
    /// So many callers at once.
    pub(crate) fn start(service: &ServiceClient, callers: usize) -> Self {
        let (answers, failures) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(calls(
                service.clone(),
                Arc::clone(&answers),
                Arc::clone(&failures),
            ));
        }
        Self {
            answers,
            failures,
            _callers: tasks,
        }
    }

    pub(crate) fn answers_of(&self, address: SocketAddr) -> u64 {
        self.answers
            .lock()
            .unwrap()
            .get(&address)
            .copied()
            .unwrap_or(0)
    }

    /// Waits until this one has answered some calls more.
    pub(crate) async fn until_answered(&self, address: SocketAddr) {
        let goal = self.answers_of(address) + 10;
        until(&format!("answers of {address}"), || {
            self.answers_of(address) >= goal
        })
        .await;
    }

    #[track_caller]
    pub(crate) fn assert_no_failure(&self) {
        assert_eq!(*self.failures.lock().unwrap(), Vec::<String>::new());
        assert!(!self.answers.lock().unwrap().is_empty());
    }
}

async fn calls(
    service: ServiceClient,
    answers: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    failures: Arc<Mutex<Vec<String>>>,
) {
    loop {
        match call(&service).await {
            Ok(address) => *answers.lock().unwrap().entry(address).or_default() += 1,
            Err(failure) => failures.lock().unwrap().push(failure),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "waited {PATIENCE:?} for: {what}");
}

pub(crate) fn state(service: &ServiceClient, address: SocketAddr) -> Option<EndpointState> {
    let view = service.view();
    let mut members = view.members().iter();
    let member = members.find(|member| member.instance.address == address)?;
    Some(member.state())
}

pub(crate) async fn until_state(
    service: &ServiceClient,
    address: SocketAddr,
    wanted: EndpointState,
) {
    let what = format!("{address} is {}", wanted.name());
    until(&what, || state(service, address) == Some(wanted)).await;
}

/// The first event of this kind about an instance, from the oldest that is remembered on.
pub(crate) async fn event(service: &ServiceClient, address: SocketAddr, kind: &str) -> Transition {
    let (mut events, id) = (service.events(), address.to_string());
    let find = async {
        loop {
            let event = events.next().await.expect("the service is not closed");
            if event.kind == kind && event.instance.as_str() == id {
                return event;
            }
        }
    };
    let found = timeout(PATIENCE, find).await;
    found.unwrap_or_else(|_| panic!("waited for {kind} of {address}"))
}
