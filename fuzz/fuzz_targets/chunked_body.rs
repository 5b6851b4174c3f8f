//! Chunked bodies: the same result however the bytes are cut, and what is written can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate::buffer::Buffer;
use livegate::http::chunked::{Decoder, Step, write_chunk};

/// Body, trailer section as it is passed on, and how many bytes of input the message had; `None` for an error.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole {
        body: Vec<u8>,
        end: Option<Vec<u8>>,
        used: usize,
    },
    Part {
        body: Vec<u8>,
    },
    Broken,
}

/// Feeds `pieces` one after the other. A broken body may differ in what came out before the error: not compared.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new();
    let (mut body, mut used) = (Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            match decoder.step(piece) {
                Err(_) => return Outcome::Broken,
                Ok(Step::NeedMore) => {
                    used += piece.len();
                    piece = &[];
                }
                Ok(Step::Data { skip, length }) => {
                    assert!(length > 0 && skip + length <= piece.len());
                    body.extend_from_slice(&piece[skip..skip + length]);
                    used += skip + length;
                    piece = &piece[skip + length..];
                }
                Ok(Step::End(count)) => {
                    assert!(count <= piece.len() && decoder.is_done());
                    let mut out = Buffer::new(16);
                    let end = decoder
                        .write_end(&mut out)
                        .is_ok()
                        .then(|| out.filled().to_vec());
                    return Outcome::Whole {
                        body,
                        end,
                        used: used + count,
                    };
                }
            }
        }
        assert!(!decoder.is_done());
    }
    Outcome::Part { body }
}

fuzz_target!(|bytes: &[u8]| {
    // The first bytes say where the rest is cut.
    let Some((cuts, input)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let whole = decode(std::iter::once(input));
    let byte_by_byte = decode(input.chunks(1));
    assert_eq!(whole, byte_by_byte, "one byte at a time");
    let mut rest = input;
    let mut turn = 0_usize;
    let pieces = std::iter::from_fn(|| {
        if rest.is_empty() {
            return None;
        }
        let length = (usize::from(cuts[turn % cuts.len()]) + 1).min(rest.len());
        turn += 1;
        let (piece, left) = rest.split_at(length);
        rest = left;
        Some(piece)
    });
    assert_eq!(whole, decode(pieces), "cut by {cuts:?}");

    // What is written for it reads as the same body, and nothing of it is left over.
    let Outcome::Whole { body, end, used } = whole else {
        return;
    };
    assert!(used <= input.len());
    let Some(end) = end else {
        return;
    };
    let mut out = Buffer::new(16);
    for chunk in body.chunks(usize::from(cuts[0]) + 1) {
        write_chunk(&mut out, chunk);
    }
    out.extend(&end);
    let again = decode(std::iter::once(out.filled()));
    assert_eq!(
        again,
        Outcome::Whole {
            body,
            end: Some(end),
            used: out.len()
        }
    );
});
