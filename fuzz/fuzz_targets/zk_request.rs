//! What a server reads: the first frame of a connection, and every request after it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate_zk::jute::{Decode, Decoder, Encode, Encoder};
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::request::Request;
use livegate_zk::proto::session::{ConnectRequest, RequestHeader};

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut output = Encoder::default();
    output.write(value);
    output.into_bytes()
}

fuzz_target!(|frame: &[u8]| {
    let mut input = Decoder::new(frame);
    if let Ok(connect) = ConnectRequest::decode(&mut input) {
        let canonical = encoded(&connect);
        assert_eq!(canonical.len(), frame.len() - input.remaining().len());
        assert_eq!(Decoder::new(&canonical).read(), Ok(connect));
    }

    let mut input = Decoder::new(frame);
    let Ok(header) = input.read::<RequestHeader>() else {
        assert!(frame.len() < 8);
        return;
    };
    let Some(op_code) = OpCode::from_code(header.op_code) else {
        return;
    };
    let body = input.remaining();
    match Request::decode(op_code, &mut input) {
        Ok(Some(request)) => {
            assert_eq!(request.op_code(), op_code);
            let used = body.len() - input.remaining().len();
            let canonical = encoded(&request);
            assert_eq!(canonical.len(), used, "{request:?}");
            assert_eq!(
                Request::decode(op_code, &mut Decoder::new(&canonical)),
                Ok(Some(request))
            );
            // It needs every byte that it used.
            if used > 0 {
                assert!(Request::decode(op_code, &mut Decoder::new(&body[..used - 1])).is_err());
            }
        }
        Ok(None) => assert!(!Request::OP_CODES.contains(&op_code)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
