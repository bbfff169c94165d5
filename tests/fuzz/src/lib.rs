//! What strangers send, read by the code under test and judged by plain readers of its specifications.
//!
//! A fuzzer is a function of bytes that panics where the code under test is wrong. `cargo xtask fuzz` has an engine call
//! it with inputs that reach ever more of the code; the unit test here calls it with the inputs in `corpus`.

mod api;
mod cni;
mod config;
mod options;
mod plain;
mod proxy_v1;
mod proxy_v2;
mod toa;
mod xff;

/// A fuzzer.
pub struct Fuzzer {
    /// Its name, which is that of its file and of its directory in `corpus`.
    pub name: &'static str,
    /// Panics if the code under test reads these bytes wrongly.
    pub run: fn(&[u8]),
}

/// Every fuzzer.
pub const FUZZERS: [Fuzzer; 8] = [
    Fuzzer {
        name: "api",
        run: api::run,
    },
    Fuzzer {
        name: "cni",
        run: cni::run,
    },
    Fuzzer {
        name: "config",
        run: config::run,
    },
    Fuzzer {
        name: "options",
        run: options::run,
    },
    Fuzzer {
        name: "proxy_v1",
        run: proxy_v1::run,
    },
    Fuzzer {
        name: "proxy_v2",
        run: proxy_v2::run,
    },
    Fuzzer {
        name: "toa",
        run: toa::run,
    },
    Fuzzer {
        name: "xff",
        run: xff::run,
    },
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_input_in_the_corpus_is_read_as_it_should_be() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for fuzzer in FUZZERS {
            let inputs = fs::read_dir(corpus.join(fuzzer.name)).unwrap();
            let inputs: Vec<_> = inputs.map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{} has no inputs", fuzzer.name);
            for input in inputs {
                // What fails is the last one that is printed.
                println!("{}", input.display());
                (fuzzer.run)(&fs::read(input).unwrap());
            }
        }
    }
}
