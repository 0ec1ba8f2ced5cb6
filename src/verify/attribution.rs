//! Where a difference comes from: the way from the float model to the artifact in its runtime step by step, one component at a time, and every layer and linear
//! with the float model's values as its input, so that errors do not add up.

use std::collections::BTreeMap;

use super::compare::{Alike, NO_NUMBER, divergence};
use super::coordinates::{Coordinates, Kind};
use super::gaps::{ByModality, LinearSquares, alike};
use super::report::{Attribution, Cause, ChannelGap, ComponentGap, LayerGap, LinearGap};
use super::runner::{Distribution, Question, RunnerError, Scored};
use super::trace::{Features, Traced};
use crate::numeric::Tensor;

/// Rows of a linear's result that are kept of a sample: enough to tell an error, few enough for large models.
const KEPT_ROWS: usize = 64;

/// Linears that are told.
const WORST_LINEARS: usize = 5;

/// The models that are compared.
pub struct Subject<'a> {
    /// The float model.
    pub reference: &'a dyn Traced,
    /// The float model with what the export fused into its weights, nothing rounded; none where nothing was.
    pub structure: Option<&'a dyn Traced>,
    /// What the files hold, computed as they declare.
    pub artifact: &'a dyn Traced,
    /// The same with activations that are not rounded; none where the files do not round any.
    pub weights_only: Option<&'a dyn Traced>,
    /// How values of the vision graph lie in the artifact.
    pub vision: &'a Coordinates,
    /// How values of the decoder lie in the artifact.
    pub decoder: &'a Coordinates,
    /// Id of the placeholder of image rows.
    pub image_token_id: i64,
    /// Rows of the artifact's decoder may lie visual ones first.
    pub by_modality: bool,
}

/// One question of the comparison.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// As the float model's own files prepare it.
    pub reference: &'a Question,
    /// As the artifact's files prepare it.
    pub artifact: &'a Question,
    /// What the float model says.
    pub truth: &'a Scored,
    /// What the artifact says in its runtime, where one ran it.
    pub runtime: Option<&'a Scored>,
}

/// What the export expected of a linear, and what would help.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Relative error of its result.
    pub error: f64,
    /// The next better choice that was weighed, in words.
    pub better: Option<String>,
}

/// Mean divergence.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    rows: usize,
}

impl Mean {
    fn add(&mut self, truth: &Scored, found: &[Distribution]) {
        for (i, row) in truth.rows.iter().enumerate() {
            let kld = found.get(i).map_or(f64::NAN, |f| divergence(row, f));
            self.sum += if kld.is_finite() { kld } else { NO_NUMBER };
            self.rows += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.sum / self.rows as f64)
    }
}

/// Everything that is summed over questions.
#[derive(Default)]
struct Sums {
    preprocessing: Mean,
    structure: Mean,
    weights: Mean,
    artifact: Mean,
    runtime: Mean,
    vision: Mean,
    decoder: Mean,
    layers: BTreeMap<String, ByModality>,
    linears: BTreeMap<String, LinearSquares>,
    embeddings: Alike,
    hidden: BTreeMap<String, Alike>,
}

