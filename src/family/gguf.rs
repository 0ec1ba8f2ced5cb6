//! The section `runtimes.gguf` of a family file with its numbers filled in and its repetitions written out.

mod provenance;
mod vocabulary;

pub use provenance::provenance;
pub use vocabulary::vocabulary_keys;

use super::error::FamilyProblem;
use super::inputs::gguf::{Column, GgufFile, GgufPlan, GgufTensor, KeyValue, Stored, TensorSource};
use super::schema::{
    GgufDef, GgufFileDef, GgufTensorDef, GgufVisionDef, KeyDef, NeedDef, Num, RolesDef, SinCosDef, StoredDef,
};
use super::values::Values;
use crate::tokenizer::Tokenizer;

/// Most copies of one tensor; a broken depth must not fill the memory.
const MAX_REPEAT: usize = 1_000;

/// The files of the model, or why there are none and what to do instead.
pub(super) fn gguf_plan(def: &GgufDef, v: &Values<'_>, tokenizer: &Tokenizer) -> Result<GgufPlan, String> {
    let route = match def {
        GgufDef::Route(route) => route,
        GgufDef::None(reason) => return Err(reason.clone()),
    };
    let at = "runtimes.gguf.route";
    let text = file(&route.text, v, tokenizer, &format!("{at}.text"))?;
    let vision = match &route.vision {
        GgufVisionDef::None(reason) => Err(reason.clone()),
        GgufVisionDef::File(def) => file(def, v, tokenizer, &format!("{at}.vision.file")),
    };
    Ok(GgufPlan { text, vision, limits: route.limits.clone() })
}

/// One file; the error is the first number that its graph cannot take.
fn file(def: &GgufFileDef, v: &Values<'_>, tokenizer: &Tokenizer, at: &str) -> Result<GgufFile, String> {
    for need in &def.needs {
        fulfilled(need, v, &format!("{at}.needs"))?;
    }
    let mut keys = Vec::with_capacity(def.keys.len());
    for (key, value) in &def.keys {
        let at = format!("{at}.keys.{key}");
        keys.push((key.replace("{arch}", &def.architecture), key_value(value, v, tokenizer, &at)));
    }
    let layers = format!("{}.block_count", def.architecture);
    let is_70b = def.layers_of_70b.is_some_and(|n| keys.contains(&(layers, KeyValue::U32(n))));
    Ok(GgufFile {
        architecture: def.architecture.clone(),
        keys,
        tensors: tensors(&def.tensors, v, at),
        is_70b,
    })
}

fn fulfilled(need: &NeedDef, v: &Values<'_>, at: &str) -> Result<(), String> {
    let (found, wanted) = (v.real(&need.value, at), v.real(&need.equals, at));
    if found == wanted {
        return Ok(());
    }
    let name = match &need.value {
        Num::Name(name) => name.clone(),
        Num::Literal(x) => x.to_string(),
    };
    Err(format!(
        "llama.cpp's graph needs {name} = {wanted} ({}), this model has {found}. Export it as ONNX.",
        need.why
    ))
}

fn key_value(def: &KeyDef, v: &Values<'_>, tokenizer: &Tokenizer, at: &str) -> KeyValue {
    match def {
        KeyDef::U32(num) => KeyValue::U32(whole(num, v, at)),
        KeyDef::I32(num) => KeyValue::I32(whole(num, v, at)),
        KeyDef::F32(num) => KeyValue::F32(v.real(num, at) as f32),
        KeyDef::Bool(flag) => KeyValue::Bool(*flag),
        KeyDef::Text(text) => KeyValue::Text(text.clone()),
        KeyDef::Token(token) => {
            let id = tokenizer.id_of(token).and_then(|id| u32::try_from(id).ok());
            KeyValue::U32(id.unwrap_or_else(|| {
                v.report(FamilyProblem::MissingToken { token: token.clone(), name: at.to_string() });
                0
            }))
        }
        KeyDef::F32s(name) => KeyValue::F32s(v.vector(name, at).into_iter().map(|x| x as f32).collect()),
        KeyDef::I32s { vector, length } => {
            let mut list: Vec<i32> = v.vector(vector, at).into_iter().map(|x| x as i32).collect();
            let (length, found) = (v.count(length, at), list.len());
            list.resize(length, 0);
            if found > length {
                bad(v, at, "a vector that is not longer than its array", format!("{found} values"));
            }
            KeyValue::I32s(list)
        }
    }
}

