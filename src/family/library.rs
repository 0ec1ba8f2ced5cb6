//! The known families: the built-in files of `converters/`, or one file of the user.

use std::path::Path;

use serde_json::Value as Json;

use super::error::FamilyError;
use super::schema::FamilyFile;
use super::source::Source;

/// Built-in family files by path; adding a family adds a line.
const BUILT_IN: &[(&str, &str)] = &[
    ("converters/glm_4v.yaml", include_str!("../../converters/glm_4v.yaml")),
    ("converters/internvl2.yaml", include_str!("../../converters/internvl2.yaml")),
    ("converters/minicpm_v_2_6.yaml", include_str!("../../converters/minicpm_v_2_6.yaml")),
    ("converters/qwen2_vl.yaml", include_str!("../../converters/qwen2_vl.yaml")),
    ("converters/qwen_vl.yaml", include_str!("../../converters/qwen_vl.yaml")),
];

/// Parsed family files.
#[derive(Debug)]
pub struct Library {
    families: Vec<Source>,
}

impl Library {
    /// The families this program ships.
    ///
    /// # Errors
    /// [`FamilyError::Schema`] when a built-in file is broken (a test reads them all).
    pub fn built_in() -> Result<Self, FamilyError> {
        let families =
            BUILT_IN.iter().map(|(file, text)| Source::parse(file, text)).collect::<Result<_, _>>()?;
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
        Ok(Self { families: vec![Source::parse(&file, &text)?] })
    }

    /// All families, each with the first of its options.
    pub fn families(&self) -> impl Iterator<Item = &FamilyFile> {
        self.families.iter().map(|f| &f.head)
    }

    /// The family that fits a `config.json`, with the options it chooses.
    ///
    /// # Errors
    /// [`FamilyError::Unknown`], which lists the known families and the one with the most similar name; [`FamilyError::NoOption`] when the
    /// family is known and a part of this model is not.
    pub fn find(&self, config: &Json) -> Result<FamilyFile, FamilyError> {
        let family = self.families.iter().find(|f| f.fits(config)).ok_or_else(|| self.unknown(config))?;
        family.choose(config)
    }

    fn unknown(&self, config: &Json) -> FamilyError {
        let model_type = config.get("model_type").and_then(Json::as_str).unwrap_or("(absent)").to_string();
        let near = |f: &&FamilyFile| (strsim::jaro_winkler(&f.family, &model_type) * 1e6) as u64;
        let nearest = self.families().max_by_key(near).filter(|f| near(f) > 700_000);
        FamilyError::Unknown {
            architectures: config.get("architectures").map_or_else(|| "(absent)".into(), Json::to_string),
            known: self.families().map(|f| f.family.as_str()).collect::<Vec<_>>().join(", "),
            nearest: nearest.map_or_else(String::new, |f| format!("; the nearest name is {}", f.family)),
            model_type,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN2_VL: &str = include_str!("../../converters/qwen2_vl.yaml");

    #[test]
    fn built_in_files_parse() {
        let library = Library::built_in().unwrap();
        assert_eq!(library.families().count(), BUILT_IN.len());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let text = QWEN2_VL.replace("title: Qwen2-VL", "title: Qwen2-VL\ncolour: blue");
        let e = Source::parse("x.yaml", &text).unwrap_err().to_string();
        assert!(e.contains("x.yaml") && e.contains("colour"), "{e}");
    }

    #[test]
    fn another_schema_version_is_refused() {
        let text = QWEN2_VL.replace("schema_version: 1", "schema_version: 7");
        let e = Source::parse("x.yaml", &text).unwrap_err().to_string();
        assert!(e.contains('7'), "{e}");
    }

    #[test]
    fn unknown_architecture_names_the_nearest() {
        let library = Library::built_in().unwrap();
        let e = library.find(&serde_json::json!({"model_type": "qwen2_9_vl"})).unwrap_err().to_string();
        assert!(e.contains("qwen2_9_vl") && e.contains("the nearest name is qwen2_vl"), "{e}");
        let e = library.find(&serde_json::json!({"model_type": "bert"})).unwrap_err().to_string();
        assert!(e.contains("qwen2_vl") && !e.contains("nearest"), "{e}");
    }
}
