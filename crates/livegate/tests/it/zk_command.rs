//! `livegate zk` as a person and as a script use it, against the embedded registry and Apache ZooKeeper.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::command::{Ended, Running, livegate, run};
use crate::harness::port::Port;
use crate::harness::zookeeper::{Kind, ZooKeeper, on_both};

/// Sessions of up to 30 s.
const TICK: Duration = Duration::from_millis(1500);

/// Sessions of at most 3 s.
const SHORT_TICK: Duration = Duration::from_millis(150);

on_both! {
    nodes_are_created_read_changed_and_deleted
    programs_read_json
    who_may_not_is_told_how_to_say_who_they_are
    large_trees_are_walked_and_a_reader_that_leaves_is_no_failure
    changes_are_printed_as_they_happen
    a_person_reads_lines
    a_watch_outlives_connection_and_session
    an_ephemeral_node_is_held_until_interrupted_also_in_a_new_session
}

fn command(server: &ZooKeeper, arguments: &[&str]) -> Command {
    let mut command = livegate(&["zk", "--timeout", "40s"]);
    command
        .args(arguments)
        .env("LIVEGATE_REGISTRY", server.address().to_string());
    command
}

fn zk(server: &ZooKeeper, arguments: &[&str]) -> Ended {
    run(&mut command(server, arguments), b"")
}

fn watch(server: &ZooKeeper, arguments: &[&str]) -> Running {
    let running = Running::start(command(server, &["watch", "--json"]).args(arguments));
    running.wait_for("the watch is in place", |_, stderr| {
        stderr.contains("watching ")
    });
    running
}

/// What a watch has printed, without times.
fn changes(stdout: &str) -> Vec<Value> {
    // The last line may still be being written.
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    whole
        .lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let time = value.as_object_mut().unwrap().remove("time").unwrap();
            assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok());
            value
        })
        .collect()
}

#[track_caller]
fn wait_for_change(watch: &Running, wanted: &Value) {
    watch.wait_for(&wanted.to_string(), |stdout, _| {
        changes(stdout).contains(wanted)
    });
}

#[track_caller]
fn wait_for_kind(watch: &Running, kind: &str) {
    watch.wait_for(kind, |stdout, _| {
        changes(stdout).iter().any(|change| change["kind"] == kind)
    });
}

fn nodes_are_created_read_changed_and_deleted(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    let zk = |arguments: &[&str]| zk(&server, arguments);

    // Create.
    assert_eq!(
        zk(&["create", "/a/b", "x"]).failure(1),
        "no node /a: create it, or its parent with -p"
    );
    assert_eq!(zk(&["create", "-p", "/a/b", "x"]).text(), "/a/b\n");
    assert_eq!(
        zk(&["create", "/a/b"]).failure(1),
        "node /a/b exists already: change it with set, or choose another path"
    );
    assert_eq!(zk(&["create", "-s", "/a/q-"]).text(), "/a/q-0000000001\n");
    assert_eq!(zk(&["create", "-c", "/c"]).text(), "/c\n");
    assert_eq!(zk(&["create", "-t", "10m", "/t"]).text(), "/t\n");
    assert_eq!(
        zk(&["create", "-p", "-s", "-t", "1h", "/s/"]).text(),
        "/s/0000000000\n"
    );

    // Read.
    assert_eq!(zk(&["get", "/a/b"]).text(), "x");
    assert_eq!(zk(&["ls", "/a"]).text(), "b\nq-0000000001\n");
    assert_eq!(
        zk(&["ls", "-R", "/a"]).text(),
        "/a\n/a/b\n/a/q-0000000001\n"
    );
    assert_eq!(zk(&["tree", "/a"]).text(), "/a\n├── b\n└── q-0000000001\n");
    assert!(zk(&["tree"]).text().starts_with("/\n├── a\n│   ├── b\n"));
    for command in ["get", "ls", "stat", "tree"] {
        assert_eq!(
            zk(&[command, "/missing"]).failure(1),
            "no node /missing: create it, or its parent with -p"
        );
    }

    // Change, with and without a version.
    assert_eq!(zk(&["set", "/a/b", "y"]).text(), "version 1\n");
    assert_eq!(zk(&["set", "/a/b", "-5", "-v", "1"]).text(), "version 2\n");
    assert_eq!(zk(&["get", "/a/b"]).text(), "-5");
    let other = "node /a/b is at version 2, not 7: look at it, then name that version or none";
    assert_eq!(zk(&["set", "/a/b", "z", "-v", "7"]).failure(1), other);
    assert_eq!(zk(&["delete", "/a/b", "-v", "7"]).failure(1), other);
    assert_eq!(
        zk(&["set", "/missing", "z"]).failure(1),
        "no node /missing: create it, or its parent with -p"
    );

    // Any bytes in, the same bytes out.
    let bytes: Vec<u8> = (0..=255).collect();
    let set = run(&mut command(&server, &["set", "/a/b", "-"]), &bytes);
    assert_eq!(set.text(), "version 3\n");
    let got = zk(&["get", "/a/b"]);
    assert_eq!((got.code, got.stdout), (Some(0), bytes));
    let too_long = run(
        &mut command(&server, &["set", "/a/b", "-"]),
        &vec![b'x'; 2 << 20],
    );
    assert!(
        too_long.failure(1).starts_with("the data is over the "),
        "{too_long:?}"
    );

    // Delete.
    assert_eq!(
        zk(&["delete", "/a"]).failure(1),
        "node /a has children: delete them, too, with -r"
    );
    assert_eq!(zk(&["delete", "/a/b", "-v", "3"]).text(), "");
    assert_eq!(zk(&["delete", "-r", "/a"]).text(), "");
    for recursive in [&[][..], &["-r"]] {
        let gone = zk(&[&["delete", "/a"], recursive].concat());
        assert_eq!(gone.failure(1), "no node /a: there is nothing to delete");
    }
    assert_eq!(
        zk(&["delete", "/zookeeper"]).failure(1),
        "node /zookeeper belongs to the server and cannot be deleted"
    );
}

