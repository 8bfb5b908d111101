//! `cargo xtask fuzz`: bytes of a stranger's choice against what is read before anything is verified.
//!
//! libFuzzer wants coverage counters in the code it drives. The flags for them are this build's alone: it has a workspace
//! and a target directory of its own, so that nobody else's libraries are compiled twice.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::console::say;

const TARGETS: [&str; 2] = ["trust", "messages"];
const SECONDS_DEFAULT: u32 = 60;
/// As cargo-fuzz sets them: edges of the inlined code, compared values, no sanitizer, which takes another compiler.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Cpanic=unwind -Ccodegen-units=1";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// A case that takes longer is a finding, seconds.
const CASE_LIMIT_S: u32 = 5;
const MEMORY_LIMIT_MB: u32 = 1_024;

pub(crate) fn run(root: &Path, options: &[String]) -> Result<()> {
    let seconds = match options {
        [] => SECONDS_DEFAULT,
        [seconds] => seconds.parse().with_context(|| format!("`{seconds}` is no number of seconds a target"))?,
        _ => bail!("usage: cargo xtask fuzz [SECONDS A TARGET]"),
    };
    // With a target named, build scripts go without the flags.
    Line::new("cargo build --release --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target")
        .argument(TRIPLE)
        .set("RUSTFLAGS", FLAGS)
        .run(root)?;
    for target in TARGETS {
        let corpus = format!("target/fuzz/corpus/{target}");
        std::fs::create_dir_all(root.join(&corpus)).with_context(|| format!("make {corpus}"))?;
        say(&format!("fuzzing {target} for {seconds} s; what it finds lies in target/fuzz/found"));
        std::fs::create_dir_all(root.join("target/fuzz/found")).context("make target/fuzz/found")?;
        Line::new(&format!("target/fuzz/{TRIPLE}/release/{target} {corpus}"))
            .argument(format!("-max_total_time={seconds}"))
            .argument(format!("-timeout={CASE_LIMIT_S}"))
            .argument(format!("-rss_limit_mb={MEMORY_LIMIT_MB}"))
            .argument("-max_len=65536")
            .argument("-artifact_prefix=target/fuzz/found/")
            .argument("-print_final_stats=1")
            .argument("-verbosity=0")
            .run(root)?;
    }
    Ok(())
}
