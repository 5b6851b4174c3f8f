//! The gateway's side of leaving: it says in the registry when nothing of its own is in flight any more to
//! an instance that wants to stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use livegate_discovery::drain::{Announcement, DrainBoard, DrainRequest, InstancePath};
use livegate_discovery::{EndpointState, InstanceState, Member};
use livegate_zk::client::Client;
use livegate_zk::path;
use tokio::time::sleep;

use crate::control::{Gateway, trouble};
use crate::events::Events;

/// How often it is looked whether an instance that wants to leave is idle.
const LOOK: Duration = Duration::from_millis(20);

/// Announces this gateway and acknowledges drains, until it is dropped.
pub(super) async fn acknowledge(client: Client, gateway: Arc<ArcSwap<Gateway>>, events: Events) {
    let id = format!("{:016x}", fastrand::u64(..));
    let announcement = Announcement {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host_name(),
        pid: std::process::id(),
    };
    let board = DrainBoard::start(client, &id, &announcement).expect("sixteen digits are a name");
    let mut drains = board.drains();
    let mut faults = board.faults();
    let mut acknowledged: BTreeSet<(InstancePath, i64)> = BTreeSet::new();
    loop {
        let open = Arc::clone(&drains.borrow_and_update());
        acknowledged.retain(|(path, czxid)| {
            open.get(path)
                .is_some_and(|request| request.czxid == *czxid)
        });
        let mut is_waiting = false;
        for (path, request) in open.iter() {
            let key = (path.clone(), request.czxid);
            if acknowledged.contains(&key) {
                continue;
            }
            if is_let_go(&gateway.load(), path, *request) {
                board.acknowledge(path, request.czxid);
                acknowledged.insert(key);
            } else {
                is_waiting = true;
            }
        }
        let changed = async {
            if drains.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let look = async {
            if is_waiting {
                sleep(LOOK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            Ok(()) = faults.changed() => {
                let fault = faults.borrow_and_update().clone();
                if let Some(fault) = fault {
                    let what = "instances that drain do not wait for this gateway";
                    trouble::refused(&events, None, what, &fault);
                }
            }
            () = look => {}
        }
    }
}

/// Whether no request of ours is on its way to the instance, nor will be.
fn is_let_go(gateway: &Gateway, path: &InstancePath, request: DrainRequest) -> bool {
    let parent = path::parent(path.as_str());
    let name = path::name(path.as_str());
    // A former incarnation at the same address: the cluster has not heard yet of the one that leaves.
    let concerns = |member: &&Member| {
        let czxid = member.instance.incarnation.czxid;
        czxid == request.czxid || czxid < request.czxid && member.instance.id.as_str() == name
    };
    let mut uses = gateway
        .clusters
        .iter()
        .filter(|cluster| parent == Some(cluster.config.path.as_str()));
    uses.all(|cluster| {
        let view = cluster.balancer.view();
        view.members().iter().filter(concerns).all(has_let_go)
    })
}

/// The registry has said so to the cluster as well, or whoever operates it, and the last request is over.
fn has_let_go(member: &Member) -> bool {
    let leaves = member.instance.state != InstanceState::Up
        || member
            .reasons
            .iter()
            .any(|reason| reason.state == EndpointState::Draining);
    leaves && member.endpoint.is_idle()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
