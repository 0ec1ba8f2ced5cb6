//! Every fixture damaged in one place at a time: tensors renamed, added and of another shape, keys of the configuration and tokenizer files
//! missing. The library must refuse each by name; the program is tried with some of each kind. Weights are never read before the refusal, so
//! the checkpoints here are headers over files of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use mquant_export::checkpoint::Checkpoint;
use mquant_export::family::schema::{FamilyFile, JsonSource, Match, NumberSource};
use mquant_export::family::{Library, resolve};
use serde_json::{Value as Json, json};

use super::refusals::{Place, Ran, export};
use crate::common::golden::{FIXTURES, for_each_fixture};
use crate::common::synthetic::Draw;
use crate::common::{fixture, folder};

/// A checkpoint as its files: contents of all that are not weights, and tensors by name with type and shape.
#[derive(Clone)]
struct Parts {
    files: BTreeMap<String, Vec<u8>>,
    tensors: BTreeMap<String, (String, Vec<usize>)>,
}

impl Parts {
    fn of(name: &str) -> Self {
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
        let tensors = checkpoint
            .tensors()
            .map(|t| (t.name().to_string(), (t.dtype().to_string().to_uppercase(), t.shape().to_vec())))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        folder::copy(name, dir.path(), |file| !folder::is_weights(file));
        let files = fs::read_dir(dir.path()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        });
        Self { files: files.collect(), tensors }
    }

    fn write(&self, dir: &Path) {
        if dir.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
        fs::create_dir(dir).unwrap();
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (name, (dtype, shape)) in &self.tensors {
            let begin = end;
            end += shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 2 };
            header
                .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
        }
        let header = Json::Object(header).to_string();
        let path = dir.join("model.safetensors");
        fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len((8 + header.len() + end) as u64).unwrap();
    }

    /// A JSON file; `null` when there is none.
    fn json(&self, file: &str) -> Json {
        self.files.get(file).map_or(Json::Null, |bytes| serde_json::from_slice(bytes).unwrap())
    }

    /// Removes a key of a JSON file; whether it was there.
    fn remove_key(&mut self, file: &str, at: &str) -> bool {
        let mut json = self.json(file);
        let there = folder::remove(&mut json, at);
        if there {
            self.files.insert(file.to_string(), json.to_string().into_bytes());
        }
        there
    }
}

/// One damage.
struct Damage {
    kind: &'static str,
    what: String,
    parts: Parts,
    /// What the message must contain.
    names: Vec<String>,
}

impl Damage {
    fn new(kind: &'static str, what: String, parts: Parts, names: &[&str]) -> Self {
        Self { kind, what, parts, names: names.iter().map(|n| n.to_string()).collect() }
    }
}

/// Renamed tensors, tensors of another shape, and tensors that nobody asked for. One of `ignored` may be missing or have any shape.
fn of_tensors(good: &Parts, ignored: &[String]) -> Vec<Damage> {
    let mut all = vec![];
    for (name, (dtype, shape)) in &good.tensors {
        let mut parts = good.clone();
        let renamed = format!("{name}.renamed");
        let moved = parts.tensors.remove(name).unwrap();
        parts.tensors.insert(renamed.clone(), moved);
        if ignored.contains(name) {
            all.push(Damage::new("renamed tensor", name.clone(), parts, &[&renamed]));
            continue;
        }
        let missing = format!("tensor {name} is missing");
        all.push(Damage::new("renamed tensor", name.clone(), parts, &[&missing, &renamed]));
        let mut parts = good.clone();
        let mut wrong = shape.clone();
        *wrong.last_mut().unwrap() += 1;
        let found = format!("tensor {name} has shape {wrong:?}");
        parts.tensors.insert(name.clone(), (dtype.clone(), wrong));
        all.push(Damage::new("wrong shape", name.clone(), parts, &[&found, &format!("{shape:?}")]));
    }
    let beyond = good.tensors.keys().filter(|n| n.contains(".0.")).map(|n| n.replace(".0.", ".977."));
    for name in beyond.chain(["extra.weight".to_string()]) {
        let mut parts = good.clone();
        parts.tensors.insert(name.clone(), ("F32".into(), vec![3, 5]));
        all.push(Damage::new("extra tensor", name.clone(), parts, &[&name, "[3, 5]"]));
    }
    all
}

