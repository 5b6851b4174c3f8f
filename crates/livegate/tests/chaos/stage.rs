//! What every row stands on: a registry, a gateway, a fleet and load; and what came of it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use livegate_zk::client::Client;
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::fleet::{Instance, Registered, SERVICE};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::wait::{breathe, holds_within};
use crate::load::{End, Load, Sample};
use crate::registry::{Kind, Link, Registry};

/// Long enough for anything that must happen once its time has come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may still fail because the process on its other side has just died: what the
/// kernel has to say travels within a moment, and a busy machine takes it late.
const AFTERMATH: Duration = Duration::from_millis(500);

const CONNECTIONS: u32 = 32;

/// How a row is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) is_quick: bool,
    pub(crate) requests_per_second: u32,
}

impl Pace {
    /// A length of time in a full and in a quick run.
    pub(crate) fn seconds(self, full: u64, quick: u64) -> Duration {
        Duration::from_secs(if self.is_quick { quick } else { full })
    }
}

/// The set of a row. Fields end in this order: the load before the gateway, everybody before the registry.
pub(crate) struct Stage<'a> {
    load: Option<Load>,
    pub(crate) gateway: Gateway,
    /// Of the gateway; it is not there where the registry is in its process.
    pub(crate) gateway_link: Option<Link>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) client: Client,
    pub(crate) registry: Registry,
    pub(crate) pace: Pace,
    pub(crate) session_timeout: Duration,
    pub(crate) handle: &'a Handle,
    directory: tempfile::TempDir,
    retries: f64,
    kills: Vec<Kill>,
    /// When nobody listened because the gateway was restarted.
    restarts: Vec<(Instant, Instant)>,
    fault: Option<SystemTime>,
    noticed: Option<(Duration, String)>,
}

/// Instances that were killed while they had requests.
struct Kill {
    numbers: Vec<usize>,
    /// Just before, and just after they were gone.
    window: (Instant, Instant),
}

/// What a row came to.
pub(crate) struct Outcome {
    pub(crate) requests: usize,
    /// Why requests failed, and how many for each reason.
    pub(crate) get_failures: BTreeMap<String, usize>,
    pub(crate) post_failures: BTreeMap<String, usize>,
    /// Failed POSTs that no killed instance explains.
    pub(crate) posts_unexplained: usize,
    pub(crate) twice: usize,
    /// Answered POSTs that no instance wrote down.
    pub(crate) never: usize,
    pub(crate) retries: f64,
    pub(crate) longest_gap: Duration,
    pub(crate) slowest: Duration,
    /// Answered after more than a second.
    pub(crate) slow: usize,
    pub(crate) noticed: Option<(Duration, String)>,
    /// Lost with a gateway that was restarted, or refused meanwhile.
    pub(crate) unreached: u64,
    /// Where to look when the promise was broken.
    pub(crate) evidence: Option<PathBuf>,
}

