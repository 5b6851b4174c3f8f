//! One JSON line per request, written by a thread of its own.
//!
//! Workers collect lines in a buffer and hand whole buffers over. When the writer cannot
//! keep up (a full disk, a stopped terminal), buffers are dropped and counted: a request
//! never waits for its log line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::config::AccessLog;

/// A buffer is handed over when it holds this many bytes.
const BATCH_BYTES: usize = 32 * 1024;
/// Buffers that may wait for the writer: 4 MiB.
const BATCHES_MAX: usize = 128;

/// What is known of a finished request.
#[derive(Debug)]
pub struct Entry<'a> {
    /// When it began.
    pub time: SystemTime,
    /// The client.
    pub client: SocketAddr,
    /// Empty when the request could not be read.
    pub method: &'a [u8],
    /// The path that was asked for, without its query, which may hold secrets.
    pub target: &'a [u8],
    /// 499 when the client left before the response.
    pub status: u16,
    /// Bytes sent to the client, heads included.
    pub bytes: u64,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// The service, if a route was found.
    pub service: Option<&'a str>,
    /// The instance that answered, or was tried last.
    pub upstream: Option<SocketAddr>,
    /// Instances tried.
    pub attempts: u32,
    /// Why the gateway answered itself, or why the response is incomplete.
    pub reason: Option<&'a str>,
    /// The `X-Request-Id`.
    pub request_id: &'a [u8],
}

enum Message {
    Lines(Vec<u8>),
    Reopen,
}

/// The writer: a thread that ends when all its handles are gone.
#[derive(Debug)]
pub struct AccessLogWriter {
    thread: Option<JoinHandle<()>>,
    handle: Option<AccessLogHandle>,
}

/// Where workers send their lines.
#[derive(Clone, Debug)]
pub struct AccessLogHandle {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogWriter {
    /// Opens the log; `None` when it is off.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending.
    pub fn open(config: &AccessLog) -> io::Result<Option<Self>> {
        let path = match config {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => None,
            AccessLog::File(path) => Some(path.clone()),
        };
        let file = path.as_ref().map(append_to).transpose()?;
        let (sender, receiver) = sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&receiver, path.as_ref(), file))?;
        let handle = AccessLogHandle {
            sender,
            dropped: Arc::default(),
        };
        Ok(Some(Self {
            thread: Some(thread),
            handle: Some(handle),
        }))
    }

    /// A handle for a worker.
    pub fn handle(&self) -> AccessLogHandle {
        self.handle
            .clone()
            .expect("taken only when the writer is dropped")
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.handle = None;
        if let Some(thread) = self.thread.take() {
            // Ends once the workers have dropped their handles, which they did before.
            drop(thread.join());
        }
    }
}

impl AccessLogHandle {
    /// Opens the file anew, after it was moved away by a log rotation.
    pub fn reopen(&self) {
        if let Err(error) = self.sender.try_send(Message::Reopen) {
            tracing::warn!("access log not reopened: {error}");
        }
    }

