//! Three servers of Apache ZooKeeper: killed, without a majority, restarted one after the other, under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livegate_zk::client::{
    Client, ConnectOptions, ConnectionState, Error, ExpiryCause, Gap, Notification, SessionEvent,
    SessionEvents, Watch, Watcher,
};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::watch::{AddWatchMode, EventKind};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::connect::{end_session, options};
use crate::fake::within;
use crate::forwarder::{Forwarder, Mode};
use crate::ledger::Load;
use crate::quorum::{Ensemble, SERVERS, options_for};
use crate::scale::{
    EACH, TOUCHED, Watched, all_work, create_nodes, path, take_fired, take_gaps, touch,
    watch_everything,
};
use crate::sessions::until;
use crate::watches::create;

/// Clients under load.
const CLIENTS: usize = 3;

/// How long the load runs before and after a server dies.
const AROUND: Duration = Duration::from_millis(700);

/// A client whose session must outlive everything, and what it holds.
struct Subject {
    client: Client,
    /// Its nodes begin with this.
    name: String,
    session_id: i64,
    /// When its ephemeral node was created.
    czxid: i64,
    events: Arc<Mutex<Vec<SessionEvent>>>,
    data: Watch,
    exists: Watch,
    children: Watch,
    persistent: Watcher,
    recursive: Watcher,
    _tasks: JoinSet<()>,
}

impl Subject {
    async fn start(ensemble: &Ensemble, name: &str) -> Self {
        let client = Client::connect(ensemble.options()).await.unwrap();
        let mut session_events = client.session_events();
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&events);
        tasks.spawn(async move {
            while let Some(event) = session_events.next().await {
                seen.lock().push(event);
            }
        });
        let mode = CreateMode::Ephemeral;
        let (_, stat) = client
            .create2(
                &format!("{name}-ephemeral"),
                name.as_bytes(),
                mode,
                Acl::OPEN,
            )
            .await
            .unwrap();
        for node in ["data", "children", "persistent", "recursive"] {
            create(&client, &format!("{name}-{node}")).await;
        }
        Self {
            session_id: client.state().session_id,
            czxid: stat.czxid,
            events,
            data: client
                .get_and_watch(&format!("{name}-data"))
                .await
                .unwrap()
                .2,
            exists: client
                .exists_and_watch(&format!("{name}-exists-0"))
                .await
                .unwrap()
                .1,
            children: client
                .children_and_watch(&format!("{name}-children"))
                .await
                .unwrap()
                .2,
            persistent: client
                .watch(&format!("{name}-persistent"), AddWatchMode::Persistent)
                .await
                .unwrap(),
            recursive: client
                .watch(
                    &format!("{name}-recursive"),
                    AddWatchMode::PersistentRecursive,
                )
                .await
                .unwrap(),
            client,
            name: name.to_owned(),
            _tasks: tasks,
        }
    }

    /// Session, ephemeral node and all five watches are in place. `round` counts the calls.
    async fn is_unharmed(&mut self, round: usize, judge: &Client) {
        let (client, name) = (self.client.clone(), self.name.clone());
        let mut states = client.states();
        within(states.wait_for(|state| state.session_id != 0))
            .await
            .unwrap();
        client.sync("/").await.unwrap();
        let state = client.state();
        assert_eq!(state.session_id, self.session_id);
        assert_eq!((state.sessions, state.expirations), (1, 0));
        let stat = judge
            .exists(&format!("{name}-ephemeral"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (stat.ephemeral_owner, stat.czxid),
            (self.session_id, self.czxid)
        );
        self.events_are_in_order(state.attachments);

        // Nothing of these was touched meanwhile: nothing has fired, persistent watchers were told of gaps.
        for watch in [&mut self.data, &mut self.exists, &mut self.children] {
            let early = tokio::time::timeout(Duration::ZERO, watch.fired()).await;
            assert!(early.is_err(), "{early:?}");
        }
        for watcher in [&mut self.persistent, &mut self.recursive] {
            while let Some(told) = watcher.try_next() {
                assert_eq!(told, Notification::Gap(Gap::Reattached));
            }
        }
        judge.set(&format!("{name}-data"), b"", None).await.unwrap();
        judge
            .set(&format!("{name}-persistent"), b"", None)
            .await
            .unwrap();
        for node in ["exists", "children/c", "recursive/c"] {
            create(judge, &format!("{name}-{node}-{round}")).await;
        }
        for (watch, kind, node) in [
            (&mut self.data, EventKind::DataChanged, "data".to_owned()),
            (
                &mut self.exists,
                EventKind::Created,
                format!("exists-{round}"),
            ),
            (
                &mut self.children,
                EventKind::ChildrenChanged,
                "children".to_owned(),
            ),
        ] {
            let event = within(watch.fired()).await.unwrap();
            assert_eq!((event.kind, event.path), (kind, format!("{name}-{node}")));
        }
        for (watcher, kind, node) in [
            (
                &mut self.persistent,
                EventKind::DataChanged,
                "persistent".to_owned(),
            ),
            (
                &mut self.recursive,
                EventKind::Created,
                format!("recursive/c-{round}"),
            ),
        ] {
            let told = within(watcher.next()).await;
            let Some(Notification::Event(event)) = told else {
                panic!("{told:?}")
            };
            assert_eq!((event.kind, event.path), (kind, format!("{name}-{node}")));
        }
        // One-shot watches for the next round.
        let next = format!("{name}-exists-{}", round + 1);
        self.data = client
            .get_and_watch(&format!("{name}-data"))
            .await
            .unwrap()
            .2;
        self.exists = client.exists_and_watch(&next).await.unwrap().1;
        let children = format!("{name}-children");
        self.children = client.children_and_watch(&children).await.unwrap().2;
    }

    /// The session was lost and attached in turns, and never replaced.
    fn events_are_in_order(&self, attachments: u64) {
        let events = self.events.lock();
        let mut connected = true;
        let mut reattached = 0;
        for event in events.iter() {
            match event {
                SessionEvent::Disconnected { .. } => {
                    assert!(connected, "{events:?}");
                    connected = false;
                }
                SessionEvent::Reattached => {
                    connected = true;
                    reattached += 1;
                }
                SessionEvent::Expired { .. } | SessionEvent::NewSession { .. } => {
                    panic!("{events:?}")
                }
            }
        }
        assert!(connected, "{events:?}");
        assert!(reattached < attachments, "{events:?}");
        assert_eq!(reattached > 0, attachments > 1, "{events:?}");
    }
}

