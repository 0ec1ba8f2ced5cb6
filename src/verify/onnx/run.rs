//! Runs the nodes of a file in their order, and frees values behind their last use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::array::Array;
use super::error::{Fault, OnnxRunError};
use super::graph::{Axis, OnnxGraph, Port};
use super::node::{Body, Node};
use super::ops::Call;
use super::program::{Program, operator_name};
use super::value::Value;
use super::{Rounding, Tap};

/// Values by slot.
type Slots = Vec<Option<Value>>;

impl OnnxGraph {
    /// Runs the nodes that `wanted` values need, and returns these. They may be outputs or results of any node.
    ///
    /// # Errors
    /// [`OnnxRunError`] when an input is missing or does not fit, a weight cannot be read, or a node does not fit its operands.
    pub fn run(
        &self,
        inputs: BTreeMap<String, Value>,
        wanted: &[&str],
        rounding: Rounding,
        tap: &mut dyn Tap,
    ) -> Result<BTreeMap<String, Value>, OnnxRunError> {
        let no_value =
            |name: &str| OnnxRunError::NoValue { path: self.path().to_path_buf(), name: name.into() };
        let slots: Vec<usize> = wanted
            .iter()
            .map(|name| self.program.slot(name).ok_or_else(|| no_value(name)))
            .collect::<Result<_, _>>()?;
        let schedule = Schedule::new(&self.program, &slots);
        let mut live = self.bind(inputs, &schedule)?;
        for (i, &number) in schedule.nodes.iter().enumerate() {
            let node = &self.program.nodes[number];
            let operands = self.operands(node, &live)?;
            for (slot, value) in self.results(node, &operands, &live, rounding)? {
                let replaced = tap.value(&self.program.names[slot], &value);
                live[slot] = Some(replaced.unwrap_or(value));
            }
            drop(operands);
            schedule.ends[i].iter().for_each(|slot| live[*slot] = None);
        }
        let take = |(name, slot): (&&str, &usize)| {
            let value =
                if self.program.constant[*slot] { Some(self.constant(*slot)?) } else { live[*slot].clone() };
            Ok((name.to_string(), value.ok_or_else(|| no_value(name))?))
        };
        wanted.iter().zip(&slots).map(take).collect()
    }

    /// Inputs by slot, all that are needed there and as the file says.
    fn bind(&self, mut inputs: BTreeMap<String, Value>, schedule: &Schedule) -> Result<Slots, OnnxRunError> {
        let mut live: Slots = vec![None; self.program.names.len()];
        let mut lengths = HashMap::new();
        for (port, &slot) in self.inputs().iter().zip(&self.program.inputs) {
            match inputs.remove(&port.name) {
                Some(value) => {
                    fits(port, &value, &mut lengths)
                        .map_err(|expected| self.misfit(&port.name, expected, &value))?;
                    live[slot] = Some(value);
                }
                None if schedule.reads.contains(&slot) => {
                    let (path, name) = (self.path().to_path_buf(), port.name.clone());
                    return Err(OnnxRunError::Input {
                        path,
                        name,
                        expected: describe(port),
                        found: "none".into(),
                    });
                }
                None => {}
            }
        }
        match inputs.pop_first() {
            Some((name, value)) => Err(self.misfit(&name, "no input of this name".into(), &value)),
            None => Ok(live),
        }
    }

    fn misfit(&self, name: &str, expected: String, value: &Value) -> OnnxRunError {
        let (path, name) = (self.path().to_path_buf(), name.to_string());
        OnnxRunError::Input { path, name, expected, found: value.describe() }
    }

    fn operands(&self, node: &Node, live: &Slots) -> Result<Vec<Option<Value>>, OnnxRunError> {
        let value = |slot: &Option<usize>| slot.map(|slot| self.value(slot, live)).transpose();
        node.inputs.iter().map(value).collect()
    }

    fn value(&self, slot: usize, live: &Slots) -> Result<Value, OnnxRunError> {
        if self.program.constant[slot] {
            return self.constant(slot);
        }
        let name = || self.program.names[slot].clone();
        live[slot]
            .clone()
            .ok_or_else(|| OnnxRunError::NoValue { path: self.path().to_path_buf(), name: name() })
    }

