//! The operators that exported files are made of, one function each. Standard ones are those of operator set 21
//! (<https://onnx.ai/onnx/operators/>), the others those of `docs/ContribOperators.md` of ONNX Runtime. Types, attributes and values of attributes that the
//! exporter does not write are refused by name.

mod arithmetic;
mod attention;
mod broadcast;
mod cut;
mod index;
mod norm;
mod product;
mod quantize;
mod reduce;
mod rotary;
mod sequence;
mod shape;
mod strided;
#[cfg(test)]
mod tests;
mod unary;

use super::Rounding;
use super::array::Array;
use super::error::Fault;
use super::node::Node;
use super::value::{Element, Value};
use crate::export::onnx::MICROSOFT;

/// Results of a node.
pub type Results = Result<Vec<Value>, Fault>;

/// What computes the results.
#[derive(Clone, Copy)]
enum Kernel {
    /// A function of the operands.
    Function(fn(&Call<'_>) -> Results),
    /// A body that is run again and again; the interpreter does that.
    Loop,
}

/// An operator.
pub struct Operator {
    /// Its domain; empty for the standard's.
    pub domain: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Fewest and most operands.
    pub operands: (usize, usize),
    /// Attributes that it may have.
    pub attributes: &'static [&'static str],
    kernel: Kernel,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::program::operator_name(self.domain, self.name))
    }
}

impl Operator {
    /// Whether its nodes have a graph of their own.
    pub fn has_body(&self) -> bool {
        matches!(self.kernel, Kernel::Loop)
    }
}

/// A node and its operands.
pub struct Call<'a> {
    /// The node.
    pub node: &'a Node,
    /// Values of its operands; none where one is left out.
    pub operands: &'a [Option<Value>],
    /// Whether activations are rounded.
    pub rounding: Rounding,
}

impl<'a> Call<'a> {
    /// The results.
    ///
    /// # Errors
    /// [`Fault`] when operands or attributes do not fit the operator.
    pub fn run(&self) -> Results {
        match self.node.operator.kernel {
            Kernel::Function(f) => f(self),
            Kernel::Loop => Err(Fault::UnknownOperator),
        }
    }

    /// Operand `i`, if it is there.
    pub fn optional(&self, i: usize) -> Option<&'a Value> {
        self.operands.get(i)?.as_ref()
    }

    /// Operand `i`.
    ///
    /// # Errors
    /// [`Fault::Missing`].
    pub fn input(&self, i: usize) -> Result<&'a Value, Fault> {
        self.optional(i).ok_or(Fault::Missing { operand: i })
    }

    /// Operand `i` as elements of a type.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::Type`].
    pub fn of<T: Element>(&self, i: usize) -> Result<&'a Array<T>, Fault> {
        let value = self.input(i)?;
        T::of(value).ok_or_else(|| self.wrong_type(i, T::NAME))
    }

    /// The error of operand `i` that is none of these types.
    pub fn wrong_type(&self, i: usize, expected: &str) -> Fault {
        let found = self.optional(i).map_or("none", Value::type_name).to_string();
        Fault::Type { operand: i, expected: expected.to_string(), found }
    }

    /// Operand `i` as whole numbers of 64 bits, of any shape.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::Type`].
    pub fn ints(&self, i: usize) -> Result<&'a [i64], Fault> {
        Ok(self.of::<i64>(i)?.data())
    }

    /// The only element of operand `i`.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::Type`], [`Fault::Shape`].
    pub fn one<T: Element>(&self, i: usize) -> Result<T, Fault> {
        match self.of::<T>(i)?.data() {
            [x] => Ok(*x),
            more => Err(Fault::shape(format!("one element in operand {i}"), more.len())),
        }
    }

    /// Attribute `axis` of a value with `rank` axes; a negative one counts from behind.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when there is no such axis.
    pub fn axis(&self, default: i64, rank: usize) -> Result<usize, Fault> {
        let found = self.node.int("axis", default)?;
        axis(found, rank).ok_or_else(|| Fault::attribute("axis", format!("an axis of {rank}"), found))
    }
}

/// The axis by a number that counts from behind where it is negative.
pub fn axis(number: i64, rank: usize) -> Option<usize> {
    let counted = if number < 0 { number.checked_add(rank as i64)? } else { number };
    usize::try_from(counted).ok().filter(|a| *a < rank)
}

/// One result.
pub fn one<T: Element>(array: Array<T>) -> Results {
    Ok(vec![T::value(array)])
}

/// The operator of a name; `ai.onnx` is another name of the standard's domain.
pub fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    TABLE.iter().find(|o| o.domain == domain && o.name == name)
}

const fn standard(
    name: &'static str,
    operands: (usize, usize),
    attributes: &'static [&'static str],
    function: fn(&Call<'_>) -> Results,
) -> Operator {
    Operator { domain: "", name, operands, attributes, kernel: Kernel::Function(function) }
}

const fn microsoft(
    name: &'static str,
    operands: (usize, usize),
    attributes: &'static [&'static str],
    function: fn(&Call<'_>) -> Results,
) -> Operator {
    Operator { domain: MICROSOFT, name, operands, attributes, kernel: Kernel::Function(function) }
}

