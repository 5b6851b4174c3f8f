//! Clients of the embedded registry that send anything: what they change is the same after a restart.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| livegate_registry::fuzzing::frames(input));
