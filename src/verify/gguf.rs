//! The weights that GGUF files hold, as the canonical model asks for them: what the family's route did to the tensors is undone, blocks become the floats they stand
//! for. Nothing but the files and the family's description is looked at.

use std::collections::BTreeMap;

use crate::export::gguf::{GgufError, GgufFile};
use crate::family::inputs::gguf::{GgufPlan, GgufTensor, TensorSource};
use crate::graph::{Model, Op, WeightData, WeightError, WeightSource};
use crate::numeric::Tensor;

/// Weights of a model from its GGUF files.
pub struct GgufWeights<'a> {
    text: &'a GgufFile,
    mmproj: Option<&'a GgufFile>,
    plan: &'a GgufPlan,
    /// Shape of each role.
    shapes: BTreeMap<&'a str, &'a [usize]>,
    /// Roles of gains behind linears, which an export may fold away.
    gains: Vec<&'a str>,
}

impl<'a> GgufWeights<'a> {
    /// The weights of `model` from files that were written by `plan`; of a split text model, `text` has all shards.
    pub fn new(
        model: &'a Model,
        plan: &'a GgufPlan,
        text: &'a GgufFile,
        mmproj: Option<&'a GgufFile>,
    ) -> Self {
        let single = |w: &'a crate::graph::WeightDecl| match w.parts.as_slice() {
            [role] => Some((role.as_str(), w.shape.as_slice())),
            _ => None,
        };
        let gain = |op: &Op| match op {
            Op::Scale(s) => Some(model.weight(s.gain).name.as_str()),
            _ => None,
        };
        let nodes = model.graphs.iter().flat_map(|g| &g.nodes);
        Self {
            text,
            mmproj,
            plan,
            shapes: model.weights.iter().filter_map(single).collect(),
            gains: nodes.filter_map(|n| gain(&n.op)).collect(),
        }
    }

    /// The tensors that have numbers of a role, with the file that should hold them.
    fn tensors(&self, role: &str) -> Vec<(&'a GgufTensor, &'a GgufFile)> {
        let has = |t: &&GgufTensor| matches!(&t.source, TensorSource::Roles(roles) if roles.iter().any(|r| r == role));
        let (text, plan) = (self.text, self.plan);
        let text = plan.text.tensors.iter().filter(has).map(|t| (t, text));
        let vision = plan.vision.as_ref().ok().zip(self.mmproj);
        let vision =
            vision.into_iter().flat_map(|(p, file)| p.tensors.iter().filter(has).map(move |t| (t, file)));
        text.chain(vision).collect()
    }

    /// The numbers of a role `[rows, columns]` as they lie in one tensor, rows in the order of the role.
    fn rows(&self, role: &str, tensor: &GgufTensor, file: &GgufFile) -> Result<Vec<f32>, Fault> {
        let mut values = file.values(&tensor.name)?;
        let TensorSource::Roles(roles) = &tensor.source else {
            return Err(Fault::of(&tensor.name, "a computed table"));
        };
        let heights: Vec<usize> = roles.iter().map(|r| self.height(r)).collect();
        let total: usize = heights.iter().sum();
        if total == 0 || values.len() % total != 0 {
            let what = format!("{} values, which {total} rows do not share evenly", values.len());
            return Err(Fault::of(&tensor.name, &what));
        }
        let width = values.len() / total;
        if let Some(heads) = tensor.rope_heads {
            values = unordered(&values, total, heads);
        }
        let before: usize = roles.iter().zip(&heights).take_while(|(r, _)| *r != role).map(|(_, h)| h).sum();
        Ok(values[before * width..(before + self.height(role)) * width].to_vec())
    }

    /// Rows of a role.
    fn height(&self, role: &str) -> usize {
        self.shapes.get(role).and_then(|s| s.first()).copied().unwrap_or(0)
    }

    fn numbers(&self, role: &str, shape: &[usize]) -> Result<Vec<f32>, Fault> {
        let tensors = self.tensors(role);
        let present = |(t, file): &&(&GgufTensor, &GgufFile)| file.tensor(&t.name).is_some();
        let found: Vec<_> = tensors.iter().filter(present).collect();
        match (found.as_slice(), tensors.first()) {
            ([], Some((t, _))) if t.tied => self.table(shape),
            ([], Some((t, _))) if t.optional && self.gains.contains(&role) => {
                Ok(vec![1.0; shape.iter().product()])
            }
            ([], Some((t, _))) => Err(Fault::of(&t.name, "no such tensor in the file")),
            ([], None) => Err(Fault::of(role, "no tensor of the route holds it")),
            (found, _) => {
                let mut whole = vec![f32::NAN; shape.iter().product()];
                for (tensor, file) in found {
                    let part = self.rows(role, tensor, file)?;
                    place(&mut whole, &part, tensor).map_err(|what| Fault::of(&tensor.name, &what))?;
                }
                Ok(whole)
            }
        }
    }

    /// A head that is the token table.
    fn table(&self, shape: &[usize]) -> Result<Vec<f32>, Fault> {
        self.numbers(TABLE, shape)
    }
}

