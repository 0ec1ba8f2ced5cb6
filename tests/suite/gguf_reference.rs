//! Our GGUF files, tensor by tensor, against lists of what llama.cpp's own converter and quantizer make of the same checkpoints
//! (`fixtures/gguf`). Both sides are listed by the `gguf` package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::common::fixture;
use crate::common::judge::{judge, mquant, text};
use crate::common::llama::Files;

/// Fixtures with a list of the converter, and which files it makes of each.
const CONVERTED: &[(&str, &[&str])] = &[
    ("qwen2_vl", &["text", "mmproj"]),
    ("qwen2_vl_tiny", &["text", "mmproj"]),
    ("internvl2", &["text", "mmproj"]),
    ("internvl2_qwen2", &["text", "mmproj"]),
    ("minicpm_v_2_6", &["text", "mmproj"]),
    ("qwen_vl", &["text"]),
    ("glm_4v", &["text"]),
];

/// Fixtures with a list of the quantizer's mixes.
const MIXED: &[&str] = &["qwen2_vl", "qwen2_vl_tiny", "internvl2", "internvl2_qwen2", "minicpm_v_2_6"];

/// Mixes that we have as recipes.
const MIXES: &[&str] =
    &["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"];

/// Where our tensors differ on purpose: fixture, file, beginning of the name, and why. An entry that is not needed fails the test. Metadata is compared in
/// `gguf_routes.rs`.
const MEANT: &[(&str, &str, &str, &str)] = &[
    ("internvl2", "mmproj", "v.class_embd", "two axes of one element are left out"),
    ("internvl2", "mmproj", "v.position_embd.weight", "the class token's row stands last"),
    ("internvl2_qwen2", "mmproj", "v.class_embd", "two axes of one element are left out"),
    ("internvl2_qwen2", "mmproj", "v.position_embd.weight", "the class token's row stands last"),
    ("minicpm_v_2_6", "mmproj", "resampler.pos_embed_k", "another sine; llama.cpp does not use it"),
    ("minicpm_v_2_6", "mmproj-f16", "v.position_embd.weight", "added in F32, so kept in it"),
    ("minicpm_v_2_6", "mmproj-f32", "v.patch_embd.weight", "nothing is rounded in a file of F32"),
    ("qwen_vl", "text", "blk.", "q, k and v are apart, because llama.cpp refuses the converter's file"),
];

