//! Request targets: what is forwarded, and what routes see.
//!
//! A path that routes read one way and the service another is a way around every rule of the
//! gateway. So dot segments, plain or encoded, are resolved before either sees the path; whatever
//! a lenient service might still read as a dot segment is refused; and everything else is
//! forwarded byte for byte. Routes see the path decoded once, with `%2F` kept (an encoded slash
//! is never a separator) and repeated slashes as one.
//!
//! The usual path, without `%`, `//` and `/.`, costs one pass and no copy.

use thiserror::Error;

#[cfg(test)]
mod tests;

/// A parsed target. The slices point into the request or into the scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path to forward, starting with "/": dot segments are resolved (RFC 3986 section
    /// 5.2.4), everything else is as it came.
    pub path: &'a [u8],
    /// The path for routes: `path` decoded once, `%2F` kept in upper case, repeated slashes one.
    pub route_path: &'a [u8],
    /// What follows the first "?", untouched.
    pub query: Option<&'a [u8]>,
}

/// Buffers for the targets that need one; keep it with the connection. Never longer than the
/// longest target seen.
#[derive(Debug, Default)]
pub struct Scratch {
    resolved: Vec<u8>,
    decoded: Vec<u8>,
}

/// Why a target is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// It does not start with "/".
    #[error("the target does not start with \"/\"")]
    NotOriginForm,
    /// A space, a control byte or DEL, raw, in path or query.
    #[error("a space or control byte in the target")]
    ControlByte,
    /// A raw "#".
    #[error("a fragment in the target")]
    Fragment,
    /// `%00` in the path.
    #[error("an encoded NUL in the path")]
    Nul,
    /// A backslash in the path, raw or encoded: some services take it for a slash.
    #[error("a backslash in the path")]
    Backslash,
    /// "%" in the path without two hexadecimal digits behind it.
    #[error("broken percent-encoding in the path")]
    BrokenEncoding,
    /// More ".." than segments before them.
    #[error("the path climbs above the root")]
    AboveRoot,
    /// A dot segment behind an encoded slash (`..%2f`) or with parameters (`..;x`), which some
    /// services resolve.
    #[error("a disguised dot segment in the path")]
    DisguisedDots,
}

/// Reads a target in origin-form, with its query.
pub fn parse_target<'a>(
    raw: &'a [u8],
    scratch: &'a mut Scratch,
) -> Result<Target<'a>, TargetError> {
    let Scanned { path_len, plain } = scan(raw)?;
    let (path, query) = match raw.get(path_len + 1..) {
        Some(query) => (&raw[..path_len], Some(query)),
        None => (raw, None),
    };
    if plain {
        return Ok(Target {
            path,
            route_path: path,
            query,
        });
    }
    let path = resolve_dots(path, &mut scratch.resolved)?;
    let route_path = decode(path, &mut scratch.decoded);
    Ok(Target {
        path,
        route_path,
        query,
    })
}

/// The path without its first `n` segments: always starts with "/", never with "//". Empty
/// segments do not count, as they do not for routes.
pub fn strip_segments(path: &[u8], n: usize) -> &[u8] {
    let mut rest = path;
    for _ in 0..n {
        let start = rest.iter().take_while(|&&byte| byte == b'/').count();
        let Some(end) = memchr::memchr(b'/', &rest[start..]) else {
            return b"/";
        };
        rest = &rest[start + end..];
    }
    let slashes = rest.iter().take_while(|&&byte| byte == b'/').count();
    if slashes == 0 {
        b"/"
    } else {
        &rest[slashes - 1..]
    }
}

/// What the one pass over the raw bytes found out.
struct Scanned {
    /// Where the query's "?" is, or the end.
    path_len: usize,
    /// Nothing to resolve, nothing to decode.
    plain: bool,
}

/// What the scan does on meeting a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nothing.
    Plain,
    /// Looks whether an empty segment or a dot follows.
    Slash,
    Percent,
    Question,
    Hash,
    Backslash,
    Control,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte <= b' ' as usize {
        classes[byte] = Class::Control;
        byte += 1;
    }
    classes[0x7f] = Class::Control;
    classes[b'/' as usize] = Class::Slash;
    classes[b'%' as usize] = Class::Percent;
    classes[b'?' as usize] = Class::Question;
    classes[b'#' as usize] = Class::Hash;
    classes[b'\\' as usize] = Class::Backslash;
    classes
};

