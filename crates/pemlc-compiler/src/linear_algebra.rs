//! Small dense matrices in f64: what finding a delta's rank, and a basis that several deltas share, takes. Everything is deterministic.

use crate::ir::{Data, Tensor};

/// Sweeps of the Jacobi method: it converges quadratically, in ten to twenty for the sizes here.
const SWEEPS: usize = 40;
/// Columns whose cosine is below this are orthogonal.
const ORTHOGONAL: f64 = 1e-15;

/// A matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    values: Vec<f64>,
}

/// `u diag(s) v`, `s` from the largest down: `u` `[rows, count]`, `v` `[count, columns]`.
#[derive(Debug, Clone)]
pub(crate) struct Svd {
    pub(crate) u: Matrix,
    pub(crate) s: Vec<f64>,
    pub(crate) v: Matrix,
}

impl Svd {
    /// How many singular values are not zero.
    pub(crate) fn rank(&self) -> usize {
        self.s.iter().filter(|value| **value > 0.0).count()
    }
}

impl Matrix {
    pub(crate) fn from_fn(rows: usize, columns: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|place| value(place / columns, place % columns)).collect();
        Self { rows, columns, values }
    }

    /// `rows * columns` numbers, row-major.
    pub(crate) fn from_f32(rows: usize, columns: usize, values: &[f32]) -> Self {
        Self { rows, columns, values: values.iter().map(|value| f64::from(*value)).collect() }
    }

    pub(crate) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// Values rounded to f32, row-major.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    /// Rounded to f32, as a tensor of two axes.
    pub(crate) fn to_tensor(&self) -> Option<Tensor> {
        Tensor::new(vec![self.rows, self.columns], Data::F32(self.to_f32()))
    }

    pub(crate) fn transposed(&self) -> Self {
        Self::from_fn(self.columns, self.rows, |row, column| self.at(column, row))
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        let mut values = vec![0.0; self.rows * other.columns];
        if other.columns > 0 {
            for (row, result) in values.chunks_exact_mut(other.columns).enumerate() {
                for (factor, source) in self.row(row).iter().zip(other.values.chunks_exact(other.columns)) {
                    add_scaled(result, source, *factor);
                }
            }
        }
        Self { rows: self.rows, columns: other.columns, values }
    }

    /// The first `count` columns.
    pub(crate) fn first_columns(&self, count: usize) -> Self {
        Self::from_fn(self.rows, count, |row, column| self.at(row, column))
    }

    pub(crate) fn square_sum(&self) -> f64 {
        dot(&self.values, &self.values)
    }

    /// The square of the Frobenius norm of the difference.
    pub(crate) fn distance(&self, other: &Self) -> f64 {
        self.values.iter().zip(&other.values).map(|(left, right)| (left - right).powi(2)).sum()
    }

    /// `q r` with orthonormal columns in `q` `[rows, columns]`; a column that depends on earlier ones is zero in `q`. Gram-Schmidt, twice.
    pub(crate) fn qr(&self) -> (Self, Self) {
        let mut q = self.transposed();
        let mut r = Self::from_fn(self.columns, self.columns, |_, _| 0.0);
        for column in 0..q.rows {
            let (done, rest) = q.values.split_at_mut(column * self.rows);
            let current = &mut rest[..self.rows];
            let before = dot(current, current).sqrt();
            for _ in 0..2 {
                for (earlier, direction) in done.chunks_exact(self.rows.max(1)).enumerate() {
                    let share = dot(direction, current);
                    r.values[earlier * self.columns + column] += share;
                    add_scaled(current, direction, -share);
                }
            }
            let norm = dot(current, current).sqrt();
            let scale = if norm > before * 1e-14 { norm.recip() } else { 0.0 };
            r.values[column * self.columns + column] = norm * norm * scale;
            current.iter_mut().for_each(|value| *value *= scale);
        }
        (q.transposed(), r)
    }

    /// Orthonormal columns that span all columns up to what has less than `tolerance` of the largest column's length. `None` when there are
    /// more than `most`. Gram-Schmidt, the longest remaining column first.
    pub(crate) fn column_space(&self, tolerance: f64, most: usize) -> Option<Self> {
        let mut rest: Vec<Vec<f64>> = self.transposed().values.chunks(self.rows.max(1)).map(<[f64]>::to_vec).collect();
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let mut largest = 0.0f64;
        loop {
            let lengths = rest.iter().map(|column| dot(column, column)).enumerate();
            let longest = lengths.fold((0, 0.0), |best, next| if next.1 > best.1 { next } else { best });
            largest = largest.max(longest.1.sqrt());
            if longest.1 == 0.0 || longest.1.sqrt() <= tolerance * largest || rest.is_empty() {
                break;
            }
            if basis.len() == most {
                return None;
            }
            let mut next = rest.swap_remove(longest.0);
            for direction in &basis {
                let share = dot(direction, &next);
                add_scaled(&mut next, direction, -share);
            }
            let scale = dot(&next, &next).sqrt().recip();
            next.iter_mut().for_each(|value| *value *= scale);
            for column in &mut rest {
                let share = dot(&next, column);
                add_scaled(column, &next, -share);
            }
            basis.push(next);
        }
        Some(Self::from_fn(self.rows, basis.len(), |row, column| basis[column][row]))
    }

    /// The singular value decomposition, by one-sided Jacobi rotations of the columns.
    pub(crate) fn svd(&self) -> Svd {
        if self.rows < self.columns {
            let turned = self.transposed().svd();
            return Svd { u: turned.v.transposed(), s: turned.s, v: turned.u.transposed() };
        }
        // Rows here are columns there.
        let mut work: Vec<Vec<f64>> = self.transposed().values.chunks(self.rows.max(1)).map(<[f64]>::to_vec).collect();
        let count = self.columns;
        let mut turns: Vec<Vec<f64>> =
            (0..count).map(|row| (0..count).map(|column| f64::from(u8::from(row == column))).collect()).collect();
        for _ in 0..SWEEPS {
            let mut turned = false;
            for left in 0..count {
                for right in left + 1..count {
                    turned |= orthogonalise(&mut work, &mut turns, left, right);
                }
            }
            if !turned {
                break;
            }
        }
        let lengths: Vec<f64> = work.iter().map(|column| dot(column, column).sqrt()).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|left, right| lengths[*right].total_cmp(&lengths[*left]).then(left.cmp(right)));
        let unit = |column: usize, row: usize| {
            let length = lengths[column];
            if length > 0.0 { work[column][row] / length } else { 0.0 }
        };
        Svd {
            u: Self::from_fn(self.rows, count, |row, column| unit(order[column], row)),
            s: order.iter().map(|column| lengths[*column]).collect(),
            v: Self::from_fn(count, count, |row, column| turns[order[row]][column]),
        }
    }
}