impl<'a> Stage<'a> {
    /// `None` where there is no such registry.
    pub(crate) fn set(
        kind: Kind,
        pace: Pace,
        (count, registered): (usize, Registered),
        config: &str,
        handle: &'a Handle,
    ) -> Option<Stage<'a>> {
        let registry = Registry::start(kind, handle)?;
        let session_timeout = pace.seconds(10, 4).max(kind.session_timeout_min());
        let timeout = session_timeout.as_millis();
        let (setup, gateway_link) = match &registry {
            Registry::Embedded(port) => {
                let setup = Setup::default()
                    .registry("mode = \"embedded\"")
                    .registry(&format!("hosts = \"{}\"", port.address()));
                (setup, None)
            }
            Registry::Alone(_) | Registry::Ensemble(_) => {
                let link = Link::to(&registry, handle);
                let setup = Setup::default()
                    .registry("mode = \"external\"")
                    .registry(&format!("hosts = \"{}\"", link.hosts()));
                (setup, Some(link))
            }
        };
        let gateway = setup
            .and(config)
            .registry(&format!("session_timeout = \"{timeout}ms\""))
            .http("access_log = \"access.log\"")
            .start();
        let directory = tempfile::tempdir().unwrap();
        let instances = (0..count).map(|_| {
            Instance::start(
                directory.path(),
                Link::to(&registry, handle),
                registered,
                session_timeout,
                Duration::from_millis(10),
            )
        });
        let stage = Stage {
            load: None,
            gateway,
            gateway_link,
            instances: instances.collect(),
            client: registry.client(handle),
            registry,
            pace,
            session_timeout,
            handle,
            directory,
            retries: 0.0,
            kills: Vec::new(),
            restarts: Vec::new(),
            fault: None,
            noticed: None,
        };
        if registered != Registered::Not {
            stage.wait_until_all_fit();
        }
        Some(stage)
    }

    /// Starts the load and lets it run for a while.
    pub(crate) fn start_load(&mut self) {
        let rate = self.pace.requests_per_second;
        self.load = Some(Load::start(
            self.gateway.address(),
            SERVICE,
            CONNECTIONS,
            rate,
        ));
        self.rest(Duration::from_secs(2));
    }

    /// Lets the load run.
    #[expect(clippy::unused_self, reason = "it reads as what the stage does")]
    pub(crate) fn rest(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            std::thread::park_timeout(end - Instant::now());
        }
    }

    /// What happens from now on is what the gateway is to notice.
    pub(crate) fn fault(&mut self) {
        self.fault.get_or_insert_with(SystemTime::now);
    }

    /// Ends instances, which may have requests, all at once.
    pub(crate) fn kill(&mut self, numbers: &[usize], signal: Signal) {
        let before = Instant::now();
        for number in numbers {
            self.instances[*number].signal(signal);
        }
        for number in numbers {
            self.instances[*number].end(signal);
        }
        self.kills.push(Kill {
            numbers: numbers.to_vec(),
            window: (before, Instant::now()),
        });
    }

    /// Waits until every instance is in the gateway's list and fit.
    #[track_caller]
    pub(crate) fn wait_until_all_fit(&self) {
        self.wait_until_fit(self.instances.len());
    }

    #[track_caller]
    pub(crate) fn wait_until_fit(&self, count: usize) {
        let fit = holds_within(PATIENCE, || {
            breathe();
            self.fit() == count
        });
        assert!(
            fit,
            "{} of {count} instances are fit:\n{}",
            self.fit(),
            self.admin(&format!("/api/v1/services/{SERVICE}"))
        );
    }

    fn fit(&self) -> usize {
        let service = self.admin(&format!("/api/v1/services/{SERVICE}"));
        let members = service["instances"].as_array();
        members.map_or(0, |members| {
            members
                .iter()
                .filter(|member| member["state"] == "fit")
                .count()
        })
    }

    fn admin(&self, target: &str) -> Value {
        let response = self.gateway.try_admin(target);
        response
            .and_then(|response| serde_json::from_slice(&response.body).ok())
            .unwrap_or_default()
    }

    /// How many instances the registry has.
    pub(crate) fn registered(&self) -> Option<usize> {
        let path = format!("/services/{SERVICE}");
        self.handle
            .block_on(self.client.children(&path))
            .ok()
            .map(|children| children.len())
    }

    #[track_caller]
    pub(crate) fn wait_until_registered(&self, count: usize) {
        let registered = holds_within(PATIENCE, || self.registered() == Some(count));
        let now = self.registered();
        assert!(registered, "{now:?} of {count} instances are registered");
    }

    /// SIGTERM, and the gateway is started again as soon as it has ended.
    pub(crate) fn restart_gateway(&mut self) {
        self.take_stock();
        let before = Instant::now();
        self.gateway.signal(Signal::TERM);
        self.gateway.wait_for_exit(PATIENCE);
        self.gateway.restart();
        self.restarts.push((before, Instant::now()));
    }

    /// Keeps what the gateway knows, for it forgets when it ends.
    fn take_stock(&mut self) {
        self.retries += self.gateway.metric("livegate_retries_total", &[]);
        if self.noticed.is_some() {
            return;
        }
        let Some(fault) = self.fault else { return };
        let events = self.admin("/api/v1/events");
        let events = events["events"].as_array().map_or(&[][..], Vec::as_slice);
        self.noticed = events.iter().find_map(|event| {
            let at = humantime::parse_rfc3339(event["at"].as_str()?).ok()?;
            // Events are told to the millisecond.
            let after = (at + Duration::from_millis(1)).duration_since(fault).ok()?;
            Some((after, event["kind"].as_str()?.to_owned()))
        });
    }

    /// Ends the load and adds up.
    pub(crate) fn finish(mut self) -> Outcome {
        self.rest(Duration::from_secs(1));
        let (samples, refused) = self.load.take().expect("it was started").finish();
        self.take_stock();
        let mut outcome = self.judge(&samples, refused);
        if outcome.has_failures() {
            outcome.evidence = Some(self.keep_evidence(&samples));
        }
        outcome
    }

    fn judge(&self, samples: &[Sample], refused: u64) -> Outcome {
        // The instances that began each POST.
        let mut begun: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, instance) in self.instances.iter().enumerate() {
            for target in instance.journal() {
                begun.entry(target).or_default().push(number);
            }
        }
        let mut outcome = Outcome {
            requests: samples.len(),
            get_failures: BTreeMap::new(),
            post_failures: BTreeMap::new(),
            posts_unexplained: 0,
            twice: begun.values().filter(|numbers| numbers.len() > 1).count(),
            never: 0,
            retries: self.retries,
            longest_gap: Duration::ZERO,
            slowest: Duration::ZERO,
            slow: 0,
            noticed: self.noticed.clone(),
            unreached: refused,
            evidence: None,
        };
        let mut last = None;
        for sample in samples {
            let reason = match &sample.end {
                End::Answered => {
                    if sample.is_post && !begun.contains_key(&sample.target) {
                        outcome.never += 1;
                    }
                    let gap = last.map_or(Duration::ZERO, |last| sample.done - last);
                    // While the gateway itself is restarted there is nobody to answer.
                    if !overlaps(&self.restarts, last.unwrap_or(sample.done), sample.done) {
                        outcome.longest_gap = outcome.longest_gap.max(gap);
                    }
                    last = Some(sample.done);
                    let took = sample.done - sample.sent;
                    outcome.slowest = outcome.slowest.max(took);
                    outcome.slow += usize::from(took > Duration::from_secs(1));
                    continue;
                }
                End::Lost(_) if overlaps(&self.restarts, sample.sent, sample.done) => {
                    outcome.unreached += 1;
                    continue;
                }
                End::Lost(how) => format!("lost: {how}"),
                End::Wrong(reason) => reason.clone(),
            };
            let failures = if sample.is_post {
                let numbers = begun.get(&sample.target).map_or(&[][..], Vec::as_slice);
                if !self.was_in_flight_on_a_killed_one(sample, numbers) {
                    outcome.posts_unexplained += 1;
                }
                &mut outcome.post_failures
            } else {
                &mut outcome.get_failures
            };
            *failures.entry(reason).or_default() += 1;
        }
        outcome
    }

    /// Whether this may be a POST that a killed instance had; `begun` are the instances that began it.
    fn was_in_flight_on_a_killed_one(&self, sample: &Sample, begun: &[usize]) -> bool {
        self.kills.iter().any(|kill| {
            let (before, after) = kill.window;
            sample.sent <= after
                && sample.done >= before
                && sample.done <= after + AFTERMATH
                && begun.iter().all(|number| kill.numbers.contains(number))
        })
    }

    /// What the gateway says and wrote, and each request that failed.
    fn keep_evidence(&self, samples: &[Sample]) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("livegate-chaos-{}", fastrand::u32(..)));
        std::fs::create_dir_all(&kept).unwrap();
        let wall = SystemTime::now();
        let now = Instant::now();
        let at = |instant: Instant| humantime::format_rfc3339_millis(wall - (now - instant));
        let failed: Vec<String> = samples
            .iter()
            .filter(|sample| sample.end != End::Answered)
            .map(|sample| {
                let method = if sample.is_post { "POST" } else { "GET" };
                let (sent, done) = (at(sample.sent), at(sample.done));
                format!(
                    "{sent} to {done} {method} {} {:?}\n",
                    sample.target, sample.end
                )
            })
            .collect();
        let show = |(before, after): (Instant, Instant)| format!("{} to {}", at(before), at(after));
        let killed: Vec<_> = self.kills.iter().map(|kill| show(kill.window)).collect();
        let restarted: Vec<_> = self.restarts.iter().copied().map(show).collect();
        let text = format!(
            "fault {:?}, kills {killed:#?}, restarts {restarted:#?}\n{}",
            self.fault.map(humantime::format_rfc3339_millis),
            failed.concat()
        );
        let write = |name: &str, text: &str| std::fs::write(kept.join(name), text).unwrap();
        write("failures", &text);
        let explain = self.admin(&format!("/api/v1/explain/{SERVICE}"));
        write("explain.json", &format!("{explain:#}"));
        write(
            "events.json",
            &format!("{:#}", self.admin("/api/v1/events")),
        );
        for name in ["log", "access.log", "gateway.toml"] {
            drop(std::fs::copy(self.gateway.file(name), kept.join(name)));
        }
        for entry in std::fs::read_dir(self.directory.path()).unwrap().flatten() {
            drop(std::fs::copy(entry.path(), kept.join(entry.file_name())));
        }
        kept
    }
}

impl Outcome {
    pub(crate) fn has_failures(&self) -> bool {
        !self.get_failures.is_empty()
            || !self.post_failures.is_empty()
            || self.twice > 0
            || self.never > 0
    }

    pub(crate) fn failures(&self) -> usize {
        self.get_failures.values().sum::<usize>() + self.post_failures.values().sum::<usize>()
    }
}

fn overlaps(windows: &[(Instant, Instant)], from: Instant, to: Instant) -> bool {
    windows
        .iter()
        .any(|(before, after)| from <= *after && to >= *before)
}
