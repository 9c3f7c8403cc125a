//! Whatever a client says to shake hands: the server answers or refuses it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| waya_sandbox::emulator::fuzzing::handshake(bytes));
