#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockgate::fuzz::client_certificate(data));