/// Attributes the difference on these questions. `expected` knows what the export expected of linears by role; `done` is told the number of questions done.
///
/// # Errors
/// [`RunnerError`] when a model does not run.
pub fn attribute(
    subject: &Subject<'_>,
    asked: &[Asked<'_>],
    expected: &dyn Fn(&str) -> Option<Expectation>,
    done: &mut dyn FnMut(usize),
) -> Result<Attribution, RunnerError> {
    let mut sums = Sums::default();
    for (i, one) in asked.iter().enumerate() {
        sums.question(subject, *one)?;
        done(i + 1);
    }
    let order = || subject.vision.names().iter().chain(subject.decoder.names());
    let layer = |name: &String| {
        let gap = sums.layers.get(name)?;
        let hidden = sums.hidden.get(name).and_then(Alike::similarity);
        Some(LayerGap { name: name.clone(), visual: gap.visual.error(), text: gap.text.error(), hidden })
    };
    let linears = order().filter_map(|name| Some((name, sums.linears.get(name)?)));
    Ok(Attribution {
        samples: asked.len(),
        causes: sums.causes(subject),
        components: sums.components(),
        embeddings: sums.embeddings.similarity(),
        layers: order().filter_map(layer).collect(),
        linears: worst(linears.map(|(name, sums)| (name.as_str(), sums)), expected),
    })
}

/// What a model says to a question, image rows included.
fn says(model: &dyn Traced, question: &Question) -> Result<(Features, Vec<Distribution>), RunnerError> {
    let features = model.vision(question, &mut |_, _| None)?;
    let rows = model.decoder(question, &features, &mut |_, _| None)?;
    Ok((features, rows))
}

impl Sums {
    fn question(&mut self, subject: &Subject<'_>, asked: Asked<'_>) -> Result<(), RunnerError> {
        let truth = asked.truth;
        if asked.artifact.prompt != asked.reference.prompt {
            let (_, rows) = says(subject.reference, asked.artifact)?;
            self.preprocessing.add(truth, &rows);
        }
        if let Some(structure) = subject.structure {
            self.structure.add(truth, &says(structure, asked.reference)?.1);
        }
        if let Some(weights_only) = subject.weights_only {
            self.weights.add(truth, &says(weights_only, asked.artifact)?.1);
        }
        let (features, rows) = says(subject.artifact, asked.artifact)?;
        self.artifact.add(truth, &rows);
        if let Some(runtime) = asked.runtime {
            self.runtime.add(truth, &runtime.rows);
        }
        self.component_runs(subject, asked, &features)?;
        self.traces(subject, asked)
    }

    /// One component of the artifact at a time.
    fn component_runs(
        &mut self,
        subject: &Subject<'_>,
        asked: Asked<'_>,
        features: &Features,
    ) -> Result<(), RunnerError> {
        let own = subject.reference.vision(asked.reference, &mut |_, _| None)?;
        if let (Some(features), Some(own)) = (features, &own) {
            let back = subject.decoder.features_back(features);
            match alike(&back, own) {
                true => {
                    let rows = subject.reference.decoder(asked.reference, &Some(back), &mut |_, _| None)?;
                    self.vision.add(asked.truth, &rows);
                }
                false => self.vision.add(asked.truth, &[]),
            }
        }
        let forth = own.as_ref().map(|rows| subject.decoder.features_forth(rows));
        let rows = subject.artifact.decoder(asked.reference, &forth, &mut |_, _| None)?;
        self.decoder.add(asked.truth, &rows);
        Ok(())
    }

    /// Values of both graphs: hidden states as the artifact computes them, then layers and linears, each with the float model's values before it.
    fn traces(&mut self, subject: &Subject<'_>, asked: Asked<'_>) -> Result<(), RunnerError> {
        let question = asked.reference;
        let mut vision = Recorded::new(subject.vision, false);
        let own = subject.reference.vision(question, &mut |name, value| vision.take(name, value))?;
        let mut decoder = Recorded::new(subject.decoder, subject.by_modality);
        subject.reference.decoder(question, &own, &mut |name, value| decoder.take(name, value))?;
        let (ids, _) = question.tokens();
        let modality: Vec<bool> = ids.iter().map(|id| *id == subject.image_token_id).collect();
        let orders = [Orders::new(&[], false), Orders::new(&modality, subject.by_modality)];

        let features = subject
            .artifact
            .vision(question, &mut |name, value| self.follow(&vision, &orders[0], name, value))?;
        subject.artifact.decoder(question, &features, &mut |name, value| {
            self.follow(&decoder, &orders[1], name, value)
        })?;

        subject
            .artifact
            .vision(question, &mut |name, value| self.compare(&vision, &orders[0], name, value, true))?;
        let forth = own.as_ref().map(|rows| subject.decoder.features_forth(rows));
        subject.artifact.decoder(question, &forth, &mut |name, value| {
            self.compare(&decoder, &orders[1], name, value, false)
        })?;
        Ok(())
    }

    /// Compares a hidden state as it is.
    fn follow(
        &mut self,
        recorded: &Recorded<'_>,
        orders: &Orders<'_>,
        name: &str,
        value: &Tensor<f32>,
    ) -> Option<Tensor<f32>> {
        let (kind, reference) = (recorded.coordinates.kind(name)?, recorded.values.get(name)?);
        let sums = match kind {
            Kind::Input => &mut self.embeddings,
            Kind::Sum => self.hidden.entry(name.to_string()).or_default(),
            Kind::Linear | Kind::ScaledLinear => return None,
        };
        let expected = recorded.coordinates.forth(name, reference);
        let order = orders.nearest(&expected, value);
        sums.add(&orders.apply(order, expected).0, value);
        None
    }

    /// Compares one value of the artifact with what was recorded, and gives the float model's in its place where the residual goes on.
    fn compare(
        &mut self,
        recorded: &Recorded<'_>,
        orders: &Orders<'_>,
        name: &str,
        value: &Tensor<f32>,
        all_visual: bool,
    ) -> Option<Tensor<f32>> {
        let coordinates = recorded.coordinates;
        let (kind, reference) = (coordinates.kind(name)?, recorded.values.get(name)?);
        match kind {
            Kind::Input => None,
            Kind::Sum => {
                let expected = coordinates.forth(name, reference);
                let order = orders.nearest(&expected, value);
                let (expected, modality) = orders.apply(order, expected);
                let modality = if all_visual { vec![true; value.rows()] } else { modality };
                self.layers.entry(name.to_string()).or_default().add(&expected, value, &modality);
                Tensor::new(value.shape().to_vec(), expected.into_data()).ok()
            }
            kind => {
                let value = recorded.part(value);
                let whole = coordinates.forth(name, reference);
                let order = orders.nearest(&whole, &value);
                let sums = self.linears.entry(name.to_string()).or_default();
                match kind {
                    Kind::ScaledLinear => {
                        let (reference, _) = orders.apply(order, reference.clone());
                        sums.add(&reference, &coordinates.back(name, &value), true);
                    }
                    _ => sums.add(&orders.apply(order, whole).0, &value, false),
                }
                None
            }
        }
    }

    fn causes(&self, subject: &Subject<'_>) -> Vec<Cause> {
        let cause =
            |name: &str, kld: Option<f64>, text: &str| Cause { name: name.into(), kld, text: text.into() };
        let pixels = match self.preprocessing.value() {
            None => cause(
                "preprocessing",
                Some(0.0),
                "The artifact's files prepare the same ids and pixels as the checkpoint's.",
            ),
            kld => cause(
                "preprocessing",
                kld,
                "The float model on the ids and pixels that the artifact's files prepare.",
            ),
        };
        let structure = match subject.structure {
            None => cause("float_conversion", Some(0.0), "Nothing was fused into the weights."),
            Some(_) => cause(
                "float_conversion",
                self.structure.value(),
                "The float model with rotations fused into its weights, in f32.",
            ),
        };
        let weights = match subject.weights_only {
            Some(_) => cause(
                "weights",
                self.weights.value(),
                "What the files hold, with activations that are not rounded.",
            ),
            None => {
                cause("weights", self.artifact.value(), "What the files hold; they round no activations.")
            }
        };
        let activations = match subject.weights_only {
            Some(_) => cause(
                "activations",
                self.artifact.value(),
                "The same with activations rounded as the files declare.",
            ),
            None => cause(
                "activations",
                None,
                "The files declare no rounding of activations; what the runtime's kernels round counts as runtime.",
            ),
        };
        let runtime = match self.runtime.value() {
            None => cause("runtime", None, "No real runtime ran the files."),
            kld => cause("runtime", kld, "The files in the runtime."),
        };
        vec![pixels, structure, weights, activations, runtime]
    }

    fn components(&self) -> Vec<ComponentGap> {
        let gap = |component: &str, mean: &Mean| {
            mean.value().map(|kld| ComponentGap { component: component.into(), kld })
        };
        [gap("vision", &self.vision), gap("decoder", &self.decoder)].into_iter().flatten().collect()
    }
}

/// The linears with the largest errors: those with a channel that is off by itself first, then those that are further from what the export expected.
fn worst<'n>(
    linears: impl Iterator<Item = (&'n str, &'n LinearSquares)>,
    expected: &dyn Fn(&str) -> Option<Expectation>,
) -> Vec<LinearGap> {
    let gap = |(role, sums): (&str, &LinearSquares)| {
        let (error, known) = (sums.error()?, expected(role));
        let odd = sums.odd_channel();
        let odd = odd.filter(|o| o.times > ODD_TIMES);
        let odd_channel = odd.map(|o| ChannelGap { channel: o.channel, error: o.error, times: o.times });
        (error > ROUNDING).then(|| LinearGap {
            role: role.into(),
            error,
            expected: known.as_ref().map(|k| k.error),
            advice: advice(error, odd_channel.as_ref(), known),
            odd_channel,
        })
    };
    let mut found: Vec<LinearGap> = linears.filter_map(gap).collect();
    // Surprise before size: an error that the export did not foresee is a fault, a large one that it did is a choice.
    let surprise = |g: &LinearGap| g.error / g.expected.unwrap_or(g.error).max(FORESEEN);
    let odd = |g: &LinearGap| g.odd_channel.map_or(0.0, |o| o.times);
    let rank = |g: &LinearGap| (surprise(g) > SURPRISE, odd(g), g.error);
    found.sort_by(|a, b| {
        let ((a, odd_a, x), (b, odd_b, y)) = (rank(a), rank(b));
        b.cmp(&a).then(odd_b.total_cmp(&odd_a)).then(y.total_cmp(&x))
    });
    found.truncate(WORST_LINEARS);
    found
}

