use proptest::prelude::*;

use super::*;

/// (forwarded, seen by routes, query), or the error.
type Read = Result<(String, String, Option<String>), TargetError>;

fn read(target: &str) -> Read {
    let mut scratch = Scratch::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    parse_target(target.as_bytes(), &mut scratch).map(|target| {
        (
            text(target.path),
            text(target.route_path),
            target.query.map(text),
        )
    })
}

fn paths(target: &str) -> (String, String) {
    let (path, route_path, _) = read(target).unwrap_or_else(|error| panic!("{target}: {error}"));
    (path, route_path)
}

#[test]
fn plain_paths_are_not_copied() {
    for target in [
        "/",
        "/orders/1",
        "/a.b/c..d/...",
        "/x;y=..",
        "/café",
        "/a/b?c=/../%zz//",
    ] {
        let mut scratch = Scratch::default();
        let read = parse_target(target.as_bytes(), &mut scratch).unwrap();
        assert!(
            std::ptr::eq(read.path.as_ptr(), target.as_ptr()),
            "{target}"
        );
        assert!(std::ptr::eq(read.route_path, read.path), "{target}");
        assert_eq!(
            scratch.resolved.capacity() + scratch.decoded.capacity(),
            0,
            "{target}"
        );
    }
}

#[test]
fn a_path_without_dot_segments_is_forwarded_in_place() {
    for target in [
        "/.well-known/x",
        "/a%20b",
        "//a",
        "/%2e%2e%2e",
        "/a/..b/%2ec",
        "/a%2Fb%2fc",
    ] {
        let mut scratch = Scratch::default();
        let read = parse_target(target.as_bytes(), &mut scratch).unwrap();
        assert!(std::ptr::eq(read.path, target.as_bytes()), "{target}");
    }
}

#[test]
fn forwarded_and_seen_by_routes() {
    for (target, forwarded, route_path) in [
        // Dot segments in every spelling, RFC 3986 sections 5.2.4 and 5.4.
        ("/a/b/c/./../../g", "/a/g", "/a/g"),
        ("/.", "/", "/"),
        ("/./", "/", "/"),
        ("/a/.", "/a/", "/a/"),
        ("/a/..", "/", "/"),
        ("/a/b/..", "/a/", "/a/"),
        ("/a/b/../", "/a/", "/a/"),
        ("/x/../denied", "/denied", "/denied"),
        ("/x/%2e%2e/denied", "/denied", "/denied"),
        ("/x/%2E./denied", "/denied", "/denied"),
        ("/x/.%2e/denied", "/denied", "/denied"),
        ("/%2e/denied", "/denied", "/denied"),
        ("/%2e%2E%2e/x", "/%2e%2E%2e/x", "/.../x"),
        ("/a/../%41", "/%41", "/A"),
        // Repeated slashes are forwarded, and count as one for routes.
        ("//denied/x", "//denied/x", "/denied/x"),
        ("/a///b//", "/a///b//", "/a/b/"),
        ("/a//../b", "/a/b", "/a/b"),
        ("/x/..//denied", "//denied", "/denied"),
        // One decode only.
        ("/%64enied", "/%64enied", "/denied"),
        (
            "/x/%252e%252e/denied",
            "/x/%252e%252e/denied",
            "/x/%2e%2e/denied",
        ),
        ("/%2564enied", "/%2564enied", "/%64enied"),
        ("/a%252Fb", "/a%252Fb", "/a%2Fb"),
        // An encoded slash is never a separator.
        ("/denied%2Fx", "/denied%2Fx", "/denied%2Fx"),
        ("/a%2fb%2F", "/a%2fb%2F", "/a%2Fb%2F"),
        (
            "/https:%2f%2Fexample.com",
            "/https:%2f%2Fexample.com",
            "/https:%2F%2Fexample.com",
        ),
        // Encoded delimiters are data.
        ("/a%3Fb%23c", "/a%3Fb%23c", "/a?b#c"),
        ("/100%25", "/100%25", "/100%"),
        ("/a%0ab", "/a%0ab", "/a\nb"),
        ("/caf%C3%A9", "/caf%C3%A9", "/café"),
        ("/a;x=1/b", "/a;x=1/b", "/a;x=1/b"),
        ("/a;..;/b%3b..", "/a;..;/b%3b..", "/a;..;/b;.."),
        ("/...;x/....", "/...;x/....", "/...;x/...."),
    ] {
        assert_eq!(
            paths(target),
            (forwarded.into(), route_path.into()),
            "{target}"
        );
    }
}

