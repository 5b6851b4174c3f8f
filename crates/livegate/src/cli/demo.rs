//! `livegate demo`: a gateway with its registry, two sample services and a light load, so that there is
//! something to see and to break.
//!
//! The gateway is `livegate run` and every instance a process of its own: what is tried here is what will
//! run. All are bound to the life of this process, so that nothing is left over, however it ends.

mod banner;
mod cast;
mod fetch;
mod gateway;
mod instance;
mod load;
mod place;
mod voice;

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cli::signals::Ends;
use banner::Banner;
use cast::{Cast, RESTART_PAUSE, SERVICES};
use fetch::fetch;
use gateway::{Addresses, Gateway};
pub(super) use instance::{InstanceArguments, be_instance};
use load::Load;
use place::Directory;
use voice::Voice;

pub(super) const AFTER_HELP: &str = "Example:
  livegate demo

Runs until Ctrl-C, in a temporary directory. Where a default port is taken, another one is used. Prints the \
addresses, the process ids and what to try: kill an instance, freeze one, drain one, and ask why.";

/// How long everything may take to serve.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that starts.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until a signal ends it.
pub(super) fn run() -> anyhow::Result<()> {
    // The processes are bound to the thread that starts them, which has to be this one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(show())
}

async fn show() -> anyhow::Result<()> {
    // Signals are caught before there are processes that they could leave alone.
    let mut ends = Ends::new()?;
    let voice = Voice::new();
    let directory = Directory::create()?;
    let mut gateway = tokio::select! {
        gateway = Gateway::start(&directory, &voice) => gateway?,
        _ = ends.next() => return Ok(()),
    };
    let addresses = gateway.addresses();
    let hurry = CancellationToken::new();
    let mut cast = Cast::start(&addresses, &voice, &hurry);
    let result = tokio::select! {
        result = act(&addresses, &directory, &cast, &voice) => result,
        status = gateway.ended() => match status {
            Ok(status) => Err(gateway.failure(status)),
            Err(error) => Err(error.into()),
        },
        name = ends.next() => {
            voice.say(&format!("{name}: stopping everything"));
            Ok(())
        }
        () = voice.lost() => Ok(()),
    };
    let mut impatience = JoinSet::new();
    let hurried = hurry.clone();
    impatience.spawn(async move {
        ends.next().await;
        hurried.cancel();
    });
    // The gateway last, so that it can let go of the instances.
    cast.stop().await;
    gateway.stop(hurry.cancelled()).await?;
    result
}

/// What there is to see; never returns but with an error.
async fn act(
    addresses: &Addresses,
    directory: &Directory,
    cast: &Cast,
    voice: &Voice,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    for service in SERVICES {
        while used(addresses, service.name).await < service.instances.len() {
            if Instant::now() > deadline {
                bail!(
                    "the instances of {} do not serve within {} s: try again, or look at {}",
                    service.name,
                    START_PATIENCE.as_secs(),
                    directory.log().display()
                );
            }
            sleep(LOOK).await;
        }
    }
    let banner = Banner {
        addresses,
        directory,
        instances: &cast.instances(),
        restart_pause: RESTART_PAUSE,
    };
    voice.say(&banner.to_string());
    Load::new(addresses.http, voice).run().await;
    Ok(())
}

/// How many instances of a service the gateway uses.
async fn used(addresses: &Addresses, service: &str) -> usize {
    let path = format!("/api/v1/services/{service}");
    let answer = fetch(addresses.admin, &path).await;
    let json: Option<Value> = answer
        .ok()
        .and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let instances = json.as_ref().and_then(|json| json["instances"].as_array());
    instances.map_or(0, |instances| {
        instances
            .iter()
            .filter(|instance| instance["used"] == true)
            .count()
    })
}
