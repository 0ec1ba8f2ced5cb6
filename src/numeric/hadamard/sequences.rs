//! Hadamard matrices of order `4 t` from four +-1 sequences of length `t` whose periodic autocorrelations cancel: circulant matrices with
//! these first rows, put into the array of Goethals and Seidel ("A skew Hadamard matrix of order 36", J. Austral. Math. Soc. 11, 1970).
//! The sequences are what a search found; the rest is the construction.

/// First rows of symmetric circulants (Williamson, "Hadamard's determinant theorem and the sum of four squares", Duke Math. J. 11, 1944;
/// the order 92 = 4 * 23 is of Baumert, Golomb and Hall, Bull. AMS 68, 1962; 116 = 4 * 29 of Baumert 1966). Found again by search: all
/// symmetric rows for 23 and 29, for 43 those that are constant on the orbits of multiplication by 6.
const WILLIAMSON: [[&str; 4]; 3] = [
    [
        "+--++-+-+------+-+-++--",
        "+-+--+++++----+++++--+-",
        "+-+++--++-+--+-++--+++-",
        "+++++-++---++---++-++++",
    ],
    [
        "+++--++-+-+--------+-+-++--++",
        "+++---+++-+-+----+-+-+++---++",
        "+--+-+++++--++--++--+++++-+--",
        "+++-++-+--+++-++-+++--+-++-++",
    ],
    [
        "+++++-++----+-++--++-++-++--++-+----++-++++",
        "+++---++--+-+-+-++--------++-+-+-+--++---++",
        "++-+-++++-+--+--+++--++--+++--+--+-++++-+-+",
        "+-++-----++++-+-+++-++++-+++-+-++++-----++-",
    ],
];

/// Turyn-type sequences X, Y, Z, W of lengths 36, 36, 36, 35 (Kharaghani and Tayfeh-Rezaie, "A Hadamard matrix of order 428",
/// J. Combin. Des. 13, 2005): the nonperiodic autocorrelations N of X and Y and twice those of Z and W cancel.
const TURYN_36: [&str; 4] = [
    "+++----++-+-+-----++++-++-++++----+-",
    "+-+++++--+-+--+--++--++++-++++---++-",
    "+-+++++-+--++++-+++-++--+++-+--+---+",
    "+++-+-----++--+-+++--+-+-+++-++++-+",
];

/// Orders that [`matrix`] knows.
pub(super) const ORDERS: [usize; 4] = [92, 116, 172, 428];

/// The matrix of one of [`ORDERS`].
pub(super) fn matrix(order: usize) -> Option<Vec<Vec<i8>>> {
    let at = ORDERS.iter().position(|&n| n == order)?;
    Some(match WILLIAMSON.get(at) {
        Some(rows) => goethals_seidel(&rows.map(signs)),
        None => goethals_seidel(&from_turyn(&TURYN_36.map(signs))),
    })
}

fn signs(text: &str) -> Vec<i8> {
    text.bytes().map(|c| if c == b'+' { 1 } else { -1 }).collect()
}

/// Turyn-type sequences give base sequences `(Z, W), (Z, -W), X, Y`; half sums and half differences of these, side by side, are four
/// T-sequences (exactly one is not zero at each place); four sums of those with the signs of a Hadamard matrix of order 4 are +-1
/// sequences with the same cancellation (Cooper and Wallis, Bull. Austral. Math. Soc. 7, 1972).
fn from_turyn([x, y, z, w]: &[Vec<i8>; 4]) -> [Vec<i8>; 4] {
    let half = |a: &[i8], b: &[i8], sign: i8| -> Vec<i8> {
        a.iter().zip(b).map(|(a, b)| (a + sign * b) / 2).collect()
    };
    let minus_w: Vec<i8> = w.iter().map(|x| -x).collect();
    let (long, short) = (z.len() + w.len(), x.len());
    let (a, b) = ([z.as_slice(), w].concat(), [z.as_slice(), &minus_w].concat());
    let t = [
        [half(&a, &b, 1), vec![0; short]].concat(),
        [half(&a, &b, -1), vec![0; short]].concat(),
        [vec![0; long], half(x, y, 1)].concat(),
        [vec![0; long], half(x, y, -1)].concat(),
    ];
    let sum = |s: [i8; 4]| (0..long + short).map(|i| (0..4).map(|k| s[k] * t[k][i]).sum()).collect();
    [sum([1, 1, 1, 1]), sum([-1, 1, 1, -1]), sum([-1, -1, 1, 1]), sum([-1, 1, -1, 1])]
}

/// The array `[A BR CR DR; -BR A D'R -C'R; -CR -D'R A B'R; -DR C'R -B'R A]` of circulants with the given first rows; `R` reverses the
/// columns, `'` transposes.
fn goethals_seidel(rows: &[Vec<i8>; 4]) -> Vec<Vec<i8>> {
    // Per block: sign, sequence, transposed. The diagonal has A without R.
    const ARRAY: [[(i8, usize, bool); 4]; 4] = [
        [(1, 0, false), (1, 1, false), (1, 2, false), (1, 3, false)],
        [(-1, 1, false), (1, 0, false), (1, 3, true), (-1, 2, true)],
        [(-1, 2, false), (-1, 3, true), (1, 0, false), (1, 1, true)],
        [(-1, 3, false), (1, 2, true), (-1, 1, true), (1, 0, false)],
    ];
    let t = rows[0].len();
    let entry = |i: usize, j: usize| {
        let (sign, which, transposed) = ARRAY[i / t][j / t];
        let (i, j) = (i % t, if i / t == j / t { j % t } else { t - 1 - j % t });
        let shift = if transposed { i + t - j } else { j + t - i };
        sign * rows[which][shift % t]
    };
    (0..4 * t).map(|i| (0..4 * t).map(|j| entry(i, j)).collect()).collect()
}
