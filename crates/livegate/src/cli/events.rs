//! `livegate events`: what the gateway's flight recorder holds, and what comes.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::cli::admin_client::{AdminArguments, AdminClient, AdminError, Answer, encoded, run};
use crate::cli::table::{clean, is_read, print, string};

/// How many events of the past are shown before those that come.
const PAST: usize = 10;
/// The gateway says something, if only that nothing has happened, every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How soon it is noticed that nobody reads any more.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to reach a gateway that is gone.
const RETRY: Duration = Duration::from_secs(1);
/// A message of a gateway has some hundred bytes; the mistakes of a configuration are more.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Prints the events still held, of one service if one is named.
pub(super) fn events(arguments: &AdminArguments, service: Option<&str>) -> anyhow::Result<()> {
    run(async {
        let answer = past(&AdminClient::new(arguments)?, service).await?;
        if arguments.json {
            print(&format!("{}\n", answer.text))?;
            return Ok(());
        }
        let events = answer.json["events"].as_array();
        let lines = events.into_iter().flatten().map(|event| line(event) + "\n");
        print(&lines.collect::<String>())?;
        Ok(())
    })
}

/// Prints the last events and then each as it comes, until interrupted; goes on when the gateway
/// restarts.
pub(super) fn follow(arguments: &AdminArguments, service: Option<&str>) -> anyhow::Result<()> {
    run(async {
        let client = AdminClient::new(arguments)?;
        let answer = past(&client, service).await?;
        let events = answer.json["events"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for event in &events[events.len().saturating_sub(PAST)..] {
            show(arguments, event)?;
        }
        let mut last_id = string(&answer.json["last_id"]);
        let query = service.map_or(String::new(), |name| format!("?service={}", encoded(name)));
        let path = format!("/api/v1/events/stream{query}");
        let mut is_gone = false;
        loop {
            match read(arguments, &client, &path, &mut last_id, &mut is_gone).await {
                Ok(()) => {}
                Err(error) => match error.downcast::<AdminError>() {
                    Ok(error) if error.is_passing() => {}
                    Ok(error) => return Err(error.into()),
                    Err(error) => return Err(error),
                },
            }
            if !std::mem::replace(&mut is_gone, true) {
                eprintln!("{} is gone, trying again every second", arguments.admin);
            }
            sleep(RETRY).await;
            is_read()?;
        }
    })
}

async fn past(client: &AdminClient, service: Option<&str>) -> Result<Answer, AdminError> {
    let query = service.map_or(String::new(), |name| format!("?service={}", encoded(name)));
    client.get(&format!("/api/v1/events{query}")).await
}

/// Shows a stream until it ends.
async fn read(
    arguments: &AdminArguments,
    client: &AdminClient,
    path: &str,
    last_id: &mut String,
    is_gone: &mut bool,
) -> anyhow::Result<()> {
    let mut stream = client.stream(path, last_id).await?;
    if std::mem::replace(is_gone, false) {
        eprintln!("{} is back", arguments.admin);
    }
    let mut reader = Reader::default();
    let mut heard = Instant::now();
    while heard.elapsed() < SILENCE_MAX {
        let chunk = match timeout(LOOK, stream.chunk()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(_) => {
                is_read()?;
                continue;
            }
        };
        heard = Instant::now();
        for message in reader.push(&chunk) {
            let data: Value = serde_json::from_str(&message.data).unwrap_or_default();
            match message.event.as_str() {
                "" | "message" => {
                    *last_id = message.id;
                    show(arguments, &data)?;
                }
                "missed" => eprintln!(
                    "{} events are missing, the gateway has forgotten them",
                    data["missed"]
                ),
                "restarted" => eprintln!("the gateway was started anew"),
                // Of a later version.
                _ => {}
            }
        }
        if reader.is_overfull() {
            return Ok(());
        }
    }
    Ok(())
}

fn show(arguments: &AdminArguments, event: &Value) -> io::Result<()> {
    if arguments.json {
        print(&format!("{event}\n"))
    } else {
        print(&(line(event) + "\n"))
    }
}

/// `TIME  SERVICE INSTANCE  KIND: CAUSE`, without what it is not about.
fn line(event: &Value) -> String {
    let names = ["service", "instance"].map(|key| event[key].as_str());
    let whom: Vec<String> = names.into_iter().flatten().map(clean).collect();
    let whom = if whom.is_empty() {
        "gateway".to_owned()
    } else {
        whom.join(" ")
    };
    let (at, what) = parts(event);
    format!("{at}  {whom}  {what}")
}

/// The same, where it is clear whom it is about.
pub(super) fn line_of_one(event: &Value) -> String {
    let (at, what) = parts(event);
    format!("{at}  {what}")
}

fn parts(event: &Value) -> (String, String) {
    let [at, kind, cause] = ["at", "kind", "cause"].map(|key| clean(&string(&event[key])));
    (at, format!("{kind}: {cause}"))
}

/// One message of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: String,
    event: String,
    data: String,
}

/// Takes a stream of server-sent events apart.
///
/// <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
#[derive(Debug, Default)]
struct Reader {
    /// A line whose end has not come yet.
    line: Vec<u8>,
    message: Message,
}

impl Reader {
    /// The messages that are complete now.
    fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            messages.extend(self.take_line(&line));
        }
        messages
    }

    fn take_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return (!message.data.is_empty()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.message.id),
            "event" => value.clone_into(&mut self.message.event),
            "data" if self.message.data.is_empty() => value.clone_into(&mut self.message.data),
            "data" => self.message.data.extend(["\n", value]),
            // Comments, and `retry`.
            _ => {}
        }
        None
    }

    /// Whether a message without an end comes in.
    fn is_overfull(&self) -> bool {
        self.line.len() + self.message.data.len() > MESSAGE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = |service: Value, instance: Value| {
            line(&json!({
                "number": 7, "at": "2026-01-02T03:04:05.678Z", "service": service,
                "instance": instance, "kind": "ejected", "cause": "one\ntwo",
            }))
        };
        assert_eq!(
            event(json!("orders"), json!("10.0.0.1:80")),
            "2026-01-02T03:04:05.678Z  orders 10.0.0.1:80  ejected: one; two"
        );
        assert_eq!(
            event(json!(null), json!(null)),
            "2026-01-02T03:04:05.678Z  gateway  ejected: one; two"
        );
    }

    #[test]
    fn a_stream_is_read_wherever_it_is_cut() {
        let text = "retry: 1000\n\n: comment\n\nid: 7\ndata: {\"a\":\"é\"}\n\nevent: missed\r\ndata: 1\r\ndata:2\r\n\r\nid: 8\n";
        let expected = [
            Message {
                id: "7".to_owned(),
                event: String::new(),
                data: "{\"a\":\"é\"}".to_owned(),
            },
            Message {
                id: String::new(),
                event: "missed".to_owned(),
                data: "1\n2".to_owned(),
            },
        ];
        for at in 0..=text.len() {
            let mut reader = Reader::default();
            let mut messages = reader.push(&text.as_bytes()[..at]);
            messages.extend(reader.push(&text.as_bytes()[at..]));
            assert_eq!(messages, expected, "cut at {at}");
        }
    }
}
