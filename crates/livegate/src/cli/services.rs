//! `livegate services`, `livegate instances` and `livegate routes`: what the gateway serves now.

use std::time::SystemTime;

use serde_json::Value;

use crate::cli::admin_client::{AdminArguments, AdminClient, Answer, encoded, run};
use crate::cli::table::{Align, Table, age, latency, number, print, string, terminal_width};

/// A table of all services.
pub(super) fn services(arguments: &AdminArguments) -> anyhow::Result<()> {
    run(async {
        let answer = AdminClient::new(arguments)?.get("/api/v1/services").await?;
        let now = SystemTime::now();
        show(arguments, &answer, |json| services_table(json, now))
    })
}

/// A table of the instances of one service, or of all.
pub(super) fn instances(arguments: &AdminArguments, service: Option<&str>) -> anyhow::Result<()> {
    run(async {
        let path = match service {
            Some(name) => format!("/api/v1/services/{}", encoded(name)),
            None => "/api/v1/services".to_owned(),
        };
        let answer = AdminClient::new(arguments)?.get(&path).await?;
        let now = SystemTime::now();
        show(arguments, &answer, |json| instances_table(json, now))
    })
}

/// A table of all routes.
pub(super) fn routes(arguments: &AdminArguments) -> anyhow::Result<()> {
    run(async {
        let answer = AdminClient::new(arguments)?.get("/api/v1/routes").await?;
        show(arguments, &answer, routes_table)
    })
}

fn show(
    arguments: &AdminArguments,
    answer: &Answer,
    table: impl Fn(&Value) -> Table,
) -> anyhow::Result<()> {
    if arguments.json {
        print(&format!("{}\n", answer.text))?;
    } else {
        print(&table(&answer.json).render(terminal_width()))?;
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn services_table(json: &Value, now: SystemTime) -> Table {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("STATUS", Align::Left),
        ("USED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("REQUESTS", Align::Right),
        ("FAILURES", Align::Right),
        ("BALANCE", Align::Left),
    ]);
    for service in list(&json["services"]) {
        let instances = list(&service["instances"]);
        let used = instances.iter().filter(|instance| instance["used"] == true);
        let sum = |key: &str| {
            let counts = instances
                .iter()
                .filter_map(|instance| instance[key].as_u64());
            counts.sum::<u64>().to_string()
        };
        table.row([
            string(&service["name"]),
            status(service, now),
            format!("{} of {}", used.count(), instances.len()),
            sum("in_flight"),
            sum("requests"),
            sum("failures"),
            string(&service["balance"]),
        ]);
    }
    table
}

/// `stale for 12s (panic)`.
fn status(service: &Value, now: SystemTime) -> String {
    let mut status = string(&service["status"]);
    if let Some(age) = age(&service["stale_since"], now) {
        status = format!("{status} for {age}");
    }
    if service["panic"] == true {
        status.push_str(" (panic)");
    }
    status
}

fn instances_table(json: &Value, now: SystemTime) -> Table {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("INSTANCE", Align::Left),
        ("ADDRESS", Align::Left),
        ("WEIGHT", Align::Right),
        ("STATE", Align::Left),
        ("IN FLIGHT", Align::Right),
        ("REQUESTS", Align::Right),
        ("FAILURES", Align::Right),
        ("LATENCY", Align::Right),
        ("WHY", Align::Left),
    ]);
    let one = std::slice::from_ref(json);
    let services = json["services"].as_array().map_or(one, Vec::as_slice);
    for service in services {
        for instance in list(&service["instances"]) {
            table.row([
                string(&service["name"]),
                string(&instance["id"]),
                string(&instance["address"]),
                number(&instance["weight"]),
                string(&instance["state"]),
                number(&instance["in_flight"]),
                number(&instance["requests"]),
                number(&instance["failures"]),
                latency(&instance["latency"]),
                reasons(instance, now),
            ]);
        }
    }
    table
}