#[test]
fn refused() {
    use TargetError::*;
    for (target, error) in [
        ("", NotOriginForm),
        ("*", NotOriginForm),
        ("a/b", NotOriginForm),
        ("?a", NotOriginForm),
        ("http://a/b", NotOriginForm),
        ("/..", AboveRoot),
        ("/../a", AboveRoot),
        ("/a/../..", AboveRoot),
        ("/a/%2e%2e/.%2E/b", AboveRoot),
        ("/./../a", AboveRoot),
        ("/x/..%2fdenied", DisguisedDots),
        ("/x/..%2Fdenied", DisguisedDots),
        ("/x/%2e%2e%2fdenied", DisguisedDots),
        ("/x%2f..", DisguisedDots),
        ("/x%2f../y", DisguisedDots),
        ("/x%2f%2e%2E%2fdenied", DisguisedDots),
        ("/.%2fdenied", DisguisedDots),
        ("/a%2f.", DisguisedDots),
        ("/%2f..", DisguisedDots),
        ("/x/..;/denied", DisguisedDots),
        ("/x/..;a=b/denied", DisguisedDots),
        ("/x/.;a=b/denied", DisguisedDots),
        ("/x/..%3ba/denied", DisguisedDots),
        ("/x/%2e%2e;/denied", DisguisedDots),
        ("/x/a%2f..;b", DisguisedDots),
        ("/x/a;b%2f..", DisguisedDots),
        ("/x\\..\\denied", Backslash),
        ("/x%5cdenied", Backslash),
        ("/x/%2e%2e%5Cdenied", Backslash),
        ("/a%00", Nul),
        ("/a\0", ControlByte),
        ("/a\r\nb", ControlByte),
        ("/a b", ControlByte),
        ("/a\tb", ControlByte),
        ("/a\x7f", ControlByte),
        ("/a?b\0", ControlByte),
        ("/a?b c", ControlByte),
        ("/a#b", Fragment),
        ("/a?b#c", Fragment),
        ("/%", BrokenEncoding),
        ("/%4", BrokenEncoding),
        ("/%4/", BrokenEncoding),
        ("/%zz", BrokenEncoding),
        ("/%+1", BrokenEncoding),
        ("/%u002e", BrokenEncoding),
        ("/a%?b", BrokenEncoding),
        ("/%/../a", BrokenEncoding),
    ] {
        assert_eq!(read(target), Err(error), "{target}");
    }
}

#[test]
fn the_query_is_untouched() {
    for (target, path, query) in [
        ("/a?", "/a", Some("")),
        ("/a", "/a", None),
        (
            "/a?b=%zz&c=\\..//../?d;é",
            "/a",
            Some("b=%zz&c=\\..//../?d;é"),
        ),
        ("/x/../a?b", "/a", Some("b")),
        ("/x/..?b", "/", Some("b")),
        ("/?%00", "/", Some("%00")),
    ] {
        let (read_path, _, read_query) = read(target).unwrap();
        assert_eq!(
            (read_path.as_str(), read_query.as_deref()),
            (path, query),
            "{target}"
        );
    }
}

#[test]
fn bytes_that_are_not_utf8_are_forwarded() {
    let mut scratch = Scratch::default();
    let target = parse_target(b"/\xff/%fe", &mut scratch).unwrap();
    assert_eq!(
        (target.path, target.route_path),
        (&b"/\xff/%fe"[..], &b"/\xff/\xfe"[..])
    );
}

#[test]
fn scratch_holds_nothing_of_the_request_before() {
    let mut scratch = Scratch::default();
    parse_target(b"/a/../secret%20//x", &mut scratch).unwrap();
    let target = parse_target(b"/b/../%41", &mut scratch).unwrap();
    assert_eq!((target.path, target.route_path), (&b"/%41"[..], &b"/A"[..]));
}

