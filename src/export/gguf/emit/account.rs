//! The account of a file: every node and every weight of its components has a place in llama.cpp's graph, every tensor has numbers, and no weight is
//! written twice. All that is wrong is listed together.

use std::collections::{BTreeMap, BTreeSet};

use super::{EmitError, FileKind, Options};
use crate::export::gguf::TensorInfo;
use crate::family::inputs::gguf::{Column, GgufFile, GgufTensor, Stored, TensorSource};
use crate::graph::build::build;
use crate::graph::{Component, Model, Op, WeightDecl, WeightFormat};
use crate::numeric::ggml::BlockType;

/// Tensors of the file and how each is computed.
pub(super) fn account(
    model: &Model,
    plan: &GgufFile,
    kind: FileKind,
    options: &Options<'_>,
) -> Result<(Vec<TensorInfo>, Vec<GgufTensor>), EmitError> {
    let components = kind.components();
    let mut problems = nodes(model, &build(model.spec.clone())?, &components);
    let mut state = State { weights: by_role(model, &components, &mut problems), ..State::default() };
    let (mut tensors, mut recipes) = (vec![], vec![]);
    for recipe in &plan.tensors {
        match state.tensor(recipe, options) {
            Ok(None) => {}
            Ok(Some(info)) => {
                tensors.push(info);
                recipes.push(recipe.clone());
            }
            Err(problem) => problems.push(problem),
        }
    }
    problems.extend(state.unbalanced());
    let file = kind.name();
    if problems.is_empty() { Ok((tensors, recipes)) } else { Err(EmitError::NoPlace { file, problems }) }
}

/// Weights of these components by role.
fn by_role<'a>(
    model: &'a Model,
    components: &[Component],
    problems: &mut Vec<String>,
) -> BTreeMap<&'a str, &'a WeightDecl> {
    let mut weights = BTreeMap::new();
    for decl in &model.weights {
        if Component::of_role(&decl.name).is_none_or(|c| !components.contains(&c)) {
            continue;
        }
        match decl.parts.as_slice() {
            [role] => {
                weights.insert(role.as_str(), decl);
            }
            parts => problems.push(format!("{}: {} linears merged into one", decl.name, parts.len())),
        }
    }
    weights
}

/// Nodes that the canonical model of the spec does not have, or has and the model lacks. A gain behind a linear may be gone: it was folded.
fn nodes(model: &Model, canonical: &Model, components: &[Component]) -> Vec<String> {
    let of = |m: &Model| -> BTreeMap<String, &'static str> {
        let nodes = m.graphs.iter().flat_map(|g| &g.nodes).filter(|n| components.contains(&n.component));
        nodes.map(|n| (n.name.clone(), n.op.name())).collect()
    };
    let (found, wanted) = (of(model), of(canonical));
    let gains: BTreeSet<&str> = canonical
        .graphs
        .iter()
        .flat_map(|g| &g.nodes)
        .filter(|n| matches!(n.op, Op::Scale(_)))
        .map(|n| n.name.as_str())
        .collect();
    let other = found.iter().filter_map(|(name, op)| match wanted.get(name) {
        Some(w) if w == op => None,
        Some(w) => Some(format!("{op} {name}: the graph computes {w}")),
        None => Some(format!("{op} {name}: the graph does not compute it")),
    });
    let gone = wanted.iter().filter(|(name, _)| !found.contains_key(*name) && !gains.contains(name.as_str()));
    other
        .chain(gone.map(|(name, op)| format!("{op} {name}: the model does not compute it, the graph does")))
        .collect()
}

#[derive(Default)]
struct State<'a> {
    weights: BTreeMap<&'a str, &'a WeightDecl>,
    /// Roles with the columns of each tensor that has their numbers; all columns where none are picked.
    written: BTreeMap<&'a str, Vec<Option<&'a Column>>>,
}

