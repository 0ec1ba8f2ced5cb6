//! The known families: the built-in files of `converters/`, or one file of the user.

use std::path::Path;

use serde_json::Value as Json;

use super::error::FamilyError;
use super::schema::{FamilyFile, SCHEMA_VERSION};

/// Built-in family files by path; adding a family adds a line.
const BUILT_IN: &[(&str, &str)] =
    &[("converters/qwen2_vl.yaml", include_str!("../../converters/qwen2_vl.yaml"))];

/// Parsed family files.
#[derive(Debug)]
pub struct Library {
    families: Vec<FamilyFile>,
}

impl Library {
    /// The families this program ships.
    ///
    /// # Errors
    /// [`FamilyError::Schema`] when a built-in file is broken (a test reads them all).
    pub fn built_in() -> Result<Self, FamilyError> {
        let families = BUILT_IN.iter().map(|(file, text)| parse(file, text)).collect::<Result<_, _>>()?;
        Ok(Self { families })
    }

    /// Only the family of a user's file.
    ///
    /// # Errors
    /// [`FamilyError`] when the file cannot be read or does not follow the schema.
    pub fn from_file(path: &Path) -> Result<Self, FamilyError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| FamilyError::ReadFile { file: file.clone(), source })?;
        Ok(Self { families: vec![parse(&file, &text)?] })
    }

    /// All families.
    pub fn families(&self) -> &[FamilyFile] {
        &self.families
    }

    /// The family that fits a `config.json`.
    ///
    /// # Errors
    /// [`FamilyError::Unknown`], which lists the known families and the one with the most similar name.
    pub fn find(&self, config: &Json) -> Result<&FamilyFile, FamilyError> {
        let fits = |f: &&FamilyFile| {
            f.matches.iter().all(|m| {
                config.pointer(&m.at).and_then(Json::as_str).is_some_and(|s| m.equals.iter().any(|e| e == s))
            })
        };
        self.families.iter().find(fits).ok_or_else(|| self.unknown(config))
    }

    fn unknown(&self, config: &Json) -> FamilyError {
        let model_type = config.get("model_type").and_then(Json::as_str).unwrap_or("(absent)").to_string();
        let near = |f: &&FamilyFile| (strsim::jaro_winkler(&f.family, &model_type) * 1e6) as u64;
        let nearest = self.families.iter().max_by_key(near).filter(|f| near(f) > 700_000);
        FamilyError::Unknown {
            architectures: config.get("architectures").map_or_else(|| "(absent)".into(), Json::to_string),
            known: self.families.iter().map(|f| f.family.as_str()).collect::<Vec<_>>().join(", "),
            nearest: nearest.map_or_else(String::new, |f| format!("; the nearest name is {}", f.family)),
            model_type,
        }
    }
}

fn parse(file: &str, text: &str) -> Result<FamilyFile, FamilyError> {
    let schema = |reason: String| FamilyError::Schema { file: file.to_string(), reason };
    // Enum variants are written as plain one-key maps, not as YAML tags.
    let family: FamilyFile =
        serde_norway::with::singleton_map_recursive::deserialize(serde_norway::Deserializer::from_str(text))
            .map_err(|e| schema(e.to_string()))?;
    if family.schema_version != SCHEMA_VERSION {
        let found = family.schema_version;
        return Err(schema(format!("schema_version is {found}, this program reads {SCHEMA_VERSION}")));
    }
    if family.matches.is_empty() {
        return Err(schema("`match` is empty: it would fit every checkpoint".into()));
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_files_parse() {
        let library = Library::built_in().unwrap();
        assert_eq!(library.families().len(), BUILT_IN.len());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let text = BUILT_IN[0].1.replace("title: Qwen2-VL", "title: Qwen2-VL\ncolour: blue");
        let e = parse("x.yaml", &text).unwrap_err().to_string();
        assert!(e.contains("x.yaml") && e.contains("colour"), "{e}");
    }

    #[test]
    fn another_schema_version_is_refused() {
        let text = BUILT_IN[0].1.replace("schema_version: 1", "schema_version: 7");
        let e = parse("x.yaml", &text).unwrap_err().to_string();
        assert!(e.contains('7'), "{e}");
    }

    #[test]
    fn unknown_architecture_names_the_nearest() {
        let library = Library::built_in().unwrap();
        let e = library.find(&serde_json::json!({"model_type": "qwen9_vl"})).unwrap_err().to_string();
        assert!(e.contains("qwen9_vl") && e.contains("the nearest name is qwen2_vl"), "{e}");
        let e = library.find(&serde_json::json!({"model_type": "bert"})).unwrap_err().to_string();
        assert!(e.contains("known families: qwen2_vl") && !e.contains("nearest"), "{e}");
    }
}