#[test]
fn stripped() {
    for (path, n, rest) in [
        ("/orders/1", 1, "/1"),
        ("/orders/1", 0, "/orders/1"),
        ("/orders", 1, "/"),
        ("/orders/", 1, "/"),
        ("/orders//evil", 1, "/evil"),
        ("//orders//a//b", 1, "/a//b"),
        ("//a", 0, "/a"),
        ("//", 0, "/"),
        ("/a//b/c/", 2, "/c/"),
        ("/a", 2, "/"),
        ("/", 3, "/"),
        ("/a%2Fb/c", 1, "/c"),
    ] {
        let stripped = strip_segments(path.as_bytes(), n);
        assert_eq!(String::from_utf8_lossy(stripped), rest, "{path} {n}");
    }
}

/// Everything that some server somewhere gives a meaning to.
fn nasty() -> impl Strategy<Value = String> {
    let atoms = proptest::sample::select(vec![
        "/", "/", "/", "/", "//", ".", ".", "..", "..", "%2e", "%2E", "%2e%2e", "%2f", "%2F",
        "%5c", "%00", "%252e", "%252f", "%25", "%3b", ";", ";", "a", "denied", "%64", "é", "%c3",
        "%", "\\", "#", "?", "=", "x", "%20", "~", "*", "%0a",
    ]);
    proptest::collection::vec(atoms, 0..14).prop_map(|atoms| format!("/{}", atoms.concat()))
}

/// The accepted ones of [`nasty`], which are the interesting ones.
fn accepted() -> impl Strategy<Value = (String, Vec<u8>, Vec<u8>)> {
    nasty().prop_filter_map("refused", |target| {
        let mut scratch = Scratch::default();
        let read = parse_target(target.as_bytes(), &mut scratch).ok()?;
        let (path, route_path) = (read.path.to_vec(), read.route_path.to_vec());
        Some((target, path, route_path))
    })
}

/// The model decodes whole segments into strings of their own and compares.
mod model {
    pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut bytes = text.iter();
        while let Some(&byte) = bytes.next() {
            if byte != b'%' {
                out.push(byte);
                continue;
            }
            let pair = [*bytes.next()?, *bytes.next()?];
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        }
        Some(out)
    }

    /// RFC 3986 section 5.2.4, literally, with its input and output buffers; `None` when it
    /// climbs above the root. Dot segments are those whose decoded form is one.
    pub(super) fn remove_dot_segments(path: &str) -> Option<String> {
        let spelled = |segment: &str| decode(segment.as_bytes()).unwrap_or_default();
        let mut input = path.to_owned();
        let mut output = String::new();
        while !input.is_empty() {
            let end = input[1..].find('/').map_or(input.len(), |end| end + 1);
            let (segment, rest) = (input[1..end].to_owned(), input[end..].to_owned());
            match spelled(&segment).as_slice() {
                b"." => input = if rest.is_empty() { "/".into() } else { rest },
                b".." => {
                    output.truncate(output.rfind('/')?);
                    input = if rest.is_empty() { "/".into() } else { rest };
                }
                _ => {
                    output += &input[..end];
                    input = rest;
                }
            }
            if input == "/" {
                output.push('/');
                break;
            }
        }
        Some(output)
    }

    /// Whether a lenient reader could see a dot segment that RFC 3986 does not.
    pub(super) fn disguised(segment: &str) -> bool {
        let lower = segment.to_ascii_lowercase();
        let pieces: Vec<&str> = lower.split("%2f").collect();
        pieces.iter().any(|piece| {
            let decoded = decode(piece.as_bytes()).unwrap_or_default();
            let name = decoded
                .split(|&byte| byte == b';')
                .next()
                .unwrap_or_default();
            let dots = name == b"." || name == b"..";
            dots && (pieces.len() > 1 || name.len() != decoded.len())
        })
    }
}

/// What a lenient service makes of a path: decode (encoded slashes too), merge slashes, drop
/// parameters if it does, resolve dots. Returns the segments.
fn lenient(path: &[u8], drop_parameters: bool) -> Vec<Vec<u8>> {
    let path = if drop_parameters {
        without_parameters(path)
    } else {
        path.to_vec()
    };
    let decoded = model::decode(&path).expect("the gateway refuses broken encoding");
    resolve(&decoded)
}

