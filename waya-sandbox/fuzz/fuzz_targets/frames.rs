//! Whatever bytes come through a handshake: they are cut into frames, unpacked and read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| waya_sandbox::emulator::fuzzing::frames(bytes));