/// Most operands of an operator that takes any number.
const ANY: usize = usize::MAX;

/// All operators.
static TABLE: &[Operator] = &[
    standard("Abs", (1, 1), &[], unary::abs),
    standard("Add", (2, 2), &[], arithmetic::add),
    standard("And", (2, 2), &[], arithmetic::and),
    standard("Cast", (1, 1), &["to", "saturate"], unary::cast),
    standard("Concat", (1, ANY), &["axis"], cut::concat),
    standard("ConcatFromSequence", (1, 1), &["axis", "new_axis"], sequence::concat),
    standard("Cos", (1, 1), &[], unary::cos),
    standard("CumSum", (2, 2), &["exclusive", "reverse"], index::cum_sum),
    standard("DequantizeLinear", (2, 3), &["axis", "block_size"], quantize::dequantize),
    standard("Div", (2, 2), &[], arithmetic::div),
    standard("Equal", (2, 2), &[], arithmetic::equal),
    standard("Expand", (2, 2), &[], shape::expand),
    standard("Gather", (2, 2), &["axis"], index::gather),
    standard("Gelu", (1, 1), &["approximate"], unary::gelu),
    standard("Greater", (2, 2), &[], arithmetic::greater),
    standard("GreaterOrEqual", (2, 2), &[], arithmetic::greater_or_equal),
    standard("Identity", (1, 1), &[], shape::identity),
    standard("LayerNormalization", (2, 3), &["axis", "epsilon", "stash_type"], norm::layer_normalization),
    standard("LessOrEqual", (2, 2), &[], arithmetic::less_or_equal),
    standard("Log", (1, 1), &[], unary::log),
    Operator { domain: "", name: "Loop", operands: (2, ANY), attributes: &["body"], kernel: Kernel::Loop },
    standard("MatMul", (2, 2), &[], product::matmul),
    standard("Max", (1, ANY), &[], arithmetic::max),
    standard("Mod", (2, 2), &["fmod"], arithmetic::modulo),
    standard("Mul", (2, 2), &[], arithmetic::mul),
    standard("NonZero", (1, 1), &[], index::non_zero),
    standard("Not", (1, 1), &[], unary::not),
    standard("Pad", (2, 3), &["mode"], cut::pad),
    standard("Pow", (2, 2), &[], arithmetic::pow),
    standard("QuantizeLinear", (2, 3), &["axis", "block_size", "saturate"], quantize::quantize),
    standard("Range", (3, 3), &[], index::range),
    standard("Reciprocal", (1, 1), &[], unary::reciprocal),
    standard("ReduceMax", (1, 2), reduce::ATTRIBUTES, reduce::max),
    standard("ReduceMean", (1, 2), reduce::ATTRIBUTES, reduce::mean),
    standard("ReduceProd", (1, 2), reduce::ATTRIBUTES, reduce::prod),
    standard("ReduceSum", (1, 2), reduce::ATTRIBUTES, reduce::sum),
    standard("Reshape", (2, 2), &["allowzero"], shape::reshape),
    standard("ScatterElements", (3, 3), &["axis", "reduction"], index::scatter_elements),
    standard("ScatterND", (3, 3), &["reduction"], index::scatter_nd),
    standard("SequenceEmpty", (0, 0), &["dtype"], sequence::empty),
    standard("SequenceInsert", (2, 2), &[], sequence::insert),
    standard("Shape", (1, 1), &["start", "end"], shape::shape),
    standard("Sigmoid", (1, 1), &[], unary::sigmoid),
    standard("Sin", (1, 1), &[], unary::sin),
    standard("Slice", (3, 5), &[], cut::slice),
    standard("Softmax", (1, 1), &["axis"], norm::softmax),
    standard("Split", (1, 2), &["axis", "num_outputs"], cut::split),
    standard("Sqrt", (1, 1), &[], unary::sqrt),
    standard("Squeeze", (1, 2), &[], shape::squeeze),
    standard("Sub", (2, 2), &[], arithmetic::sub),
    standard("Transpose", (1, 1), &["perm"], shape::transpose),
    standard("Unsqueeze", (2, 2), &[], shape::unsqueeze),
    standard("Where", (3, 3), &[], arithmetic::choose),
    microsoft(
        "GroupQueryAttention",
        (7, 11),
        &["num_heads", "kv_num_heads", "scale"],
        attention::group_query_attention,
    ),
    microsoft("MatMulIntegerToFloat", (4, 7), &[], product::matmul_integer_to_float),
    microsoft(
        "MatMulNBits",
        (3, 6),
        &["K", "N", "bits", "block_size", "accuracy_level"],
        product::matmul_nbits,
    ),
    microsoft("MultiHeadAttention", (3, 3), &["num_heads", "scale"], attention::multi_head_attention),
    microsoft(
        "RotaryEmbedding",
        (4, 4),
        &["interleaved", "num_heads", "rotary_embedding_dim", "scale"],
        rotary::rotary_embedding,
    ),
];
