//! Every operation, against Apache ZooKeeper and the embedded registry.

use std::time::Duration;

use livegate_zk::client::{
    Client, ConnectOptions, Credential, Error, Identity, Op, OpOutcome, Outcome, ReadOp,
    ReadOutcome,
};
use livegate_zk::proto::acl::{Acl, Permissions};
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use tokio::task::JoinSet;

use crate::fake::within;
use crate::server::{Kind, Server, on_both};

on_both! {
    nodes
    empty_containers_and_old_nodes_are_reaped
}

const TICK: Duration = Duration::from_millis(1500);

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    match result {
        Err(Error::Server(code)) => code,
        other => panic!("{other:?}"),
    }
}

async fn nodes(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    creating(&client).await;
    reading_and_writing(&client).await;
    access_control(&server, &client).await;
    several_at_once(&client).await;
    below_a_chroot(&server, &client).await;
    in_order(&client).await;
    limits(&server).await;
    let session_id = client.state().session_id;
    client
        .create("/gone", b"", CreateMode::Ephemeral, Acl::OPEN)
        .await
        .unwrap();
    client.close().await;
    assert_eq!(
        refused_after_close(&client).await.outcome(),
        Outcome::NotApplied
    );
    let other = server.client().await;
    assert_ne!(other.state().session_id, session_id);
    assert_eq!(other.exists("/gone").await.unwrap(), None);
}

