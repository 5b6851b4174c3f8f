//! Four-letter words: the same lines in the same form, whatever the numbers in them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use livegate_zk::four_letter::FourLetterWord;
use livegate_zk::jute::{Encode, Encoder, List};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::{Create, PathWatch};
use livegate_zk::proto::session::{ConnectRequest, PASSWORD_BYTES};
use livegate_zk::proto::watch::AddWatch;
use regex::Regex;

use crate::apache::ask;
use crate::judged::{Pair, Settings};
use crate::raw::{Arrival, Connection, Greeting};

/// What monitoring reads of `mntr` (ZooKeeper's administrator's guide, and the agents of Prometheus, Datadog
/// and Telegraf). The rest of what Apache ZooKeeper says there is about its own insides.
const MONITORED: &[&str] = &[
    "zk_version",
    "zk_server_state",
    "zk_avg_latency",
    "zk_max_latency",
    "zk_min_latency",
    "zk_packets_received",
    "zk_packets_sent",
    "zk_num_alive_connections",
    "zk_outstanding_requests",
    "zk_znode_count",
    "zk_watch_count",
    "zk_ephemerals_count",
    "zk_approximate_data_size",
    "zk_open_file_descriptor_count",
    "zk_max_file_descriptor_count",
    "zk_global_sessions",
    "zk_uptime",
];

/// A session that has an ephemeral node and watches of all kinds.
fn client(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address);
    let greeting = connection.greet(&ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 30_000,
        session_id: 0,
        password: Some(&[0; PASSWORD_BYTES]),
        read_only: Some(false),
    });
    assert!(matches!(greeting, Greeting::Answer { .. }));
    let create = Create {
        path: "/e",
        data: Some(b"data"),
        acl: List::new(Acl::OPEN),
        flags: 1,
    };
    let watch = |path| PathWatch { path, watch: true };
    let add = |path, mode| AddWatch { path, mode };
    for (op_code, body) in [
        (OpCode::Create, encoded(&create)),
        (OpCode::GetData, encoded(&watch("/e"))),
        (OpCode::GetChildren, encoded(&watch("/"))),
        (OpCode::AddWatch, encoded(&add("/p", 0))),
        (OpCode::AddWatch, encoded(&add("/r", 1))),
    ] {
        connection.request(1, op_code.code(), &body);
        let arrival = connection.receive();
        assert!(
            matches!(&arrival, Arrival::Reply(header, _) if header.error == 0),
            "{op_code:?}: {arrival:?}"
        );
    }
    connection
}

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.write(value);
    encoder.into_bytes()
}