fn programs_read_json(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    let zk = |arguments: &[&str]| zk(&server, arguments);
    zk(&["create", "-p", "/a/b", "é\"\n"]).text();
    zk(&["create", "/a/c"]).text();
    let set = run(&mut command(&server, &["set", "/a/c", "-"]), b"\xff\x00");
    set.text();

    let b = zk(&["get", "/a/b", "--json"]).json();
    assert_eq!(
        (&b["path"], &b["data"], &b["version"], &b["ephemeral_owner"]),
        (&json!("/a/b"), &json!("é\"\n"), &json!(0), &json!("0x0"))
    );
    let c = zk(&["get", "/a/c", "--json"]).json();
    assert_eq!(
        (&c["data"], &c["data_base64"], &c["data_length"]),
        (&Value::Null, &json!("/wA="), &json!(2))
    );
    let a = zk(&["ls", "/a", "--json"]).json();
    assert_eq!(
        (&a["children"], &a["num_children"]),
        (&json!(["b", "c"]), &json!(2))
    );
    let stat = zk(&["stat", "/a/c", "--json"]).json();
    assert_eq!(stat["mzxid"], c["mzxid"]);
    assert!(humantime::parse_rfc3339(stat["mtime"].as_str().unwrap()).is_ok());
    // A person sees the same.
    let text = zk(&["stat", "/a/c"]);
    for (name, value) in stat.as_object().unwrap() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let shown = text.text().lines().any(|line| {
            line.split_once(' ')
                .is_some_and(|(left, right)| left == name && right.trim() == value)
        });
        assert!(shown || name == "path", "{name}: {text:?}");
    }

    let lines = |arguments: &[&str], field: &str| -> Vec<(String, Value)> {
        let ended = zk(arguments);
        let lines = ended.text().lines().map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            (
                value["path"].as_str().unwrap().to_owned(),
                value[field].clone(),
            )
        });
        lines.collect()
    };
    let pair = |path: &str, value| (path.to_owned(), value);
    assert_eq!(
        lines(&["tree", "/a", "--json"], "depth"),
        [
            pair("/a", json!(0)),
            pair("/a/b", json!(1)),
            pair("/a/c", json!(1))
        ]
    );
    assert_eq!(
        lines(&["ls", "-R", "/a", "--json"], "children"),
        [
            pair("/a", json!(["b", "c"])),
            pair("/a/b", json!([])),
            pair("/a/c", json!([])),
        ]
    );

    // The same below another root.
    let chroot = format!("{}/a", server.address());
    let rooted = |arguments: &[&str]| zk(&[&["--registry", &chroot], arguments].concat());
    assert_eq!(rooted(&["ls", "/"]).text(), "b\nc\n");
    assert_eq!(rooted(&["create", "/b/d"]).text(), "/b/d\n");
    let missing = format!("{}/missing", server.address());
    let rooted = |arguments: &[&str]| zk(&[&["--registry", &missing], arguments].concat());
    let failed = rooted(&["create", "/x"]);
    assert!(
        failed
            .failure(1)
            .starts_with("no node /missing, which --registry names as the root: "),
        "{failed:?}"
    );
    assert_eq!(rooted(&["create", "-p", "/x"]).text(), "/x\n");
    assert_eq!(zk(&["ls", "/missing"]).text(), "x\n");
}