/// How many times the error of the typical channel is no rounding any more. Of sound artifacts the oddest channel has at most 3.3 times (15 recipes of both formats on the trained
/// fixture), one doubled scale 20 times and more.
const ODD_TIMES: f64 = 5.0;

/// Errors up to this are rounding of f32 and half precision, and nothing that anyone would mend.
const ROUNDING: f64 = 1e-3;

/// Errors below this are foreseen for any linear: rounding of activations to 8 bits alone gives about one percent.
const FORESEEN: f64 = 0.01;

/// How many times the expected error is no rounding any more. The expectation is of calibration data; on other data errors were measured at most 3.3 times as large.
const SURPRISE: f64 = 5.0;

fn advice(error: f64, odd: Option<&ChannelGap>, known: Option<Expectation>) -> String {
    if let Some(odd) = odd {
        return format!(
            "Channel {} of its result is off by {:.0} %, {:.0} times as much as its typical channel: a scale or a weight of it is not the one that was exported. Export again and compare the hashes.",
            odd.channel,
            100.0 * odd.error,
            odd.times
        );
    }
    let Some(known) = known else {
        return "The export measured nothing of this linear. Calibration data lets it choose: pass --calibration, with a recipe that rounds by GPTQ.".into();
    };
    if error > SURPRISE * known.error.max(FORESEEN) {
        return format!(
            "{:.0} times the error that the export expected: its weights or scales are not those that were exported. Export again and compare the hashes.",
            error / known.error.max(FORESEEN)
        );
    }
    known.better.unwrap_or_else(|| "The best of what was weighed for it; only more bits for its weights or float activations would help.".into())
}

