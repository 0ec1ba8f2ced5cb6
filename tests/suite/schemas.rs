//! What is generated and committed is what the code generates today: the JSON schemas of the file formats, and the protobuf messages of
//! ONNX. With UPDATE_SCHEMAS=1 the files are written anew.

use std::fs;
use std::path::{Path, PathBuf};

use mquant_export::export::gguf::mquant::MquantMetadata;
use mquant_export::family::Library;
use mquant_export::family::schema::file_schema;
use mquant_export::pipeline::{ExportReport, Manifest};
use mquant_export::quantize::recipe::Recipe;
use mquant_export::verify::report::VerifyReport;
use schemars::{JsonSchema, schema_for};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asserts that a committed file is `text`, or makes it so when asked to.
fn committed(path: &str, text: &str) {
    let file = in_repository(path);
    if std::env::var_os("UPDATE_SCHEMAS").is_some_and(|v| v == "1") {
        fs::write(&file, text).unwrap();
        return;
    }
    let found = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{path}: {e}; {UPDATE}"));
    if found != text {
        let line = found.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
        let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_string();
        panic!("{path} line {}: committed {:?}, generated {:?}; {UPDATE}", line + 1, at(&found), at(text));
    }
}

const UPDATE: &str = "run the test with UPDATE_SCHEMAS=1 and review the change: it is one of a public format";

fn schema<T: JsonSchema>(name: &str) {
    let text = serde_json::to_string_pretty(&schema_for!(T)).unwrap() + "\n";
    committed(&format!("schemas/{name}.schema.json"), &text);
}

#[test]
fn json_schemas_are_those_of_the_types() {
    let text = serde_json::to_string_pretty(&file_schema()).unwrap() + "\n";
    committed("schemas/family.schema.json", &text);
    schema::<Recipe>("recipe");
    schema::<Manifest>("manifest");
    schema::<ExportReport>("report");
    schema::<MquantMetadata>("gguf");
    schema::<VerifyReport>("verify");
}

/// Names without extension of the YAML files in a folder.
fn stems(folder: &str) -> Vec<String> {
    let paths = fs::read_dir(in_repository(folder)).unwrap().map(|e| e.unwrap().path());
    let yaml = paths.filter(|p| p.extension().is_some_and(|e| e == "yaml"));
    let mut stems: Vec<String> = yaml.map(|p| p.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    stems.sort();
    stems
}

#[test]
fn every_recipe_and_family_file_is_built_in_under_its_name() {
    for stem in stems("recipes") {
        let file = in_repository("recipes").join(format!("{stem}.yaml"));
        let from_file = Recipe::load(file.to_str().unwrap()).unwrap();
        assert_eq!((&from_file.name, &from_file), (&stem, &Recipe::load(&stem).unwrap()));
    }
    let mut families: Vec<String> =
        Library::built_in().unwrap().families().map(|f| f.family.clone()).collect();
    families.sort();
    assert_eq!(families, stems("converters"));
}

#[test]
fn onnx_messages_are_generated_from_the_schema() {
    let path = "src/export/onnx/proto.rs";
    let committed_text = fs::read_to_string(in_repository(path)).unwrap();
    let (header, _) = committed_text.split_once("// This file is @generated").unwrap();

    let dir = tempfile::tempdir().unwrap();
    let messages = protox::compile(["onnx.proto"], [in_repository("schemas")]).unwrap();
    let mut config = prost_build::Config::new();
    config.disable_comments(["."]).out_dir(dir.path());
    config.compile_fds(messages).unwrap();
    let generated = fs::read_to_string(dir.path().join("onnx.rs")).unwrap();
    committed(path, &format!("{header}{generated}"));
}