/// A value that the family file reads: where it may stand, and what reads it.
type Read = (String, Vec<(&'static str, String)>);

/// Values that the family file reads, those without a default and those with one.
fn reads(family: &FamilyFile, with_default: bool) -> Vec<Read> {
    fn one<T>(name: &str, source: &JsonSource<T>, with_default: bool) -> Option<Read> {
        let config = source.config.iter().map(|at| ("config.json", at.clone()));
        let preprocessor = source.preprocessor.iter().map(|at| ("preprocessor_config.json", at.clone()));
        let read = || (name.to_string(), config.chain(preprocessor).collect());
        (source.default.is_some() == with_default).then(read)
    }
    let numbers = family.numbers.iter().filter_map(|(name, source)| match source {
        NumberSource::Json(source) => one(name, source, with_default),
        _ => None,
    });
    let vectors = family.vectors.iter().filter_map(|(name, source)| one(name, source, with_default));
    let flags = family.flags.iter().filter_map(|(name, source)| one(name, source, with_default));
    numbers.chain(vectors).chain(flags).collect()
}

/// JSON pointers to the numbers of a `config.json` that its family file reads.
pub(super) fn numbers_read(library: &Library, config: &Json) -> BTreeSet<String> {
    let family = library.find(config).unwrap();
    let all = [false, true].into_iter().flat_map(|with_default| reads(&family, with_default));
    let places = all.flat_map(|(_, places)| places).map(|(_, at)| at);
    places.filter(|at| config.pointer(at).is_some_and(Json::is_number)).collect()
}

/// The conditions of every group of options in a family file.
fn options(family: &str) -> Vec<Vec<Vec<Match>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("converters/{family}.yaml"));
    let file: Json = serde_norway::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let groups = file.get("choose").and_then(Json::as_array).cloned().unwrap_or_default();
    let option = |o: &Json| serde_json::from_value(o["when"].clone()).unwrap();
    groups.iter().map(|g| g.as_array().unwrap().iter().map(option).collect()).collect()
}

/// Keys of JSON files that are gone. A key that has alternatives is gone with all of them.
fn of_keys(good: &Parts, library: &Library) -> Vec<Damage> {
    const KIND: &str = "missing key";
    let config = good.json("config.json");
    let family = library.find(&config).unwrap();
    let mut all = vec![];
    let mut gone = |what: String, at: &str, names: &[&str]| {
        let mut parts = good.clone();
        assert!(parts.remove_key("config.json", at), "{what}: {at} is not in config.json");
        all.push(Damage::new(KIND, what, parts, names));
    };
    for m in &family.matches {
        gone(format!("match {}", m.at), &m.at, &["known families: ", &family.family]);
    }
    for r in family.require.iter().filter(|r| r.default.is_none()) {
        gone(format!("require {}", r.at), &r.at, &[&r.at, "absent"]);
    }
    for group in options(&family.family) {
        let at: BTreeSet<&String> = group.iter().flatten().map(|m| &m.at).collect();
        for at in at {
            let mut without = config.clone();
            // One option may be the model that has no such key.
            let there = folder::remove(&mut without, at);
            if there && !group.iter().any(|option| option.iter().all(|m| m.holds(&without))) {
                gone(format!("choose {at}"), at, &[at, "absent"]);
            }
        }
    }
    for (name, places) in reads(&family, false) {
        let mut parts = good.clone();
        let there: Vec<_> = places.iter().filter(|(file, at)| parts.remove_key(file, at)).collect();
        assert!(!there.is_empty(), "{name} is read from nowhere");
        all.push(Damage::new(KIND, format!("{name} {there:?}"), parts, &[&there[0].1, &name]));
    }
    let mut parts = good.clone();
    for file in ["config.json", "generation_config.json"] {
        parts.remove_key(file, "/eos_token_id");
    }
    all.push(Damage::new(KIND, "eos_token_id".into(), parts, &["/eos_token_id", "generation_config.json"]));
    all
}

/// Files of a fixture's tokenizer that it cannot do without. Files of one set are removed together: the second stands in for the first.
fn needed(name: &str) -> &'static [&'static [&'static str]] {
    match name {
        "glm_4v" | "internvl2" | "internvl2_vit6b" => &[&["tokenizer.model"], &["tokenizer_config.json"]],
        "internvl2_qwen2" => &[&["vocab.json"], &["merges.txt"], &["tokenizer_config.json"]],
        "minicpm_v_2_6" => &[&["tokenizer.json"]],
        "qwen2_vl" => &[&["vocab.json", "tokenizer.json"], &["merges.txt", "tokenizer.json"]],
        _ => &[&["qwen.tiktoken"], &["tokenizer_config.json"]],
    }
}

