//! The codec as a whole: every record there and back, real bytes, and bytes that are not records.

use std::collections::HashMap;
use std::fmt::Debug;

use proptest::prelude::*;

use crate::frame::{Frame, FrameReader, LENGTH_BYTES, append_frame};
use crate::jute::{Decode, Decoder, Encode, Encoder, List};
use crate::proto::acl::{Acl, ClientInfo};
use crate::proto::multi::{MultiRequest, OpResult, WriteOp};
use crate::proto::op_code::{OpCode, XID_AUTH, XID_NOTIFICATION};
use crate::proto::reply::{CreateReply, DataReply, PathReply, Reply};
use crate::proto::request::{Create, CreateTtl, PathVersion, PathWatch, Request, SetData};
use crate::proto::session::{ConnectReply, ConnectRequest, ReplyHeader, RequestHeader};
use crate::proto::stat::Stat;
use crate::proto::watch::{AddWatch, WatcherEvent};
use crate::sample::Sample;

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut output = Encoder::default();
    output.write(value);
    output.into_bytes()
}

/// Encodes, decodes, compares; and the decoded form must encode to the same bytes.
fn there_and_back<'a, T: Decode<'a> + Encode + PartialEq + Debug>(value: &T) {
    let bytes: &'static [u8] = encoded(value).leak();
    let mut input = Decoder::new(bytes);
    let decoded: T = input.read().unwrap();
    assert_eq!(&decoded, value);
    assert_eq!(input.remaining(), b"", "{value:?} left bytes");
    assert_eq!(encoded(&decoded), bytes);
    for end in 0..bytes.len() {
        if let Ok(shorter) = Decoder::new(&bytes[..end]).read::<T>() {
            // Only a missing last field may go unnoticed, in the records where it is optional.
            assert!(
                std::any::type_name::<T>().contains("session::Connect"),
                "{shorter:?}"
            );
        }
    }
}

