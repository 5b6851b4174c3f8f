//! A gateway process: the real binary, its own configuration, directory and ports; killed on drop.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{Client, Response};
use super::origin::Origin;
use super::port::Port;
use super::wait::{PATIENCE, holds_within, wait_until};

/// What a gateway is started with.
#[derive(Default, Clone)]
pub(crate) struct Setup {
    /// Lines for `[http]`; `listen` and `workers` are set here unless given.
    http: String,
    /// Lines for `[admin]`; `listen` is set here.
    admin: String,
    /// Lines for `[registry]`; without any there is none.
    registry: String,
    /// Services and routes.
    rest: String,
    /// Largest number of open files, or the one of the test.
    files_max: Option<u64>,
}

impl Setup {
    /// One service with these instances, reached under every path.
    pub(crate) fn service(instances: &[SocketAddr]) -> Setup {
        Setup::default()
            .and_service("origin", instances, "")
            .and_route("path = \"/\"\nservice = \"origin\"")
    }

    /// The same, with more keys for the service (tables under it as `[services.origin.retry]`).
    pub(crate) fn service_with(instances: &[SocketAddr], keys: &str) -> Setup {
        Setup::default()
            .and_service("origin", instances, keys)
            .and_route("path = \"/\"\nservice = \"origin\"")
    }

    pub(crate) fn to(origin: &Origin) -> Setup {
        Setup::service(&[origin.address()])
    }

    /// `keys`: lines of the service's own table first, then its sub-tables.
    pub(crate) fn and_service(mut self, name: &str, instances: &[SocketAddr], keys: &str) -> Setup {
        writeln!(self.rest, "[services.{name}]\ninstances = [").unwrap();
        for instance in instances {
            writeln!(self.rest, "  {{ address = \"{instance}\" }},").unwrap();
        }
        writeln!(self.rest, "]\n{keys}").unwrap();
        self
    }

    pub(crate) fn and_route(mut self, lines: &str) -> Setup {
        writeln!(self.rest, "[[routes]]\n{lines}").unwrap();
        self
    }

    /// More configuration as it stands.
    pub(crate) fn and(mut self, toml: &str) -> Setup {
        writeln!(self.rest, "{toml}").unwrap();
        self
    }

    /// A line for `[http]`.
    pub(crate) fn http(mut self, line: &str) -> Setup {
        writeln!(self.http, "{line}").unwrap();
        self
    }

    /// A line for `[admin]`.
    pub(crate) fn admin(mut self, line: &str) -> Setup {
        writeln!(self.admin, "{line}").unwrap();
        self
    }

    /// A line for `[registry]`.
    pub(crate) fn registry(mut self, line: &str) -> Setup {
        writeln!(self.registry, "{line}").unwrap();
        self
    }

    pub(crate) fn files_max(mut self, count: u64) -> Setup {
        self.files_max = Some(count);
        self
    }

    fn text(&self, http: SocketAddr, admin: SocketAddr) -> String {
        let workers = if self.http.contains("workers") {
            ""
        } else {
            "workers = 2\n"
        };
        format!(
            "[http]\nlisten = [\"{http}\"]\n{workers}{}\n[admin]\nlisten = \"{admin}\"\n{}\n[registry]\n{}\n\n{}",
            self.http,
            self.admin,
            if self.registry.is_empty() {
                "mode = \"none\""
            } else {
                &self.registry
            },
            self.rest
        )
    }

    pub(crate) fn start(&self) -> Gateway {
        Gateway::start(self)
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    process: Child,
    http: Port,
    admin: Port,
    directory: TempDir,
    files_max: Option<u64>,
}

impl Gateway {
    fn start(setup: &Setup) -> Gateway {
        let (http, admin) = (Port::claim(), Port::claim());
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("gateway.toml");
        std::fs::write(config, setup.text(http.address(), admin.address())).unwrap();
        let mut gateway = Gateway {
            process: spawn(&directory, setup.files_max),
            http,
            admin,
            directory,
            files_max: setup.files_max,
        };
        gateway.wait_until_ready();
        gateway
    }

