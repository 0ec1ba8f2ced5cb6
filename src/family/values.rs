//! Reads the named numbers, vectors and flags of a family file from a checkpoint's JSON. Problems are collected, never guessed around:
//! a value that failed reads as a harmless stand-in and the resolution fails at the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;

use super::error::FamilyProblem;
use super::schema::{FamilyFile, JsonSource, Match, Num, NumberSource, QuotientDef, Requirement};

/// Evaluates names of one family file against one checkpoint.
pub(super) struct Values<'a> {
    family: &'a FamilyFile,
    config: &'a Json,
    preprocessor: &'a Json,
    memo: RefCell<BTreeMap<String, f64>>,
    problems: RefCell<Vec<FamilyProblem>>,
    /// Texts of the problems: a broken depth makes a hundred thousand of them.
    told: RefCell<HashSet<String>>,
}

impl<'a> Values<'a> {
    pub(super) fn new(family: &'a FamilyFile, config: &'a Json, preprocessor: &'a Json) -> Self {
        let (memo, problems, told) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { family, config, preprocessor, memo, problems, told }
    }

    /// Everything that went wrong so far.
    pub(super) fn into_problems(self) -> Vec<FamilyProblem> {
        self.problems.into_inner()
    }

    pub(super) fn report(&self, problem: FamilyProblem) {
        if self.told.borrow_mut().insert(problem.to_string()) {
            self.problems.borrow_mut().push(problem);
        }
    }

    /// A real number. `user` says where it is used.
    pub(super) fn real(&self, num: &Num, user: &str) -> f64 {
        match num {
            Num::Literal(x) => *x,
            Num::Name(name) => self.named(name, user),
        }
    }

    /// A finite number above 0.
    pub(super) fn positive(&self, num: &Num, user: &str) -> f64 {
        let x = self.real(num, user);
        if x.is_finite() && x > 0.0 {
            return x;
        }
        if !x.is_nan() {
            self.bad(num, user, "a number above 0", x.to_string());
        }
        1.0
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self, num: &Num, user: &str) -> usize {
        let x = self.real(num, user);
        // Sizes beyond 2^40 are nonsense and would overflow shape products.
        if x.fract() == 0.0 && (1.0..=1.1e12).contains(&x) {
            return x as usize;
        }
        if !x.is_nan() {
            self.bad(num, user, "a whole number of at least 1", x.to_string());
        }
        1
    }

    /// A whole number of at least 0: a token id.
    pub(super) fn id(&self, num: &Num, user: &str) -> i64 {
        let x = self.real(num, user);
        if x.fract() == 0.0 && (0.0..=1e12).contains(&x) {
            return x as i64;
        }
        if !x.is_nan() {
            self.bad(num, user, "a whole number of at least 0", x.to_string());
        }
        0
    }

    /// A list of numbers.
    pub(super) fn vector(&self, name: &str, user: &str) -> Vec<f64> {
        let Some(source) = self.family.vectors.get(name) else {
            self.undefined(name, user);
            return vec![];
        };
        let Some(found) = self.json(source, name) else { return source.default.clone().unwrap_or_default() };
        let numbers = found.1.as_array().map(|a| a.iter().map(Json::as_f64).collect::<Option<Vec<_>>>());
        match numbers {
            Some(Some(v)) => v,
            _ => {
                self.bad_json(found, name, "a list of numbers");
                vec![]
            }
        }
    }

    /// A boolean.
    pub(super) fn flag(&self, name: &str, user: &str) -> bool {
        let Some(source) = self.family.flags.get(name) else {
            self.undefined(name, user);
            return false;
        };
        let Some(found) = self.json(source, name) else { return source.default.unwrap_or_default() };
        found.1.as_bool().unwrap_or_else(|| {
            self.bad_json(found, name, "true or false");
            false
        })
    }