fn operation_answered_by(reply: &Reply<'_>) -> OpCode {
    match reply {
        Reply::Empty => OpCode::Delete,
        Reply::Path(_) => OpCode::Create,
        Reply::Create(_) => OpCode::CreateTtl,
        Reply::Stat(_) => OpCode::SetData,
        Reply::Data(_) => OpCode::GetData,
        Reply::Acl(_) => OpCode::GetAcl,
        Reply::Children(_) => OpCode::GetChildren,
        Reply::Children2(_) => OpCode::GetChildren2,
        Reply::Multi(_) => OpCode::MultiRead,
        Reply::Sasl(_) => OpCode::Sasl,
        Reply::Ephemerals(_) => OpCode::GetEphemerals,
        Reply::ChildrenNumber(_) => OpCode::GetAllChildrenNumber,
        Reply::Error(_) => OpCode::AddWatch,
        Reply::WhoAmI(_) => OpCode::WhoAmI,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn requests_survive_the_wire(seed: u64) {
        let request = Request::sample(&mut fastrand::Rng::with_seed(seed));
        let bytes = encoded(&request);
        let mut input = Decoder::new(&bytes);
        let decoded = Request::decode(request.op_code(), &mut input).unwrap().unwrap();
        prop_assert_eq!(&decoded, &request);
        prop_assert_eq!(encoded(&decoded), &bytes[..]);
        prop_assert_eq!(input.remaining(), b"");
        for end in 0..bytes.len() {
            prop_assert!(Request::decode(request.op_code(), &mut Decoder::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn replies_survive_the_wire(seed: u64) {
        let reply = Reply::sample(&mut fastrand::Rng::with_seed(seed));
        let bytes = encoded(&reply);
        let mut input = Decoder::new(&bytes);
        let decoded = Reply::decode(operation_answered_by(&reply), &mut input).unwrap();
        prop_assert_eq!(&decoded, &reply);
        prop_assert_eq!(encoded(&decoded), &bytes[..]);
        prop_assert_eq!(input.remaining(), b"");
        for end in 0..bytes.len() {
            prop_assert!(Reply::decode(operation_answered_by(&reply), &mut Decoder::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn session_records_survive_the_wire(seed: u64) {
        let source = &mut fastrand::Rng::with_seed(seed);
        there_and_back(&ConnectRequest::sample(source));
        there_and_back(&ConnectReply::sample(source));
        there_and_back(&RequestHeader::sample(source));
        there_and_back(&ReplyHeader::sample(source));
        there_and_back(&WatcherEvent::sample(source));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        decode_as_everything(&bytes);
    }

    /// Damage to real records reaches deeper than bytes from nowhere.
    #[test]
    fn damaged_records_are_decoded_or_refused(seed: u64, at: prop::sample::Index, byte: u8) {
        let source = &mut fastrand::Rng::with_seed(seed);
        let mut bytes = if source.bool() {
            encoded(&Request::sample(source))
        } else {
            encoded(&Reply::sample(source))
        };
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_as_everything(&bytes);
    }

    #[test]
    fn any_stream_is_cut_into_frames_or_refused(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32),
        keep in prop::option::of(0_usize..32),
    ) {
        let mut reader = keep.map_or_else(|| FrameReader::new(100), |keep| FrameReader::cutting(100, keep));
        for chunk in chunks {
            reader.space().extend_from_slice(&chunk);
            loop {
                match reader.next_frame() {
                    Ok(Some(Frame::Whole(frame))) => prop_assert!(frame.len() <= 100),
                    Ok(Some(Frame::Cut { head, length })) => {
                        prop_assert!(length > 100);
                        prop_assert_eq!(Some(head.len()), keep);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}

/// Decodes as every request and reply there is, and walks through what is accepted.
fn decode_as_everything(bytes: &[u8]) {
    for &op_code in OpCode::ALL {
        if let Ok(Some(request)) = Request::decode(op_code, &mut Decoder::new(bytes)) {
            let canonical = encoded(&request);
            let again = Request::decode(op_code, &mut Decoder::new(&canonical))
                .unwrap()
                .unwrap();
            assert_eq!(again, request);
        }
        if let Ok(reply) = Reply::decode(op_code, &mut Decoder::new(bytes)) {
            let canonical = encoded(&reply);
            let again = Reply::decode(op_code, &mut Decoder::new(&canonical)).unwrap();
            assert_eq!(again, reply);
        }
    }
    let _ = Decoder::new(bytes).read::<ConnectRequest<'_>>();
    let _ = Decoder::new(bytes).read::<ConnectReply<'_>>();
    let _ = Decoder::new(bytes).read::<WatcherEvent<'_>>();
}

#[test]
fn every_request_of_a_client_can_be_decoded() {
    for &op_code in OpCode::ALL {
        let internal = [
            OpCode::Notification,
            OpCode::DeleteContainer,
            OpCode::CreateSession,
            OpCode::Error,
        ];
        let known = !matches!(Request::decode(op_code, &mut Decoder::new(&[])), Ok(None));
        assert_eq!(known, !internal.contains(&op_code), "{op_code:?}");
        assert_eq!(known, Request::OP_CODES.contains(&op_code), "{op_code:?}");
    }
}

/// A frame of the recorded conversation, with its direction.
struct Recorded {
    from_client: bool,
    bytes: Vec<u8>,
}

fn conversation() -> Vec<Recorded> {
    include_str!("../testdata/zkcli-3.8.0.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (direction, digits) = line.split_once(' ').unwrap();
            let digits = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| std::str::from_utf8(pair).unwrap());
            Recorded {
                from_client: direction == "C",
                bytes: digits
                    .map(|pair| u8::from_str_radix(pair, 16).unwrap())
                    .collect(),
            }
        })
        .collect()
}

#[test]
fn a_recorded_conversation_is_read_and_written_back_to_the_byte() {
    let conversation = conversation();
    let (connect, rest) = conversation.split_first().unwrap();
    let request: ConnectRequest<'_> = Decoder::new(&connect.bytes[LENGTH_BYTES..]).read().unwrap();
    assert_eq!(request.timeout_ms, 30_000);
    assert_eq!(request.read_only, Some(false));
    let (connected, rest) = rest.split_first().unwrap();
    assert_eq!(connected.bytes.len() - LENGTH_BYTES, 37);
    let reply: ConnectReply<'_> = Decoder::new(&connected.bytes[LENGTH_BYTES..])
        .read()
        .unwrap();
    assert_eq!(encoded(&reply), connected.bytes[LENGTH_BYTES..]);
    assert_eq!(reply.password.map(<[u8]>::len), Some(16));

    let mut asked = HashMap::new();
    let mut seen = Vec::new();
    for recorded in rest {
        let mut input = Decoder::new(&recorded.bytes[LENGTH_BYTES..]);
        let mut again = Vec::new();
        if recorded.from_client {
            let header: RequestHeader = input.read().unwrap();
            let op_code = OpCode::from_code(header.op_code).unwrap();
            let request = Request::decode(op_code, &mut input).unwrap().unwrap();
            append_frame(&mut again, &header, &request);
            asked.insert(header.xid, op_code);
            seen.push(op_code);
        } else {
            let header: ReplyHeader = input.read().unwrap();
            if header.xid == XID_NOTIFICATION {
                let event: WatcherEvent<'_> = input.read().unwrap();
                append_frame(&mut again, &header, &event);
            } else if header.error == 0 {
                let op_code = asked[&header.xid];
                let reply = Reply::decode(op_code, &mut input).unwrap();
                append_frame(&mut again, &header, &reply);
            } else {
                append_frame(&mut again, &header, &());
            }
        }
        assert_eq!(again, recorded.bytes);
        assert_eq!(input.remaining(), b"");
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 19, "{seen:?}");
    assert_eq!(asked[&XID_AUTH], OpCode::Auth);
}

/// What the recorded bytes mean, so that two mistakes cannot cancel each other out.
#[test]
fn recorded_records_mean_what_was_asked() {
    let conversation = conversation();
    let request = |index: usize| {
        let recorded = conversation
            .iter()
            .filter(|recorded| recorded.from_client)
            .nth(index)
            .unwrap();
        let mut input = Decoder::new(&recorded.bytes[LENGTH_BYTES..]);
        let header: RequestHeader = input.read().unwrap();
        Request::decode(OpCode::from_code(header.op_code).unwrap(), &mut input)
            .unwrap()
            .unwrap()
    };
    let open = List::new(Acl::OPEN);
    let create = Create {
        path: "/g",
        data: Some(b"hello"),
        acl: open,
        flags: 0,
    };
    assert_eq!(request(1), Request::Create(create));
    let container = Create {
        path: "/g/c",
        data: None,
        acl: open,
        flags: 4,
    };
    assert_eq!(request(4), Request::CreateContainer(container));
    let ttl = CreateTtl {
        path: "/g/t",
        data: Some(b"x"),
        acl: open,
        flags: 5,
        ttl_ms: 60_000,
    };
    assert_eq!(request(5), Request::CreateTtl(ttl));
    assert_eq!(
        request(8),
        Request::GetData(PathWatch {
            path: "/g",
            watch: true
        })
    );
    assert_eq!(
        request(9),
        Request::SetData(SetData {
            path: "/g",
            data: Some(b"hello2"),
            version: 0
        })
    );
    assert_eq!(
        request(17),
        Request::AddWatch(AddWatch {
            path: "/g",
            mode: 1
        })
    );
    let Request::Multi(multi) = request(26) else {
        panic!("{:?}", request(26))
    };
    assert_eq!(multi.len(), 6);
    assert_eq!(
        multi.iter().last(),
        Some(WriteOp::Delete(PathVersion {
            path: "/g",
            version: -1
        }))
    );

    let reply = |op_code, xid| {
        let recorded = conversation
            .iter()
            .filter(|recorded| !recorded.from_client)
            .skip(1)
            .find(|recorded| {
                Decoder::new(&recorded.bytes[LENGTH_BYTES..])
                    .read::<ReplyHeader>()
                    .unwrap()
                    .xid
                    == xid
            });
        let body = &recorded.unwrap().bytes[LENGTH_BYTES + ReplyHeader::ENCODED_BYTES..];
        Reply::decode(op_code, &mut Decoder::new(body)).unwrap()
    };
    assert_eq!(
        reply(OpCode::Create, 3),
        Reply::Path(PathReply {
            path: "/g/s-0000000001"
        })
    );
    let stat = Stat {
        czxid: 2,
        mzxid: 2,
        ctime: 1_795_357_607_699,
        mtime: 1_795_357_607_699,
        version: 0,
        cversion: 4,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 5,
        num_children: 4,
        pzxid: 6,
    };
    assert_eq!(
        reply(OpCode::GetData, 8),
        Reply::Data(DataReply {
            data: Some(b"hello"),
            stat
        })
    );
    let Reply::Create(CreateReply { path, stat }) = reply(OpCode::CreateContainer, 4) else {
        panic!()
    };
    assert_eq!((path, stat.czxid, stat.pzxid), ("/g/c", 5, 5));
    let identities = [
        ClientInfo {
            scheme: "ip",
            user: Some("127.0.0.1"),
        },
        ClientInfo {
            scheme: "digest",
            user: Some("u"),
        },
    ];
    assert_eq!(
        reply(OpCode::WhoAmI, 13),
        Reply::WhoAmI(List::new(&identities))
    );
    assert_eq!(reply(OpCode::AddWatch, 16), Reply::Error(0));
    let Reply::Multi(results) = reply(OpCode::Multi, 25) else {
        panic!()
    };
    assert_eq!(
        results.iter().collect::<Vec<_>>(),
        vec![OpResult::Delete; 6]
    );
}

#[test]
fn old_clients_and_servers_leave_out_the_read_only_flag() {
    let reply = ConnectReply {
        protocol_version: 0,
        timeout_ms: 4000,
        session_id: 7,
        password: Some(&[1; 16]),
        read_only: None,
    };
    assert_eq!(encoded(&reply).len(), 36);
    there_and_back(&reply);
    assert_eq!(
        encoded(&ConnectReply {
            read_only: Some(false),
            ..reply
        })
        .len(),
        37
    );
    let expired = encoded(&ConnectReply::expired(Some(false)));
    assert_eq!(expired.len(), 37);
    assert!(expired.iter().filter(|&&byte| byte != 0).eq(&[16]));
}

#[test]
fn a_failed_multi_tells_which_part() {
    let parts = [
        OpResult::Error(0),
        OpResult::Error(-101),
        OpResult::Error(-2),
    ];
    let bytes = encoded(&Reply::Multi(crate::proto::multi::Sequence::new(&parts)));
    let Ok(Reply::Multi(results)) = Reply::decode(OpCode::Multi, &mut Decoder::new(&bytes)) else {
        panic!()
    };
    assert_eq!(results.iter().collect::<Vec<_>>(), parts);
}

#[test]
fn an_empty_multi_is_just_its_end() {
    assert_eq!(
        encoded(&MultiRequest::new(&[])),
        [0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff]
    );
    there_and_back(&MultiRequest::new(&[]));
}

#[test]
fn a_stat_is_68_bytes() {
    assert_eq!(encoded(&Stat::default()).len(), Stat::ENCODED_BYTES);
}
