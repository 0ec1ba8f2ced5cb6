//! Family files as they are written: YAML to JSON, parts that are included, options that `config.json` chooses, and the merge of all of them
//! into one [`FamilyFile`]. Types are checked after the merge, for every option when a file is loaded.

use serde_json::{Map, Value as Json};

use super::error::FamilyError;
use super::schema::{FamilyFile, Match, SCHEMA_VERSION};

/// Parts that family files share, by name; adding a part adds a line.
const PARTS: [(&str, &str); 6] = [
    ("clip_pixels", include_str!("../../converters/parts/clip_pixels.yaml")),
    ("gguf_decoder", include_str!("../../converters/parts/gguf_decoder.yaml")),
    ("gguf_linears", include_str!("../../converters/parts/gguf_linears.yaml")),
    ("gguf_vision", include_str!("../../converters/parts/gguf_vision.yaml")),
    ("hf_decoder", include_str!("../../converters/parts/hf_decoder.yaml")),
    ("resampler", include_str!("../../converters/parts/resampler.yaml")),
];

/// Lists that grow when files are merged; all other keys may be given once.
const LISTS: [&str; 5] = ["tensors", "ignore", "require", "needs", "limits"];

/// The section whose sections are joined as well: parts hold what files of a runtime have in common.
const DEEP: &str = "runtimes";

/// One family file, its options still open.
#[derive(Debug)]
pub(super) struct Source {
    file: String,
    base: Map<String, Json>,
    groups: Vec<Vec<Choice>>,
    /// The file with the first option of every group: what does not depend on options is read from here.
    pub head: FamilyFile,
}

/// One option of a group.
#[derive(Debug)]
struct Choice {
    when: Vec<Match>,
    keys: Map<String, Json>,
}

impl Source {
    /// Reads a family file and checks it with every option of every group.
    ///
    /// # Errors
    /// [`FamilyError::Schema`].
    pub fn parse(file: &str, text: &str) -> Result<Self, FamilyError> {
        let schema = |reason: String| FamilyError::Schema { file: file.to_string(), reason };
        let mut base = map(text).map_err(schema)?;
        include(&mut base).map_err(schema)?;
        let groups = groups(&mut base).map_err(schema)?;
        let first = vec![0; groups.len()];
        let head = merged(&base, &groups, &first).map_err(schema)?;
        for (group, options) in groups.iter().enumerate() {
            for option in 1..options.len() {
                let mut picks = first.clone();
                picks[group] = option;
                let at = format!("choose[{group}][{option}]: ");
                merged(&base, &groups, &picks).map_err(|e| schema(at + &e))?;
            }
        }
        Ok(Self { file: file.to_string(), base, groups, head })
    }

    /// Whether `config.json` is one of this family.
    pub fn fits(&self, config: &Json) -> bool {
        self.head.matches.iter().all(|m| m.holds(config))
    }

    /// The family file with the options that `config` chooses.
    ///
    /// # Errors
    /// [`FamilyError::NoOption`] when a group has no option for `config`.
    pub fn choose(&self, config: &Json) -> Result<FamilyFile, FamilyError> {
        let mut picks = Vec::with_capacity(self.groups.len());
        for options in &self.groups {
            let fits = |c: &Choice| c.when.iter().all(|m| m.holds(config));
            picks.push(options.iter().position(fits).ok_or_else(|| self.no_option(options, config))?);
        }
        merged(&self.base, &self.groups, &picks)
            .map_err(|reason| FamilyError::Schema { file: self.file.clone(), reason })
    }

    fn no_option(&self, options: &[Choice], config: &Json) -> FamilyError {
        let mut found: Vec<String> = vec![];
        for m in options.iter().flat_map(|o| &o.when) {
            let text = m.found(config);
            if !found.contains(&text) {
                found.push(text);
            }
        }
        let all = |c: &Choice| c.when.iter().map(Match::wanted).collect::<Vec<_>>().join(" and ");
        FamilyError::NoOption {
            family: self.head.family.clone(),
            found: found.join(", "),
            known: options.iter().map(all).collect::<Vec<_>>().join("; or "),
        }
    }
}