/// Splits at slashes, drops empty segments, resolves dots.
fn resolve(path: &[u8]) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|&byte| byte == b'/' || byte == b'\\') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment.to_vec()),
        }
    }
    segments
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let names = path.split(|&byte| byte == b'/').map(|segment| {
        segment
            .split(|&byte| byte == b';')
            .next()
            .unwrap_or_default()
            .to_vec()
    });
    names.collect::<Vec<_>>().join(&b'/')
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn agrees_with_the_model(target in nasty()) {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target.as_str(), None),
        };
        let decoded = model::decode(path.as_bytes());
        let bad = target.contains('#')
            || decoded.as_ref().is_none_or(|path| path.contains(&0) || path.contains(&b'\\'))
            || path.split('/').any(model::disguised);
        let expected = if bad { None } else { model::remove_dot_segments(path) };
        prop_assert_eq!(
            read(&target).ok().map(|(path, _, query)| (path, query)),
            expected.map(|path| (path, query))
        );
    }

    /// The route path has the same segments as the forwarded one, each decoded once.
    #[test]
    fn routes_see_what_is_forwarded((_, path, route_path) in accepted()) {
        let keep_slashes = String::from_utf8_lossy(&path).replace("%2f", "%2F").replace("%2F", "%252F");
        let expected = resolve(&model::decode(keep_slashes.as_bytes()).unwrap());
        let seen = resolve(&route_path);
        prop_assert_eq!(&seen, &expected);
        prop_assert!(!route_path.windows(2).any(|pair| pair == b"//"));
        prop_assert_eq!(route_path.ends_with(b"/"), path.ends_with(b"/"));
    }

    /// However lenient the service, it ends up where the route was looked up, an encoded slash
    /// apart, which the service alone may take for a separator.
    #[test]
    fn a_lenient_service_reads_the_same_path((_, path, route_path) in accepted()) {
        // "%252f" looks like a kept "%2F" once it is decoded.
        if String::from_utf8_lossy(&path).to_ascii_lowercase().contains("%252f") {
            return Ok(());
        }
        let seen = String::from_utf8_lossy(&route_path).replace("%2F", "/");
        let expected: Vec<Vec<u8>> = seen
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| segment.as_bytes().to_vec())
            .collect();
        let lossy = |segments: Vec<Vec<u8>>| -> Vec<String> {
            segments.iter().map(|segment| String::from_utf8_lossy(segment).into_owned()).collect()
        };
        prop_assert_eq!(lossy(lenient(&path, false)), lossy(expected));
    }

    /// A service that drops parameters before it decodes finds no dots to resolve either.
    #[test]
    fn no_dots_are_left_for_a_service_that_drops_parameters((_, path, _) in accepted()) {
        let decoded = model::decode(&without_parameters(&path)).unwrap();
        let dots = decoded.split(|&byte| byte == b'/').any(|segment| segment == b"." || segment == b"..");
        prop_assert!(!dots, "{}", String::from_utf8_lossy(&path));
    }

    /// What is forwarded is read the same way by another gateway.
    #[test]
    fn forwarded_paths_are_settled((_, path, route_path) in accepted()) {
        let mut scratch = Scratch::default();
        let again = parse_target(&path, &mut scratch).unwrap();
        prop_assert_eq!(again.path, path.as_slice());
        prop_assert_eq!(again.route_path, route_path.as_slice());
    }

    /// Stripping takes off the same segments that routes counted.
    #[test]
    fn stripping_counts_as_routes_do((_, path, route_path) in accepted(), n in 0usize..4) {
        let stripped = strip_segments(&path, n);
        prop_assert!(stripped.starts_with(b"/") && !stripped.starts_with(b"//"));
        let segments = |path: &[u8]| -> Vec<Vec<u8>> {
            let segments = path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty());
            segments.map(<[u8]>::to_vec).collect()
        };
        let expected: Vec<_> = segments(&path).into_iter().skip(n).collect();
        prop_assert_eq!(segments(stripped), expected);
        prop_assert_eq!(segments(&path).len(), segments(&route_path).len());
    }

    #[test]
    fn any_bytes_never_panic(target in proptest::collection::vec(any::<u8>(), 0..64), n in 0usize..4) {
        let mut scratch = Scratch::default();
        if let Ok(target) = parse_target(&target, &mut scratch) {
            strip_segments(target.path, n);
        }
    }
}