/// Values of the float model that are compared: residuals whole, since the artifact goes on with them, of linears some rows.
struct Recorded<'a> {
    coordinates: &'a Coordinates,
    values: BTreeMap<String, Tensor<f32>>,
    /// Rows may lie in another order, so that all are needed.
    whole: bool,
}

impl<'a> Recorded<'a> {
    fn new(coordinates: &'a Coordinates, whole: bool) -> Self {
        Self { coordinates, values: BTreeMap::new(), whole }
    }

    fn take(&mut self, name: &str, value: &Tensor<f32>) -> Option<Tensor<f32>> {
        let kept = match self.coordinates.kind(name)? {
            Kind::Input | Kind::Sum => value.clone(),
            Kind::Linear | Kind::ScaledLinear => self.part(value),
        };
        self.values.insert(name.to_string(), kept);
        None
    }

    /// The rows of a linear's result that are compared.
    fn part(&self, value: &Tensor<f32>) -> Tensor<f32> {
        if self.whole { value.clone() } else { sampled(value) }
    }
}

/// Evenly spaced rows of a value, all where there are few.
fn sampled(value: &Tensor<f32>) -> Tensor<f32> {
    let (rows, step) = (value.rows(), value.rows().div_ceil(KEPT_ROWS).max(1));
    let kept: Vec<f32> = (0..rows).step_by(step).flat_map(|r| value.row(r)).copied().collect();
    let height = if value.cols() == 0 { 0 } else { kept.len() / value.cols() };
    Tensor::new(vec![height, value.cols()], kept).unwrap_or_else(|_| value.clone())
}

/// How rows may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    AsTokens,
    VisualFirst,
}

/// Orders of the rows of one prompt.
struct Orders<'m> {
    modality: &'m [bool],
    /// Where each row of the order by modality comes from, if it is possible.
    visual_first: Option<Vec<usize>>,
}

impl<'m> Orders<'m> {
    fn new(modality: &'m [bool], by_modality: bool) -> Self {
        let of = |visual: bool| (0..modality.len()).filter(move |i| modality[*i] == visual);
        let visual_first = by_modality.then(|| of(true).chain(of(false)).collect());
        Self { modality, visual_first }
    }

    /// The order in which the rows of `value` are nearer to `expected`.
    fn nearest(&self, expected: &Tensor<f32>, value: &Tensor<f32>) -> Order {
        if self.visual_first.is_none() || !alike(expected, value) {
            return Order::AsTokens;
        }
        let distance = |order: Order| -> f64 {
            let (ordered, _) = self.apply(order, expected.clone());
            let squares = ordered.data().iter().zip(value.data()).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum()
        };
        if distance(Order::VisualFirst) < distance(Order::AsTokens) {
            Order::VisualFirst
        } else {
            Order::AsTokens
        }
    }

    /// Rows in an order, and which of them are visual.
    fn apply(&self, order: Order, value: Tensor<f32>) -> (Tensor<f32>, Vec<bool>) {
        let Some(from) =
            self.visual_first.as_ref().filter(|f| order == Order::VisualFirst && f.len() == value.rows())
        else {
            return (value, self.modality.to_vec());
        };
        let data: Vec<f32> = from.iter().flat_map(|r| value.row(*r)).copied().collect();
        let modality = from.iter().map(|r| self.modality[*r]).collect();
        (Tensor::new(value.shape().to_vec(), data).unwrap_or(value), modality)
    }
}
