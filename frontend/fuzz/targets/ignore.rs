//! Looks for inputs of which `oracle::ignore` does not hold.

#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| oracle::ignore::holds(data));