impl<'a> State<'a> {
    /// The description of a tensor, or none where it is left out.
    fn tensor(
        &mut self,
        recipe: &'a GgufTensor,
        options: &Options<'_>,
    ) -> Result<Option<TensorInfo>, String> {
        let name = &recipe.name;
        let roles = match &recipe.source {
            TensorSource::SinCos { side, width, .. } => {
                let shape = [side * side, *width];
                return described(recipe, &shape, float_kind(recipe.stored, options)).map(Some);
            }
            TensorSource::Roles(roles) => roles,
        };
        let decls: Vec<&WeightDecl> =
            roles.iter().filter_map(|r| self.weights.get(r.as_str()).copied()).collect();
        if decls.is_empty() && recipe.optional {
            return Ok(None);
        }
        if let Some(role) = roles.iter().find(|r| !self.weights.contains_key(r.as_str())) {
            return Err(format!("{name} asks for the weight {role}, which the model does not have"));
        }
        for role in roles {
            self.written.entry(role.as_str()).or_default().push(recipe.column.as_ref());
        }
        if recipe.tied && options.tied_head {
            return Ok(None);
        }
        let kind = match common_format(&decls).ok_or_else(|| mixed(name, &decls))? {
            WeightFormat::Float => float_kind(recipe.stored, options),
            // Numbers of a float type may be stored as the graph asks.
            WeightFormat::Blocks(kind) if !kind.is_quantized() => float_kind(recipe.stored, options),
            WeightFormat::Blocks(kind) => kind,
            WeightFormat::Grid(grid) => {
                return Err(format!("{name}: weights on the grid {grid:?}, which no type of ggml is"));
            }
        };
        let rows = decls.iter().filter_map(|d| d.shape.first()).sum();
        let mut shape = decls.first().map(|d| d.shape.clone()).unwrap_or_default();
        if decls.iter().any(|d| d.shape.get(1..) != shape.get(1..)) {
            return Err(format!("{name}: rows of different width cannot be stacked"));
        }
        if let Some(first) = shape.first_mut() {
            *first = rows;
        }
        described(recipe, &shape, kind).map(Some)
    }

    /// Weights without a tensor, and those written more than once or in part.
    fn unbalanced(&self) -> Vec<String> {
        let check = |(role, decl): (&&str, &&WeightDecl)| {
            let Some(uses) = self.written.get(*role) else {
                return Some(format!("the weight {role} {:?}", decl.shape));
            };
            let picked: Vec<&Column> = uses.iter().flatten().copied().collect();
            let whole = uses.len() == 1 && picked.is_empty();
            (!whole && !complete(uses.len(), &picked)).then(|| format!("{role} is written twice or in part"))
        };
        self.weights.iter().filter_map(check).collect()
    }
}

/// Whether the columns of one axis are each picked once.
fn complete(uses: usize, picked: &[&Column]) -> bool {
    let Some(first) = picked.first() else { return false };
    let same = picked.iter().all(|c| (&c.of, c.axis) == (&first.of, first.axis));
    let indices: BTreeSet<usize> = picked.iter().map(|c| c.at).collect();
    same && picked.len() == uses && indices.len() == uses && first.of.get(first.axis) == Some(&uses)
}

/// The format that all parts of a tensor have.
fn common_format(decls: &[&WeightDecl]) -> Option<WeightFormat> {
    let first = decls.first()?.format;
    decls.iter().all(|d| d.format == first).then_some(first)
}

fn mixed(name: &str, decls: &[&WeightDecl]) -> String {
    let parts: Vec<String> = decls.iter().map(|d| format!("{} as {:?}", d.name, d.format)).collect();
    format!("{name} has one type, its parts have several: {}", parts.join(", "))
}

/// How floats of a matrix are stored.
fn float_kind(stored: Stored, options: &Options<'_>) -> BlockType {
    match stored {
        Stored::FloatType => options.float.kind(),
        Stored::Kernel if options.float.kind() == BlockType::F16 => BlockType::F16,
        Stored::F32 | Stored::Kernel => BlockType::F32,
    }
}

/// Name, sizes and type of a tensor whose stacked rows have the shape `stacked`.
fn described(recipe: &GgufTensor, stacked: &[usize], kind: BlockType) -> Result<TensorInfo, String> {
    let name = &recipe.name;
    let mut shape = stacked.to_vec();
    if let Some(column) = &recipe.column {
        let width: usize = shape.iter().skip(1).product();
        if column.of.iter().product::<usize>() != width || kind.is_quantized() {
            return Err(format!(
                "{name}: columns of {:?} cannot be picked from {stacked:?} in {}",
                column.of,
                kind.name()
            ));
        }
        let left = column.of.get(column.axis).map_or(width, |n| width / n);
        shape = vec![stacked.first().copied().unwrap_or(1), left];
    }
    if let Some(heads) = recipe.rope_heads
        && shape.first().is_none_or(|n| heads == 0 || !n.is_multiple_of(2 * heads))
    {
        return Err(format!(
            "{name}: the rows of {stacked:?} are not those of {heads} heads of an even size"
        ));
    }
    if let Some(wanted) = &recipe.shape {
        let count = |s: &[usize]| s.iter().product::<usize>();
        if count(wanted) != count(&shape) || (kind.is_quantized() && *wanted != shape) {
            return Err(format!("{name}: {shape:?} in {} cannot be seen as {wanted:?}", kind.name()));
        }
        shape.clone_from(wanted);
    }
    let width = shape.last().copied().unwrap_or(1);
    let kind = if shape.len() < 2 { BlockType::F32 } else { kind };
    if !kind.divides(width) {
        return Err(format!("{name}: rows of {width} are not whole blocks of {}", kind.name()));
    }
    let dims = shape.iter().rev().map(|&n| n as u64).collect();
    Ok(TensorInfo { name: name.clone(), dims, kind })
}