#[test]
fn wrong_usage_says_what_is_right() {
    let code = |arguments: &[&str]| {
        let ended = run(livegate(&["zk"]).args(arguments), b"");
        assert_eq!(ended.stdout, b"", "{ended:?}");
        (ended.code, ended.stderr)
    };
    for (arguments, words) in [
        (&["get", "a"][..], "path does not begin with /"),
        (&["get", "/a/"], "path ends with /"),
        (&["create", "/a/"], "path ends with /"),
        (&["create", "-t", "10", "/a"], "10 has no unit: write 10s"),
        (&["create", "-e", "-t", "10s", "/a"], "cannot be used with"),
        (&["create", "-c", "-s", "/a"], "cannot be used with"),
        (
            &["delete", "-r", "/"],
            "/ is the root and cannot be deleted",
        ),
        (&["delete", "-v", "-1", "/a"], "-1"),
        (&["--timeout", "10", "ls", "/"], "10 has no unit"),
        (&["--registry", ":1", "ls", "/"], "has no host"),
        (&["--auth", "me", "ls", "/"], "write it as USER:PASSWORD"),
        (&["set", "/a"], "<DATA>"),
    ] {
        let (code, stderr) = code(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn without_a_server_it_says_how_to_get_one() {
    let port = Port::claim();
    let address = port.address().to_string();
    let began = Instant::now();
    let arguments = ["zk", "--registry", &address, "--timeout", "1s", "ls", "/"];
    let ended = run(&mut livegate(&arguments), b"");
    assert_eq!(
        ended.failure(1),
        format!(
            "no ZooKeeper at {address} (connection refused): start one with 'livegate registry', or \
             name yours with --registry"
        )
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}

fn who_may_not_is_told_how_to_say_who_they_are(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    zk(&server, &["create", "/secret", "x"]).text();
    make_private(&server, "/secret");
    assert_eq!(
        zk(&server, &["get", "/secret"]).failure(1),
        "not allowed to read /secret: say who you are with --auth USER:PASSWORD"
    );
    assert_eq!(
        zk(&server, &["set", "/secret", "y"]).failure(1),
        "not allowed to set /secret: say who you are with --auth USER:PASSWORD"
    );
    let tree = zk(&server, &["tree", "/"]);
    assert!(
        tree.text().contains("── secret (not allowed to read)\n"),
        "{tree:?}"
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth");
    std::fs::write(&file, "other:x\nme:it:is\n").unwrap();
    let by_file = ["--auth-file", file.to_str().unwrap(), "get", "/secret"];
    assert_eq!(zk(&server, &by_file).text(), "x");
    let by_flag = ["get", "/secret", "--auth", "me:it:is"];
    assert_eq!(zk(&server, &by_flag).text(), "x");
    let mut by_environment = command(&server, &["get", "/secret"]);
    by_environment.env("LIVEGATE_REGISTRY_AUTH", "me:it:is");
    assert_eq!(run(&mut by_environment, b"").text(), "x");
}

/// `livegate zk` does not set access control lists, so the client does.
fn make_private(server: &ZooKeeper, path: &str) {
    use livegate_zk::client::{Client, ConnectOptions, Credential};
    use livegate_zk::proto::acl::Acl;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = ConnectOptions::new(&server.address().to_string()).unwrap();
        options.operation_timeout = Duration::from_secs(40);
        options.credentials.push(Credential::digest("me", "it:is"));
        let client = Client::connect(options).await.unwrap();
        client.set_acl(path, Acl::CREATOR, None).await.unwrap();
        client.close().await;
    });
}

fn large_trees_are_walked_and_a_reader_that_leaves_is_no_failure(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    fill(&server, 40, 60);
    let list = zk(&server, &["ls", "-R", "/big"]);
    let lines: Vec<_> = list.text().lines().collect();
    assert_eq!(lines.len(), 1 + 40 + 40 * 60);
    assert!(lines.is_sorted_by(|one, other| one <= other), "{lines:?}");

    let mut process = command(&server, &["tree", "/big", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::with_capacity(16, process.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    drop(stdout);
    let mut stderr = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(
        (process.wait().unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );

    assert_eq!(zk(&server, &["delete", "-r", "/big"]).text(), "");
    assert_eq!(zk(&server, &["ls", "/"]).text(), "zookeeper\n");
}

/// Nodes `/big/N/M`.
fn fill(server: &ZooKeeper, wide: usize, deep: usize) {
    use livegate_zk::client::{Client, ConnectOptions, Op};
    use livegate_zk::proto::acl::Acl;
    use livegate_zk::proto::create_mode::CreateMode;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = ConnectOptions::new(&server.address().to_string()).unwrap();
        options.operation_timeout = Duration::from_secs(40);
        let client = Client::connect(options).await.unwrap();
        client
            .create("/big", b"", CreateMode::Persistent, Acl::OPEN)
            .await
            .unwrap();
        for one in 0..wide {
            let above = format!("/big/{one:02}");
            let below = (0..deep).map(|two| format!("{above}/{two:02}"));
            let paths: Vec<_> = std::iter::once(above.clone()).chain(below).collect();
            let ops: Vec<_> = paths
                .iter()
                .map(|path| Op::Create {
                    path,
                    data: b"",
                    mode: CreateMode::Persistent,
                    acl: Acl::OPEN,
                })
                .collect();
            client.multi(&ops).await.unwrap();
        }
        client.close().await;
    });
}

fn changes_are_printed_as_they_happen(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    let zk = |arguments: &[&str]| zk(&server, arguments);
    let mut both = watch(&server, &["/a"]);
    let mut children = watch(&server, &["/a", "--children"]);
    let mut data = watch(&server, &["/a", "--data"]);
    let mut recursive = watch(&server, &["/a", "--recursive"]);
    assert_eq!(both.stderr(), "watching /a, which does not exist yet\n");

    zk(&["create", "/a", "1"]).text();
    let created = |path: &str, data: &str| json!({"kind": "created", "path": path, "version": 0, "data": data});
    let with_children =
        json!({"kind": "created", "path": "/a", "version": 0, "data": "1", "children": []});
    wait_for_change(&both, &with_children);
    wait_for_change(&data, &created("/a", "1"));
    wait_for_change(&recursive, &created("/a", "1"));
    wait_for_change(
        &children,
        &json!({"kind": "created", "path": "/a", "version": 0, "children": []}),
    );
    zk(&["set", "/a", "2"]).text();
    let set = json!({"kind": "data", "path": "/a", "version": 1, "data": "2"});
    wait_for_change(&both, &set);
    wait_for_change(&data, &set);
    wait_for_change(&recursive, &set);
    zk(&["create", "/a/b", "x"]).text();
    let added =
        json!({"kind": "children", "path": "/a", "children": ["b"], "added": ["b"], "removed": []});
    wait_for_change(&both, &added);
    wait_for_change(&children, &added);
    wait_for_change(&recursive, &created("/a/b", "x"));
    zk(&["set", "/a/b", "y"]).text();
    wait_for_change(
        &recursive,
        &json!({"kind": "data", "path": "/a/b", "version": 1, "data": "y"}),
    );
    zk(&["delete", "/a/b"]).text();
    let removed =
        json!({"kind": "children", "path": "/a", "children": [], "added": [], "removed": ["b"]});
    wait_for_change(&both, &removed);
    wait_for_change(&children, &removed);
    wait_for_change(&recursive, &json!({"kind": "deleted", "path": "/a/b"}));
    zk(&["delete", "/a"]).text();
    let deleted = json!({"kind": "deleted", "path": "/a"});
    for watch in [&both, &children, &data, &recursive] {
        wait_for_change(watch, &deleted);
    }

    // Nothing else was printed, and being interrupted is a good end.
    for (watch, count) in [
        (&mut both, 5),
        (&mut children, 4),
        (&mut data, 3),
        (&mut recursive, 6),
    ] {
        assert_eq!(changes(&watch.stdout()).len(), count, "{}", watch.stdout());
        assert_eq!(watch.end(Signal::INT).code(), Some(0));
    }
}

fn a_person_reads_lines(kind: Kind) {
    let Some(server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    let mut watch = Running::start(&mut command(&server, &["watch", "/a"]));
    watch.wait_for("the watch is in place", |_, stderr| {
        stderr.contains("watching ")
    });
    zk(&server, &["create", "/a", "one\ntwo"]).text();
    zk(&server, &["create", "/a/b"]).text();
    watch.wait_for("two lines", |stdout, _| {
        let without_time: Vec<_> = stdout
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(_, rest)| rest)
            .collect();
        without_time
            == [
                "created   /a  version 0  \"one\\ntwo\"",
                "children  /a  [b]  +b",
            ]
    });
    assert_eq!(watch.end(Signal::TERM).code(), Some(0));
}

fn a_watch_outlives_connection_and_session(kind: Kind) {
    let Some(mut server) = ZooKeeper::start(kind, TICK) else {
        return;
    };
    zk(&server, &["create", "-p", "/a/gone", "1"]).text();
    let mut recursive = watch(&server, &["/a", "--recursive"]);
    let mut single = watch(&server, &["/a"]);

    // The session lives on.
    server.kill();
    wait_for_kind(&recursive, "connection_lost");
    wait_for_kind(&single, "connection_lost");
    server.run();
    wait_for_kind(&recursive, "connected_again");
    wait_for_kind(&single, "connected_again");
    zk(&server, &["set", "/a", "2"]).text();
    let set = json!({"kind": "data", "path": "/a", "version": 1, "data": "2"});
    wait_for_change(&recursive, &set);
    wait_for_change(&single, &set);
    assert!(
        !recursive.stdout().contains("new_session"),
        "{}",
        recursive.stdout()
    );

    // The session, and all nodes, are gone.
    server.kill();
    server.wipe();
    server.run();
    wait_for_kind(&recursive, "new_session");
    wait_for_kind(&single, "new_session");
    wait_for_change(&recursive, &json!({"kind": "deleted", "path": "/a/gone"}));
    let deleted = json!({"kind": "deleted", "path": "/a"});
    wait_for_change(&recursive, &deleted);
    wait_for_change(&single, &deleted);
    zk(&server, &["create", "-p", "/a/new", "3"]).text();
    let new = json!({"kind": "created", "path": "/a/new", "version": 0, "data": "3"});
    wait_for_change(&recursive, &new);
    wait_for_kind(&single, "created");
    assert_eq!(recursive.end(Signal::INT).code(), Some(0));
    assert_eq!(single.end(Signal::INT).code(), Some(0));
}

fn an_ephemeral_node_is_held_until_interrupted_also_in_a_new_session(kind: Kind) {
    let Some(mut server) = ZooKeeper::start(kind, SHORT_TICK) else {
        return;
    };
    zk(&server, &["create", "/taken"]).text();
    assert_eq!(
        zk(&server, &["create", "-e", "/taken"]).failure(1),
        "node /taken exists already: change it with set, or choose another path"
    );
    let hold = |arguments: &[&str]| {
        let hold = Running::start(command(&server, &["create", "-e"]).args(arguments));
        hold.wait_for("it is held", |_, stderr| {
            stderr.contains("until interrupted")
        });
        hold
    };
    let mut plain = hold(&["/e", "data"]);
    let mut numbered = hold(&["-s", "/n-"]);
    assert_eq!(plain.stdout(), "/e\n");
    let first = numbered.stdout();
    assert!(
        zk(&server, &["tree", "/"])
            .text()
            .contains("── e (ephemeral)\n")
    );
    assert_eq!(
        zk(&server, &["create", "/e/child"]).failure(1),
        "node /e is ephemeral and cannot have children: create /e/child somewhere else"
    );

    // Longer away than a session lasts.
    server.kill();
    for hold in [&plain, &numbered] {
        hold.wait_for("the session is over", |_, stderr| {
            stderr.contains("connection lost") && stderr.contains("session expired")
        });
    }
    server.run();
    plain.wait_for("it is there again", |_, stderr| {
        stderr.contains("created /e again")
    });
    numbered.wait_for("it is there again", |stdout, _| stdout.lines().count() == 2);
    assert!(numbered.stdout() > first);
    assert_eq!(zk(&server, &["get", "/e"]).text(), "data");

    // Interrupted, it is gone at once, not when the session times out.
    assert_eq!(plain.end(Signal::INT).code(), Some(0));
    assert_eq!(
        zk(&server, &["get", "/e"]).failure(1),
        "no node /e: create it, or its parent with -p"
    );
    let second = numbered.stdout().lines().last().unwrap().to_owned();
    zk(&server, &["delete", &second]).text();
    assert_eq!(numbered.wait().code(), Some(1));
    assert!(
        numbered.stderr().ends_with(&format!(
            "node {second} was deleted by somebody else: create it again if it is still wanted\n"
        )),
        "{}",
        numbered.stderr()
    );
}

#[test]
fn a_registry_whose_port_is_taken_says_so() {
    let port = Port::claim();
    let listener = std::net::TcpListener::bind(port.address()).unwrap();
    let address = port.address().to_string();
    let directory = tempfile::tempdir().unwrap();
    let mut registry = livegate(&["registry", "--listen", &address, "--data-dir"]);
    let ended = run(registry.arg(directory.path()), b"");
    assert_eq!(
        ended.failure(1),
        format!(
            "cannot listen on {address}, because another program does: end it, or choose another \
             address with --listen"
        )
    );
    drop(listener);
}
