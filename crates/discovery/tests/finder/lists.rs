//! Fixed lists, which are probed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use livegate_discovery::finder::Finder;
use livegate_discovery::probe::CheckPolicy;
use livegate_discovery::{Balance, EndpointState, NoEndpoint, Policy, Snapshot, Weights};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::calls::{Load, PATIENCE, call, event, state, until, until_state};
use crate::instance::Instance;

const OFTEN: CheckPolicy = CheckPolicy {
    interval: Duration::from_millis(50),
    timeout: Duration::from_secs(20),
    fall: 2,
    rise: 1,
};

fn listed(instances: &[&Instance]) -> Finder {
    Finder::list(instances.iter().map(|instance| instance.address))
}

#[tokio::test]
async fn instances_are_killed_one_by_one_and_all_at_once_and_no_call_fails() {
    let (a, b) = (Instance::start().await, Instance::start().await);
    let service = listed(&[&a, &b]).checks(Some(OFTEN)).start().unwrap();
    let load = Load::start(&service, 4);
    load.until_answered(a.address).await;
    load.until_answered(b.address).await;

    let (second, first) = (b.address, a.kill().await);
    // By a call that it took along, by one that it refused, or by a probe.
    event(&service, first, "quarantined").await;
    load.until_answered(second).await;
    let a = Instance::at(first).await;
    load.until_answered(first).await;

    // Nobody is left: calls wait for whoever is back first.
    a.kill().await;
    b.kill().await;
    until("nobody accepts connections", || {
        service.balancer().obstacle() == Some(NoEndpoint::AllUnfit)
    })
    .await;
    let _a = Instance::at(first).await;
    load.until_answered(first).await;
    let _b = Instance::at(second).await;
    load.until_answered(second).await;
    load.assert_no_failure();
}

#[tokio::test]
async fn a_dead_one_is_found_by_probes_alone_and_found_again() {
    let (a, b) = (Instance::start().await, Instance::start().await);
    let service = listed(&[&a, &b]).checks(Some(OFTEN)).start().unwrap();
    assert_eq!(
        state(&service, a.address),
        Some(EndpointState::Fit),
        "at once"
    );
    let dead = a.kill().await;
    let cause = event(&service, dead, "unhealthy").await.cause;
    assert!(cause.starts_with("health check: "), "{cause}");
    for _ in 0..50 {
        assert_eq!(call(&service).await, Ok(b.address));
    }
    let _back = Instance::at(dead).await;
    until_state(&service, dead, EndpointState::Fit).await;
}

#[tokio::test]
async fn a_frozen_one_is_left_until_it_moves_again() {
    let (a, b) = (Instance::start().await, Instance::start().await);
    let service = listed(&[&a, &b]).start().unwrap();
    let load = Load::start(&service, 8);
    load.until_answered(a.address).await;
    a.freeze(true);
    event(&service, a.address, "stalled").await;
    // It accepts the probes' connections, which says nothing.
    load.until_answered(b.address).await;
    assert_eq!(state(&service, a.address), Some(EndpointState::Stalled));
    a.freeze(false);
    event(&service, a.address, "resumed").await;
    load.until_answered(a.address).await;
    load.assert_no_failure();
}

#[tokio::test]
async fn policy_and_weights_are_observed_and_nothing_is_forgotten() {
    let (a, b) = (Instance::start().await, Instance::start().await);
    let policy = Policy {
        balance: Balance::RoundRobin,
        ..Policy::default()
    };
    let service = listed(&[&a, &b]).policy(policy).start().unwrap();
    for _ in 0..10 {
        assert!(call(&service).await.is_ok());
    }
    let requests = || -> Vec<u64> {
        let view = service.view();
        view.members()
            .iter()
            .map(|member| member.requests())
            .collect()
    };
    assert_eq!(requests(), [5, 5]);

    // One subject, observed: whoever has it may change it.
    let subject = service.policy().clone();
    subject.send_modify(|policy| policy.balance = Balance::ConsistentHash);
    let homes = || -> BTreeSet<SocketAddr> {
        let pick = |_| service.pick(Some(7), &[]).unwrap().endpoint().address();
        (0..4).map(pick).collect()
    };
    until("equal keys go to one instance", || homes().len() == 1).await;
    assert!(requests().iter().all(|requests| *requests >= 5));

    let weights = Weights {
        overrides: [(a.address.to_string(), 0)].into(),
        ..Weights::default()
    };
    service.set_weights(&weights);
    until_state(&service, a.address, EndpointState::Draining).await;
    assert_eq!(homes(), [b.address].into());
    service.set_weights(&Weights::default());
    until_state(&service, a.address, EndpointState::Fit).await;
    assert!(requests().iter().all(|requests| *requests >= 5));
}

#[tokio::test]
async fn being_ready_is_waited_for_and_what_is_the_matter_told() {
    let (snapshots, receiver) = watch::channel(Snapshot::pending().into());
    let service = Finder::snapshots(receiver).start().unwrap();
    let soon = Duration::from_millis(10);
    assert_eq!(service.ready(soon).await, Err(NoEndpoint::Pending));
    assert_eq!(service.pick(None, &[]).unwrap_err(), NoEndpoint::Pending);
    snapshots.send_replace(Snapshot::live(1, []).into());
    until("the list is empty", || {
        service.balancer().obstacle() == Some(NoEndpoint::Empty)
    })
    .await;
    let a = Instance::start().await;
    let instance = livegate_discovery::Instance::listed(a.address, 1);
    let (ready, ()) = tokio::join!(service.ready(PATIENCE), async {
        snapshots.send_replace(Snapshot::live(2, [instance]).into());
    });
    assert_eq!(ready, Ok(()));
    assert_eq!(call(&service).await, Ok(a.address));
    // The sender's end is not the instances'.
    drop(snapshots);
    assert_eq!(call(&service).await, Ok(a.address));
}

#[tokio::test]
async fn it_ends_when_it_is_closed_and_when_nobody_is_left_to_call() {
    let a = Instance::start().await;
    let instance = || livegate_discovery::Instance::listed(a.address, 1);
    let (snapshots, receiver) = watch::channel(Snapshot::live(1, [instance()]).into());
    let service = Finder::snapshots(receiver.clone()).start().unwrap();
    let clone = service.clone();
    assert_eq!(snapshots.receiver_count(), 2);
    // From another task, as on a signal.
    let mut closing = JoinSet::new();
    closing.spawn(async move { service.close().await });
    closing.join_all().await;
    assert_eq!(snapshots.receiver_count(), 1);
    let mut events = clone.events();
    assert_eq!(events.next().await.unwrap().kind, "joined");
    assert_eq!(events.next().await, None);
    assert_eq!(call(&clone).await, Ok(a.address), "what was known last");

    let service = Finder::snapshots(receiver).start().unwrap();
    drop((service, clone));
    let closed = timeout(PATIENCE, snapshots.closed());
    closed.await.expect("the task ends with the last clone");
}
