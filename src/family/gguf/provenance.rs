//! Where a model comes from: the front matter of its model card, the hub's name in `config.json`, what `generation_config.json` recommends. No path
//! of this machine is read.

use serde_json::Value as Json;

use super::super::error::FamilyError;
use super::super::inputs::gguf::{BaseModel, KeyValue, Provenance};
use super::super::resolve::Description;
use crate::checkpoint::SideFiles;

/// Recommended settings as llama.cpp reads them, and the key of `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.temp", "temperature"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// What the files of a checkpoint say of its origin.
///
/// # Errors
/// Unreadable side files. A model card without front matter, or with one that is no YAML map, says nothing.
pub fn provenance(description: &Description, files: &SideFiles) -> Result<Provenance, FamilyError> {
    let card = files.text("README.md")?.map_or(Json::Null, |text| front_matter(&text));
    let generation = files.json("generation_config.json")?.unwrap_or(Json::Null);
    let word = |key: &str| card[key].as_str().map(str::to_owned);
    let own = files.config()["_name_or_path"].as_str().and_then(hub_id);
    let listed: Vec<BaseModel> = texts(&card["base_model"]).iter().filter_map(|id| hub_id(id)).collect();
    let base_models = if listed.is_empty() { own.iter().cloned().collect() } else { listed };
    Ok(Provenance {
        name: word("model_name")
            .or_else(|| own.as_ref().map(|m| m.name.clone()))
            .unwrap_or_else(|| family_name(&description.title)),
        basename: word("basename"),
        organization: word("organization").or_else(|| own.as_ref().map(|m| m.organization.clone())),
        license: word("license"),
        license_name: word("license_name"),
        license_link: word("license_link"),
        base_models,
        tags: [texts(&card["tags"]), texts(&card["pipeline_tag"])].concat(),
        languages: texts(&card["language"]),
        sampling: SAMPLING
            .iter()
            .filter_map(|(key, name)| Some(((*key).to_string(), recommended(name, &generation)?)))
            .collect(),
    })
}

/// The title of a family without the sizes in brackets.
fn family_name(title: &str) -> String {
    title.split(" (").next().unwrap_or(title).to_string()
}

fn recommended(name: &str, generation: &Json) -> Option<KeyValue> {
    let value = &generation[name];
    if name == "top_k" {
        return value.as_i64().and_then(|k| i32::try_from(k).ok()).map(KeyValue::I32);
    }
    value.as_f64().map(|x| KeyValue::F32(x as f32))
}

/// The YAML between the first two lines `---` of a model card.
fn front_matter(text: &str) -> Json {
    let body = text.trim_start_matches('\u{feff}').strip_prefix("---");
    let yaml = body.and_then(|b| b.split_once("\n---")).map_or("", |(yaml, _)| yaml);
    serde_norway::from_str::<serde_json::Map<String, Json>>(yaml).map_or(Json::Null, Json::Object)
}

/// One text or a list of them.
fn texts(value: &Json) -> Vec<String> {
    match value {
        Json::String(text) => vec![text.clone()],
        Json::Array(list) => list.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => vec![],
    }
}

/// `organization/name`; anything else may be a path of some machine.
fn hub_id(id: &str) -> Option<BaseModel> {
    let word = |s: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.chars().all(known)
    };
    let (organization, name) = id.split_once('/').filter(|(a, b)| word(a) && word(b))?;
    Some(BaseModel { name: name.to_string(), organization: organization.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_matter_of_a_card_is_read() {
        let card = front_matter("---\nlicense: apache-2.0\nlanguage: [en, zh]\n---\n# Model\n---\n");
        assert_eq!(card["license"], "apache-2.0");
        assert_eq!(texts(&card["language"]), ["en", "zh"]);
        assert!(front_matter("# Model")["license"].is_null());
        assert_eq!(front_matter("---\n- a\n---\n"), Json::Null);
    }

    #[test]
    fn only_names_of_the_hub_are_taken() {
        let id = hub_id("openbmb/MiniCPM-V-2_6").unwrap();
        assert_eq!((id.organization.as_str(), id.name.as_str()), ("openbmb", "MiniCPM-V-2_6"));
        for path in ["/home/me/model", "./model", "models/a/b", "model", "../x", "C:\\x/y"] {
            assert_eq!(hub_id(path), None, "{path}");
        }
    }
}