/// Role of the token table.
const TABLE: &str = "embedding.weight";

/// Why a role has no numbers.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("{tensor}: {what}")]
    Tensor { tensor: String, what: String },
}

impl Fault {
    fn of(tensor: &str, what: &str) -> Self {
        Fault::Tensor { tensor: tensor.into(), what: what.into() }
    }
}

impl WeightSource for GgufWeights<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let Some(shape) = self.shapes.get(role) else {
            return Err(WeightError::Unknown { role: role.to_string() });
        };
        let read = |fault: Fault| WeightError::Read { role: role.to_string(), source: Box::new(fault) };
        let numbers = self.numbers(role, shape).map_err(read)?;
        let tensor = Tensor::new(shape.to_vec(), numbers);
        tensor.map(WeightData::Float).map_err(|source| WeightError::Shape { name: role.to_string(), source })
    }
}

/// Puts what one tensor has of a role to its place: all of it, or the columns that were picked.
fn place(whole: &mut [f32], part: &[f32], tensor: &GgufTensor) -> Result<(), String> {
    let fits = |expected: usize| match part.len() == expected {
        true => Ok(()),
        false => Err(format!("{expected} values are expected, the file has {}", part.len())),
    };
    let Some(column) = &tensor.column else {
        fits(whole.len())?;
        whole.copy_from_slice(part);
        return Ok(());
    };
    let extent = column.of.get(column.axis).copied().unwrap_or(1).max(1);
    let inner: usize = column.of.iter().skip(column.axis + 1).product();
    fits(whole.len() / extent)?;
    let runs = whole.chunks_exact_mut(inner.max(1)).skip(column.at).step_by(extent);
    for (to, from) in runs.zip(part.chunks_exact(inner.max(1))) {
        to.copy_from_slice(from);
    }
    Ok(())
}

/// Rows whose rotary pairs are neighbours, put back half a head apart: row `j size / 2 + k` of a head is row `2 k + j` of the file.
fn unordered(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, size) = (values.len() / rows, (rows / heads.max(1)).max(1));
    let from =
        |i: usize| (i / size) * size + 2 * (i % size % (size / 2).max(1)) + (i % size) / (size / 2).max(1);
    (0..rows).flat_map(|i| &values[from(i) * width..(from(i) + 1) * width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::inputs::gguf::{Column, Stored};

    fn tensor(column: Option<Column>) -> GgufTensor {
        GgufTensor {
            name: "t".into(),
            source: TensorSource::Roles(vec!["r".into()]),
            shape: None,
            rope_heads: None,
            column,
            stored: Stored::FloatType,
            optional: false,
            tied: false,
        }
    }

    #[test]
    fn pairs_go_back_to_their_halves() {
        // Two heads of 6, as the file has them: 0 3 1 4 2 5, 6 9 7 10 8 11.
        let stored: Vec<f32> = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11].map(|x| x as f32).to_vec();
        assert_eq!(unordered(&stored, 12, 2), (0..12).map(|x| x as f32).collect::<Vec<_>>());
    }

    #[test]
    fn picked_columns_are_put_together() {
        // Two rows of [2, 3, 2], split by the second axis.
        let all: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let mut whole = vec![f32::NAN; 24];
        for at in 0..3 {
            let runs = all.chunks(2).skip(at).step_by(3).flatten().copied().collect::<Vec<_>>();
            place(&mut whole, &runs, &tensor(Some(Column { of: vec![2, 3, 2], axis: 1, at }))).unwrap();
        }
        assert_eq!(whole, all);
        let short = place(&mut whole, &all[..5], &tensor(None)).unwrap_err();
        assert!(short.contains("24") && short.contains('5'), "{short}");
    }
}
