//! What goes wrong, one function for each row. None of them looks at the result.

use std::time::{Duration, Instant};

use livegate_zk::client::Op;
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use rustix::process::Signal;

use crate::fleet::{Registered, SERVICE};
use crate::forwarder::Mode;
use crate::registry::Kind;
use crate::stage::Stage;

/// What a row may cost. A GET never fails, but for a frozen instance's share, and no POST is executed twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// POSTs that were in flight on a killed instance.
    InFlight,
    /// One request in a hundred.
    OnePercent,
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) registries: &'static [Kind],
    /// Whether it is part of a quick run without `--rows`, and on which registries.
    pub(crate) quick: &'static [Kind],
    pub(crate) fleet: (usize, Registered),
    pub(crate) allowed: Allowed,
    pub(crate) run: fn(&mut Stage<'_>),
}

const SINGLE: &[Kind] = &[Kind::Embedded, Kind::Livegate, Kind::Apache];
const SEPARATE: &[Kind] = &[Kind::Livegate, Kind::Apache, Kind::Ensemble];
const WIPED: &[Kind] = &[Kind::Livegate, Kind::Apache];
const FLEET: (usize, Registered) = (6, Registered::ByItself);

pub(crate) const ROWS: [Row; 13] = [
    Row {
        name: "kill-one",
        what: "kill -9 of one of six instances",
        registries: SINGLE,
        quick: &[Kind::Embedded],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: |stage| kill(stage, 1),
    },
    Row {
        name: "kill-half",
        what: "kill -9 of three of six instances at once",
        registries: SINGLE,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: |stage| kill(stage, 3),
    },
    Row {
        name: "roll-registered",
        what: "rolling restart of all with `livegate register`",
        registries: SINGLE,
        quick: &[Kind::Livegate],
        fleet: (6, Registered::ByCommand),
        allowed: Allowed::InFlight,
        run: roll_registered,
    },
    Row {
        name: "roll-plain",
        what: "rolling restart of instances that just die on SIGTERM",
        registries: SINGLE,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: roll_plain,
    },
    Row {
        name: "registry-down",
        what: "registry killed for a minute; an instance dies and the gateway is restarted in the middle",
        registries: SEPARATE,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: registry_down,
    },
    Row {
        name: "registry-empty",
        what: "registry back empty, services re-register over 10 s",
        registries: WIPED,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: |stage| registry_empty(stage, false),
    },
    Row {
        name: "empty-restart",
        what: "registry back empty, the gateway is restarted while it knows nobody",
        registries: WIPED,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: |stage| registry_empty(stage, true),
    },
    Row {
        name: "sessions",
        what: "all sessions of the instances expire at once, then the gateway's, too",
        registries: &Kind::ALL,
        quick: &[Kind::Apache],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: sessions,
    },
    Row {
        name: "partition",
        what: "gateway cut off from the registry for longer than its session, once while an instance dies",
        registries: SEPARATE,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: partition,
    },
    Row {
        name: "quorum",
        what: "the ensemble's leader killed, then its majority",
        registries: &[Kind::Ensemble],
        quick: &[Kind::Ensemble],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: quorum,
    },
    Row {
        name: "frozen",
        what: "SIGSTOP of one of six instances",
        registries: SINGLE,
        quick: &[Kind::Embedded],
        fleet: FLEET,
        allowed: Allowed::OnePercent,
        run: frozen,
    },
    Row {
        name: "flapping",
        what: "one instance registers and deregisters 20 times a second",
        registries: SINGLE,
        quick: &[Kind::Livegate],
        fleet: FLEET,
        allowed: Allowed::InFlight,
        run: flapping,
    },
    Row {
        name: "crowd",
        what: "2000 instances, 100 changes a second",
        registries: SINGLE,
        quick: &[Kind::Livegate],
        fleet: (4, Registered::Not),
        allowed: Allowed::InFlight,
        run: crowd,
    },
];

/// Long enough for every session that was lost to be over and everybody to be back.
fn past_sessions(stage: &Stage<'_>) -> Duration {
    stage.session_timeout * 3 / 2 + Duration::from_secs(1)
}