    /// Results of a node by their slots.
    fn results(
        &self,
        node: &Node,
        operands: &[Option<Value>],
        live: &Slots,
        rounding: Rounding,
    ) -> Result<Vec<(usize, Value)>, OnnxRunError> {
        let results = match &node.body {
            None => Call { node, operands, rounding }.run(),
            Some(body) => {
                let captured = body.captures.iter().map(|(outside, _)| self.value(*outside, live));
                repeat(body, operands, captured.collect::<Result<_, _>>()?, rounding)
            }
        };
        let results = results.and_then(|results| assigned(node, results));
        results.map_err(|fault| OnnxRunError::Node {
            path: self.path().to_path_buf(),
            node: node.name.clone(),
            operator: operator_name(node.operator.domain, node.operator.name),
            fault: Box::new(fault),
        })
    }

    /// A value that depends on initializers alone. What is asked for here is what nodes with other operands read, so that it alone is kept.
    fn constant(&self, slot: usize) -> Result<Value, OnnxRunError> {
        let kept = self.kept.as_ref().map(|kept| &kept[slot]);
        if let Some(value) = kept.and_then(|k| k.get()) {
            return Ok(value.clone());
        }
        let value = match self.program.maker[slot] {
            None => self.initializer(slot)?,
            Some(_) => self.folded(slot)?,
        };
        // Another thread may have been faster, with the same value.
        kept.map(|k| k.set(value.clone()));
        Ok(value)
    }

    /// Runs the nodes that make a constant value.
    fn folded(&self, slot: usize) -> Result<Value, OnnxRunError> {
        let schedule = Schedule::through_constants(&self.program, slot);
        let mut live: Slots = vec![None; self.program.names.len()];
        for (i, &number) in schedule.nodes.iter().enumerate() {
            let node = &self.program.nodes[number];
            for slot in node.reads().filter(|s| self.program.maker[*s].is_none()) {
                if live[slot].is_none() {
                    live[slot] = Some(self.initializer(slot)?);
                }
            }
            let operands: Vec<Option<Value>> =
                node.inputs.iter().map(|slot| slot.and_then(|slot| live[slot].clone())).collect();
            for (slot, value) in self.results(node, &operands, &live, Rounding::Declared)? {
                live[slot] = Some(value);
            }
            schedule.ends[i].iter().for_each(|slot| live[*slot] = None);
        }
        let name = || self.program.names[slot].clone();
        live[slot]
            .take()
            .ok_or_else(|| OnnxRunError::NoValue { path: self.path().to_path_buf(), name: name() })
    }
}

/// Which nodes run, and which values are not read any more behind each.
struct Schedule {
    nodes: Vec<usize>,
    /// By node of the schedule: slots whose last use it is.
    ends: Vec<Vec<usize>>,
    /// Slots that are read.
    reads: BTreeSet<usize>,
}

impl Schedule {
    /// For values that depend on inputs: constants are made on their own.
    fn new(program: &Program, wanted: &[usize]) -> Self {
        Self::of(program, wanted, |slot| !program.constant[slot])
    }

    fn through_constants(program: &Program, wanted: usize) -> Self {
        Self::of(program, &[wanted], |_| true)
    }

    fn of(program: &Program, wanted: &[usize], follow: impl Fn(usize) -> bool) -> Self {
        let (mut open, mut reads, mut nodes) = (wanted.to_vec(), BTreeSet::new(), BTreeSet::new());
        while let Some(slot) = open.pop() {
            if !follow(slot) || !reads.insert(slot) {
                continue;
            }
            if let Some(node) = program.maker[slot].filter(|n| nodes.insert(*n)) {
                open.extend(program.nodes[node].reads());
            }
        }
        let nodes: Vec<usize> = nodes.into_iter().collect();
        let mut last = HashMap::new();
        for (i, number) in nodes.iter().enumerate() {
            let node = &program.nodes[*number];
            node.reads().chain(node.outputs.iter().flatten().copied()).for_each(|slot| {
                last.insert(slot, i);
            });
        }
        let mut ends = vec![vec![]; nodes.len()];
        for (slot, i) in last.into_iter().filter(|(slot, _)| !wanted.contains(slot)) {
            ends[i].push(slot);
        }
        Self { nodes, ends, reads }
    }
}

