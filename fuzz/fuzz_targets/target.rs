//! Request targets: what is forwarded has one reading, and reading it again changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate::target::{Scratch, parse_target, strip_segments};

fuzz_target!(|raw: &[u8]| {
    let mut scratch = Scratch::default();
    let Ok(target) = parse_target(raw, &mut scratch) else {
        return;
    };
    assert!(target.path.starts_with(b"/") && target.route_path.starts_with(b"/"));
    assert!(
        !target
            .path
            .iter()
            .any(|byte| *byte <= b' ' || matches!(byte, 0x7f | b'#' | b'?' | b'\\'))
    );
    if let Some(query) = target.query {
        assert!(raw.ends_with(query) && raw[raw.len() - query.len() - 1] == b'?');
    }
    // Every reading of it, also that of a service which decodes twice the slashes, merges them and cuts parameters,
    // is without dot segments: nobody climbs.
    for slash in [false, true] {
        for segment in decode(target.path, slash).split(|byte| *byte == b'/') {
            let bare = segment
                .split(|byte| *byte == b';')
                .next()
                .unwrap_or_default();
            assert!(
                bare != b"." && bare != b"..",
                "a dot segment is left in {:?}",
                text(target.path)
            );
        }
    }
    // What routes see: decoded once, an encoded slash kept, repeated slashes one.
    let mut expected = decode(target.path, false);
    expected.dedup_by(|a, b| *a == b'/' && *b == b'/');
    assert_eq!(text(target.route_path), text(&expected));

    let (path, route_path) = (target.path.to_vec(), target.route_path.to_vec());
    for count in 0..4 {
        let stripped = strip_segments(&path, count);
        assert!(stripped.starts_with(b"/") && !stripped.starts_with(b"//"));
        assert!(path.ends_with(stripped) || stripped == b"/");
    }
    let mut scratch = Scratch::default();
    let again = parse_target(&path, &mut scratch).expect("what is forwarded is a good target");
    assert_eq!(
        (again.path, again.route_path, again.query),
        (&path[..], &route_path[..], None)
    );
});

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Percent-decodes once; `%2F` becomes a slash or stays (in upper case).
fn decode(path: &[u8], slash: bool) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        let hex = |at: usize| more.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                rest = &more[2..];
                match (high * 16 + low, slash) {
                    (0x2f, false) => decoded.extend_from_slice(b"%2F"),
                    (value, _) => decoded.push(u8::try_from(value).expect("two digits")),
                }
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}
