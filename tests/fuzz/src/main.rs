//! The engine, libFuzzer, with the fuzzer that the variable `TRUEPEER_FUZZER` names. Its arguments are libFuzzer's.

#![no_main]

use std::{env, sync::OnceLock};

use fuzz::{FUZZERS, Fuzzer};

static FUZZER: OnceLock<Fuzzer> = OnceLock::new();

/// The fuzzer that is wanted.
fn fuzzer() -> Fuzzer {
    let name = env::var("TRUEPEER_FUZZER").expect("TRUEPEER_FUZZER names a fuzzer");
    let mut all = FUZZERS.into_iter();
    let named = all.find(|fuzzer| fuzzer.name == name);
    named.unwrap_or_else(|| panic!("there is no fuzzer {name}"))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (FUZZER.get_or_init(fuzzer).run)(bytes));
