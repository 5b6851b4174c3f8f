//! An instance of a service as a process of its own, to be killed, frozen, stopped and started again.
//!
//! The process is this very test binary: [`Instance::start`] runs it with `MODE` set and with the name of
//! the one test (`instance_process` in `main.rs`) that then calls [`serve`] and never returns.

use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::gateway::pid_of;
use super::port::Port;
use super::wait::{PATIENCE, holds_within, wait_until};
use super::wire::{Body, Wire};

/// Environment variable: address, what SIGTERM does, milliseconds a request takes, journal file.
pub(crate) const MODE: &str = "LIVEGATE_TEST_INSTANCE";

/// What an instance does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnTerm {
    /// Dies at once, with whatever is in flight.
    Die,
    /// Stops listening, closes idle connections, finishes running requests with `Connection: close`.
    Finish,
}

#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) on_term: OnTerm,
    /// How long each request takes.
    pub(crate) takes: Duration,
    /// Where each POST is written down before it is answered; shared by all instances of a test.
    pub(crate) journal: PathBuf,
}

/// A process that listens on its own port for the whole test, dead or alive.
pub(crate) struct Instance {
    port: Port,
    kind: Kind,
    process: Option<Child>,
}

impl Instance {
    pub(crate) fn start(kind: Kind) -> Instance {
        let mut instance = Instance {
            port: Port::claim(),
            kind,
            process: None,
        };
        instance.launch();
        instance.wait_until_listening();
        instance
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts the process (again) without waiting for it.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let Kind {
            on_term,
            takes,
            journal,
        } = &self.kind;
        let mode = format!(
            "{} {on_term:?} {} {}",
            self.port.address(),
            takes.as_millis(),
            journal.display()
        );
        let process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "instance_process",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(MODE, mode)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    pub(crate) fn wait_until_listening(&self) {
        wait_until("the instance listens", || {
            TcpStream::connect(self.address()).is_ok()
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.process.as_ref().expect("it runs")), signal).unwrap();
    }

    /// SIGKILL; returns when the process is gone: just before the signal, and just after its sockets were closed.
    pub(crate) fn kill(&mut self) -> (Instant, Instant) {
        let mut process = self.process.take().expect("it runs");
        let before = Instant::now();
        process.kill().unwrap();
        process.wait().unwrap();
        (before, Instant::now())
    }

    /// SIGTERM (unless it is dead already), and waits for the end.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("it runs");
        let ended = holds_within(PATIENCE, || process.try_wait().unwrap().is_some());
        if !ended {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("the instance did not end on SIGTERM");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGKILL works on a frozen process too.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Targets of all POSTs that any instance began, in order.
pub(crate) fn journal(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

struct State {
    finishing: AtomicBool,
    /// Requests answered so far; `GET /served` tells.
    served: AtomicU64,
    /// Requests that are being answered.
    busy: AtomicUsize,
    connections: Mutex<Vec<(TcpStream, Arc<AtomicBool>)>>,
    takes: Duration,
    journal: File,
}

/// The process's life; `mode` as [`Instance::launch`] wrote it.
pub(crate) fn serve(mode: &str) -> ! {
    let mut words = mode.splitn(4, ' ');
    let address: SocketAddr = words.next().unwrap().parse().unwrap();
    let finish = words.next() == Some("Finish");
    let takes = Duration::from_millis(words.next().unwrap().parse().unwrap());
    let journal = File::options()
        .create(true)
        .append(true)
        .open(words.next().unwrap())
        .unwrap();
    let state = Arc::new(State {
        finishing: AtomicBool::new(false),
        served: AtomicU64::new(0),
        busy: AtomicUsize::new(0),
        connections: Mutex::default(),
        takes,
        journal,
    });
    if finish {
        let state = Arc::clone(&state);
        let ready = Arc::new(super::wait::Gate::default());
        let installed = Arc::clone(&ready);
        std::thread::spawn(move || finish_on_term(&state, &installed));
        assert!(ready.pass(), "the handler is installed");
    }
    let listener = super::origin::listen(address);
    loop {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let state = Arc::clone(&state);
        let busy = Arc::new(AtomicBool::new(false));
        state
            .connections
            .lock()
            .unwrap()
            .push((stream.try_clone().unwrap(), Arc::clone(&busy)));
        if state.finishing.load(Ordering::SeqCst) {
            drop(stream.shutdown(Shutdown::Both));
            continue;
        }
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                let peer = stream.peer_addr().ok();
                connection(Wire::new(stream), &busy, &state);
                state
                    .connections
                    .lock()
                    .unwrap()
                    .retain(|(other, _)| other.peer_addr().ok() != peer);
            })
            .unwrap();
    }
}

fn connection(mut wire: Wire, busy: &AtomicBool, state: &State) {
    loop {
        wire.patience(Duration::from_secs(600));
        let Ok(head) = wire.head() else { return };
        busy.store(true, Ordering::SeqCst);
        state.busy.fetch_add(1, Ordering::SeqCst);
        let framing = head
            .framing()
            .ok()
            .flatten()
            .unwrap_or(super::wire::Framing::None);
        let target = head.start.split(' ').nth(1).unwrap_or_default().to_owned();
        let method = head.start.split(' ').next().unwrap_or_default().to_owned();
        let whole = wire.body(framing, &mut Body::default()).is_ok();
        if whole && method == "POST" {
            // One write(2) with O_APPEND: whole lines, and they survive a SIGKILL.
            (&state.journal)
                .write_all(format!("{target}\n").as_bytes())
                .unwrap();
        }
        if !state.takes.is_zero() {
            let end = Instant::now() + state.takes;
            while Instant::now() < end {
                std::thread::park_timeout(end - Instant::now());
            }
        }
        let last = state.finishing.load(Ordering::SeqCst) || head.lists("connection", "close");
        let body = if target == "/served" {
            format!("{}\n", state.served.load(Ordering::SeqCst))
        } else {
            state.served.fetch_add(1, Ordering::SeqCst);
            format!("{method} {target}\n")
        };
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{}\r\n{body}",
            body.len(),
            if last { "Connection: close\r\n" } else { "" }
        );
        let sent = whole && wire.send(response.as_bytes()).is_ok();
        state.busy.fetch_sub(1, Ordering::SeqCst);
        busy.store(false, Ordering::SeqCst);
        if !sent || last {
            return;
        }
        if state.finishing.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// What a well-behaved service does on SIGTERM.
fn finish_on_term(state: &State, installed: &super::wait::Gate) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        installed.open();
        term.recv().await;
    });
    state.finishing.store(true, Ordering::SeqCst);
    for (stream, busy) in state.connections.lock().unwrap().iter() {
        if !busy.load(Ordering::SeqCst) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
    holds_within(PATIENCE, || state.busy.load(Ordering::SeqCst) == 0);
    std::process::exit(0);
}