/// Results by the slots that take them.
fn assigned(node: &Node, results: Vec<Value>) -> Result<Vec<(usize, Value)>, Fault> {
    if node.outputs.len() > results.len() {
        let expected = format!("at most {}", results.len());
        return Err(Fault::Count { what: "results", expected, found: node.outputs.len() });
    }
    Ok(node.outputs.iter().zip(results).filter_map(|(slot, value)| Some(((*slot)?, value))).collect())
}

/// Loop: the body once for each step, with the values it carries from one to the next. Outputs of single steps are not collected.
fn repeat(
    body: &Body,
    operands: &[Option<Value>],
    captured: Vec<Value>,
    rounding: Rounding,
) -> Result<Vec<Value>, Fault> {
    let program = &body.program;
    let one = |value: &Value| value.ints().and_then(|n| n.data().first().copied());
    let steps = operands.first().and_then(Option::as_ref).and_then(one);
    let steps = steps.ok_or_else(|| Fault::shape("a number of steps", operands.first()))?;
    let go_on = operands.get(1).and_then(Option::as_ref);
    let mut go_on = go_on.cloned().unwrap_or(Value::Bool(Array::scalar(true)));
    let mut carried = operands[2..].to_vec();
    if program.inputs.len() != 2 + carried.len() || program.outputs.len() != 1 + carried.len() {
        let found = (program.inputs.len(), program.outputs.len());
        return Err(Fault::shape(
            format!("a body with {0} + 2 inputs and {0} + 1 outputs", carried.len()),
            found,
        ));
    }
    for step in 0..steps {
        if !matches!(&go_on, Value::Bool(b) if b.data() == [true]) {
            break;
        }
        let mut live: Slots = vec![None; program.names.len()];
        let number = Value::I64(Array::scalar(step));
        let given = [Some(number), Some(go_on)].into_iter().chain(carried);
        program.inputs.iter().zip(given).for_each(|(slot, value)| live[*slot] = value);
        body.captures.iter().zip(&captured).for_each(|((_, slot), value)| live[*slot] = Some(value.clone()));
        for node in &program.nodes {
            let operands: Vec<Option<Value>> =
                node.inputs.iter().map(|slot| slot.and_then(|slot| live[slot].clone())).collect();
            let results = Call { node, operands: &operands, rounding }.run();
            let results =
                results.and_then(|results| assigned(node, results)).map_err(|fault| Fault::Body {
                    node: node.name.clone(),
                    operator: operator_name(node.operator.domain, node.operator.name),
                    fault: Box::new(fault),
                })?;
            results.into_iter().for_each(|(slot, value)| live[slot] = Some(value));
        }
        let mut outputs = program.outputs.iter().map(|slot| live[*slot].clone());
        go_on = outputs.next().flatten().ok_or(Fault::Missing { operand: 1 })?;
        carried = outputs.collect();
    }
    carried.into_iter().enumerate().map(|(i, value)| value.ok_or(Fault::Missing { operand: i + 2 })).collect()
}

/// What an input must be.
fn describe(port: &Port) -> String {
    let axis = |a: &Axis| match a {
        Axis::Fixed(n) => n.to_string(),
        Axis::Named(name) => name.clone(),
    };
    format!("{}[{}]", port.dtype, port.shape.iter().map(axis).collect::<Vec<_>>().join(", "))
}

/// Whether a value is what the file says of an input; `lengths` are those of named axes so far. Else what was expected.
fn fits<'a>(port: &'a Port, value: &Value, lengths: &mut HashMap<&'a str, usize>) -> Result<(), String> {
    if value.type_name() != port.dtype || value.shape().len() != port.shape.len() {
        return Err(describe(port));
    }
    for (axis, &length) in port.shape.iter().zip(value.shape()) {
        match axis {
            Axis::Fixed(n) if *n != length => return Err(describe(port)),
            Axis::Named(name) if !name.is_empty() => {
                let known = *lengths.entry(name).or_insert(length);
                if known != length {
                    return Err(format!("{} with {name} = {known} as in other inputs", describe(port)));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
