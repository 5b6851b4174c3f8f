//! The answers to four-letter words, in the form that Apache ZooKeeper gives them and monitors parse.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use livegate_zk::four_letter::FourLetterWord;
use livegate_zk::proto::op_code::OpCode;

use super::core::{Connection, Core, Numbers};
use super::millis_since_1970;

/// Clients take from it what a server can do; the date is in the only form that go-zookeeper understands.
const VERSION: &str = "3.8.4-livegate, built on 11/24/2026 00:00 GMT";

/// The answer to a word; `rest` is what came after it.
pub(super) fn answer(core: &mut Core, word: FourLetterWord, rest: &[u8]) -> String {
    let mut text = String::new();
    if !core.options.four_letter_words.allows(word) {
        let _ = writeln!(
            text,
            "{word} is not executed because it is not in the whitelist."
        );
        return text;
    }
    // Writing into a string does not fail.
    let _ = match word {
        FourLetterWord::Ruok => write!(text, "imok"),
        FourLetterWord::Isro => write!(text, "rw"),
        FourLetterWord::Srvr => server(core, &mut text, false),
        FourLetterWord::Stat => server(core, &mut text, true),
        FourLetterWord::Envi => environment(&mut text),
        FourLetterWord::Conf => configuration(core, &mut text),
        FourLetterWord::Mntr => monitor(core, &mut text),
        FourLetterWord::Dirs => directories(core, &mut text),
        FourLetterWord::Cons => connections(core, &mut text),
        FourLetterWord::Crst => {
            for connection in core.connections.values() {
                let mut numbers = connection.numbers.borrow_mut();
                numbers.latency = Default::default();
                (numbers.received, numbers.sent) = (0, 0);
            }
            writeln!(text, "Connection stats reset.")
        }
        FourLetterWord::Srst => {
            core.totals = Default::default();
            writeln!(text, "Server stats reset.")
        }
        FourLetterWord::Dump => dump(core, &mut text),
        FourLetterWord::Wchs => {
            core.machine.dump_watch_summary(&mut text);
            writeln!(text)
        }
        FourLetterWord::Wchc => {
            core.machine.dump_watches_by_session(&mut text);
            writeln!(text)
        }
        FourLetterWord::Wchp => {
            core.machine.dump_watches_by_path(&mut text);
            writeln!(text)
        }
        // There is nothing to trace here that the log does not tell; the mask is taken and given back.
        FourLetterWord::Gtmk => write!(text, "{}", core.trace_mask),
        FourLetterWord::Stmk => {
            if let Some(mask) = rest.first_chunk() {
                core.trace_mask = i64::from_be_bytes(*mask);
            }
            write!(text, "{}", core.trace_mask)
        }
        // The history of digests is for finding servers of an ensemble that differ.
        FourLetterWord::Hash => Ok(()),
    };
    text
}

fn server(core: &Core, text: &mut String, with_clients: bool) -> std::fmt::Result {
    writeln!(text, "Zookeeper version: {VERSION}")?;
    if with_clients {
        writeln!(text, "Clients:")?;
        for connection in core.connections.values() {
            client(core, connection, text, true)?;
            writeln!(text)?;
        }
        writeln!(text)?;
    }
    let latency = &core.totals.latency;
    writeln!(
        text,
        "Latency min/avg/max: {}/{:.4}/{}",
        latency.min_ms(),
        latency.mean_ms(),
        latency.max_ms()
    )?;
    writeln!(text, "Received: {}", core.totals.received)?;
    writeln!(text, "Sent: {}", core.totals.sent)?;
    writeln!(text, "Connections: {}", core.connections.len())?;
    writeln!(text, "Outstanding: {}", outstanding(core))?;
    writeln!(text, "Zxid: 0x{:x}", core.machine.zxid())?;
    writeln!(text, "Mode: standalone")?;
    writeln!(text, "Node count: {}", core.machine.counts().nodes)
}

fn outstanding(core: &Core) -> usize {
    let held = |connection: &std::rc::Rc<Connection>| connection.outbox.borrow().held();
    core.connections.values().map(held).sum()
}

