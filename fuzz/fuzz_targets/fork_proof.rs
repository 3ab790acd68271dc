#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_fuzz_targets::fuzz(
    syncline_fuzz_targets::model::fork_proof,
    bytes
));
