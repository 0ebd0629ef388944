#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coconut_fuzz::pickle(bytes));
