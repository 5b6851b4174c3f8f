//! Requests that set many watches at once.

use std::sync::Arc;

use super::watch_table::Restore;
use crate::frame::{LENGTH_BYTES, append_frame};
use crate::jute::List;
use crate::proto::op_code::{OpCode, XID_SET_WATCHES};
use crate::proto::session::RequestHeader;
use crate::proto::watch::{SetWatches, SetWatches2};

/// No frame is longer, unless a single path is: 128 KiB, as in Java (`SET_WATCHES_MAX_LENGTH`). A server
/// closes the connection when a frame is longer than it takes, and then again at every attempt.
const FRAME_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a frame besides its paths: length, header, zxid and five counts.
const FRAME_BYTES_FIXED: usize = LENGTH_BYTES + 8 + 8 + 5 * 4;

/// Frames that set these watches. Persistent ones come last, so that on servers that know only one mode
/// for a path they replace the one-shot ones and not the other way round. Without persistent ones the older
/// operation is used, which servers before 3.6 know.
pub(crate) fn set_watches_frames(relative_zxid: i64, restore: &Restore) -> Vec<Vec<u8>> {
    let Restore {
        data,
        exist,
        child,
        persistent,
        recursive,
    } = restore;
    let all = [data, exist, child, persistent, recursive];
    let mut frames = Vec::new();
    let mut batch: [Vec<&str>; 5] = Default::default();
    let mut bytes = FRAME_BYTES_FIXED;
    let paths = all
        .iter()
        .enumerate()
        .flat_map(|(kind, paths)| paths.iter().map(move |path: &Arc<str>| (kind, &**path)));
    for (kind, path) in paths {
        let path_bytes = 4 + path.len();
        if bytes + path_bytes > FRAME_BYTES_MAX && bytes > FRAME_BYTES_FIXED {
            frames.push(frame(relative_zxid, &batch));
            batch.iter_mut().for_each(Vec::clear);
            bytes = FRAME_BYTES_FIXED;
        }
        batch[kind].push(path);
        bytes += path_bytes;
    }
    if bytes > FRAME_BYTES_FIXED {
        frames.push(frame(relative_zxid, &batch));
    }
    frames
}

fn frame(
    relative_zxid: i64,
    [data, exist, child, persistent, recursive]: &[Vec<&str>; 5],
) -> Vec<u8> {
    let (data, exist, child) = (List::new(data), List::new(exist), List::new(child));
    let mut frame = Vec::new();
    let header = |op_code: OpCode| RequestHeader {
        xid: XID_SET_WATCHES,
        op_code: op_code.code(),
    };
    if persistent.is_empty() && recursive.is_empty() {
        let body = SetWatches {
            relative_zxid,
            data,
            exist,
            child,
        };
        append_frame(&mut frame, &header(OpCode::SetWatches), &body);
    } else {
        let (persistent, recursive) = (List::new(persistent), List::new(recursive));
        let body = SetWatches2 {
            relative_zxid,
            data,
            exist,
            child,
            persistent,
            recursive,
        };
        append_frame(&mut frame, &header(OpCode::SetWatches2), &body);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jute::Decoder;
    use crate::proto::request::Request;

    fn decode(frame: &[u8]) -> Request<'_> {
        let mut input = Decoder::new(&frame[LENGTH_BYTES..]);
        let header: RequestHeader = input.read().unwrap();
        assert_eq!(header.xid, XID_SET_WATCHES);
        let op_code = OpCode::from_code(header.op_code).unwrap();
        Request::decode(op_code, &mut input).unwrap().unwrap()
    }

    #[test]
    fn nothing_to_watch_is_no_frame() {
        assert!(set_watches_frames(7, &Restore::default()).is_empty());
    }

    #[test]
    fn older_servers_get_the_older_request() {
        let restore = Restore {
            exist: vec!["/a".into()],
            ..Restore::default()
        };
        let frames = set_watches_frames(7, &restore);
        assert_eq!(frames.len(), 1);
        let exist = List::new(&["/a"]);
        let (data, child) = (List::default(), List::default());
        let expected = SetWatches {
            relative_zxid: 7,
            data,
            exist,
            child,
        };
        assert_eq!(decode(&frames[0]), Request::SetWatches(expected));
    }

    #[test]
    fn many_watches_are_split_into_frames_below_the_limit() {
        let paths = |kind: &str| -> Vec<Arc<str>> {
            (0..4000)
                .map(|number| format!("/watched/{kind}/{number:06}").into())
                .collect()
        };
        let restore = Restore {
            data: paths("data"),
            exist: paths("exist"),
            child: paths("child"),
            persistent: paths("persistent"),
            recursive: paths("recursive"),
        };
        let frames = set_watches_frames(7, &restore);
        assert!(frames.iter().all(|frame| frame.len() <= FRAME_BYTES_MAX));
        assert!(
            frames
                .iter()
                .rev()
                .skip(1)
                .all(|frame| frame.len() > FRAME_BYTES_MAX - 100)
        );
        let mut found = Restore::default();
        let mut strong_seen = false;
        let add =
            |to: &mut Vec<Arc<str>>, paths: List<'_, &str>| to.extend(paths.iter().map(Arc::from));
        for frame in &frames {
            match decode(frame) {
                Request::SetWatches(body) => {
                    assert!(!strong_seen, "one-shot watches come first");
                    add(&mut found.data, body.data);
                    add(&mut found.exist, body.exist);
                    add(&mut found.child, body.child);
                }
                Request::SetWatches2(body) => {
                    strong_seen = true;
                    add(&mut found.data, body.data);
                    add(&mut found.exist, body.exist);
                    add(&mut found.child, body.child);
                    add(&mut found.persistent, body.persistent);
                    add(&mut found.recursive, body.recursive);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(found, restore);
    }

    #[test]
    fn a_path_over_the_limit_is_alone() {
        let long = format!("/{}", "x".repeat(200_000));
        let restore = Restore {
            data: vec!["/a".into(), long.into(), "/b".into()],
            ..Restore::default()
        };
        assert_eq!(set_watches_frames(0, &restore).len(), 3);
    }
}