/// A whole number of at least 0 that fits its type.
fn whole<T: TryFrom<i64> + Default>(num: &Num, v: &Values<'_>, at: &str) -> T {
    let x = v.id(num, at);
    T::try_from(x).unwrap_or_else(|_| {
        bad(v, at, "a number of 32 bits", x.to_string());
        T::default()
    })
}

fn bad(v: &Values<'_>, at: &str, expected: &'static str, found: String) {
    let (file, name) = ("family file", at.to_string());
    v.report(FamilyProblem::BadValue { file, key: at.to_string(), name, expected, found });
}

/// All tensors; neighbours with one number of repetitions are written block by block, as a reader of the file goes through them.
fn tensors(defs: &[GgufTensorDef], v: &Values<'_>, at: &str) -> Vec<GgufTensor> {
    let count = |d: &GgufTensorDef| d.repeat.as_ref().map(|n| v.count(n, &d.name).min(MAX_REPEAT));
    let at = format!("{at}.tensors");
    let mut all = vec![];
    for run in defs.chunk_by(|a, b| count(a) == count(b)) {
        match run.first().and_then(count) {
            None => all.extend(run.iter().filter_map(|d| tensor(d, "", v, &at))),
            Some(n) => {
                for i in 0..n {
                    all.extend(run.iter().filter_map(|d| tensor(d, &i.to_string(), v, &at)));
                }
            }
        }
    }
    all
}

/// One tensor, `{i}` filled in.
fn tensor(def: &GgufTensorDef, i: &str, v: &Values<'_>, at: &str) -> Option<GgufTensor> {
    let fill = |text: &String| text.replace("{i}", i);
    let name = fill(&def.name);
    let at = format!("{at} {name}");
    let source = match (&def.role, &def.sin_cos) {
        (Some(RolesDef::One(role)), None) => TensorSource::Roles(vec![fill(role)]),
        (Some(RolesDef::Stacked(roles)), None) if !roles.is_empty() => {
            TensorSource::Roles(roles.iter().map(fill).collect())
        }
        (None, Some(SinCosDef { side, width, theta })) => TensorSource::SinCos {
            side: v.count(side, &at),
            width: v.count(width, &at),
            theta: v.positive(theta, &at),
        },
        _ => {
            bad(v, &at, "one of `role` and `sin_cos`", "both or none".into());
            return None;
        }
    };
    let sizes = |list: &Vec<Num>| -> Vec<usize> { list.iter().map(|n| v.count(n, &at)).collect() };
    let column = def.column.as_ref().map(|c| Column { of: sizes(&c.of), axis: c.axis, at: c.at });
    if let Some(c) = column.as_ref().filter(|c| c.of.get(c.axis).is_none_or(|&n| c.at >= n)) {
        bad(v, &at, "an axis of `column.of` and an index of it", format!("{c:?}"));
        return None;
    }
    let stored = match def.stored {
        StoredDef::FloatType => Stored::FloatType,
        StoredDef::F32 => Stored::F32,
        StoredDef::Kernel => Stored::Kernel,
    };
    let shape = def.shape.as_ref().map(sizes);
    let rope_heads = def.rope_heads.as_ref().map(|n| v.count(n, &at));
    Some(GgufTensor {
        name,
        source,
        shape,
        rope_heads,
        column,
        stored,
        optional: def.optional,
        tied: def.tied,
    })
}