    /// SIGKILL (unless it has ended), and the same again on the same addresses.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.directory, self.files_max);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let ready = holds_within(PATIENCE, || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the gateway ended at once ({status}):\n{}", self.log());
            }
            self.try_admin("/healthz")
                .is_some_and(|response| response.status == 200)
                && std::net::TcpStream::connect(self.address()).is_ok()
        });
        assert!(
            ready,
            "the gateway was not ready within {PATIENCE:?}:\n{}",
            self.log()
        );
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.http.address()
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    pub(crate) fn try_admin(&self, target: &str) -> Option<Response> {
        let stream = std::net::TcpStream::connect(self.admin.address()).ok()?;
        drop(stream);
        let mut client = Client::connect(self.admin.address());
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin.address()
        );
        if !client.try_send(request) {
            return None;
        }
        client.read("GET").ok()
    }

    #[track_caller]
    pub(crate) fn admin(&self, target: &str) -> Response {
        self.try_admin(target).expect("the admin address answers")
    }

    /// Sum of the samples of a metric whose labels contain all of `labels` (`code="200"`).
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").text();
        sum_of_samples(&text, name, labels)
    }

    /// What it wrote to standard output and standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A file in the gateway's directory (its working directory).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the configuration file, as editors and deployments do: whole, by a rename.
    pub(crate) fn write_config(&self, setup: &Setup) {
        self.write_config_text(&setup.text(self.http.address(), self.admin.address()));
    }

    pub(crate) fn write_config_text(&self, text: &str) {
        let (new, old) = (self.file("gateway.toml.new"), self.file("gateway.toml"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, old).unwrap();
    }

    pub(crate) fn config_text(&self) -> String {
        std::fs::read_to_string(self.file("gateway.toml")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(&self.process), signal).unwrap();
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        let mut status = None;
        let ended = holds_within(patience, || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        assert!(
            ended,
            "the gateway still runs after {patience:?}:\n{}",
            self.log()
        );
        status.expect("it has ended")
    }

    pub(crate) fn has_exited(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Resident memory now, in bytes (`VmRSS`).
    pub(crate) fn memory(&self) -> u64 {
        self.memory_line("VmRSS:")
    }

    /// Starts the count of `memory_peak` anew.
    pub(crate) fn forget_memory_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }

    /// Most resident memory since `forget_memory_peak` (`VmHWM`), in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_line("VmHWM:")
    }

    fn memory_line(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    /// Processor time used so far by all its threads.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        // proc(5): utime and stime are fields 14 and 15; the split begins with field 3.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // proc(5) counts in units of 1/100 s on every platform of Linux that is still built for.
        Duration::from_millis(ticks * 10)
    }

    /// Open file descriptors.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }

    /// Waits until the log has a line that contains all of these words (in any case).
    #[track_caller]
    pub(crate) fn wait_for_log(&self, words: &[&str]) {
        wait_until(&format!("a log line with {words:?}"), || {
            self.log()
                .to_lowercase()
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        });
    }
}

/// The process, in its directory, with the configuration that is there.
fn spawn(directory: &TempDir, files_max: Option<u64>) -> Child {
    let config = directory.path().join("gateway.toml");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.path().join("log"))
        .unwrap();
    let mut command = match files_max {
        // setrlimit(2) in a child before exec needs unsafe code; the shell has it built in.
        Some(count) => {
            let mut shell = Command::new("sh");
            shell
                .arg("-c")
                .arg(format!("ulimit -n {count} && exec \"$0\" \"$@\""))
                .arg(binary());
            shell
        }
        None => Command::new(binary()),
    };
    command
        .args(["run", "--config"])
        .arg(&config)
        .current_dir(directory.path())
        .env_remove("LIVEGATE_REGISTRY_AUTH")
        // A panic is one line then, and the lines before it stay in sight.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary().display()))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already; there is nothing more to do then.
        drop(self.process.kill());
        drop(self.process.wait());
        let log = self.log();
        if !std::thread::panicking() {
            assert!(!log.contains("panicked at"), "the gateway panicked:\n{log}");
        } else {
            let tail = log
                .lines()
                .rev()
                .take(30)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>();
            eprintln!("--- the gateway's last log lines ---\n{}", tail.join("\n"));
        }
    }
}

/// The gateway under test: this build's, or another one to compare with (`LIVEGATE_TEST_BINARY`).
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LIVEGATE_TEST_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_livegate").into(), PathBuf::from)
}

pub(crate) fn pid_of(process: &Child) -> Pid {
    Pid::from_raw(process.id().cast_signed()).expect("a running process has a number")
}

fn sum_of_samples(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter(|rest| labels.iter().all(|label| rest.contains(label)))
        .map(|rest| {
            rest.rsplit(' ')
                .next()
                .unwrap_or_default()
                .parse::<f64>()
                .unwrap_or_default()
        })
        .sum()
}
