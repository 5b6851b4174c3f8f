//! `ShenYu`: JSON with `appName`, `host`, `port`, `status` and `weight`.
//!
//! Written by `ZookeeperInstanceRegisterRepository.persistInstance` as Gson prints an `InstanceEntity`
//! (apache/shenyu, shenyu-registry, at eb6f1c5). Both numbers are primitive `int`s there, so that they are
//! written, as 0, also by who never sets them (`RegistryListener` does not):
//!
//! - `status`: 0 is healthy and everything else is not, for the plugins make of it `.status(0 ==
//!   u.getStatus())` (`DivideUpstreamDataHandler`, and those for gRPC and WebSocket). `InstanceStatusEnum`, in
//!   which 1 is online, is of the gateways that report to the admin, not of these nodes.
//! - `weight`: 0 is none at all. An upstream with it is used nevertheless where others have none either
//!   (`RandomLoadBalancer`), and the SDK does not look at it.

use serde_json::Value;

use super::{Description, LayoutError, Object, host, json};
use crate::snapshot::InstanceState;

/// Whether an object looks like one of these.
pub(super) fn is_entity(object: &Object) -> bool {
    object.contains_key("appName") && object.contains_key("host")
}

pub(super) fn read(name: &str, object: &Object) -> Result<Description, LayoutError> {
    let mut description = host::read(name, object)?;
    if let Some(Value::Number(status)) = json::field(object, "status")
        && status.as_i64() != Some(0)
    {
        description.state = InstanceState::Down;
    }
    description.weight = description.weight.filter(|weight| *weight > 0);
    Ok(description)
}