/// A client whose session does not outlive the loss of a majority.
struct Brief {
    client: Client,
    events: SessionEvents,
    session_id: i64,
    ephemeral: Watch,
    watcher: Watcher,
}

impl Brief {
    async fn start(ensemble: &Ensemble) -> Self {
        let client = Client::connect(ConnectOptions {
            session_timeout: Duration::from_secs(6),
            ..ensemble.options()
        })
        .await
        .unwrap();
        create(&client, "/brief").await;
        let mode = CreateMode::Ephemeral;
        client
            .create("/brief-ephemeral", b"", mode, Acl::OPEN)
            .await
            .unwrap();
        let exists = client.exists_and_watch("/brief-ephemeral").await.unwrap();
        let mode = AddWatchMode::PersistentRecursive;
        Self {
            events: client.session_events(),
            session_id: client.state().session_id,
            ephemeral: exists.1,
            watcher: client.watch("/brief", mode).await.unwrap(),
            client,
        }
    }

    /// Without a server that serves, the client itself says that its session is over.
    async fn is_given_up(&mut self) {
        let cause = ExpiryCause::Silence;
        until(&mut self.events, &SessionEvent::Expired { cause }).await;
        assert_eq!(self.client.state().session_id, 0);
    }

    /// There is a new session, with the watches of the old one, and callers know.
    async fn is_replaced(&mut self, ensemble: &Ensemble) {
        let cause = Some(ExpiryCause::Silence);
        until(&mut self.events, &SessionEvent::NewSession { cause }).await;
        assert_ne!(self.client.state().session_id, self.session_id);
        while within(self.watcher.next()).await != Some(Notification::Gap(Gap::NewSession)) {}
        // The servers come to the same conclusion, each session's time beginning anew with the new leader.
        let event = within(self.ephemeral.fired()).await.unwrap();
        assert_eq!(event.kind, EventKind::Deleted);
        ensemble.all_serve().await;
        create(&self.client, "/brief/child").await;
        loop {
            match within(self.watcher.next()).await {
                Some(Notification::Event(event)) => {
                    break assert_eq!(event.path, "/brief/child");
                }
                // A connection that was made while the servers still joined may be lost again.
                Some(Notification::Gap(Gap::Reattached)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A list of all nodes below a node, kept by its events alone, and read again after a gap only.
struct Mirror {
    nodes: Arc<Mutex<BTreeSet<String>>>,
    gaps: Arc<Mutex<usize>>,
    _task: JoinSet<()>,
}

impl Mirror {
    async fn start(client: Client, root: &'static str) -> Self {
        let mut watcher = client
            .watch(root, AddWatchMode::PersistentRecursive)
            .await
            .unwrap();
        let nodes = Arc::new(Mutex::new(BTreeSet::new()));
        let gaps = Arc::new(Mutex::new(0));
        let (kept, gapped) = (Arc::clone(&nodes), Arc::clone(&gaps));
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(told) = watcher.next().await {
                match told {
                    Notification::Event(event) => match event.kind {
                        EventKind::Created => drop(kept.lock().insert(event.path)),
                        EventKind::Deleted => drop(kept.lock().remove(&event.path)),
                        EventKind::DataChanged | EventKind::ChildrenChanged => {}
                    },
                    Notification::Gap(_) => {
                        *gapped.lock() += 1;
                        // The connection may be lost again, which is another gap.
                        if let Ok(read) = tree(&client, root).await {
                            *kept.lock() = read;
                        }
                    }
                }
            }
        });
        Self {
            nodes,
            gaps,
            _task: task,
        }
    }

    /// It comes to be what is there.
    async fn agrees(&self, judge: &Client, root: &str) {
        let there = tree(judge, root).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while *self.nodes.lock() != there {
            if Instant::now() > deadline {
                let nodes = self.nodes.lock();
                let different: Vec<_> = nodes.symmetric_difference(&there).take(20).collect();
                panic!("{} of {}: {different:?}", nodes.len(), there.len());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The nodes below a node that has children and grandchildren.
async fn tree(client: &Client, root: &str) -> Result<BTreeSet<String>, Error> {
    let mut nodes = BTreeSet::new();
    for child in client.children(root).await? {
        let child = format!("{root}/{child}");
        for grandchild in client.children(&child).await? {
            nodes.insert(format!("{child}/{grandchild}"));
        }
        nodes.insert(child);
    }
    Ok(nodes)
}

#[tokio::test]
async fn sessions_watches_and_writes_outlive_servers_leaders_and_majorities() {
    let start = Instant::now();
    let Some(mut ensemble) = Ensemble::start().await else {
        return;
    };
    println!("the ensemble serves after {:?}", start.elapsed());
    let judge = Client::connect(ensemble.options()).await.unwrap();
    create(&judge, "/load").await;
    let mut subjects = Vec::new();
    for number in 0..CLIENTS {
        subjects.push(Subject::start(&ensemble, &format!("/subject-{number}")).await);
    }
    let clients: Vec<_> = subjects
        .iter()
        .map(|subject| subject.client.clone())
        .collect();
    let mut mirrors = Vec::new();
    for client in &clients {
        mirrors.push(Mirror::start(client.clone(), "/load").await);
    }
    let mut unknown = 0;
    for (round, fault) in ["leader", "follower", "majority", "rolling"]
        .into_iter()
        .enumerate()
    {
        let begun = Instant::now();
        let load = Load::start(&format!("/load/{fault}"), &clients).await;
        tokio::time::sleep(AROUND).await;
        let leader = ensemble.leader().await;
        match fault {
            "leader" => {
                ensemble.kill(leader);
                ensemble.leader().await;
                tokio::time::sleep(AROUND).await;
                ensemble.launch(leader);
            }
            "follower" => {
                // One that a client is attached to, if there is such a one.
                let attached = clients
                    .iter()
                    .filter_map(|client| ensemble.server_of(client));
                let follower = attached
                    .chain(0..SERVERS)
                    .find(|&server| server != leader)
                    .unwrap();
                ensemble.kill(follower);
                tokio::time::sleep(AROUND).await;
                ensemble.launch(follower);
            }
            "majority" => {
                let mut brief = Brief::start(&ensemble).await;
                let other = (0..SERVERS).find(|&server| server != leader).unwrap();
                ensemble.kill(leader);
                ensemble.kill(other);
                // Nobody can serve now, and everybody notices.
                for client in &clients {
                    let mut states = client.states();
                    let lost = states.wait_for(|state| {
                        !matches!(state.connection, ConnectionState::Connected { .. })
                    });
                    within(lost).await.unwrap();
                }
                brief.is_given_up().await;
                ensemble.launch(other);
                ensemble.launch(leader);
                brief.is_replaced(&ensemble).await;
            }
            _ => {
                for server in 0..SERVERS {
                    ensemble.kill(server);
                    tokio::time::sleep(AROUND).await;
                    ensemble.launch(server);
                    ensemble.all_serve().await;
                    tokio::time::sleep(AROUND).await;
                }
            }
        }
        ensemble.all_serve().await;
        tokio::time::sleep(AROUND).await;
        let ledger = load.finish().await;
        for subject in &mut subjects {
            subject.is_unharmed(round, &judge).await;
        }
        unknown += ledger.check(&judge).await;
        for mirror in &mirrors {
            mirror.agrees(&judge, "/load").await;
        }
        println!("{fault} took {:?}", begun.elapsed());
    }
    // Requests were under way when connections were lost, and were reported as that.
    assert!(unknown > 0);
    for (client, mirror) in clients.iter().zip(&mirrors) {
        // At least the majority and the rolling restart have cut each connection.
        assert!(client.state().attachments >= 3);
        assert!(*mirror.gaps.lock() >= 2);
    }
}

/// A client of all servers through forwarders, so that it can be kept away from them.
struct Distant {
    client: Client,
    forwarders: Vec<Forwarder>,
}

impl Distant {
    async fn start(ensemble: &Ensemble) -> Self {
        let mut forwarders = Vec::new();
        for server in 0..SERVERS {
            forwarders.push(Forwarder::start(ensemble.address(server)).await);
        }
        let servers = std::array::from_fn(|server| forwarders[server].address);
        Self {
            client: Client::connect(options_for(servers)).await.unwrap(),
            forwarders,
        }
    }

    fn set(&self, mode: Mode) {
        for forwarder in &self.forwarders {
            forwarder.set(mode);
        }
    }

    /// The server it is attached to.
    fn server(&self) -> usize {
        let ConnectionState::Connected { server } = self.client.state().connection else {
            panic!("{:?}", self.client.state())
        };
        self.forwarders
            .iter()
            .position(|forwarder| forwarder.address == server)
            .unwrap()
    }
}

/// A client of one server that serves and will go on doing so.
async fn direct(ensemble: &Ensemble, server: usize) -> Client {
    ensemble.all_serve().await;
    let address = ensemble.address(server).to_string();
    Client::connect(options(&address)).await.unwrap()
}

/// All watches are in place: as many as the client still waits for.
async fn all_are_held(ensemble: &Ensemble, watched: &Watched) {
    ensemble.all_serve().await;
    // Persistent ones are in two of a server's tables.
    let held = watched.one_shot.len() + 2 * watched.persistent.len();
    assert_eq!(ensemble.watches().await, held);
}

#[tokio::test]
async fn twenty_thousand_watches_survive_the_death_of_their_server_and_an_expiry() {
    let Some(mut ensemble) = Ensemble::start().await else {
        return;
    };
    let distant = Distant::start(&ensemble).await;
    let client = &distant.client;
    create_nodes(&direct(&ensemble, 0).await).await;
    let start = Instant::now();
    let mut watched = watch_everything(client).await;
    println!("{} watches set in {:?}", 5 * EACH, start.elapsed());
    assert_eq!(watched.one_shot.len() + watched.persistent.len(), 5 * EACH);
    all_are_held(&ensemble, &watched).await;
    let session_id = client.state().session_id;
    let mut events = client.session_events();

    // Its server is killed; before the client is at another one, every tenth node changes.
    let server = distant.server();
    distant.set(Mode::Cut);
    ensemble.kill(server);
    let other = direct(&ensemble, (server + 1) % SERVERS).await;
    touch(&other, 0).await;
    let start = Instant::now();
    distant.set(Mode::Pass);
    until(&mut events, &SessionEvent::Reattached).await;
    take_gaps(&mut watched, Gap::Reattached).await;
    println!("restored at another server in {:?}", start.elapsed());
    take_fired(&mut watched, 0).await;
    assert_ne!(distant.server(), server);
    ensemble.launch(server);
    all_are_held(&ensemble, &watched).await;

    // The server is a follower that is killed in the middle of the changes: some events came before, some
    // are caught up, some come after.
    let leader = ensemble.leader().await;
    if distant.server() == leader {
        distant.forwarders[leader].set(Mode::Cut);
        until(&mut events, &SessionEvent::Reattached).await;
        take_gaps(&mut watched, Gap::Reattached).await;
        distant.set(Mode::Pass);
    }
    let server = distant.server();
    let other = direct(&ensemble, leader).await;
    let killing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ensemble.kill(server);
    };
    tokio::join!(touch(&other, 1), killing);
    until(&mut events, &SessionEvent::Reattached).await;
    for (kind, number, watcher) in &mut watched.persistent {
        // Only a gap excuses a missing event.
        loop {
            match within(watcher.next()).await {
                Some(Notification::Gap(gap)) => break assert_eq!(gap, Gap::Reattached),
                Some(Notification::Event(event)) => assert_eq!(event.path, path(kind, *number)),
                None => panic!("{kind} {number} has ended"),
            }
        }
    }
    take_fired(&mut watched, 1).await;
    // What is left to come is what was changed after the watchers were in place again.
    client.sync("/").await.unwrap();
    for (kind, number, watcher) in &mut watched.persistent {
        while let Some(told) = watcher.try_next() {
            assert!(
                matches!(told, Notification::Event(_)),
                "{kind} {number}: {told:?}"
            );
            assert_eq!(*number % TOUCHED, 1, "{kind} {number}: {told:?}");
        }
    }
    assert_eq!(client.state().session_id, session_id);
    assert_eq!(client.state().sessions, 1);
    ensemble.launch(server);
    all_are_held(&ensemble, &watched).await;

    // The session is ended while the client is away.
    let server = distant.server();
    distant.set(Mode::Cut);
    let reply = distant.forwarders[server].connect_reply();
    end_session(ensemble.address(server), &reply).await;
    let other = direct(&ensemble, server).await;
    touch(&other, 2).await;
    let start = Instant::now();
    distant.set(Mode::Pass);
    let cause = Some(ExpiryCause::Server);
    until(&mut events, &SessionEvent::NewSession { cause }).await;
    take_gaps(&mut watched, Gap::NewSession).await;
    println!("restored after an expiry in {:?}", start.elapsed());
    take_fired(&mut watched, 2).await;
    assert_ne!(client.state().session_id, session_id);
    assert_eq!(client.state().sessions, 2);
    all_are_held(&ensemble, &watched).await;
    all_work(watched, &other).await;

    // Dropped all at once: the servers forget them.
    let start = Instant::now();
    while ensemble.watches().await > 0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        client.sync("/").await.unwrap();
    }
    println!("removed in {:?}", start.elapsed());
}
