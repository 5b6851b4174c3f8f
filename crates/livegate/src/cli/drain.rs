//! `livegate drain`, `undrain` and `drop`: the operator's word about an instance.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tokio::time::sleep;

use crate::cli::admin_client::{AdminArguments, AdminClient, encoded, run};
use crate::cli::table::{clean, number, print, string};

/// Between two looks at an instance that drains.
const LOOK: Duration = Duration::from_millis(100);

/// Takes no new requests to an instance; with `patience`, waits until nothing is in flight to it.
pub(super) fn drain(
    arguments: &AdminArguments,
    service: &str,
    instance: &str,
    patience: Option<Duration>,
) -> anyhow::Result<()> {
    run(async {
        let client = AdminClient::new(arguments)?;
        let answer = client.post(&path(service, instance, "drain")).await?;
        if arguments.json {
            print(&format!("{}\n", answer.text))?;
        } else {
            print(&format!("{}\n", drained(&answer.json)))?;
        }
        let Some(patience) = patience.filter(|_| answer.json["idle"] != true) else {
            return Ok(());
        };
        wait(&client, service, instance, patience).await?;
        if !arguments.json {
            print(&format!("nothing is in flight to {}\n", clean(instance)))?;
        }
        Ok(())
    })
}

/// Takes a drain back.
pub(super) fn undrain(
    arguments: &AdminArguments,
    service: &str,
    instance: &str,
) -> anyhow::Result<()> {
    run(async {
        let client = AdminClient::new(arguments)?;
        let answer = client.post(&path(service, instance, "undrain")).await?;
        if arguments.json {
            print(&format!("{}\n", answer.text))?;
        } else {
            let instance = clean(&string(&answer.json["instance"]));
            print(&format!(
                "{instance} is no longer drained by the operator\n"
            ))?;
        }
        Ok(())
    })
}

/// Gives up what is held: an instance, or all of a service.
pub(super) fn drop_held(
    arguments: &AdminArguments,
    service: &str,
    instance: Option<&str>,
) -> anyhow::Result<()> {
    run(async {
        let client = AdminClient::new(arguments)?;
        let path = match instance {
            Some(instance) => path(service, instance, "drop"),
            None => format!("/api/v1/services/{}/drop", encoded(service)),
        };
        let answer = client.post(&path).await?;
        if arguments.json {
            print(&format!("{}\n", answer.text))?;
        } else {
            print(&dropped(&answer.json))?;
        }
        Ok(())
    })
}

fn dropped(json: &Value) -> String {
    let instances = json["dropped"].as_array().map_or(&[][..], Vec::as_slice);
    if instances.is_empty() {
        return format!(
            "no instance of {} is held\n",
            clean(&string(&json["service"]))
        );
    }
    let line = |instance: &Value| format!("{} is no longer held\n", clean(&string(instance)));
    instances.iter().map(line).collect()
}

fn path(service: &str, instance: &str, what: &str) -> String {
    let (service, instance) = (encoded(service), encoded(instance));
    format!("/api/v1/services/{service}/instances/{instance}/{what}")
}

fn drained(json: &Value) -> String {
    let instance = clean(&string(&json["instance"]));
    if json["idle"] == true {
        format!("{instance} takes no new requests, and nothing is in flight to it")
    } else {
        let in_flight = number(&json["in_flight"]);
        format!("{instance} takes no new requests, {in_flight} in flight")
    }
}

async fn wait(
    client: &AdminClient,
    service: &str,
    instance: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let path = format!("/api/v1/services/{}", encoded(service));
    loop {
        let json = client.get(&path).await?.json;
        match progress(&json, instance) {
            Progress::Idle => return Ok(()),
            Progress::Undrained => bail!("{instance} was undrained meanwhile"),
            Progress::InFlight(count) if Instant::now() >= deadline => bail!(
                "{count} in flight to {instance} after {}: it stays drained, wait on with 'livegate drain {service} {instance} --wait'",
                humantime::format_duration(patience)
            ),
            Progress::InFlight(_) => sleep(LOOK).await,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Or gone.
    Idle,
    Undrained,
    InFlight(u64),
}

fn progress(service: &Value, instance: &str) -> Progress {
    let instances = service["instances"].as_array().into_iter().flatten();
    let mut instances = instances.filter(|known| known["id"] == instance);
    let Some(instance) = instances.next() else {
        return Progress::Idle;
    };
    let reasons = instance["reasons"].as_array().into_iter().flatten();
    if !reasons
        .into_iter()
        .any(|reason| reason["source"] == "operator")
    {
        return Progress::Undrained;
    }
    if instance["idle"] == true {
        Progress::Idle
    } else {
        Progress::InFlight(instance["in_flight"].as_u64().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_drain_is_over_when_nothing_is_in_flight_or_the_instance_is_gone() {
        let service = |source: &str, idle: bool| {
            json!({ "instances": [
                { "id": "b", "idle": false, "in_flight": 7, "reasons": [] },
                { "id": "a", "idle": idle, "in_flight": 3, "reasons": [{ "source": source }] },
            ]})
        };
        assert_eq!(
            progress(&service("operator", false), "a"),
            Progress::InFlight(3)
        );
        assert_eq!(progress(&service("operator", true), "a"), Progress::Idle);
        assert_eq!(
            progress(&service("registry", true), "a"),
            Progress::Undrained
        );
        assert_eq!(progress(&service("operator", false), "c"), Progress::Idle);
    }

    #[test]
    fn a_drop_says_what_it_has_done() {
        let said = |ids: &[&str]| dropped(&json!({ "service": "orders", "dropped": ids }));
        assert_eq!(said(&[]), "no instance of orders is held\n");
        assert_eq!(
            said(&["a", "b"]),
            "a is no longer held\nb is no longer held\n"
        );
    }

    #[test]
    fn a_drain_says_what_it_has_done() {
        let said = |idle: bool| {
            drained(&json!({ "instance": "a", "in_flight": 3, "idle": idle, "drained": true }))
        };
        assert_eq!(said(false), "a takes no new requests, 3 in flight");
        assert_eq!(
            said(true),
            "a takes no new requests, and nothing is in flight to it"
        );
    }
}
