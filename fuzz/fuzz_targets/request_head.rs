//! Request heads: whatever is accepted is clean under a second, simpler reading, and is accepted
//! at no other length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate::http::Framing;
use livegate::http::request::{HeadLimits, Slots, TargetForm, parse};

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 4096,
    fields_max: 20,
};

fuzz_target!(|bytes: &[u8]| {
    // Empty lines before a head are the caller's business.
    let mut bytes = bytes;
    while let [b'\r', b'\n', rest @ ..] = bytes {
        bytes = rest;
    }
    let mut slots = Slots::new();
    let Ok(Some(head)) = parse(bytes, &mut slots, LIMITS) else {
        return;
    };
    assert!(head.length <= bytes.len() && head.length <= LIMITS.bytes_max);
    assert!(head.fields.len() <= LIMITS.fields_max && head.fields.len() == head.meanings.len());
    let whole = &bytes[..head.length];

    // A second reading, line by line.
    let text = whole
        .strip_suffix(b"\r\n\r\n")
        .expect("a head ends with an empty line");
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let is_clean = |line: &[u8]| {
        !line
            .iter()
            .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
    };
    assert!(
        lines.iter().all(|line| is_clean(line)),
        "a control byte was accepted"
    );
    let mut start = lines[0].split(|byte| *byte == b' ');
    assert_eq!(start.next(), Some(head.method.as_bytes()));
    let target = start.next().expect("a target");
    assert_eq!(
        start.next(),
        Some(if head.minor == 1 {
            &b"HTTP/1.1"[..]
        } else {
            b"HTTP/1.0"
        })
    );
    assert_eq!(start.next(), None);
    match head.target {
        TargetForm::Origin(_) => {
            assert!(target.starts_with(b"/") || target[..7].eq_ignore_ascii_case(b"http://"))
        }
        TargetForm::EmptyPath(query) => {
            assert!(query.starts_with(b"?") && target.ends_with(query));
            assert!(target[..7].eq_ignore_ascii_case(b"http://"));
        }
        TargetForm::Asterisk => assert_eq!(head.method, "OPTIONS"),
    }
    let named = |name: &str| -> Vec<&[u8]> {
        let lines = lines[1..].iter();
        let fields = lines.map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
            (&line[..colon], trim(&line[colon + 1..]))
        });
        fields
            .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
            .collect()
    };
    assert!(lines[1..].iter().all(|line| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        colon > 0
            && line[..colon]
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    }));
    assert_eq!(lines.len() - 1, head.fields.len());
    let (hosts, lengths, codings) = (
        named("host"),
        named("content-length"),
        named("transfer-encoding"),
    );
    assert!(
        hosts.len() <= 1 && (head.minor == 0 || hosts.len() == 1),
        "Host"
    );
    match head.framing {
        Framing::None => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            assert!(
                lengths
                    .iter()
                    .all(|length| length.iter().all(|byte| *byte == b'0'))
            );
        }
        Framing::Length(expected) => {
            let [length] = lengths.as_slice() else {
                panic!("lengths {lengths:?}")
            };
            let length = std::str::from_utf8(length).expect("digits");
            assert!(length.bytes().all(|byte| byte.is_ascii_digit()));
            assert_eq!(length.parse::<u64>(), Ok(expected));
            assert!(codings.is_empty());
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && head.minor == 1);
            assert!(
                matches!(codings.as_slice(), [coding] if coding.eq_ignore_ascii_case(b"chunked"))
            );
        }
        Framing::Close => panic!("a request does not end with its connection"),
    }
    if head.upgrades {
        assert!(head.method == "GET" && head.framing == Framing::None && head.minor == 1);
    }

    // The same bytes give the same head, however many follow; and no part of them is one.
    let (minor, framing, keep_alive) = (head.minor, head.framing, head.keep_alive);
    let mut slots = Slots::new();
    let again = parse(whole, &mut slots, LIMITS)
        .expect("accepted before")
        .expect("whole before");
    assert_eq!(
        (again.length, again.minor, again.framing, again.keep_alive),
        (whole.len(), minor, framing, keep_alive)
    );
    let step = (whole.len() / 16).max(1);
    for cut in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
        let mut slots = Slots::new();
        let part = parse(&whole[..cut], &mut slots, LIMITS);
        assert!(
            matches!(part, Ok(None)),
            "the first {cut} bytes of a good head: {:?}",
            part.map(|_| "a head")
        );
    }
});

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
