//! Frames: the same ones however the stream is cut, as a plain reading of the whole stream has them, and no
//! more memory than has arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate_zk::four_letter::FourLetterWord;
use livegate_zk::frame::{Frame, FrameError, FrameReader};

/// A reader's frames, with their whole lengths, and how the stream ended.
type Outcome = (Vec<(Vec<u8>, usize)>, Option<FrameError>);

/// What the stream says, read in one piece.
fn expected(mut stream: &[u8], limit: usize, keep: Option<usize>) -> Outcome {
    let mut frames = Vec::new();
    while let Some((word, rest)) = stream.split_first_chunk::<4>() {
        let announced = i32::from_be_bytes(*word);
        let Ok(length) = usize::try_from(announced) else {
            return (frames, Some(FrameError::Negative(announced)));
        };
        let kept = match keep {
            _ if length <= limit => length,
            Some(keep) => keep,
            None => return (frames, Some(FrameError::TooLong { length, limit })),
        };
        if rest.len() < length {
            break;
        }
        frames.push((rest[..kept].to_vec(), length));
        stream = &rest[length..];
    }
    (frames, None)
}

fn read(stream: &[u8], cuts: [u8; 4], limit: usize, keep: Option<usize>) -> Outcome {
    let mut reader = keep.map_or_else(
        || FrameReader::new(limit),
        |keep| FrameReader::cutting(limit, keep),
    );
    let mut frames = Vec::new();
    let mut rest = stream;
    for turn in 0.. {
        let length = usize::from(cuts[turn % cuts.len()]).min(rest.len());
        let (piece, left) = rest.split_at(length);
        rest = left;
        reader.space().extend_from_slice(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(Frame::Whole(bytes))) => frames.push((bytes.to_vec(), bytes.len())),
                Ok(Some(Frame::Cut { head, length })) => frames.push((head.to_vec(), length)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next_frame(), Err(error));
                    return (frames, Some(error));
                }
            }
        }
        let held = reader.buffered();
        let capacity = reader.space().capacity();
        assert!(capacity <= 2 * held + 16 * 1024, "{capacity} for {held}");
        // Cuts of nothing are empty reads; if there are only those, the rest comes at once.
        if rest.is_empty() {
            break;
        }
        if cuts == [0; 4] {
            return read(stream, [255; 4], limit, keep);
        }
    }
    (frames, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[limit, keep, cuts @ ..], stream)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    if let Some(word) = stream.first_chunk::<4>().copied() {
        let question = FourLetterWord::detect(word);
        assert!(question.is_none_or(|word| i32::from_be_bytes(
            word.as_str().as_bytes().try_into().expect("four letters")
        ) > 1 << 30));
    }
    // A kept beginning is never longer than the limit.
    let keep = (keep > 0).then(|| usize::from(keep % 32));
    let limit = usize::from(limit).max(keep.unwrap_or(0));
    assert_eq!(
        read(stream, cuts, limit, keep),
        expected(stream, limit, keep),
        "cut by {cuts:?}"
    );
});