fn client(
    core: &Core,
    connection: &Connection,
    text: &mut String,
    brief: bool,
) -> std::fmt::Result {
    let numbers: &Numbers = &connection.numbers.borrow();
    let outbox = connection.outbox.borrow();
    write!(
        text,
        " /{}[{}](queued={},recved={},sent={}",
        connection.address,
        i32::from(connection.accepts()),
        outbox.held(),
        numbers.received,
        numbers.sent
    )?;
    let session = connection.session.get();
    if !brief && session != 0 {
        let millis = |time: Option<SystemTime>| time.map_or(0, millis_since_1970);
        let latency = &numbers.latency;
        write!(
            text,
            ",sid=0x{session:x},lop={},est={},to={},lcxid=0x{:x},lzxid=0x{:x},lresp={},llat={},\
             minlat={},avglat={:.0},maxlat={}",
            operation(numbers.last_op),
            millis(numbers.established),
            core.machine.session_timeout_ms(session),
            numbers.last_xid,
            outbox.newest(),
            millis(numbers.last_response),
            latency.last_ms(),
            latency.min_ms(),
            latency.mean_ms(),
            latency.max_ms()
        )?;
    }
    write!(text, ")")
}

/// The names of `FinalRequestProcessor.java`.
fn operation(op_code: Option<OpCode>) -> &'static str {
    match op_code {
        Some(OpCode::Ping) => "PING",
        Some(OpCode::CreateSession) => "SESS",
        Some(OpCode::Multi) => "MULT",
        Some(OpCode::MultiRead) => "MLTR",
        Some(OpCode::Create | OpCode::Create2 | OpCode::CreateTtl | OpCode::CreateContainer) => {
            "CREA"
        }
        Some(OpCode::Delete) => "DELE",
        Some(OpCode::SetData) => "SETD",
        Some(OpCode::SetAcl) => "SETA",
        Some(OpCode::CloseSession) => "CLOS",
        Some(OpCode::Sync) => "SYNC",
        Some(OpCode::Exists) => "EXIS",
        Some(OpCode::GetData) => "GETD",
        Some(OpCode::GetAcl) => "GETA",
        Some(OpCode::GetChildren | OpCode::GetChildren2) => "GETC",
        Some(OpCode::GetAllChildrenNumber) => "GETACN",
        Some(OpCode::GetEphemerals) => "GETE",
        Some(OpCode::SetWatches) => "SETW",
        Some(OpCode::SetWatches2) => "STW2",
        Some(OpCode::AddWatch) => "ADDW",
        Some(OpCode::CheckWatches) => "CHKW",
        Some(OpCode::RemoveWatches) => "REMW",
        Some(OpCode::WhoAmI) => "HOMI",
        _ => "NA",
    }
}

fn connections(core: &Core, text: &mut String) -> std::fmt::Result {
    for connection in core.connections.values() {
        client(core, connection, text, false)?;
        writeln!(text)?;
    }
    writeln!(text)
}

fn dump(core: &Core, text: &mut String) -> std::fmt::Result {
    writeln!(text, "SessionTracker dump:")?;
    core.machine.dump_sessions(text, core.now().steady_ms);
    writeln!(text, "ephemeral nodes dump:")?;
    core.machine.dump_ephemerals(text);
    writeln!(text, "Connections dump:")?;
    writeln!(text, "Connections Sets (1)/({}):", core.connections.len())?;
    for connection in core.connections.values() {
        let session = connection.session.get();
        writeln!(
            text,
            "\tip: /{} sessionId: 0x{session:x}",
            connection.address
        )?;
    }
    Ok(())
}

fn environment(text: &mut String) -> std::fmt::Result {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "<NA>".to_owned());
    let or_unknown = |text: &str| match text.trim() {
        "" => "<NA>".to_owned(),
        text => text.to_owned(),
    };
    writeln!(text, "Environment:")?;
    writeln!(text, "zookeeper.version={VERSION}")?;
    writeln!(
        text,
        "host.name={}",
        or_unknown(&read("/proc/sys/kernel/hostname"))
    )?;
    // Parsers of this text expect the lines of a Java program.
    for key in [
        "java.version",
        "java.vendor",
        "java.home",
        "java.class.path",
        "java.library.path",
    ] {
        writeln!(text, "{key}=<NA>")?;
    }
    writeln!(text, "java.io.tmpdir={}", std::env::temp_dir().display())?;
    writeln!(text, "java.compiler=<NA>")?;
    writeln!(
        text,
        "os.name={}",
        or_unknown(&read("/proc/sys/kernel/ostype"))
    )?;
    writeln!(text, "os.arch={}", std::env::consts::ARCH)?;
    writeln!(
        text,
        "os.version={}",
        or_unknown(&read("/proc/sys/kernel/osrelease"))
    )?;
    writeln!(text, "user.name={}", variable("USER"))?;
    writeln!(text, "user.home={}", variable("HOME"))?;
    let directory = std::env::current_dir().unwrap_or_default();
    writeln!(text, "user.dir={}", directory.display())?;
    let megabytes = |key: &str| memory_kib(&read("/proc/meminfo"), key) / 1024;
    writeln!(text, "os.memory.free={}MB", megabytes("MemAvailable:"))?;
    writeln!(text, "os.memory.max={}MB", megabytes("MemTotal:"))?;
    let resident = memory_kib(&read("/proc/self/status"), "VmRSS:") / 1024;
    writeln!(text, "os.memory.total={resident}MB")
}