    fn send(&self, lines: Vec<u8>) {
        match self.sender.try_send(Message::Lines(lines)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                if self
                    .dropped
                    .fetch_add(1, Ordering::Relaxed)
                    .is_power_of_two()
                {
                    tracing::warn!("access log cannot keep up: lines are dropped");
                }
            }
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_lines(receiver: &Receiver<Message>, path: Option<&PathBuf>, mut file: Option<File>) {
    let mut failing = false;
    while let Ok(message) = receiver.recv() {
        let result = match (message, &mut file, path) {
            (Message::Lines(lines), Some(file), _) => file.write_all(&lines),
            (Message::Lines(lines), None, _) => io::stdout().write_all(&lines),
            (Message::Reopen, file, Some(path)) => {
                append_to(path).map(|opened| *file = Some(opened))
            }
            (Message::Reopen, _, None) => Ok(()),
        };
        if let Err(error) = &result
            && !failing
        {
            tracing::warn!("access log: {error}; lines are lost until it can be written again");
        }
        failing = result.is_err();
    }
}

/// The lines that one worker has not handed over yet.
#[derive(Debug)]
pub struct AccessLogBuffer {
    lines: Vec<u8>,
    handle: AccessLogHandle,
}

impl AccessLogBuffer {
    /// An empty buffer.
    pub fn new(handle: AccessLogHandle) -> Self {
        Self {
            lines: Vec::with_capacity(BATCH_BYTES + 1024),
            handle,
        }
    }

    /// Adds a line.
    pub fn push(&mut self, entry: &Entry<'_>) {
        write_entry(&mut self.lines, entry);
        if self.lines.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands over what there is. Called a few times a second.
    pub fn flush(&mut self) {
        if !self.lines.is_empty() {
            let lines = std::mem::replace(&mut self.lines, Vec::with_capacity(BATCH_BYTES + 1024));
            self.handle.send(lines);
        }
    }
}

impl Drop for AccessLogBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let wrote = (|| {
        write!(
            out,
            "{{\"time\":\"{}\"",
            humantime::format_rfc3339_millis(entry.time)
        )?;
        write!(out, ",\"client\":\"{}\",\"method\":", entry.client)?;
        write_text(out, entry.method);
        out.extend_from_slice(b",\"target\":");
        write_text(out, entry.target);
        write!(
            out,
            ",\"status\":{},\"bytes\":{},\"duration\":",
            entry.status, entry.bytes
        )?;
        let micros = entry.duration.as_micros();
        write!(out, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)?;
        out.extend_from_slice(b",\"service\":");
        write_optional(out, entry.service);
        match entry.upstream {
            Some(upstream) => write!(out, ",\"upstream\":\"{upstream}\"")?,
            None => out.extend_from_slice(b",\"upstream\":null"),
        }
        write!(out, ",\"attempts\":{},\"reason\":", entry.attempts)?;
        write_optional(out, entry.reason);
        out.extend_from_slice(b",\"request_id\":");
        write_text(out, entry.request_id);
        out.extend_from_slice(b"}\n");
        io::Result::Ok(())
    })();
    wrote.expect("writing to memory does not fail");
}

fn write_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => write_text(out, text.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

/// A JSON string (RFC 8259 section 7); bytes that are not UTF-8 become U+FFFD.
fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\';
    if text.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    } else {
        serde_json::to_writer(out, &String::from_utf8_lossy(text))
            .expect("writing to memory does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_whatever_clients_send() {
        let entry = Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_338_721_825),
            client: "127.0.0.1:5000".parse().expect("address"),
            method: b"GET",
            target: b"/a\"\\\xff\x01",
            status: 502,
            bytes: 123,
            duration: Duration::from_micros(1_000_042),
            service: Some("orders"),
            upstream: None,
            attempts: 2,
            reason: Some("connect_failed"),
            request_id: b"id",
        };
        let mut line = Vec::new();
        write_entry(&mut line, &entry);
        let json: serde_json::Value = serde_json::from_slice(&line).expect("valid");
        assert_eq!(json["time"], "2026-11-22T09:12:01.825Z");
        assert_eq!(json["target"], "/a\"\\\u{fffd}\u{1}");
        assert_eq!(json["duration"], 1.000_042);
        assert_eq!(json["upstream"], serde_json::Value::Null);
        assert_eq!(line.last(), Some(&b'\n'));
    }

    #[test]
    fn a_rotated_log_is_opened_anew() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("access.log");
        let writer = AccessLogWriter::open(&AccessLog::File(path.clone()))
            .expect("opens")
            .expect("is on");
        let handle = writer.handle();
        handle.send(b"one\n".to_vec());
        std::fs::rename(&path, folder.path().join("old")).expect("moves");
        handle.reopen();
        handle.send(b"two\n".to_vec());
        drop(handle);
        drop(writer);
        // The rename races with the first line, which goes to the same file either way.
        assert_eq!(
            std::fs::read(folder.path().join("old")).expect("reads"),
            b"one\n"
        );
        assert_eq!(std::fs::read(path).expect("reads"), b"two\n");
    }
}
