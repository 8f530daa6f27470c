#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farm_fuzz::store_recovery(data));
