//! Whatever stanzas a client hands over, linked or not: the server answers or keeps silent, and goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| waya_sandbox::emulator::fuzzing::stanzas(bytes));
