//! Operators on two or three operands, element by element.

use super::broadcast::zip;
use super::{Call, Results, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value, by_type};

/// Numbers that are calculated with. Whole ones wrap around, as in the runtime.
trait Number: Element + PartialOrd {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Whole numbers are rounded towards zero; `other` is not a whole 0.
    fn over(self, other: Self) -> Self;
    /// Whether it is a whole 0, by which nothing is divided.
    fn is_whole_zero(self) -> bool;
}

macro_rules! whole {
    ($($t:ty)*) => {
        $(impl Number for $t {
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn over(self, other: Self) -> Self {
                self.checked_div(other).unwrap_or(Self::MIN)
            }
            fn is_whole_zero(self) -> bool {
                self == 0
            }
        })*
    };
}
whole!(i64 i32 i8 u8);

macro_rules! real {
    ($($t:ty)*) => {
        $(impl Number for $t {
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn minus(self, other: Self) -> Self {
                self - other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn over(self, other: Self) -> Self {
                self / other
            }
            fn is_whole_zero(self) -> bool {
                false
            }
        })*
    };
}
real!(f32 f64);

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident $inner:ident $how:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(call: &Call<'_>) -> Results {
            fn $inner<T: Number>(call: &Call<'_>) -> Results {
                one(zip(call.of::<T>(0)?, call.of::<T>(1)?, $how)?)
            }
            by_type!(call, 0, [F32: f32, F64: f64, I64: i64, I32: i32, I8: i8, U8: u8], $inner)
        })*
    };
}
numbers! {
    /// Add.
    add of_add T::plus;
    /// Sub.
    sub of_sub T::minus;
    /// Mul.
    mul of_mul T::times;
    /// Equal, of numbers.
    equal of_equal |x: T, y: T| x == y;
    /// Greater.
    greater of_greater |x: T, y: T| x > y;
    /// GreaterOrEqual.
    greater_or_equal of_greater_or_equal |x: T, y: T| x >= y;
    /// LessOrEqual.
    less_or_equal of_less_or_equal |x: T, y: T| x <= y;
}

/// Div.
pub fn div(call: &Call<'_>) -> Results {
    fn of_type<T: Number>(call: &Call<'_>) -> Results {
        one(zip(call.of::<T>(0)?, no_zeros(call.of::<T>(1)?)?, T::over)?)
    }
    by_type!(call, 0, [F32: f32, F64: f64, I64: i64, I32: i32], of_type)
}

fn no_zeros<T: Number>(divisors: &Array<T>) -> Result<&Array<T>, Fault> {
    match divisors.data().iter().any(|d| d.is_whole_zero()) {
        true => Err(Fault::shape("divisors that are not 0", "a 0")),
        false => Ok(divisors),
    }
}

/// Mod of whole numbers: the sign is the divisor's.
pub fn modulo(call: &Call<'_>) -> Results {
    call.node.int_among("fmod", 0, &[0])?;
    let rest = |x: i64, y: i64| {
        let rest = x.wrapping_rem(y);
        if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }
    };
    one(zip(call.of::<i64>(0)?, no_zeros(call.of::<i64>(1)?)?, rest)?)
}

/// Pow of real numbers.
pub fn pow(call: &Call<'_>) -> Results {
    // A square is one rounding, as in the runtime, and much faster than a power.
    match call.input(0)? {
        Value::F32(x) => {
            one(zip(x, call.of::<f32>(1)?, |x, y: f32| if y == 2.0 { x * x } else { x.powf(y) })?)
        }
        Value::F64(x) => {
            one(zip(x, call.of::<f64>(1)?, |x, y: f64| if y == 2.0 { x * x } else { x.powf(y) })?)
        }
        _ => Err(call.wrong_type(0, "float or double")),
    }
}

/// Max of any number of operands.
pub fn max(call: &Call<'_>) -> Results {
    fn of_type<T: Number>(call: &Call<'_>) -> Results {
        let larger = |x: T, y: T| if y > x { y } else { x };
        let first = call.of::<T>(0)?.clone();
        one((1..call.operands.len()).try_fold(first, |m, i| zip(&m, call.of::<T>(i)?, larger))?)
    }
    by_type!(call, 0, [F32: f32, F64: f64, I64: i64, I32: i32], of_type)
}

/// And.
pub fn and(call: &Call<'_>) -> Results {
    one(zip(call.of::<bool>(0)?, call.of::<bool>(1)?, |x, y| x & y)?)
}

/// Where.
pub fn choose(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let first = zip(call.of::<bool>(0)?, call.of::<T>(1)?, |c, x| (c, x))?;
        one(zip(&first, call.of::<T>(2)?, |(c, x), y| if c { x } else { y })?)
    }
    by_type!(call, 1, all, of_type)
}
