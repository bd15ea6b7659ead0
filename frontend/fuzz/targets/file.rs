//! Looks for inputs of which `oracle::file` does not hold.

#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| oracle::file::holds(data));