/// An answer without what may differ: numbers, dates, addresses, the order of connections and watches; and
/// that `dump` tells when a session ends by the time that is left, not by the clock.
fn shape(word: FourLetterWord, answer: &str) -> Vec<String> {
    let changes = [
        // Apache counts a set whose sessions were all heard from again until its time has come.
        (r"^0 expire at .*\n", ""),
        (r"0x[0-9a-f]+", "HEX"),
        (r"expire (at|in) .*:$", "expire TIME:"),
        (r"Zookeeper version: .*", "Zookeeper version: VERSION"),
        (r"\d+(\.\d+)?", "N"),
    ]
    .map(|(pattern, text)| (Regex::new(&format!("(?m){pattern}")).unwrap(), text));
    let mut text = answer.to_owned();
    for (pattern, with) in &changes {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
    match word {
        // Names of settings; the values are the server's.
        FourLetterWord::Conf | FourLetterWord::Envi => {
            for line in &mut lines {
                line.truncate(line.find('=').map_or(line.len(), |at| at + 1));
            }
            lines.sort();
        }
        FourLetterWord::Mntr => {
            lines.retain(|line| MONITORED.contains(&line.split('\t').next().unwrap()));
            for line in &mut lines {
                if line.starts_with("zk_version") {
                    "zk_version\t".clone_into(line);
                }
            }
            lines.sort();
        }
        FourLetterWord::Cons
        | FourLetterWord::Stat
        | FourLetterWord::Wchc
        | FourLetterWord::Wchp => lines.sort(),
        // When a connection is given up is not kept by connection in the registry.
        FourLetterWord::Dump => {
            let connections = lines
                .iter()
                .position(|line| line.starts_with("Connections Sets"))
                .unwrap();
            let mut tail = lines.split_off(connections + 1);
            tail.retain(|line| !line.contains("expire TIME"));
            tail.sort();
            lines.pop();
            lines.extend(tail);
        }
        _ => {}
    }
    lines
}

#[test]
fn four_letter_words_are_answered_in_apache_zookeepers_form() {
    let Some(pair) = Pair::start(&Settings::default()) else {
        return;
    };
    let addresses = pair.addresses();
    let _clients = addresses.map(client);
    let mut differences = Vec::new();
    // Twice: the second time after everything was reset.
    for &word in FourLetterWord::ALL.iter().chain(FourLetterWord::ALL) {
        let asked = match word {
            FourLetterWord::Stmk => "stmk\0\0\0\0\0\0\0\x07",
            word => word.as_str(),
        };
        let [expected, found] = addresses.map(|address| ask(address, asked).unwrap());
        if shape(word, &expected) != shape(word, &found) {
            differences.push(format!(
                "{word}\n--- apache\n{expected}\n--- judged\n{found}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_monitoring_reads_is_there() {
    let Some(pair) = Pair::start(&Settings::default()) else {
        return;
    };
    for address in pair.addresses() {
        let answer = ask(address, "mntr").unwrap();
        let keys: BTreeSet<_> = answer
            .lines()
            .map(|line| {
                line.split_once('\t')
                    .unwrap_or_else(|| panic!("{line:?}"))
                    .0
            })
            .collect();
        for key in MONITORED {
            assert!(keys.contains(key), "{key} at {address}: {answer}");
        }
    }
}

/// go-zookeeper's `FLWSrvr` and kazoo's `server_version` take these apart.
#[test]
fn clients_can_read_the_version() {
    let Some(pair) = Pair::start(&Settings::default()) else {
        return;
    };
    let address = pair.judged.address();
    let srvr = Regex::new(concat!(
        r"(?m:\A^Zookeeper version: ([A-Za-z0-9\.\-]+), built on ",
        r"(\d\d/\d\d/\d\d\d\d \d\d:\d\d [A-Za-z0-9:\+\-]+).*\n",
        r"^Latency min/avg/max: (\d+)/([0-9.]+)/(\d+).*\n",
        r"^Received: (\d+).*\n^Sent: (\d+).*\n^Connections: (\d+).*\n^Outstanding: (\d+).*\n",
        r"^Zxid: (0x[A-Za-z0-9]+).*\n^Mode: (\w+).*\n^Node count: (\d+))",
    ))
    .unwrap();
    let answer = ask(address, "srvr").unwrap();
    assert!(srvr.is_match(&answer), "{answer}");
    let envi = Regex::new(r"(?m)^zookeeper\.version=(\d+)\.(\d+)\.(\d+)").unwrap();
    let answer = ask(address, "envi").unwrap();
    let version = envi.captures(&answer).unwrap_or_else(|| panic!("{answer}"));
    let number = |group: usize| version[group].parse::<u32>().unwrap();
    assert!((number(1), number(2)) >= (3, 6), "{answer}");
}

#[test]
fn words_that_are_not_whitelisted_are_refused_in_apache_zookeepers_words() {
    let settings = Settings {
        // `srvr` is answered whatever the list says.
        whitelist: "ruok,nonsense",
        ..Settings::default()
    };
    let Some(pair) = Pair::start(&settings) else {
        return;
    };
    for &word in FourLetterWord::ALL {
        let word = word.as_str();
        let [expected, found] = pair.addresses().map(|address| ask(address, word).unwrap());
        if word == "srvr" {
            assert!(found.contains("Mode: standalone"), "{found}");
        } else {
            assert_eq!(expected, found, "{word}");
        }
    }
}