    fn named(&self, name: &str, user: &str) -> f64 {
        if let Some(&x) = self.memo.borrow().get(name) {
            return x;
        }
        let Some(source) = self.family.numbers.get(name) else {
            self.undefined(name, user);
            return f64::NAN;
        };
        // Present while it is computed, so that a definition in a circle ends (as NaN, which nothing accepts).
        self.memo.borrow_mut().insert(name.to_string(), f64::NAN);
        let x = match source {
            NumberSource::Product(p) => {
                let product: f64 = p.product.iter().map(|n| self.real(n, name)).product();
                if p.truncate { product.trunc() } else { product }
            }
            NumberSource::Sum(s) => s.sum.iter().map(|n| self.real(n, name)).sum(),
            NumberSource::Quotient(q) => self.quotient(q, name, user),
            NumberSource::Json(source) => self.number(source, name),
        };
        self.memo.borrow_mut().insert(name.to_string(), x);
        x
    }

    fn quotient(&self, def: &QuotientDef, name: &str, user: &str) -> f64 {
        let [a, b] = &def.quotient;
        let (x, y) = (self.real(a, name), self.real(b, name));
        let quotient = x / y;
        if def.truncate {
            return quotient.trunc();
        }
        if quotient.fract() != 0.0 && !quotient.is_nan() {
            self.bad(&Num::Name(name.into()), user, "an exact quotient", format!("{x} / {y}"));
        }
        quotient
    }

    /// Settings that are not supported.
    pub(super) fn require(&self, wanted: &[Requirement]) {
        for r in wanted {
            let (at, equals, default) = (r.at.clone(), Some(r.equals.clone()), r.default.clone());
            let condition = Match { at, equals, default, present: None };
            if !condition.holds(self.config) {
                self.report(FamilyProblem::Unsupported {
                    found: condition.found(self.config),
                    wanted: condition.wanted(),
                    reason: r.why.clone(),
                });
            }
        }
    }

    fn number(&self, source: &JsonSource<f64>, name: &str) -> f64 {
        let Some(found) = self.json(source, name) else { return source.default.unwrap_or(f64::NAN) };
        found.1.as_f64().unwrap_or_else(|| {
            self.bad_json(found, name, "a number");
            f64::NAN
        })
    }

    /// The first pointer that exists, with file and pointer. Reports when there is none and no default.
    fn json<T>(&self, source: &'a JsonSource<T>, name: &str) -> Option<(Found<'a>, &'a Json)> {
        let in_config = source.config.iter().map(|p| (CONFIG, self.config, p));
        let in_preprocessor = source.preprocessor.iter().map(|p| (PREPROCESSOR, self.preprocessor, p));
        let found = in_config.chain(in_preprocessor).find_map(|(file, json, at)| {
            json.pointer(at).filter(|v| !v.is_null()).map(|v| (Found { file, at }, v))
        });
        if found.is_none() && source.default.is_none() {
            let file = if source.config.is_empty() { PREPROCESSOR } else { CONFIG };
            let keys = [source.config.as_slice(), &source.preprocessor].concat().join(", ");
            self.report(FamilyProblem::MissingKey { file, keys, name: name.to_string() });
        }
        found
    }

    fn undefined(&self, name: &str, user: &str) {
        self.report(FamilyProblem::Undefined { user: user.to_string(), name: name.to_string() });
    }

    fn bad_json(&self, (found, value): (Found<'_>, &Json), name: &str, expected: &'static str) {
        let (file, key, found) = (found.file, found.at.to_string(), value.to_string());
        self.report(FamilyProblem::BadValue { file, key, name: name.to_string(), expected, found });
    }

    fn bad(&self, num: &Num, user: &str, expected: &'static str, found: String) {
        let mut file = "family file";
        let mut key = user.to_string();
        if let Num::Name(name) = num {
            key.clone_from(name);
            if let Some(NumberSource::Json(source)) = self.family.numbers.get(name)
                && let Some((at, _)) = self.json(source, name)
            {
                (file, key) = (at.file, at.at.to_string());
            }
        }
        self.report(FamilyProblem::BadValue { file, key, name: user.to_string(), expected, found });
    }
}

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Where a JSON value was found.
struct Found<'a> {
    file: &'static str,
    at: &'a str,
}
