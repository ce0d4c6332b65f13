#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rmeinheld_fuzz::repeated::run(input));