/// Turns the columns `left` and `right` until they are orthogonal. Whether they were not.
fn orthogonalise(work: &mut [Vec<f64>], turns: &mut [Vec<f64>], left: usize, right: usize) -> bool {
    let (a, b) = (dot(&work[left], &work[left]), dot(&work[right], &work[right]));
    let product = dot(&work[left], &work[right]);
    if product == 0.0 || product.abs() <= ORTHOGONAL * (a * b).sqrt() {
        return false;
    }
    let zeta = (b - a) / (2.0 * product);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cosine = tangent.hypot(1.0).recip();
    let sine = cosine * tangent;
    for columns in [work, turns] {
        let (head, tail) = columns.split_at_mut(right);
        for (x, y) in head[left].iter_mut().zip(&mut tail[0]) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    }
    true
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn add_scaled(target: &mut [f64], source: &[f64], factor: f64) {
    target.iter_mut().zip(source).for_each(|(target, source)| *target += factor * source);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut state = seed;
        Matrix::from_fn(rows, columns, |_, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
    }

    fn diagonal(values: &[f64]) -> Matrix {
        Matrix::from_fn(values.len(), values.len(), |row, column| if row == column { values[row] } else { 0.0 })
    }

    #[test]
    fn singular_values_of_a_matrix_known_by_hand() {
        // [3 0; 4 5]: singular values sqrt(45) and sqrt(5).
        let svd = Matrix::from_f32(2, 2, &[3.0, 0.0, 4.0, 5.0]).svd();
        assert!((svd.s[0] - 45f64.sqrt()).abs() < 1e-12 && (svd.s[1] - 5f64.sqrt()).abs() < 1e-12, "{:?}", svd.s);
    }

    #[test]
    fn a_decomposition_gives_the_matrix_back() {
        for (rows, columns) in [(5, 5), (9, 4), (3, 7)] {
            let matrix = numbers(rows, columns, 7);
            let svd = matrix.svd();
            let again = svd.u.times(&diagonal(&svd.s)).times(&svd.v);
            assert!(matrix.distance(&again) < 1e-24, "{rows} {columns}");
            assert!(svd.s.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", svd.s);
            let (q, r) = matrix.qr();
            assert!(matrix.distance(&q.times(&r)) < 1e-24, "{rows} {columns}");
        }
    }

    #[test]
    fn a_column_that_depends_on_others_has_no_direction() {
        let base = numbers(8, 3, 3);
        let matrix = Matrix::from_fn(8, 4, |row, column| {
            if column < 3 { base.at(row, column) } else { base.at(row, 0) - 2.0 * base.at(row, 2) }
        });
        let (q, r) = matrix.qr();
        assert!(matrix.distance(&q.times(&r)) < 1e-24);
        assert_eq!(matrix.column_space(1e-9, 4).unwrap().columns, 3);
        assert_eq!(matrix.column_space(1e-9, 2), None);
        let svd = matrix.svd();
        assert!(svd.s[3] < 1e-14 && svd.s[2] > 0.1, "{:?}", svd.s);
    }

    #[test]
    fn a_matrix_of_zeros_has_no_direction() {
        let zeros = Matrix::from_fn(4, 2, |_, _| 0.0);
        assert_eq!(zeros.column_space(1e-9, 4).unwrap().columns, 0);
        assert_eq!(zeros.svd().s, [0.0, 0.0]);
    }
}
