//! Records and pieces of a snapshot that nobody wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| livegate_registry::fuzzing::restore(input));
