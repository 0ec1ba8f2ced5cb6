//! Peak memory of a whole quantizing export does not grow with the number of layers, and the result does not depend on how much of it may be
//! used. The compiled program runs as a child and its peak is read from the system, so that nothing a stage holds can hide.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::eval::TINY;
use crate::common::fixture;
use crate::common::judge::text;

/// Runs `mquant-export` with the 4-bit default recipe on calibration data of the trained fixture, as `flags` say.
fn program(model: &Path, out: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mquant-export"));
    command.arg(model).args(["--format", "onnx", "--recipe", "w4a8", "-o"]).arg(out);
    command.args(["--calibration", &text(&fixture(TINY).join("calibration.tsv"))]);
    command.args(["--threads", "2"]).args(flags).stdin(Stdio::null());
    command
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| e.file_name().into_string().unwrap()).collect()
}

#[test]
fn the_bytes_do_not_depend_on_the_memory_for_activations() {
    let dir = tempfile::tempdir().unwrap();
    let files = |memory: &str| -> BTreeMap<String, Vec<u8>> {
        let out = dir.path().join("out");
        let flags = ["--calibration-samples", "8", "--activation-memory", memory];
        let ran = program(&fixture(TINY), &out, &flags).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(names(dir.path()), ["out"], "left beside the output");
        let files =
            names(&out).into_iter().map(|name| (name.clone(), std::fs::read(out.join(name)).unwrap()));
        let files = files.collect();
        std::fs::remove_dir_all(out).unwrap();
        files
    };
    // In a file, in memory, and some here and some there.
    let spilled = files("0");
    assert!(spilled.contains_key("model.onnx.data") && spilled.contains_key("mquant.json"));
    for memory in ["1000GB", "100KB"] {
        let others = files(memory);
        assert!(spilled.keys().eq(others.keys()), "{:?}", others.keys());
        for (name, bytes) in &spilled {
            assert!(others[name] == *bytes, "{name} differs at {memory}");
        }
    }
}

#[cfg(target_os = "linux")]
mod peak {
    use std::io::{BufRead, BufReader};
    use std::process::Child;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::common::folder;
    use crate::common::synthetic::{self, Draw};

    /// Layers of the smaller checkpoint, in the decoder and in the vision tower.
    const LAYERS: usize = 3;
    /// Layers of the larger one over those of the smaller one.
    const TIMES: usize = 4;
    /// What the peak of the larger one may be of the smaller one's. Measured: 54 MB of 51, what grows being the graph and notes on its linears;
    /// 12 layers have 172 MB of weights in f32.
    const GROWTH: f64 = 1.15;
    /// glibc hands blocks of at least this many bytes back to the system when they are freed. By default it raises the bound up to 32 MB as it
    /// goes, and the peak is then 76 to 85 MB with the order in which threads free their blocks, at any number of layers.
    const MMAP_THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

    /// Writes a checkpoint with `layers` layers of 11 MB (in f32) in the decoder and of 2.4 MB in the tower; the bytes of all weights in f32.
    fn checkpoint(layers: usize, dir: &Path) -> u64 {
        let mut config = folder::config(TINY);
        let sizes = [
            ("/hidden_size", 512),
            ("/vision_config/hidden_size", 512),
            ("/intermediate_size", 1408),
            ("/num_attention_heads", 8),
            ("/num_hidden_layers", layers),
            ("/vision_config/embed_dim", 224),
            ("/vision_config/depth", layers),
        ];
        for (at, size) in sizes {
            folder::set(&mut config, at, size);
        }
        let (checkpoint, _) = synthetic::write(TINY, &config, &mut Draw::new(7), dir);
        4 * checkpoint.total_parameters()
    }

    /// Largest resident memory of a running process so far, in bytes; 0 once it has ended.
    fn high_water(child: &Child) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        line.map_or(0, |l| l.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
    }

    /// Peak of an export of a checkpoint with `layers` layers, and its weights in f32, in bytes.
    fn export(layers: usize) -> (u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let weights = checkpoint(layers, &model);
        let flags = ["--calibration-samples", "8"];
        let mut command = program(&model, &dir.path().join("out"), &flags);
        command.env(MMAP_THRESHOLD.0, MMAP_THRESHOLD.1).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let peak = AtomicU64::new(0);
        let mut told = String::new();
        std::thread::scope(|s| {
            // The mark only rises, but it is gone with the process: what the last step does is seen by looking often.
            let watch = s.spawn(|| {
                loop {
                    let mark = high_water(&child);
                    if mark == 0 {
                        return;
                    }
                    peak.fetch_max(mark, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            for line in stderr.lines().map(|l| l.unwrap()) {
                if line.contains("done in") || !line.starts_with('[') {
                    told += &format!("{line}, peak so far {} MB\n", high_water(&child) / 1_000_000);
                }
            }
            watch.join().unwrap();
        });
        assert!(child.wait().unwrap().success(), "{told}");
        let peak = peak.into_inner();
        println!("{layers} layers, {} MB in f32: peak {} MB\n{told}", weights / 1_000_000, peak / 1_000_000);
        (peak, weights)
    }

    #[test]
    fn it_is_the_same_for_four_times_the_layers() {
        let (few, _) = export(LAYERS);
        let (many, weights) = export(TIMES * LAYERS);
        assert!(
            few > 0 && many as f64 <= GROWTH * few as f64,
            "{many} bytes, {few} with a quarter of the layers"
        );
        // Otherwise a program that holds the whole model could pass.
        assert!(many < weights, "the peak is {many} bytes, all weights are only {weights}");
    }
}
