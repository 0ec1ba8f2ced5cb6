//! The account of a checkpoint: every tensor gets one role (or several, by row blocks) or a reason to be ignored; what is missing, extra or
//! misshapen is listed together.

use std::collections::{BTreeMap, BTreeSet};

use super::binding::{Binding, RowSet};
use super::error::FamilyProblem;
use super::schema::{FamilyFile, ResizeTableDef, TensorDef};
use super::values::Values;
use crate::checkpoint::Checkpoint;
use crate::graph::{Model, glob};

/// A tensor that is not used, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Ignored {
    /// Tensor name.
    pub tensor: String,
    /// From the family file.
    pub reason: String,
}

/// Result of the account.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub bindings: BTreeMap<String, Binding>,
    pub ignored: Vec<Ignored>,
}

/// Maps all tensors of `checkpoint`; problems go to `values`.
pub(super) fn account(family: &FamilyFile, checkpoint: &Checkpoint, values: &Values<'_>) -> Account {
    let layout = best_layout(family, checkpoint);
    let mut state =
        State { checkpoint, values, layout: &layout, account: Account::default(), seen: BTreeSet::new() };
    for def in &family.tensors {
        let n = def.repeat.as_ref().map(|n| values.count(n, &def.name));
        match n {
            None => state.tensor(def, None),
            // The missing tensors of a broken depth are to be read by somebody; no model is as deep as this.
            Some(n) => (0..n.min(1_000)).for_each(|i| state.tensor(def, Some(i))),
        }
    }
    state.rest(family);
    state.account
}

/// The layout under which most tensors of the family exist.
fn best_layout(family: &FamilyFile, checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let hits = |layout: &BTreeMap<String, String>| {
        let name = |d: &TensorDef| fill(&d.name, layout, Some(0));
        family.tensors.iter().filter(|d| checkpoint.tensor(&name(d)).is_some()).count()
    };
    // The first among equals, so that an empty checkpoint is reported with the names of the hub.
    family.layouts.iter().rev().max_by_key(|l| hits(l)).cloned().unwrap_or_default()
}

fn fill(template: &str, layout: &BTreeMap<String, String>, i: Option<usize>) -> String {
    let mut name = template.to_string();
    for (key, value) in layout {
        name = name.replace(&format!("{{{key}}}"), value);
    }
    match i {
        Some(i) => name.replace("{i}", &i.to_string()),
        None => name,
    }
}

/// Rows of a fused tensor and the roles they have, each with the resizing of its table.
type Block<'a> = (usize, Vec<(&'a String, Option<&'a ResizeTableDef>)>);

struct State<'a> {
    checkpoint: &'a Checkpoint,
    values: &'a Values<'a>,
    layout: &'a BTreeMap<String, String>,
    account: Account,
    seen: BTreeSet<String>,
}