fn of_tokenizers(name: &str, good: &Parts) -> Vec<Damage> {
    let gone = |files: &&[&str]| {
        let mut parts = good.clone();
        for file in *files {
            assert!(parts.files.remove(*file).is_some(), "{name} has no {file}");
        }
        Damage::new("missing tokenizer file", format!("{files:?}"), parts, &[files[0]])
    };
    needed(name).iter().map(gone).collect()
}

fn damages(name: &str, library: &Library) -> Vec<Damage> {
    let good = Parts::of(name);
    let resolved = resolve(library, &Checkpoint::open(&fixture(name)).unwrap()).unwrap();
    let ignored: Vec<String> = resolved.ignored.into_iter().map(|i| i.tensor).collect();
    let mut all = of_tensors(&good, &ignored);
    all.extend(of_keys(&good, library));
    all.extend(of_tokenizers(name, &good));
    all
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text += &format!("\n{e}");
        source = e.source();
    }
    text
}

fn fault_in_library(damage: &Damage, library: &Library, dir: &Path) -> Option<String> {
    damage.parts.write(dir);
    let told = match resolve(library, &Checkpoint::open(dir).unwrap()) {
        Ok(_) => return Some("is accepted".into()),
        Err(e) => chain(&e),
    };
    let missing: Vec<_> = damage.names.iter().filter(|n| !told.contains(*n)).collect();
    (!missing.is_empty()).then(|| format!("the message has no {missing:?}:\n{told}"))
}

fn library_refuses(name: &str) {
    let library = Library::built_in().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("model");
    Parts::of(name).write(&dir);
    resolve(&library, &Checkpoint::open(&dir).unwrap()).unwrap();
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut faults = vec![];
    for damage in damages(name, &library) {
        *counts.entry(damage.kind).or_default() += 1;
        let fault = fault_in_library(&damage, &library, &dir);
        faults.extend(fault.map(|f| format!("{name}, {} {}: {f}", damage.kind, damage.what)));
    }
    println!("{name}: {counts:?}");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(counts.len(), 5, "{counts:?}");
}

fn program_refuses(name: &str) {
    let library = Library::built_in().unwrap();
    let mut by_kind = BTreeMap::<&str, Vec<Damage>>::new();
    damages(name, &library).into_iter().for_each(|d| by_kind.entry(d.kind).or_default().push(d));
    let mut draw = Draw::new(name.len() as u64);
    let mut faults = vec![];
    for (kind, damages) in by_kind {
        let damage = &damages[draw.range(0, damages.len() - 1)];
        let place = Place::new();
        damage.parts.write(&place.path("model"));
        let ran = Ran::of(&mut export(&place.path("model"), "float", None, &place.out()));
        let mut found = ran.faults(&damage.names);
        found.extend((!place.left().is_empty()).then(|| format!("leaves {:?}", place.left())));
        faults.extend(found.iter().map(|f| format!("{name}, {kind} {}: {f}", damage.what)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn library_refuses_every_damage_by_name() {
                super::library_refuses(stringify!($name));
            }

            #[test]
            fn program_refuses_damage_of_each_kind_and_leaves_nothing() {
                super::program_refuses(stringify!($name));
            }
        })*
    };
}
for_each_fixture!(fixtures);

#[test]
fn a_tokenizer_file_that_is_not_needed_changes_no_ids() {
    const TEXT: &str = "A ship in 1907: <|im_start|>\u{e9}t\u{e9}, caf\u{65}\u{301} <img></img><IMG_CONTEXT> <|image_pad|>\n\n  end";
    let library = Library::built_in().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("model");
    for name in FIXTURES {
        let good = Parts::of(name);
        let ids = || {
            let resolved = resolve(&library, &Checkpoint::open(&dir).unwrap()).unwrap();
            resolved.description.tokenizer.encode(TEXT).unwrap()
        };
        good.write(&dir);
        let want = ids();
        let alone: Vec<&str> = needed(name).iter().filter(|set| set.len() == 1).map(|set| set[0]).collect();
        let tokenizer = |file: &&String| ["token", "vocab", "merges"].iter().any(|part| file.contains(part));
        for file in good.files.keys().filter(tokenizer).filter(|file| !alone.contains(&file.as_str())) {
            let mut parts = good.clone();
            parts.files.remove(file);
            parts.write(&dir);
            println!("{name} without {file}");
            assert_eq!(ids(), want, "{name} without {file}");
        }
    }
}
