//! Response heads: the same as for requests, and the rules of RFC 9112 section 6.3.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate::http::Framing;
use livegate::http::response::{HEAD_BYTES_MAX, Slots, parse};

fuzz_target!(|bytes: &[u8]| {
    // The first byte says whether this answers a HEAD.
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let to_head = first & 1 == 1;
    let mut slots = Slots::new();
    let Ok(Some(head)) = parse(bytes, &mut slots, to_head) else {
        return;
    };
    assert!(head.length <= bytes.len() && head.length <= HEAD_BYTES_MAX);
    let whole = &bytes[..head.length];
    let text = whole
        .strip_suffix(b"\r\n\r\n")
        .expect("a head ends with an empty line");
    let mut previous = b' ';
    for &byte in text {
        assert!(
            byte >= b' ' || matches!(byte, b'\t' | b'\r' | b'\n'),
            "a control byte was accepted"
        );
        assert_eq!(
            byte == b'\n',
            previous == b'\r',
            "a bare CR or LF was accepted"
        );
        previous = byte;
    }
    assert!(text.starts_with(b"HTTP/1.1 ") || text.starts_with(b"HTTP/1.0 "));
    assert!((100..=999).contains(&head.status));
    let lengths: Vec<&[u8]> = head
        .fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("content-length"))
        .map(|field| field.value)
        .collect();
    let codings = head
        .fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("transfer-encoding"))
        .count();
    assert!(
        lengths.len() + codings <= 1,
        "ambiguous framing was accepted"
    );
    let no_body = to_head || head.status < 200 || matches!(head.status, 204 | 304);
    match head.framing {
        Framing::None => assert!(no_body || head.content_length == Some(0)),
        Framing::Length(length) => {
            assert!(!no_body && head.content_length == Some(length));
            assert_eq!(
                std::str::from_utf8(lengths[0])
                    .expect("digits")
                    .parse::<u64>(),
                Ok(length)
            );
        }
        Framing::Chunked => assert!(!no_body && codings == 1),
        Framing::Close => {
            assert!(!no_body && lengths.is_empty() && codings == 0 && !head.keep_alive)
        }
    }

    let (status, framing, keep_alive) = (head.status, head.framing, head.keep_alive);
    let mut slots = Slots::new();
    let again = parse(whole, &mut slots, to_head)
        .expect("accepted before")
        .expect("whole before");
    assert_eq!(
        (again.status, again.framing, again.keep_alive),
        (status, framing, keep_alive)
    );
    let step = (whole.len() / 16).max(1);
    for cut in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        let mut slots = Slots::new();
        let part = parse(&whole[..cut], &mut slots, to_head);
        assert!(
            matches!(part, Ok(None)),
            "the first {cut} bytes of a good head: {:?}",
            part.map(|_| "a head")
        );
    }
});
