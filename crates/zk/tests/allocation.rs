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

#[test]
fn decoding_allocates_nothing_and_frames_no_more_than_arrived() {
    let mut source = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0_u8; 300];
    let region = Region::new(ALLOCATOR);
    for _ in 0..20_000 {
        let length = source.usize(..bytes.len());
        // Small numbers make plausible lengths, so that decoding gets further than the first field.
        let largest = if source.bool() { 4 } else { u8::MAX };
        bytes[..length].fill_with(|| {
            if source.u8(..4) > 0 {
                0
            } else {
                source.u8(..=largest)
            }
        });
        for &op_code in OpCode::ALL {
            let _ = Request::decode(op_code, &mut Decoder::new(&bytes[..length]));
            let _ = Reply::decode(op_code, &mut Decoder::new(&bytes[..length]));
        }
        let _ = Decoder::new(&bytes[..length]).read::<ConnectRequest<'_>>();
        let _ = Decoder::new(&bytes[..length]).read::<ConnectReply<'_>>();
        let _ = Decoder::new(&bytes[..length]).read::<WatcherEvent<'_>>();
    }
    assert_eq!(region.change().bytes_allocated, 0);

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
    let held = region.change().bytes_allocated - region.change().bytes_deallocated;
    assert!(held <= 2 * (8 << 20) + (64 << 10), "{held}");
}
