//! What the fuzz targets reach of this crate; no part of its interface.

use std::net::{IpAddr, Ipv4Addr};

use livegate_zk::frame::append_frame;
use livegate_zk::proto::session::{ConnectRequest, PASSWORD_BYTES};

use crate::machine::{
    Handshake, Machine, Now, Restorer, Room, SECRET_BYTES, Settings, split_nodes,
};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WALL_MS: i64 = 1_700_000_000_000;

fn settings() -> Settings {
    Settings {
        tick_ms: 2_000,
        session_timeout_ms: (4_000, 40_000),
        super_digest: Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned()),
    }
}

/// Cuts off a part that begins with its length, in two bytes; what is there if it is shorter.
fn part<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (part, rest) = rest.split_at(length);
    *input = rest;
    Some(part)
}

/// A server and the frames of its clients. Each part of `input` is a byte that says whose frame it is, and
/// when, and the frame. All that is changed must make the same tree again from its records, and from a
/// snapshot.
///
/// # Panics
/// When it does not.
pub fn frames(mut input: &[u8]) {
    const CONNECTIONS: u64 = 3;
    let mut now = Now {
        wall_ms: WALL_MS,
        steady_ms: 1_000,
    };
    let mut machine = Machine::new(settings());
    let mut copy = Machine::new(settings());
    machine.begin(now, [7; SECRET_BYTES]);
    let mut attached = [false; 3];
    let mut output = Vec::new();
    let mut hello = Vec::new();
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 10_000,
        session_id: 0,
        password: Some(&[0; PASSWORD_BYTES]),
        read_only: Some(false),
    };
    append_frame(&mut hello, &request, &());
    let hello = &hello[4..];
    while let Some(part) = part(&mut input) {
        let Some((&control, frame)) = part.split_first() else {
            continue;
        };
        let number = u64::from(control) % CONNECTIONS;
        let room = match control >> 2 & 7 {
            0 => Room::None,
            1 => Room::Reserve,
            _ => Room::Plenty,
        };
        let elapsed = u64::from(control >> 5) * 700;
        now.steady_ms += elapsed;
        now.wall_ms += i64::from(control >> 5) * 700;
        output.clear();
        let is_attached = &mut attached[usize::try_from(number).unwrap_or_default()];
        if *is_attached {
            let floor = machine.zxid();
            let turn = machine.request(now, number, floor, room, frame, &mut output);
            if turn.closes {
                machine.disconnect(number);
                *is_attached = false;
            }
        } else {
            // Arbitrary hellos in their own right; a good one where they come to nothing.
            let mut greet = |hello: &[u8], output: &mut Vec<u8>| {
                machine.connect(now, number, ADDRESS, room, hello, output)
            };
            let mut handshake = greet(frame, &mut output);
            if !matches!(handshake, Handshake::Attached { .. }) {
                handshake = greet(hello, &mut output);
            }
            if let Handshake::Attached { former, .. } = handshake {
                *is_attached = true;
                if let Some(former) = former.filter(|&former| former != number) {
                    attached[usize::try_from(former).unwrap_or_default()] = false;
                }
            }
        }
        let copy_record = |machine: &mut Machine, copy: &mut Machine| {
            machine.take_record(|record| {
                copy.restore_record(record)
                    .expect("what was written can be read");
            });
        };
        copy_record(&mut machine, &mut copy);
        machine.take_events();
        while let Some(expired) = machine.expire_one(now) {
            if let Some(connection) = expired.connection {
                attached[usize::try_from(connection).unwrap_or_default()] = false;
            }
            copy_record(&mut machine, &mut copy);
        }
        for path in machine.reapable(now, 10) {
            machine.reap(now, &path);
            copy_record(&mut machine, &mut copy);
        }
        machine.take_events();
    }
    let original = snapshot(&mut machine, now);
    let mut restorer = Restorer::new(settings());
    for piece in &original {
        restorer.piece(piece).expect("what was written can be read");
    }
    let mut restored = restorer.finish().expect("what was written is whole");
    assert_eq!(contents(&mut restored, now), contents(&mut machine, now));
    assert_eq!(contents(&mut copy, now), contents(&mut machine, now));
}

fn snapshot(machine: &mut Machine, now: Now) -> Vec<Vec<u8>> {
    let mut pieces = vec![machine.begin_snapshot(now)];
    loop {
        let mut piece = Vec::new();
        let is_more = machine.write_snapshot(&mut piece, 300);
        pieces.push(piece);
        if !is_more {
            machine.abandon_snapshot();
            return pieces;
        }
    }
}

/// The nodes of a machine, in an order that does not depend on its past.
fn contents(machine: &mut Machine, now: Now) -> Vec<Vec<u8>> {
    let mut nodes: Vec<_> = snapshot(machine, now)[1..]
        .iter()
        .flat_map(|piece| split_nodes(piece))
        .collect();
    nodes.sort_unstable();
    nodes
}

/// What is read from a damaged disk: pieces of a snapshot and records, whose checksums are right by chance.
pub fn restore(mut input: &[u8]) {
    let Some((&pieces, rest)) = input.split_first() else {
        return;
    };
    input = rest;
    let mut restorer = Restorer::new(settings());
    for _ in 0..pieces % 4 {
        let Some(part) = part(&mut input) else {
            return;
        };
        if restorer.piece(part).is_err() {
            return;
        }
    }
    let Ok(mut machine) = restorer.finish() else {
        return;
    };
    while let Some(part) = part(&mut input) {
        if machine.restore_record(part).is_err() {
            return;
        }
    }
    // What was understood can be served and written again.
    let now = Now {
        wall_ms: WALL_MS,
        steady_ms: 1_000,
    };
    machine.begin(now, [7; SECRET_BYTES]);
    let later = Now {
        wall_ms: WALL_MS,
        steady_ms: 1_000_000,
    };
    for _ in 0..100 {
        if machine.expire_one(later).is_none() {
            break;
        }
        machine.take_events();
    }
    snapshot(&mut machine, now);
}
