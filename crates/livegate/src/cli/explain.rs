//! `livegate explain`: why each instance is or is not used.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::Value;

use crate::cli::admin_client::{AdminArguments, AdminClient, encoded, run};
use crate::cli::events;
use crate::cli::table::{age, clean, latency, number, print, string};

/// Prints what the gateway knows about a service, or one instance of it.
pub(super) fn explain(
    arguments: &AdminArguments,
    service: &str,
    instance: Option<&str>,
) -> anyhow::Result<()> {
    run(async {
        let mut path = format!("/api/v1/explain/{}", encoded(service));
        if let Some(id) = instance {
            path = format!("{path}?instance={}", encoded(id));
        }
        let answer = AdminClient::new(arguments)?.get(&path).await?;
        if arguments.json {
            print(&format!("{}\n", answer.text))?;
        } else {
            print(&rendered(&answer.json, SystemTime::now()))?;
        }
        Ok(())
    })
}

fn rendered(json: &Value, now: SystemTime) -> String {
    let mut text = String::new();
    line(&mut text, &heading(json, now));
    for instance in list(&json["instances"]) {
        text.push('\n');
        of_instance(&mut text, instance, now);
    }
    let (shadowed, skipped) = (list(&json["shadowed"]), json["skipped"].as_object());
    if !shadowed.is_empty() {
        line(
            &mut text,
            "\nregistered at the address of a newer instance, which stands for it:",
        );
    }
    for shadowed in shadowed {
        let (id, address, by) = (&shadowed["id"], &shadowed["address"], &shadowed["by"]);
        let (id, address, by) = (string(id), string(address), string(by));
        line(&mut text, &format!("  {id}  {address}, as {by} is"));
    }
    if skipped.is_some_and(|skipped| !skipped.is_empty()) {
        line(&mut text, "\nnodes that are no instances:");
    }
    for (node, why) in skipped.into_iter().flatten() {
        line(&mut text, &format!("  {node}  {}", string(why)));
    }
    if !list(&json["transitions"]).is_empty() {
        line(&mut text, "\nlast events of the service:");
    }
    for event in list(&json["transitions"]) {
        line(&mut text, &format!("  {}", events::line_of_one(event)));
    }
    text
}

/// `orders: live for 12s, revision 3: 2 of 3 instances used`.
fn heading(json: &Value, now: SystemTime) -> String {
    let status = string(&json["status"]);
    let status = match age(&json["since"], now) {
        Some(age) => format!("{status} for {age}"),
        None => status,
    };
    format!(
        "{}: {status}, revision {}: {}",
        string(&json["service"]),
        number(&json["revision"]),
        string(&json["summary"])
    )
}

fn of_instance(text: &mut String, instance: &Value, now: SystemTime) {
    let (id, address) = (string(&instance["id"]), string(&instance["address"]));
    let place = if instance["address"].is_null() || id == address {
        id
    } else {
        format!("{id} at {address}")
    };
    let weight = match &instance["weight"] {
        Value::Null => String::new(),
        weight => format!(", weight {}", number(weight)),
    };
    line(
        text,
        &format!("{place}{weight}, {}", string(&instance["state"])),
    );
    line(text, &format!("  {}", string(&instance["verdict"])));
    for witness in ["registry", "probes", "traffic", "operator"] {
        let said = &instance[witness];
        if said.is_null() {
            continue;
        }
        let mut says = string(&said["says"]);
        if let Some(age) = age(&said["since"], now) {
            says = format!("{says}, for {age}");
        }
        if witness == "traffic" {
            says = format!("{says}; {}", counts(said));
        }
        line(text, &format!("  {witness:8}  {says}"));
    }
    for (index, event) in list(&instance["transitions"]).iter().enumerate() {
        let title = if index == 0 { "last" } else { "" };
        line(
            text,
            &format!("  {title:8}  {}", events::line_of_one(event)),
        );
    }
}

/// `0 in flight, 120 requests, 1 failed, usual latency 1.2 ms`.
fn counts(traffic: &Value) -> String {
    let mut counts = format!(
        "{} in flight, {} requests, {} failed",
        number(&traffic["in_flight"]),
        number(&traffic["requests"]),
        number(&traffic["failures"]),
    );
    if !traffic["latency"].is_null() {
        counts = format!("{counts}, usual latency {}", latency(&traffic["latency"]));
    }
    counts
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A line; an empty one may come before it.
fn line(text: &mut String, line: &str) {
    let bare = line.trim_start_matches('\n');
    let (before, bare) = (&line[..line.len() - bare.len()], clean(bare));
    writeln!(text, "{before}{bare}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_reads_from_top_to_bottom() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let event = |number: u64, instance: Option<&str>, kind: &str, cause: &str| {
            json!({
                "number": number, "at": "1970-01-01T00:01:37.123Z", "service": "orders",
                "instance": instance, "kind": kind, "cause": cause,
            })
        };
        let json = json!({
            "service": "orders", "status": "live", "since": "1970-01-01T00:00:30.000Z",
            "revision": 3, "panic": false, "summary": "0 of 1 instances used",
            "instances": [{
                "id": "a-1", "address": "10.0.0.1:80", "weight": 20, "zone": null,
                "state": "unhealthy", "used": false,
                "verdict": "not used: connection refused since 1970-01-01T00:01:37.123Z; a probe tries",
                "registry": { "says": "registered", "since": "1970-01-01T00:00:30.000Z" },
                "probes": { "says": "nothing against it", "since": null },
                "traffic": {
                    "says": "connection refused", "since": "1970-01-01T00:01:37.123Z",
                    "in_flight": 0, "requests": 12, "failures": 1, "latency": 0.0012,
                },
                "operator": { "says": "nothing", "since": null },
                "transitions": [
                    event(1, Some("a-1"), "joined", "listed"),
                    event(2, Some("a-1"), "quarantined", "connection\u{1b}[31m refused"),
                ],
            }, {
                "id": "b", "state": "gone", "used": false, "verdict": "not used: it is not listed",
                "transitions": [],
            }],
            "shadowed": [{ "id": "old", "address": "10.0.0.1:80", "by": "a-1" }],
            "skipped": { "broken": "not JSON" },
            "transitions": [event(3, None, "panic", "0 of 1 endpoints are fit")],
        });
        let lines = [
            "orders: live for 1m 10s, revision 3: 0 of 1 instances used",
            "",
            "a-1 at 10.0.0.1:80, weight 20, unhealthy",
            "  not used: connection refused since 1970-01-01T00:01:37.123Z; a probe tries",
            "  registry  registered, for 1m 10s",
            "  probes    nothing against it",
            "  traffic   connection refused, for 2s; 0 in flight, 12 requests, 1 failed, usual latency 1.2 ms",
            "  operator  nothing",
            "  last      1970-01-01T00:01:37.123Z  joined: listed",
            "            1970-01-01T00:01:37.123Z  quarantined: connection\\u{1b}[31m refused",
            "",
            "b, gone",
            "  not used: it is not listed",
            "",
            "registered at the address of a newer instance, which stands for it:",
            "  old  10.0.0.1:80, as a-1 is",
            "",
            "nodes that are no instances:",
            "  broken  not JSON",
            "",
            "last events of the service:",
            "  1970-01-01T00:01:37.123Z  panic: 0 of 1 endpoints are fit",
        ];
        assert_eq!(rendered(&json, now).lines().collect::<Vec<_>>(), lines);
    }
}
