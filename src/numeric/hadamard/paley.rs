//! Paley's two constructions, from the quadratic character of a finite field (Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933).

/// `q = p^k` with `p` prime and `k >= 1`: returns `(p, k)`.
pub(super) fn prime_power(q: usize) -> Option<(usize, u32)> {
    if q < 2 {
        return None;
    }
    let p = (2..).take_while(|d| d * d <= q).find(|d| q.is_multiple_of(*d)).unwrap_or(q);
    let k = q.ilog(p);
    (p.checked_pow(k) == Some(q)).then_some((p, k))
}

/// The field of `q = p^k` elements, `q` odd, as far as Paley needs it: differences, and which elements are squares. An element is a number
/// below `q` whose base-`p` digits are the coefficients of a polynomial of degree below `k`.
struct Field {
    p: usize,
    /// 1 for squares, -1 for the others, 0 for zero.
    character: Vec<i8>,
}

impl Field {
    fn new(q: usize) -> Option<Self> {
        let (p, _) = prime_power(q).filter(|&(p, _)| p > 2)?;
        // A multiplication rule under which x runs through all q - 1 nonzero elements: then all of them are units, so it is a field, and
        // the squares are the even powers of x. For k = 1 the rule is multiplication by a primitive root.
        let character = (1..q).find_map(|rule| Self::character(p, q, rule))?;
        Some(Self { p, character })
    }

    /// Characters of the powers of x where `x^k = rule`; none when x does not generate all nonzero elements.
    fn character(p: usize, q: usize, rule: usize) -> Option<Vec<i8>> {
        let mut character = vec![0; q];
        let (mut power, mut sign) = (1, 1);
        for _ in 1..q {
            if power == 0 || character[power] != 0 {
                return None;
            }
            character[power] = sign;
            sign = -sign;
            // Times x: the digits move up, and the one that falls out comes back times the rule.
            let top = power * p / q;
            power = digits(p, power * p % q, rule, |a, b| a + top * b);
        }
        Some(character)
    }

    /// Character of `a - b`.
    fn of_difference(&self, a: usize, b: usize) -> i8 {
        self.character[digits(self.p, a, b, |a, b| a + self.p - b)]
    }
}

/// Combines two elements digit by digit, modulo `p`.
fn digits(p: usize, a: usize, b: usize, f: impl Fn(usize, usize) -> usize) -> usize {
    let (mut a, mut b, mut place, mut sum) = (a, b, 1, 0);
    while a > 0 || b > 0 {
        sum += f(a % p, b % p) % p * place;
        (a, b, place) = (a / p, b / p, place * p);
    }
    sum
}

/// `C` of order `q + 1`: zeros on the diagonal, signs elsewhere, `C C^T = q I`; skew for `q = 3 mod 4`, symmetric for `q = 1 mod 4`.
fn conference(q: usize) -> Option<Vec<Vec<i8>>> {
    let field = Field::new(q)?;
    let border = if q % 4 == 3 { -1 } else { 1 };
    let first = std::iter::once(0).chain(std::iter::repeat_n(1, q)).collect();
    let row =
        |a| std::iter::once(border).chain((0..q).map(|b| field.of_difference(b, a)).collect::<Vec<_>>());
    Some(std::iter::once(first).chain((0..q).map(|a| row(a).collect())).collect())
}

/// Order `q + 1` for a prime power `q = 3 mod 4`: `I + C`, where `C + C^T = 0`, so `(I + C)(I + C)^T = (1 + q) I`.
pub(super) fn first(q: usize) -> Option<Vec<Vec<i8>>> {
    let mut h = conference(q).filter(|_| q % 4 == 3)?;
    h.iter_mut().enumerate().for_each(|(i, row)| row[i] = 1);
    Some(h)
}

/// Order `2 (q + 1)` for a prime power `q = 1 mod 4`: `C` with its signs times `[1 1; 1 -1]` and its zeros replaced by `[1 -1; -1 -1]`.
/// The two blocks are symmetric, anticommute and have square `2 I`, so the product with the transpose is `2 (q + 1) I`.
pub(super) fn second(q: usize) -> Option<Vec<Vec<i8>>> {
    let c = conference(q).filter(|_| q % 4 == 1)?;
    let block = |c: i8, i: usize, j: usize| match (c, i, j) {
        (0, 0, 0) => 1,
        (0, _, _) => -1,
        (c, 1, 1) => -c,
        (c, _, _) => c,
    };
    let n = 2 * c.len();
    Some((0..n).map(|i| (0..n).map(|j| block(c[i / 2][j / 2], i % 2, j % 2)).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prime_powers() {
        let found: Vec<usize> = (0..50).filter(|&q| prime_power(q).is_some()).collect();
        let want = [2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32, 37, 41, 43, 47, 49];
        assert_eq!(found, want);
        assert_eq!(prime_power(343), Some((7, 3)));
    }

    #[test]
    fn the_character_of_a_prime_field_is_the_legendre_symbol() {
        let field = Field::new(23).unwrap();
        for a in 1..23 {
            let square = (1..23).any(|x| x * x % 23 == a);
            assert_eq!(field.of_difference(a, 0), if square { 1 } else { -1 }, "{a}");
            assert_eq!(field.of_difference(0, a), -field.of_difference(a, 0), "-1 is no square modulo 23");
        }
    }

    #[test]
    fn no_matrix_where_the_order_does_not_fit() {
        assert!(first(13).is_none() && first(15).is_none() && first(2).is_none());
        assert!(second(11).is_none() && second(21).is_none() && second(4).is_none());
    }
}