fn scan(raw: &[u8]) -> Result<Scanned, TargetError> {
    if raw.first() != Some(&b'/') {
        return Err(TargetError::NotOriginForm);
    }
    let mut plain = true;
    let mut path_len = raw.len();
    for (index, &byte) in raw.iter().enumerate() {
        match CLASSES[usize::from(byte)] {
            Class::Plain => {}
            Class::Slash => plain &= !matches!(raw.get(index + 1), Some(b'/' | b'.')),
            Class::Percent => plain = false,
            Class::Question => {
                path_len = index;
                break;
            }
            Class::Hash => return Err(TargetError::Fragment),
            Class::Backslash => return Err(TargetError::Backslash),
            Class::Control => return Err(TargetError::ControlByte),
        }
    }
    for &byte in &raw[path_len..] {
        match CLASSES[usize::from(byte)] {
            Class::Hash => return Err(TargetError::Fragment),
            Class::Control => return Err(TargetError::ControlByte),
            Class::Plain | Class::Slash | Class::Percent | Class::Question | Class::Backslash => {}
        }
    }
    Ok(Scanned { path_len, plain })
}

/// What a segment means for the segments around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Name,
    /// "." in any spelling.
    Current,
    /// ".." in any spelling.
    Parent,
}

/// Checks every segment and resolves the dot segments, if there are any, into `resolved`.
fn resolve_dots<'a>(path: &'a [u8], resolved: &'a mut Vec<u8>) -> Result<&'a [u8], TargetError> {
    let segments = || path[1..].split(|&byte| byte == b'/');
    let mut any_dots = false;
    for segment in segments() {
        any_dots |= classify(segment)? != Segment::Name;
    }
    if !any_dots {
        return Ok(path);
    }
    resolved.clear();
    let mut segments = segments().peekable();
    while let Some(segment) = segments.next() {
        let kind = classify(segment)?;
        if kind == Segment::Parent {
            let parent = memchr::memrchr(b'/', resolved).ok_or(TargetError::AboveRoot)?;
            resolved.truncate(parent);
        }
        if kind == Segment::Name {
            resolved.push(b'/');
            resolved.extend_from_slice(segment);
        } else if segments.peek().is_none() {
            // "/a/." and "/a/b/.." name the folder "/a/".
            resolved.push(b'/');
        }
    }
    Ok(if resolved.is_empty() { b"/" } else { resolved })
}

/// Reads one segment as the most lenient service would: decoded, encoded slashes separating
/// pieces, parameters behind ";" ignored.
fn classify(segment: &[u8]) -> Result<Segment, TargetError> {
    let mut piece = Piece::start();
    let mut encoded_slash = false;
    let mut disguised = false;
    let mut rest = segment;
    while let [first, after @ ..] = rest {
        rest = after;
        let mut byte = *first;
        if byte == b'%' {
            byte = decode_pair(rest)?;
            rest = &rest[2..];
            match byte {
                0 => return Err(TargetError::Nul),
                b'\\' => return Err(TargetError::Backslash),
                b'/' => {
                    disguised |= piece.is_dots();
                    encoded_slash = true;
                    piece = Piece::start();
                    continue;
                }
                _ => {}
            }
        }
        match byte {
            b';' => {
                disguised |= piece.is_dots();
                piece.all_dots = false;
            }
            b'.' => piece.dots = piece.dots.saturating_add(1),
            _ => piece.all_dots = false,
        }
    }
    disguised |= encoded_slash && piece.is_dots();
    match (piece.is_dots(), piece.dots) {
        _ if disguised => Err(TargetError::DisguisedDots),
        (true, 1) => Ok(Segment::Current),
        (true, _) => Ok(Segment::Parent),
        (false, _) => Ok(Segment::Name),
    }
}

/// What stands between two slashes of any spelling.
struct Piece {
    dots: u8,
    all_dots: bool,
}

impl Piece {
    fn start() -> Self {
        Self {
            dots: 0,
            all_dots: true,
        }
    }

    fn is_dots(&self) -> bool {
        self.all_dots && matches!(self.dots, 1 | 2)
    }
}

/// The byte that the two hexadecimal digits at the start of `digits` stand for.
fn decode_pair(digits: &[u8]) -> Result<u8, TargetError> {
    let digit = |index: usize| {
        let digit = digits
            .get(index)
            .and_then(|&byte| char::from(byte).to_digit(16));
        digit
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or(TargetError::BrokenEncoding)
    };
    Ok(digit(0)? << 4 | digit(1)?)
}

/// `path` as routes see it. Its percent-encoding has been checked by [`classify`].
fn decode<'a>(path: &'a [u8], decoded: &'a mut Vec<u8>) -> &'a [u8] {
    let repeated_slashes = path.windows(2).any(|pair| pair == b"//");
    if !repeated_slashes && memchr::memchr(b'%', path).is_none() {
        return path;
    }
    decoded.clear();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            // A decoded byte is never a slash, so the last one is a separator.
            b'/' if decoded.last() == Some(&b'/') => {}
            b'%' => {
                let byte = decode_pair(rest).expect("checked when dots were resolved");
                rest = &rest[2..];
                if byte == b'/' {
                    decoded.extend_from_slice(b"%2F");
                } else {
                    decoded.push(byte);
                }
            }
            _ => decoded.push(*byte),
        }
    }
    decoded
}