impl State<'_> {
    fn tensor(&mut self, def: &TensorDef, i: Option<usize>) {
        let name = fill(&def.name, self.layout, i);
        let shape: Vec<usize> = def.shape.iter().map(|n| self.values.count(n, &name)).collect();
        let first_role = def.role.as_ref().or_else(|| def.blocks.iter().flatten().map(|b| &b.role).next());
        let role = first_role.map_or_else(|| name.clone(), |r| fill(r, self.layout, i));
        if let Some(tied) = &def.tied
            && self.values.flag(&tied.flag, &name)
        {
            if self.checkpoint.tensor(&name).is_some() {
                let reason = format!("tied to {} by the configuration", tied.to);
                self.seen.insert(name.clone());
                self.account.ignored.push(Ignored { tensor: name, reason });
            }
            if let Some(shared) = self.account.bindings.get(&tied.to).cloned() {
                self.bind(role, shared);
            }
            return;
        }
        let Some(tensor) = self.checkpoint.tensor(&name) else {
            return self.values.report(FamilyProblem::MissingTensor { tensor: name, role, shape });
        };
        self.seen.insert(name.clone());
        if tensor.shape() != shape {
            let file = tensor.file().display().to_string();
            let found = tensor.shape().to_vec();
            let problem = FamilyProblem::WrongShape { file, tensor: name, expected: shape, found };
            return self.values.report(problem);
        }
        self.roles(def, i, &name, &shape);
    }

    fn roles(&mut self, def: &TensorDef, i: Option<usize>, tensor: &str, stored: &[usize]) {
        let Some(seen) = self.seen_as(def, tensor, stored) else { return };
        let rows = seen.first().copied().unwrap_or(1);
        let row_len: usize = seen.iter().skip(1).product();
        let groups = def.groups.as_ref().map_or(1, |n| self.values.count(n, tensor));
        let whole = def.role.iter().map(|r| (rows / groups, vec![(r, None)]));
        let blocks = def.blocks.iter().flatten().map(|b| {
            let also = b.also.iter().map(|a| (&a.role, a.resize.as_ref()));
            let roles = std::iter::once((&b.role, b.resize.as_ref())).chain(also).collect();
            (self.values.count(&b.rows, tensor), roles)
        });
        let parts: Vec<Block<'_>> = whole.chain(blocks).collect();
        let stride: usize = parts.iter().map(|(n, _)| n).sum();
        if stride.checked_mul(groups) != Some(rows) {
            let tensor = tensor.to_string();
            return self.values.report(FamilyProblem::Blocks {
                tensor,
                rows,
                blocks: stride.saturating_mul(groups),
            });
        }
        let mut start = 0;
        for (count, roles) in parts {
            let rows = RowSet { start, count, groups, stride };
            for (role, resize) in roles {
                let sides =
                    resize.map(|r| [self.values.count(&r.from, tensor), self.values.count(&r.to, tensor)]);
                let Some(total) = self.table_rows(tensor, rows.total(), sides) else { continue };
                let binding = Binding {
                    tensor: tensor.to_string(),
                    permute: def.permute.clone().unwrap_or_default(),
                    rows,
                    row_len,
                    resize: sides,
                    shape: if seen.len() > 1 { vec![total, row_len] } else { vec![total] },
                };
                self.bind(fill(role, self.layout, i), binding);
            }
            start += count;
        }
    }

    /// The shape whose first axis are the rows: stored, with axes in another order, or seen anew.
    fn seen_as(&self, def: &TensorDef, tensor: &str, stored: &[usize]) -> Option<Vec<usize>> {
        let view = |wanted: String| {
            let problem = FamilyProblem::View { tensor: tensor.to_string(), shape: stored.to_vec(), wanted };
            self.values.report(problem);
            None
        };
        let mut shape = stored.to_vec();
        if let Some(order) = &def.permute {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..stored.len()) {
                return view(format!("axes {order:?}"));
            }
            shape = order.iter().map(|&a| stored[a]).collect();
        }
        if let Some(dims) = &def.view {
            let dims: Vec<usize> = dims.iter().map(|n| self.values.count(n, tensor)).collect();
            if dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(shape.iter().product()) {
                return view(format!("shape {dims:?}"));
            }
            shape = dims;
        }
        Some(shape)
    }

    /// Rows after a table of `rows` rows is resized; reports a table that is not square.
    fn table_rows(&self, tensor: &str, rows: usize, sides: Option<[usize; 2]>) -> Option<usize> {
        let Some([from, to]) = sides else { return Some(rows) };
        // A resized table is a few thousand rows; a side beyond 2^16 is a broken configuration.
        if from.checked_mul(from) == Some(rows) && to < 1 << 16 {
            return Some(to * to);
        }
        let (tensor, shape) = (tensor.to_string(), vec![rows]);
        let wanted = format!("a table of {from} x {from} rows resized to {to} x {to}");
        self.values.report(FamilyProblem::View { tensor, shape, wanted });
        None
    }

    fn bind(&mut self, role: String, binding: Binding) {
        if let Some(first) = self.account.bindings.get(&role) {
            let (first, second) = (first.tensor.clone(), binding.tensor);
            return self.values.report(FamilyProblem::RoleTwice { role, first, second });
        }
        self.account.bindings.insert(role, binding);
    }

    /// Tensors without a role: ignored with a reason, or a problem.
    fn rest(&mut self, family: &FamilyFile) {
        for tensor in self.checkpoint.tensors() {
            if self.seen.contains(tensor.name()) {
                continue;
            }
            let fits = |d: &&super::schema::IgnoreDef| glob(&fill(&d.name, self.layout, None), tensor.name());
            match family.ignore.iter().find(fits) {
                Some(d) => self
                    .account
                    .ignored
                    .push(Ignored { tensor: tensor.name().to_string(), reason: d.reason.clone() }),
                None => self.values.report(FamilyProblem::Unclaimed {
                    file: tensor.file().display().to_string(),
                    tensor: tensor.name().to_string(),
                    shape: tensor.shape().to_vec(),
                }),
            }
        }
    }
}

/// Checks that the model's weights and the bindings are the same set with the same shapes.
pub(super) fn cross_check(model: &Model, account: &Account) -> Vec<FamilyProblem> {
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for weight in &model.weights {
        used.insert(weight.name.as_str());
        match account.bindings.get(&weight.name) {
            None => problems
                .push(FamilyProblem::UnmappedRole { role: weight.name.clone(), shape: weight.shape.clone() }),
            Some(b) if b.shape != weight.shape => problems.push(FamilyProblem::RoleShape {
                role: weight.name.clone(),
                tensor: b.tensor.clone(),
                expected: weight.shape.clone(),
                found: b.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    for (role, binding) in &account.bindings {
        if !used.contains(role.as_str()) {
            problems.push(FamilyProblem::UnknownRole { tensor: binding.tensor.clone(), role: role.clone() });
        }
    }
    problems
}