fn memory_kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

fn configuration(core: &Core, text: &mut String) -> std::fmt::Result {
    let options = &core.options;
    let directory = std::path::absolute(&options.data_dir);
    let directory = directory.unwrap_or_else(|_| options.data_dir.clone());
    let bytes = directory_bytes(&directory).unwrap_or(0);
    let (shortest, longest) = options.session_timeouts_ms();
    writeln!(text, "clientPort={}", core.local_address.port())?;
    writeln!(text, "secureClientPort=-1")?;
    writeln!(text, "dataDir={}", directory.display())?;
    writeln!(text, "dataDirSize={bytes}")?;
    writeln!(text, "dataLogDir={}", directory.display())?;
    writeln!(text, "dataLogSize={bytes}")?;
    writeln!(text, "tickTime={}", options.tick_time.as_millis())?;
    writeln!(
        text,
        "maxClientCnxns={}",
        options.connections_per_address_max
    )?;
    writeln!(text, "minSessionTimeout={shortest}")?;
    writeln!(text, "maxSessionTimeout={longest}")?;
    writeln!(text, "clientPortListenBacklog=-1")?;
    writeln!(text, "serverId=0")
}

fn directories(core: &Core, text: &mut String) -> std::fmt::Result {
    let bytes = directory_bytes(&core.options.data_dir).unwrap_or(0);
    writeln!(text, "datadir_size: {bytes}")?;
    writeln!(text, "logdir_size: {bytes}")
}

/// The store keeps few files, and none in further directories.
fn directory_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn monitor(core: &Core, text: &mut String) -> std::fmt::Result {
    let counts = core.machine.counts();
    let latency = &core.totals.latency;
    let (snapshots, snapshots_failed) = core.store.snapshots();
    writeln!(text, "zk_version\t{VERSION}")?;
    writeln!(text, "zk_server_state\tstandalone")?;
    writeln!(text, "zk_peer_state\tstandalone")?;
    writeln!(text, "zk_min_latency\t{}", latency.min_ms())?;
    writeln!(text, "zk_avg_latency\t{:.4}", latency.mean_ms())?;
    writeln!(text, "zk_max_latency\t{}", latency.max_ms())?;
    for (key, value) in [
        ("packets_received", core.totals.received),
        ("packets_sent", core.totals.sent),
        ("num_alive_connections", core.connections.len() as u64),
        ("outstanding_requests", outstanding(core) as u64),
        ("znode_count", counts.nodes as u64),
        ("watch_count", counts.watches as u64),
        ("ephemerals_count", counts.ephemerals as u64),
        ("global_sessions", counts.sessions as u64),
        ("approximate_data_size", counts.bytes),
        ("open_file_descriptor_count", open_files(false)),
        ("max_file_descriptor_count", open_files(true)),
        ("connection_rejected", core.totals.refused_connections),
        ("stale_sessions_expired", core.totals.expired_sessions),
        ("snapshots_written", snapshots),
        ("snapshots_failed", snapshots_failed),
        ("log_in_trouble", u64::from(core.store.trouble().is_some())),
    ] {
        writeln!(text, "zk_{key}\t{value}")?;
    }
    let uptime = core.now().steady_ms;
    writeln!(text, "zk_uptime\t{uptime}")
}

/// Descriptors of this process: how many there are, or may be.
fn open_files(most: bool) -> u64 {
    if most {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next());
        return soft.and_then(|soft| soft.parse().ok()).unwrap_or(0);
    }
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}