fn kill(stage: &mut Stage<'_>, count: usize) {
    stage.start_load();
    stage.fault();
    let numbers: Vec<usize> = (0..count).collect();
    stage.kill(&numbers, Signal::KILL);
    stage.rest(past_sessions(stage));
    for instance in &mut stage.instances[..count] {
        instance.launch();
    }
    stage.wait_until_all_fit();
    stage.rest(Duration::from_secs(2));
}

fn roll_registered(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    for number in 0..stage.instances.len() {
        // Not counted as killed: a drained instance has nothing in flight.
        stage.instances[number].end(Signal::TERM);
        stage.instances[number].launch();
        // Whoever rolls waits for the instance, not for gateways.
        stage.wait_until_registered(stage.instances.len());
    }
}

fn roll_plain(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    for number in 0..stage.instances.len() {
        stage.kill(&[number], Signal::TERM);
        stage.rest(Duration::from_millis(300));
        stage.instances[number].launch();
        // Whoever rolls waits for the instance, not for gateways.
        stage.instances[number].wait_until_listening();
        stage.rest(Duration::from_millis(500));
    }
    // The nodes of the dead sessions are over, too.
    stage.rest(past_sessions(stage));
    stage.wait_until_all_fit();
}

fn registry_down(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    let half = stage.pace.seconds(30, 5);
    stage.registry.kill();
    stage.rest(half);
    // What the gateway has on disk names an instance that is dead.
    stage.kill(&[0], Signal::KILL);
    stage.restart_gateway();
    stage.rest(half);
    stage.registry.revive(stage.handle);
    stage.rest(past_sessions(stage));
    stage.instances[0].launch();
    stage.wait_until_registered(stage.instances.len());
    stage.rest(past_sessions(stage));
    stage.wait_until_all_fit();
}

fn registry_empty(stage: &mut Stage<'_>, restarts_gateway: bool) {
    stage.start_load();
    stage.fault();
    for instance in &stage.instances {
        instance.link.set(Mode::Cut);
    }
    stage.registry.kill();
    stage.registry.wipe();
    stage.rest(stage.pace.seconds(5, 2));
    stage.registry.revive(stage.handle);
    if restarts_gateway {
        stage.restart_gateway();
    }
    let step = Duration::from_secs(10) / u32::try_from(stage.instances.len()).unwrap();
    for number in 0..stage.instances.len() {
        stage.rest(step);
        stage.instances[number].link.set(Mode::Pass);
    }
    stage.wait_until_registered(stage.instances.len());
    stage.wait_until_all_fit();
    stage.rest(past_sessions(stage));
}

fn sessions(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    for with_gateway in [false, true] {
        for mode in [Mode::Cut, Mode::Pass] {
            let instances = stage.instances.iter().map(|instance| &instance.link);
            let gateway = stage.gateway_link.iter().filter(|_| with_gateway);
            instances.chain(gateway).for_each(|link| link.set(mode));
            if mode == Mode::Cut {
                stage.wait_until_registered(0);
                stage.rest(Duration::from_secs(2));
            }
        }
        stage.wait_until_registered(stage.instances.len());
        stage.wait_until_all_fit();
        stage.rest(Duration::from_secs(2));
    }
}

fn partition(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    for (mode, dies) in [(Mode::Freeze, false), (Mode::Cut, true)] {
        set_gateway_link(stage, mode);
        stage.rest(past_sessions(stage));
        if dies {
            stage.kill(&[0], Signal::KILL);
            stage.rest(past_sessions(stage));
        }
        set_gateway_link(stage, Mode::Pass);
        stage.rest(past_sessions(stage));
        if dies {
            stage.instances[0].launch();
        }
        stage.wait_until_all_fit();
    }
    stage.rest(Duration::from_secs(1));
}

fn set_gateway_link(stage: &Stage<'_>, mode: Mode) {
    let link = stage.gateway_link.as_ref();
    link.expect("the registry is elsewhere").set(mode);
}

fn quorum(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    let handle = stage.handle;
    let leader = handle.block_on(stage.registry.ensemble().leader());
    stage.registry.ensemble().kill(leader);
    stage.rest(past_sessions(stage));
    let follower = stage.registry.ensemble().running()[0];
    stage.registry.ensemble().kill(follower);
    stage.rest(stage.pace.seconds(60, 10));
    stage.registry.revive(handle);
    stage.wait_until_registered(stage.instances.len());
    stage.rest(past_sessions(stage));
    stage.wait_until_all_fit();
}

