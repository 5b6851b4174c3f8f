//! What the demo prints when all is there: addresses, process ids and what to try.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::Duration;

use super::cast::Running;
use super::gateway::{Addresses, program};
use super::place::Directory;
use crate::config::Config;

pub(super) struct Banner<'a> {
    pub(super) addresses: &'a Addresses,
    pub(super) directory: &'a Directory,
    pub(super) instances: &'a [Running],
    pub(super) restart_pause: Duration,
}

impl Display for Banner<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Addresses {
            http,
            admin,
            registry,
        } = self.addresses;
        let directory = self.directory.path().display();
        let lines = [
            "A gateway with its registry, and two services of three instances each.".to_owned(),
            String::new(),
            format!("  gateway   http://{http}"),
            format!("  admin     http://{admin}"),
            format!("  registry  {registry}  (any ZooKeeper client)"),
            format!("  files     {directory}  (livegate.toml is applied when saved; gateway.log)"),
            String::new(),
        ];
        for line in lines {
            writeln!(formatter, "{line}")?;
        }
        for instance in self.instances {
            let Running {
                service,
                address,
                pid,
            } = instance;
            writeln!(formatter, "  {service}  {address}  pid {pid}")?;
        }
        writeln!(formatter, "\nTry in another terminal:\n")?;
        let steps = self.steps();
        let width = steps.iter().map(|(what, _)| what.len()).max();
        let width = width.unwrap_or_default();
        for (what, command) in &steps {
            writeln!(formatter, "  {what:width$}  {command}")?;
        }
        write!(
            formatter,
            "\nA few requests a second run already; every failure is shown. Ctrl-C stops everything.\n"
        )
    }
}

impl Banner<'_> {
    /// What to see, and the command for it.
    fn steps(&self) -> Vec<(String, String)> {
        let Addresses { http, registry, .. } = self.addresses;
        let mut steps = Vec::new();
        let mut step = |what: &str, command: String| steps.push((what.to_owned(), command));
        step("who answers", format!("curl http://{http}/orders/"));
        if let [first, second, third, ..] = self.instances {
            let Running { service, .. } = first;
            let instance = third.address;
            step(
                &format!("kill one (back after {} s)", self.restart_pause.as_secs()),
                format!("kill -9 {}", first.pid),
            );
            step("why it is not used", self.command(&["explain", service]));
            step("what happens", self.command(&["events", "-f"]));
            step("freeze one", format!("kill -STOP {}", second.pid));
            step("thaw it", format!("kill -CONT {}", second.pid));
            step(
                "drain one",
                self.command(&["drain", service, &instance.to_string(), "--wait"]),
            );
            step(
                "use it again",
                self.command(&["undrain", service, &instance.to_string()]),
            );
        }
        let is_default = *registry.to_string() == Config::default().registry.hosts;
        let option = if is_default {
            String::new()
        } else {
            format!("--registry {registry} ")
        };
        let program = shown(&program());
        step(
            "a service of your own",
            format!(
                "{program} register hello {option}--address 127.0.0.1:9000 -- python3 -m http.server 9000"
            ),
        );
        step("reach it", format!("curl http://{http}/hello/"));
        steps
    }

    /// A command that asks this gateway.
    fn command(&self, words: &[&str]) -> String {
        let admin = self.addresses.admin;
        let (program, words) = (shown(&program()), words.join(" "));
        if admin == Config::default().admin.listen {
            format!("{program} {words}")
        } else {
            format!("{program} {words} --admin http://{admin}")
        }
    }
}

/// How to call this program from where it was called.
fn shown(program: &Path) -> String {
    let in_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| Some(directory.as_path()) == program.parent())
    });
    if in_path && let Some(name) = program.file_name() {
        return name.to_string_lossy().into_owned();
    }
    let current = std::env::current_dir().ok();
    let relative = current.and_then(|current| program.strip_prefix(current).ok());
    relative.unwrap_or(program).display().to_string()
}