fn stored(path: &str) -> Json {
    let path = fixture("gguf").join(path);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

/// Name to type, sizes and hash.
fn tensors(list: &Json) -> BTreeMap<&str, [&Json; 3]> {
    let rows = list["tensors"].as_array().unwrap();
    rows.iter().map(|t| (t[0].as_str().unwrap(), [&t[1], &t[2], &t[3]])).collect()
}

/// What two tables do not have in common.
fn differences<V: PartialEq + std::fmt::Debug>(
    what: &str,
    ours: &BTreeMap<&str, V>,
    theirs: &BTreeMap<&str, V>,
) -> Vec<String> {
    let missing = theirs.keys().filter(|k| !ours.contains_key(*k)).map(|k| format!("{what} {k} is missing"));
    let others = ours.iter().filter_map(|(k, v)| match theirs.get(k) {
        None => Some(format!("{what} {k} is not the converter's: {v:?}")),
        Some(t) if t != v => Some(format!("{what} {k}: {v:?}, the converter's {t:?}")),
        Some(_) => None,
    });
    missing.chain(others).collect()
}

/// Differences of two lists of the tensors of one file.
fn compare(ours: &Json, theirs: &Json) -> Vec<String> {
    differences("tensor", &tensors(ours), &tensors(theirs))
}

/// A fixture exported by a recipe, rounded to the nearest value.
fn exported(dir: &Path, name: &str, recipe: &str) -> Files {
    let out = dir.join(format!("{name}-{recipe}"));
    let (model, target) = (text(&fixture(name)), text(&out));
    mquant(&[&model, "--format", "gguf", "--recipe", recipe, "--method", "nearest", "-o", &target]);
    Files::of(&out)
}

fn listed(path: &Path) -> Json {
    let lists: Json = serde_json::from_str(&judge("gguf_list.py", &[&text(path)])).unwrap();
    lists[0].clone()
}

#[test]
fn float_files_are_the_converters_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (mut problems, mut used) = (vec![], BTreeSet::new());
    for (name, parts) in CONVERTED {
        let list = stored(&format!("{name}.json"));
        for kind in ["f16", "bf16", "f32"] {
            let files = exported(dir.path(), name, kind);
            for part in *parts {
                let key = format!("{part}-{kind}");
                // The legacy script for image encoders has no bf16.
                let Some(theirs) = list["files"].get(&key) else { continue };
                let path = if *part == "text" { Some(files.text.clone()) } else { files.mmproj.clone() };
                let ours = listed(&path.unwrap_or_else(|| panic!("{name}: no {key} file")));
                for line in compare(&ours, theirs) {
                    let tensor = line.split(' ').nth(1).unwrap();
                    let meant = |(n, file, begin, _): &(&str, &str, &str, &str)| {
                        n == name && key.starts_with(file) && tensor.starts_with(begin)
                    };
                    match MEANT.iter().position(meant) {
                        Some(i) => drop(used.insert(i)),
                        None => problems.push(format!("{name}, {key}: {line}")),
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(used.len(), MEANT.len(), "a difference that is meant is gone: {used:?}");
}

/// Types and bytes of all tensors of a mix that are not in F32 in each.
fn mix_differences(list: &Json, mix: &str, ours: &Json) -> Vec<String> {
    let ours = tensors(ours);
    let mut problems = vec![];
    for (kind, names) in list["mixes"][mix].as_object().unwrap() {
        for name in names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()) {
            let [found, _, hash] = ours[name];
            let hash = &hash.as_str().unwrap()[..16];
            if found != kind {
                problems.push(format!("{name} is {found}, llama.cpp's {kind}"));
            } else if list["tensors"][name][kind] != hash {
                problems.push(format!("{name}: other bytes as {kind}"));
            }
        }
    }
    problems
}

#[test]
fn nearest_mixes_are_the_quantizers_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut problems = vec![];
    for name in MIXED {
        let list = &stored(&format!("mixes/{name}.json"))["text"];
        for mix in MIXES {
            let ours = listed(&exported(dir.path(), name, mix).text);
            problems
                .extend(mix_differences(list, mix, &ours).into_iter().map(|p| format!("{name}, {mix}: {p}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn differences_between_lists_are_found() {
    let list = stored("qwen2_vl.json");
    let (f16, bf16) = (&list["files"]["text-f16"], &list["files"]["text-bf16"]);
    assert_eq!(compare(f16, f16), Vec::<String>::new());
    let found = compare(bf16, f16);
    // All matrices have another type; vectors are the same.
    let matrices = tensors(f16).values().filter(|t| *t[0] == "F16").count();
    assert_eq!(found.len(), matrices, "{found:?}");
    assert!(found.iter().any(|l| l.contains("token_embd.weight") && l.contains("BF16")), "{found:?}");
    let mut less = f16.clone();
    less["tensors"].as_array_mut().unwrap().remove(0);
    let found = compare(&less, f16);
    assert_eq!(found, ["tensor token_embd.weight is missing"]);
}

#[test]
fn every_mix_accounts_for_every_matrix() {
    for name in MIXED {
        let (list, mixes) = (stored(&format!("{name}.json")), stored(&format!("mixes/{name}.json")));
        let f32 = tensors(&list["files"]["text-f32"]);
        let matrices: Vec<&str> =
            f32.iter().filter(|(_, t)| t[1].as_array().unwrap().len() == 2).map(|(n, _)| *n).collect();
        for (mix, types) in mixes["text"]["mixes"].as_object().unwrap() {
            let mut found: Vec<&str> = types
                .as_object()
                .unwrap()
                .values()
                .flat_map(|names| names.as_array().unwrap())
                .map(|n| n.as_str().unwrap())
                .collect();
            found.sort_unstable();
            assert_eq!(found, matrices, "{name}, {mix}");
        }
    }
}

/// The paths in two environment variables, or nothing where one is not set: then the stored lists stand alone.
fn given(variables: [&str; 2]) -> Option<[PathBuf; 2]> {
    let [a, b] = variables.map(|v| std::env::var_os(v).map(PathBuf::from));
    Some([a?, b?])
}

#[test]
fn the_stored_lists_are_what_the_given_llama_cpp_makes() {
    let Some([_, python]) = given(["MQUANT_LLAMA_CPP", "MQUANT_TORCH_PYTHON"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/reference_gguf.py");
    let out =
        Command::new(&python).arg(&script).arg(dir.path()).arg("--keep").arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let stored_file = |name: &str| std::fs::read_to_string(fixture("gguf").join(name)).unwrap();
    for (name, _) in CONVERTED {
        let made = std::fs::read_to_string(dir.path().join(format!("{name}.json"))).unwrap();
        assert_eq!(made, stored_file(&format!("{name}.json")), "{name}");
    }
    if std::env::var_os("MQUANT_LLAMA_LIBRARY").is_none() {
        return;
    }
    for name in MIXED {
        let (made, source) = (dir.path().join("mixes.json"), dir.path().join(format!("{name}-f32.gguf")));
        judge("reference_mixes.py", &["lists", &text(&made), &format!("text={}", text(&source))]);
        let made = std::fs::read_to_string(made).unwrap();
        assert_eq!(made, stored_file(&format!("mixes/{name}.json")), "{name}");
    }
}