/// The top-level map of a YAML text.
fn map(text: &str) -> Result<Map<String, Json>, String> {
    serde_norway::from_str::<Map<String, Json>>(text).map_err(|e| e.to_string())
}

/// Merges the parts named under `include` into `keys`.
fn include(keys: &mut Map<String, Json>) -> Result<(), String> {
    let names = match keys.remove("include") {
        None => return Ok(()),
        Some(names) => serde_json::from_value::<Vec<String>>(names).map_err(|e| format!("include: {e}"))?,
    };
    for name in names {
        let Some((_, text)) = PARTS.iter().find(|(n, _)| *n == name) else {
            let known: Vec<&str> = PARTS.iter().map(|(n, _)| *n).collect();
            return Err(format!("include: no part is called {name}; known parts: {}", known.join(", ")));
        };
        let mut part = map(text).map_err(|e| format!("part {name}: {e}"))?;
        include(&mut part)?;
        merge(keys, part).map_err(|e| format!("part {name}: {e}"))?;
    }
    Ok(())
}

/// Takes the groups of options out of `base`.
fn groups(base: &mut Map<String, Json>) -> Result<Vec<Vec<Choice>>, String> {
    let Some(groups) = base.remove("choose") else { return Ok(vec![]) };
    let groups: Vec<Vec<Map<String, Json>>> =
        serde_json::from_value(groups).map_err(|e| format!("choose: {e}"))?;
    let mut all = Vec::with_capacity(groups.len());
    for (i, group) in groups.into_iter().enumerate() {
        if group.is_empty() {
            return Err(format!("choose[{i}] has no options"));
        }
        let mut options = Vec::with_capacity(group.len());
        for (j, mut keys) in group.into_iter().enumerate() {
            let at = |e: String| format!("choose[{i}][{j}]: {e}");
            let when = keys.remove("when").ok_or_else(|| at("`when` is missing".into()))?;
            let when: Vec<Match> = serde_json::from_value(when).map_err(|e| at(format!("when: {e}")))?;
            include(&mut keys).map_err(at)?;
            options.push(Choice { when, keys });
        }
        all.push(options);
    }
    Ok(all)
}

/// The file with option `picks[g]` of every group `g`, as types.
fn merged(base: &Map<String, Json>, groups: &[Vec<Choice>], picks: &[usize]) -> Result<FamilyFile, String> {
    let mut keys = base.clone();
    for (options, &pick) in groups.iter().zip(picks) {
        merge(&mut keys, options[pick].keys.clone())?;
    }
    let family: FamilyFile = serde_path_to_error::deserialize(Json::Object(keys)).map_err(|e| {
        let path = e.path().to_string();
        format!("{path}: {}", e.into_inner())
    })?;
    if family.schema_version != SCHEMA_VERSION {
        let found = family.schema_version;
        return Err(format!("schema_version is {found}, this program reads {SCHEMA_VERSION}"));
    }
    if family.matches.is_empty() {
        return Err("`match` is empty: it would fit every checkpoint".into());
    }
    Ok(family)
}

/// Adds `from` to `into`: lists of [`LISTS`] grow, sections are joined key by key ([`DEEP`] at any depth), and nothing is given twice.
fn merge(into: &mut Map<String, Json>, from: Map<String, Json>) -> Result<(), String> {
    for (key, value) in from {
        let depth = if DEEP == key { usize::MAX } else { 1 };
        join(into, key, value, depth)?;
    }
    Ok(())
}

