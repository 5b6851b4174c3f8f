//! The gateway's side of leaving: it says in the registry when nothing of its own is in flight any more to
//! an instance that wants to stop.

use std::sync::Arc;

use arc_swap::ArcSwap;
use livegate_discovery::drain::{Announcement, DrainBoard, has_let_go};
use livegate_zk::client::Client;
use livegate_zk::path;

use crate::control::{Gateway, trouble};
use crate::events::Events;

/// Announces this gateway and acknowledges drains, until it is dropped.
pub(super) async fn acknowledge(client: Client, gateway: Arc<ArcSwap<Gateway>>, events: Events) {
    let id = format!("{:016x}", fastrand::u64(..));
    let announcement = Announcement::of_this_process(env!("CARGO_PKG_VERSION"));
    let board = DrainBoard::start(client, &id, &announcement).expect("sixteen digits are a name");
    let mut faults = board.faults();
    let acknowledging = board.acknowledge_when(|instance, request| {
        let gateway = gateway.load();
        let parent = path::parent(instance.as_str());
        let clusters = gateway.clusters.iter();
        let mut uses = clusters.filter(|cluster| parent == Some(cluster.config.path.as_str()));
        uses.all(|cluster| has_let_go(&cluster.balancer.view(), instance, request))
    });
    let telling = async {
        while faults.changed().await.is_ok() {
            let fault = faults.borrow_and_update().clone();
            if let Some(fault) = fault {
                let what = "instances that drain do not wait for this gateway";
                trouble::refused(&events, None, what, &fault);
            }
        }
    };
    tokio::join!(acknowledging, telling);
}
