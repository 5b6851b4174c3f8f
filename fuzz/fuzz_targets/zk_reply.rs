//! What a client reads: the answer to its first frame, replies to every operation, and watch events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate_zk::jute::{Decode, Decoder, Encode, Encoder};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::op_code::{OpCode, XID_NOTIFICATION};
use livegate_zk::proto::reply::Reply;
use livegate_zk::proto::session::{ConnectReply, ReplyHeader};
use livegate_zk::proto::watch::{EventKind, WatcherEvent};

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut output = Encoder::default();
    output.write(value);
    output.into_bytes()
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says what was asked; a frame does not.
    let Some((asked, frame)) = bytes.split_first() else {
        return;
    };
    let op_code = OpCode::ALL[usize::from(*asked) % OpCode::ALL.len()];

    let mut input = Decoder::new(frame);
    if let Ok(connect) = ConnectReply::decode(&mut input) {
        let canonical = encoded(&connect);
        assert_eq!(canonical.len(), frame.len() - input.remaining().len());
        assert_eq!(Decoder::new(&canonical).read(), Ok(connect));
    }

    let mut input = Decoder::new(frame);
    let Ok(header) = input.read::<ReplyHeader>() else {
        assert!(frame.len() < ReplyHeader::ENCODED_BYTES);
        return;
    };
    if let Some(error) = ErrorCode::from_code(header.error) {
        assert!(header.error != 0 && !error.to_string().is_empty());
    }
    let body = input.remaining();
    if header.xid == XID_NOTIFICATION {
        if let Ok(event) = input.read::<WatcherEvent<'_>>() {
            let kind = EventKind::from_code(event.kind);
            assert!(kind.is_none_or(|kind| kind.code() == event.kind));
            assert_eq!(Decoder::new(&encoded(&event)).read(), Ok(event));
        }
        return;
    }
    match Reply::decode(op_code, &mut input) {
        Ok(reply) => {
            let used = body.len() - input.remaining().len();
            let canonical = encoded(&reply);
            assert_eq!(canonical.len(), used, "{reply:?}");
            assert_eq!(
                Reply::decode(op_code, &mut Decoder::new(&canonical)),
                Ok(reply)
            );
            // It needs every byte that it used.
            if used > 0 {
                assert!(Reply::decode(op_code, &mut Decoder::new(&body[..used - 1])).is_err());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