/// Adds one key; sections below it are joined down to `depth`.
fn join(into: &mut Map<String, Json>, key: String, value: Json, depth: usize) -> Result<(), String> {
    match (into.get_mut(&key), value) {
        (None, value) => {
            into.insert(key, value);
            Ok(())
        }
        (Some(Json::Array(a)), Json::Array(b)) if LISTS.contains(&key.as_str()) => {
            a.extend(b);
            Ok(())
        }
        (Some(Json::Object(a)), Json::Object(b)) if depth > 0 => {
            // The innermost call knows what was given twice, the outer ones where that is.
            let below = |e: String| format!("{key}.{e}");
            b.into_iter().try_for_each(|(name, v)| join(a, name, v, depth - 1).map_err(below))
        }
        _ => Err(format!("{key} is given twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(json: Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn merging_joins_sections_and_lists_and_refuses_repetition() {
        let mut a = keys(serde_json::json!({"numbers": {"x": 1}, "tensors": [1], "title": "a"}));
        merge(&mut a, keys(serde_json::json!({"numbers": {"y": 2}, "tensors": [2], "image": {}}))).unwrap();
        let want =
            serde_json::json!({"numbers": {"x": 1, "y": 2}, "tensors": [1, 2], "title": "a", "image": {}});
        assert_eq!(Json::Object(a.clone()), want);
        let e = merge(&mut a, keys(serde_json::json!({"numbers": {"y": 3}}))).unwrap_err();
        assert_eq!(e, "numbers.y is given twice");
        let e = merge(&mut a, keys(serde_json::json!({"numbers": {"x": {"config": []}}}))).unwrap_err();
        assert_eq!(e, "numbers.x is given twice");
        let e = merge(&mut a, keys(serde_json::json!({"title": "b"}))).unwrap_err();
        assert_eq!(e, "title is given twice");
    }

    #[test]
    fn runtimes_are_joined_at_any_depth() {
        let mut a = keys(serde_json::json!({"runtimes": {"r": {"keys": {"x": 1}, "tensors": [1]}}}));
        let b = serde_json::json!({"runtimes": {"r": {"keys": {"y": 2}, "tensors": [2]}, "s": {}}});
        merge(&mut a, keys(b)).unwrap();
        let want =
            serde_json::json!({"runtimes": {"r": {"keys": {"x": 1, "y": 2}, "tensors": [1, 2]}, "s": {}}});
        assert_eq!(Json::Object(a.clone()), want);
        let b = serde_json::json!({"runtimes": {"r": {"keys": {"x": 1}}}});
        assert_eq!(merge(&mut a, keys(b)).unwrap_err(), "runtimes.r.keys.x is given twice");
    }

    #[test]
    fn every_part_is_built_in_and_used() {
        let converters = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("converters");
        let files = |folder: &std::path::Path| -> Vec<std::path::PathBuf> {
            let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
            files.retain(|f| f.is_file());
            files.sort();
            files
        };
        let stem = |f: &std::path::PathBuf| f.file_stem().unwrap().to_string_lossy().into_owned();
        let parts: Vec<String> = files(&converters.join("parts")).iter().map(stem).collect();
        assert_eq!(parts, PARTS.map(|(name, _)| name));
        let families: String =
            files(&converters).iter().map(|f| std::fs::read_to_string(f).unwrap()).collect();
        for part in parts {
            let uses =
                families.lines().filter(|l| l.trim_start().starts_with("include:") && l.contains(&part));
            assert!(uses.count() > 1, "{part} is for families that share something");
        }
    }

    #[test]
    fn an_unknown_part_is_refused_with_the_known_ones() {
        let e = include(&mut keys(serde_json::json!({"include": ["nothing"]}))).unwrap_err();
        assert!(e.contains("nothing") && e.contains("hf_decoder"), "{e}");
    }

    #[test]
    fn every_option_is_checked_when_a_file_is_loaded() {
        let text = "choose: [[{when: []}, {when: [{at: /x, equals: [1]}], colour: blue}]]";
        let mut base = map(text).unwrap();
        let groups = groups(&mut base).unwrap();
        let e = merged(&base, &groups, &[1]).unwrap_err();
        assert!(e.contains("colour"), "{e}");
    }
}