fn reasons(instance: &Value, now: SystemTime) -> String {
    let reason = |reason: &Value| {
        let text = string(&reason["text"]);
        match age(&reason["since"], now) {
            Some(age) => format!("{text} for {age}"),
            None => text,
        }
    };
    let reasons: Vec<String> = list(&instance["reasons"]).iter().map(reason).collect();
    reasons.join("; ")
}

fn routes_table(json: &Value) -> Table {
    let mut table = Table::new(&[
        ("ROUTE", Align::Left),
        ("DOES", Align::Left),
        ("REQUESTS", Align::Right),
    ]);
    for route in list(&json["routes"]) {
        table.row([
            string(&route["label"]),
            action(route),
            number(&route["requests"]),
        ]);
    }
    table
}

/// In words, what a route does with its requests.
fn action(route: &Value) -> String {
    if let Some(service) = route["service"].as_str() {
        let stripped = if route["strip_prefix"] == true {
            ", prefix stripped"
        } else {
            ""
        };
        let refused = match route["reason"].as_str() {
            Some(reason) => format!(" (now 503 {reason})"),
            None => String::new(),
        };
        return format!("service {service}{stripped}{refused}");
    }
    match route["redirect"].as_str() {
        Some(location) => format!("{} to {location}", number(&route["status"])),
        None => format!("answers {}", number(&route["status"])),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100)
    }

    fn orders() -> Value {
        json!({
            "name": "orders",
            "status": "stale",
            "stale_since": "1970-01-01T00:01:30.000Z",
            "balance": "random",
            "panic": true,
            "instances": [
                {
                    "id": "a", "address": "10.0.0.1:80", "weight": 20, "state": "fit", "used": true,
                    "in_flight": 2, "requests": 1000, "failures": 0, "latency": 0.0012, "reasons": [],
                },
                {
                    "id": "b", "address": "10.0.0.2:80", "weight": 20, "state": "unhealthy",
                    "used": false, "in_flight": 0, "requests": 7, "failures": 1, "latency": null,
                    "reasons": [
                        { "text": "connection refused", "since": "1970-01-01T00:01:37.000Z" },
                        { "text": "drained", "since": null },
                    ],
                },
            ],
        })
    }

    #[test]
    fn services_are_summed_up() {
        let text = services_table(&json!({ "services": [orders()] }), now()).render(None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVICE  STATUS                   USED  IN FLIGHT  REQUESTS  FAILURES  BALANCE",
                "orders   stale for 10s (panic)  1 of 2          2      1007         1  random",
            ]
        );
    }

    #[test]
    fn instances_have_their_reasons() {
        let one = instances_table(&orders(), now()).render(None);
        let lines: Vec<&str> = one.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVICE  INSTANCE  ADDRESS      WEIGHT  STATE      IN FLIGHT  REQUESTS  FAILURES  LATENCY  WHY",
                "orders   a         10.0.0.1:80      20  fit                2      1000         0   1.2 ms",
                "orders   b         10.0.0.2:80      20  unhealthy          0         7         1        -  connection refused for 3s; drained",
            ]
        );
        let all = instances_table(&json!({ "services": [orders()] }), now());
        assert_eq!(all.render(None), one);
    }

    #[test]
    fn routes_say_what_they_do() {
        let routes = json!({ "routes": [
            { "label": "/orders", "service": "orders", "strip_prefix": true, "requests": 3 },
            { "label": "/a", "service": "a", "strip_prefix": false, "requests": 0, "reason": "service_absent" },
            { "label": "/internal", "status": 403, "requests": 0 },
            { "label": "/old", "status": 308, "redirect": "https://a/", "requests": 12 },
        ]});
        assert_eq!(
            routes_table(&routes).render(None),
            "ROUTE      DOES                                REQUESTS\n\
             /orders    service orders, prefix stripped            3\n\
             /a         service a (now 503 service_absent)         0\n\
             /internal  answers 403                                0\n\
             /old       308 to https://a/                         12\n"
        );
    }
}