async fn empty_containers_and_old_nodes_are_reaped(kind: Kind) {
    let Some(server) = Server::start(kind, TICK).await else {
        return;
    };
    let client = server.client().await;
    let create = async |path, mode| {
        let created = client.create(path, b"", mode, Acl::OPEN).await;
        assert_eq!(created.unwrap(), path);
    };
    let exists = async |path| client.exists(path).await.unwrap().is_some();
    let reaped = async |path| {
        within(async {
            while exists(path).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    let (short, long) = (Duration::from_millis(1), Duration::from_secs(3600));
    create("/unused", CreateMode::Container).await;
    create("/used", CreateMode::Container).await;
    create("/used/child", CreateMode::Persistent).await;
    create("/old", CreateMode::PersistentTtl(short)).await;
    create("/old/child", CreateMode::Persistent).await;
    create("/new", CreateMode::PersistentTtl(long)).await;
    // Twice the server has looked at all nodes.
    for _ in 0..2 {
        create("/looked", CreateMode::PersistentTtl(short)).await;
        reaped("/looked").await;
    }
    for path in ["/unused", "/used", "/old", "/new"] {
        assert!(exists(path).await, "{path}");
    }
    for path in ["/used", "/old"] {
        client.delete(&format!("{path}/child"), None).await.unwrap();
        reaped(path).await;
    }
    assert!(exists("/unused").await && exists("/new").await);
}

async fn refused_after_close(client: &Client) -> Error {
    client.get("/").await.unwrap_err()
}

async fn creating(client: &Client) {
    let create = async |path, mode| client.create(path, b"data", mode, Acl::OPEN).await;
    assert_eq!(create("/a", CreateMode::Persistent).await.unwrap(), "/a");
    assert_eq!(
        refused(create("/a", CreateMode::Persistent).await),
        ErrorCode::NodeExists
    );
    assert_eq!(
        refused(create("/x/y", CreateMode::Persistent).await),
        ErrorCode::NoNode
    );
    assert_eq!(create("/a/e", CreateMode::Ephemeral).await.unwrap(), "/a/e");
    assert_eq!(
        refused(create("/a/e/x", CreateMode::Persistent).await),
        ErrorCode::NoChildrenForEphemerals
    );
    let path = create("/a/s-", CreateMode::PersistentSequential)
        .await
        .unwrap();
    assert_eq!(path, "/a/s-0000000001");
    let path = create("/a/", CreateMode::EphemeralSequential)
        .await
        .unwrap();
    assert_eq!(path, "/a/0000000002");
    let (path, stat) = client
        .create2("/a/c", b"", CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    assert_eq!(
        (path.as_str(), stat.ephemeral_owner, stat.version),
        ("/a/c", 0, 0)
    );
    assert_eq!(
        create("/a/c2", CreateMode::Container).await.unwrap(),
        "/a/c2"
    );
    let hour = Duration::from_secs(3600);
    assert_eq!(
        create("/a/t", CreateMode::PersistentTtl(hour))
            .await
            .unwrap(),
        "/a/t"
    );
    let (path, stat) = client
        .create2("/a/t-", b"123", CreateMode::SequentialTtl(hour), Acl::OPEN)
        .await
        .unwrap();
    assert_eq!((path.as_str(), stat.data_length), ("/a/t-0000000006", 3));
    assert_eq!(
        create("/a/t2", CreateMode::PersistentTtl(Duration::MAX)).await,
        Err(Error::InvalidTtl)
    );
    assert!(matches!(
        create("/a/", CreateMode::Persistent).await,
        Err(Error::InvalidPath(_))
    ));
    assert!(matches!(
        create("a", CreateMode::Persistent).await,
        Err(Error::InvalidPath(_))
    ));

    let mut ephemerals = client.ephemerals("/").await.unwrap();
    ephemerals.sort_unstable();
    assert_eq!(ephemerals, ["/a/0000000002", "/a/e"]);
    assert_eq!(client.ephemerals("/a/e").await.unwrap(), ["/a/e"]);
    assert_eq!(client.all_children_number("/a").await.unwrap(), 7);
    assert_eq!(
        refused(client.all_children_number("/x").await),
        ErrorCode::NoNode
    );

    client
        .ensure("/deep/er/est", CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    client
        .ensure("/deep/er/est", CreateMode::Container, Acl::OPEN)
        .await
        .unwrap();
    assert!(client.exists("/deep/er/est").await.unwrap().is_some());
}

async fn reading_and_writing(client: &Client) {
    let (data, stat) = client.get("/a").await.unwrap();
    assert_eq!(
        (data.as_slice(), stat.version, stat.num_children),
        (&b"data"[..], 0, 7)
    );
    assert_eq!(client.exists("/a").await.unwrap(), Some(stat));
    assert_eq!(client.exists("/x").await.unwrap(), None);
    assert_eq!(refused(client.get("/x").await), ErrorCode::NoNode);
    let stat = client.set("/a", b"more", Some(0)).await.unwrap();
    assert_eq!((stat.version, stat.data_length), (1, 4));
    assert_eq!(
        refused(client.set("/a", b"", Some(0)).await),
        ErrorCode::BadVersion
    );
    assert_eq!(
        refused(client.set("/x", b"", None).await),
        ErrorCode::NoNode
    );
    assert_eq!(client.set("/a", b"", None).await.unwrap().version, 2);
    assert_eq!(client.get("/a").await.unwrap().0, b"");
    let ephemeral = client.exists("/a/e").await.unwrap().unwrap();
    assert_eq!(ephemeral.ephemeral_owner, client.state().session_id);

    let mut names = client.children("/a").await.unwrap();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "0000000002",
            "c",
            "c2",
            "e",
            "s-0000000001",
            "t",
            "t-0000000006"
        ]
    );
    let (mut with_stat, stat) = client.children2("/a").await.unwrap();
    with_stat.sort_unstable();
    assert_eq!((with_stat, stat.version), (names, 2));
    assert_eq!(refused(client.children("/x").await), ErrorCode::NoNode);

    assert_eq!(
        refused(client.delete("/a", None).await),
        ErrorCode::NotEmpty
    );
    assert_eq!(
        refused(client.delete("/a/t", Some(7)).await),
        ErrorCode::BadVersion
    );
    client.delete("/a/t", Some(0)).await.unwrap();
    assert_eq!(
        refused(client.delete("/a/t", None).await),
        ErrorCode::NoNode
    );
    client.sync("/a").await.unwrap();
    client.check("/a", Some(2)).await.unwrap();
    assert_eq!(
        refused(client.check("/a", Some(1)).await),
        ErrorCode::BadVersion
    );
}

async fn access_control(server: &Server, client: &Client) {
    let address = Identity {
        scheme: "ip".to_owned(),
        user: "127.0.0.1".to_owned(),
    };
    assert_eq!(
        client.who_am_i().await.unwrap(),
        std::slice::from_ref(&address)
    );
    client
        .add_auth(Credential::digest("user", "secret"))
        .await
        .unwrap();
    let user = Identity {
        scheme: "digest".to_owned(),
        user: "user".to_owned(),
    };
    assert_eq!(client.who_am_i().await.unwrap(), [address, user]);

    let stat = client.exists("/a").await.unwrap().unwrap();
    let (acl, acl_stat) = client.acl("/a").await.unwrap();
    assert_eq!((acl.as_slice(), acl_stat), (Acl::OPEN, stat));
    client
        .create("/mine", b"", CreateMode::Persistent, Acl::CREATOR)
        .await
        .unwrap();
    let (acl, _) = client.acl("/mine").await.unwrap();
    assert_eq!(acl.len(), 1);
    assert_eq!(
        (&*acl[0].scheme, acl[0].permissions),
        ("digest", Permissions::ALL)
    );
    assert!(acl[0].id.starts_with("user:"));
    let stranger = server.client().await;
    assert_eq!(refused(stranger.get("/mine").await), ErrorCode::NoAuth);
    assert_eq!(
        refused(stranger.set_acl("/mine", Acl::OPEN, None).await),
        ErrorCode::NoAuth
    );
    let everybody_reads = [acl[0].clone(), Acl::READ_ONLY[0].clone()];
    let stat = client
        .set_acl("/mine", &everybody_reads, Some(0))
        .await
        .unwrap();
    assert_eq!(stat.aversion, 1);
    assert_eq!(
        refused(client.set_acl("/mine", &everybody_reads, Some(0)).await),
        ErrorCode::BadVersion
    );
    stranger.get("/mine").await.unwrap();
    assert_eq!(
        refused(stranger.set("/mine", b"", None).await),
        ErrorCode::NoAuth
    );
    assert_eq!(
        refused(client.create("/z", b"", CreateMode::Persistent, &[]).await),
        ErrorCode::InvalidAcl
    );

    // A server refuses a scheme that it does not know, and hangs up. The session goes on.
    let session_id = stranger.state().session_id;
    let unknown = Credential {
        scheme: "unheard-of".to_owned(),
        auth: Vec::new(),
    };
    assert_eq!(
        refused(stranger.add_auth(unknown).await),
        ErrorCode::AuthFailed
    );
    stranger.get("/mine").await.unwrap();
    assert_eq!(stranger.state().session_id, session_id);
}

async fn several_at_once(client: &Client) {
    let mode = CreateMode::PersistentSequential;
    let outcomes = client
        .multi(&[
            Op::Check {
                path: "/a",
                version: Some(2),
            },
            Op::Create {
                path: "/a/m-",
                data: b"1",
                mode,
                acl: Acl::OPEN,
            },
            Op::Create {
                path: "/a/mc",
                data: b"",
                mode: CreateMode::Container,
                acl: Acl::OPEN,
            },
            Op::Set {
                path: "/a",
                data: b"2",
                version: None,
            },
            Op::Delete {
                path: "/a/mc",
                version: Some(0),
            },
        ])
        .await
        .unwrap();
    let [
        OpOutcome::Checked,
        OpOutcome::Created { path, .. },
        OpOutcome::Created {
            stat: Some(stat), ..
        },
        OpOutcome::Set(set),
        OpOutcome::Deleted,
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(path, "/a/m-0000000007");
    assert_eq!((stat.czxid, set.version), (set.mzxid, 3));

    let failed = client
        .multi(&[
            Op::Set {
                path: "/a",
                data: b"3",
                version: None,
            },
            Op::Delete {
                path: "/x",
                version: None,
            },
            Op::Set {
                path: "/a",
                data: b"4",
                version: None,
            },
        ])
        .await;
    assert_eq!(
        failed,
        Err(Error::Multi {
            index: 1,
            code: ErrorCode::NoNode
        })
    );
    assert_eq!(client.get("/a").await.unwrap().0, b"2");
    assert_eq!(client.multi(&[]).await.unwrap(), []);

    let read = client
        .multi_read(&[
            ReadOp::Get("/a"),
            ReadOp::Children("/deep"),
            ReadOp::Get("/x"),
        ])
        .await
        .unwrap();
    let stat = client.exists("/a").await.unwrap().unwrap();
    assert_eq!(
        read,
        [
            Ok(ReadOutcome::Data(b"2".to_vec(), stat)),
            Ok(ReadOutcome::Children(vec!["er".to_owned()])),
            Err(ErrorCode::NoNode)
        ]
    );
}

async fn below_a_chroot(server: &Server, outside: &Client) {
    let connect_string = format!("{}/a/root", server.address());
    let options = ConnectOptions {
        operation_timeout: Duration::from_secs(30),
        ..ConnectOptions::new(&connect_string).unwrap()
    };
    let inside = Client::connect(options).await.unwrap();
    assert_eq!(refused(inside.get("/").await), ErrorCode::NoNode);
    inside
        .ensure("/", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    assert!(outside.exists("/a/root").await.unwrap().is_some());
    let create = async |path, mode| inside.create(path, b"", mode, Acl::OPEN).await.unwrap();
    assert_eq!(create("/n", CreateMode::Ephemeral).await, "/n");
    assert_eq!(
        create("/", CreateMode::EphemeralSequential).await,
        "/0000000001"
    );
    assert!(
        outside
            .exists("/a/root/0000000001")
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(inside.children("/").await.unwrap().len(), 2);
    let mut ephemerals = inside.ephemerals("/").await.unwrap();
    ephemerals.sort_unstable();
    assert_eq!(ephemerals, ["/0000000001", "/n"]);
    let op = Op::Create {
        path: "/m",
        data: b"",
        mode: CreateMode::Ephemeral,
        acl: Acl::OPEN,
    };
    let outcomes = inside
        .multi(&[
            op,
            Op::Delete {
                path: "/m",
                version: None,
            },
        ])
        .await
        .unwrap();
    assert!(matches!(&outcomes[0], OpOutcome::Created { path, .. } if path == "/m"));
    let read = inside.multi_read(&[ReadOp::Children("/")]).await.unwrap();
    assert!(matches!(&read[0], Ok(ReadOutcome::Children(names)) if names.len() == 2));
    let (_, mut watch) = inside.exists_and_watch("/w").await.unwrap();
    outside
        .create("/a/root/w", b"", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    assert_eq!(watch.fired().await.unwrap().path, "/w");
    inside.sync("/").await.unwrap();
    inside.close().await;
    assert_eq!(outside.children("/a/root").await.unwrap(), ["w"]);
}

/// Requests that are under way together are done, and answered, in the order they were made.
async fn in_order(client: &Client) {
    client
        .create("/order", b"", CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    let mut requests = JoinSet::new();
    for number in 0..2000 {
        let client = client.clone();
        requests.spawn(async move {
            let mode = CreateMode::PersistentSequential;
            let path = client
                .create("/order/n-", b"", mode, Acl::OPEN)
                .await
                .unwrap();
            (number, path)
        });
    }
    while let Some(created) = requests.join_next().await {
        let (number, path) = created.unwrap();
        assert_eq!(path, format!("/order/n-{number:010}"));
    }
}

async fn limits(server: &Server) {
    let mut options = server.options();
    options.reply_bytes_max = 100_000;
    let client = Client::connect(options).await.unwrap();
    let session = client.state();
    let too_long = vec![b'x'; 1 << 20];
    assert!(matches!(
        client
            .create("/long", &too_long, CreateMode::Persistent, Acl::OPEN)
            .await,
        Err(Error::RequestTooLong { .. })
    ));
    let long = &too_long[..(1 << 20) - 1000];
    client
        .create("/long", long, CreateMode::Persistent, Acl::OPEN)
        .await
        .unwrap();
    let error = client.get("/long").await.unwrap_err();
    assert!(matches!(error, Error::ReplyTooLong { length, limit: 100_000 } if length > long.len()));
    let error = client.get_and_watch("/long").await.unwrap_err();
    assert!(matches!(error, Error::ReplyTooLong { .. }));
    assert_eq!(client.exists("/long").await.unwrap().unwrap().version, 0);
    assert_eq!(client.state(), session, "the connection has not been lost");
}