fn frozen(stage: &mut Stage<'_>) {
    stage.start_load();
    stage.fault();
    stage.instances[0].signal(Signal::STOP);
    // The full run is longer than `response_head`, 30 s.
    stage.rest(stage.pace.seconds(35, 10));
    stage.instances[0].signal(Signal::CONT);
    stage.wait_until_all_fit();
    stage.rest(Duration::from_secs(2));
}

fn flapping(stage: &mut Stage<'_>) {
    // A process that is registered by the row, next to those that register themselves.
    let flapper = stage.instances[0].address();
    let path = format!("/services/{SERVICE}/flap-{}", flapper.port());
    let content = format!(
        r#"{{"name":"{SERVICE}","id":"flap","address":"127.0.0.1","port":{},"payload":null,"serviceType":"DYNAMIC"}}"#,
        flapper.port()
    );
    stage.start_load();
    // Its own node must not hide the flapping.
    stage.instances[0].link.set(Mode::Cut);
    stage.wait_until_registered(stage.instances.len() - 1);
    stage.rest(Duration::from_secs(1));
    stage.fault();
    let end = Instant::now() + stage.pace.seconds(30, 8);
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(50);
        let (client, data) = (stage.client.clone(), content.as_bytes());
        stage.handle.block_on(async {
            let mode = CreateMode::Ephemeral;
            client.create(&path, data, mode, Acl::OPEN).await.unwrap();
            tokio::time::sleep(Duration::from_millis(25)).await;
            client.delete(&path, None).await.unwrap();
        });
        stage.rest(next.saturating_duration_since(Instant::now()));
    }
    stage.instances[0].link.set(Mode::Pass);
    stage.wait_until_all_fit();
    stage.rest(Duration::from_secs(1));
}

fn crowd(stage: &mut Stage<'_>) {
    const REGISTERED: usize = 2_000;
    const SPARE: usize = 200;
    let processes = stage.instances.len();
    // Every address of 127/8 is this machine.
    let mut paths: Vec<String> = (0..REGISTERED + SPARE)
        .map(|number| {
            let (process, host) = (number % processes, number / processes);
            let port = stage.instances[process].port.number();
            format!(
                "/services/{SERVICE}/127.{}.{}.{}:{port}",
                process + 1,
                host / 250,
                host % 250 + 1
            )
        })
        .collect();
    let (client, handle) = (stage.client.clone(), stage.handle);
    let mode = CreateMode::Ephemeral;
    handle.block_on(async {
        let parent = format!("/services/{SERVICE}");
        client
            .ensure(&parent, CreateMode::Persistent, Acl::OPEN)
            .await
            .unwrap();
        for paths in paths[..REGISTERED].chunks(100) {
            let create = |path| Op::Create {
                path,
                data: b"",
                mode,
                acl: Acl::OPEN,
            };
            let ops: Vec<_> = paths.iter().map(|path| create(path.as_str())).collect();
            client.multi(&ops).await.unwrap();
        }
    });
    stage.wait_until_fit(REGISTERED);
    stage.start_load();
    stage.fault();
    let (first, mut next) = (Instant::now(), Instant::now());
    let end = first + stage.pace.seconds(60, 10);
    let mut changes = 0_u64;
    while Instant::now() < end {
        next += Duration::from_millis(20);
        // One goes and another comes.
        let (gone, new) = (
            fastrand::usize(..REGISTERED),
            fastrand::usize(REGISTERED..REGISTERED + SPARE),
        );
        handle.block_on(async {
            client.delete(&paths[gone], None).await.unwrap();
            client
                .create(&paths[new], b"", mode, Acl::OPEN)
                .await
                .unwrap();
        });
        paths.swap(gone, new);
        changes += 2;
        stage.rest(next.saturating_duration_since(Instant::now()));
    }
    println!("  {changes} changes in {:.1?}", first.elapsed());
    stage.wait_until_fit(REGISTERED);
}
