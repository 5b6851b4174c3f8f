//! Decoding foreign bytes allocates nothing, whatever they claim to be.
//!
//! A binary of its own with a single test, because it counts the allocations of the whole process.

use std::alloc::System;

use livegate_zk::frame::FrameReader;
use livegate_zk::jute::Decoder;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::reply::Reply;
use livegate_zk::proto::request::Request;
use livegate_zk::proto::session::{ConnectReply, ConnectRequest};
use livegate_zk::proto::watch::WatcherEvent;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Decodes plausible nonsense as everything there is; returns the bytes that were allocated meanwhile.
fn decode_nonsense() -> usize {
    let mut source = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0_u8; 300];
    let region = Region::new(ALLOCATOR);
    for _ in 0..5_000 {
        let length = source.usize(..bytes.len());
        // Small numbers make plausible lengths, so that decoding gets further than the first field.
        let largest = if source.bool() { 4 } else { u8::MAX };
        bytes[..length].fill_with(|| match source.u8(..4) {
            0 => source.u8(..=largest),
            _ => 0,
        });
        for &op_code in OpCode::ALL {
            let _ = Request::decode(op_code, &mut Decoder::new(&bytes[..length]));
            let _ = Reply::decode(op_code, &mut Decoder::new(&bytes[..length]));
        }
        let _ = Decoder::new(&bytes[..length]).read::<ConnectRequest<'_>>();
        let _ = Decoder::new(&bytes[..length]).read::<ConnectReply<'_>>();
        let _ = Decoder::new(&bytes[..length]).read::<WatcherEvent<'_>>();
    }
    region.change().bytes_allocated
}

#[test]
fn decoding_allocates_nothing_and_frames_no_more_than_arrived() {
    // The test harness has a thread of its own, which allocates now and then.
    assert_eq!((0..10).map(|_| decode_nonsense()).min(), Some(0));

    // A frame of 16 MiB is announced and a byte of it arrives.
    let region = Region::new(ALLOCATOR);
    let mut reader = FrameReader::new(16 << 20);
    reader.space().extend_from_slice(&[1, 0, 0, 0, 7]);
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(
        region.change().bytes_allocated < 16 << 10,
        "{:?}",
        region.change()
    );
    // Then half of it.
    for _ in 0..1024 {
        reader.space().extend_from_slice(&[7; 8 << 10]);
        assert_eq!(reader.next_frame(), Ok(None));
    }
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    assert!(held <= 2 * (8 << 20) + (64 << 10), "{held}");
}
