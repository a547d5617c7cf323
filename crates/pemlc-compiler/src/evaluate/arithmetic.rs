//! What is done to the numbers of a block.

use super::Matrix;
use std::ops::Range;

/// Rows that are transposed together, so that neither side is walked a number at a time.
const TILE: usize = 16;

/// Writes `values` `[rows, n]` as columns `first..first + rows` of `result` `[n, width]`.
pub(super) fn transpose_into(values: &[f32], rows: usize, result: &mut [f32], width: usize, first: usize) {
    if values.is_empty() {
        return;
    }
    let columns = values.len() / rows;
    for start in (0..rows).step_by(TILE) {
        let end = (start + TILE).min(rows);
        let tile = &values[start * columns..end * columns];
        for (column, target) in result.chunks_exact_mut(width).enumerate() {
            let target = &mut target[first + start..first + end];
            for (place, row) in target.iter_mut().zip(tile.chunks_exact(columns)) {
                *place = row[column];
            }
        }
    }
}

/// `values += weights * up[.., columns]` for one row: `weights` `[rank]`, `up` `[rank, width]`. Four rows of `up` at a time, so that the
/// row is read and written a quarter as often.
pub(super) fn add_product(values: &mut [f32], weights: &[f32], up: &[f32], width: usize, columns: Range<usize>) {
    let direction = |index: usize| &up[index * width + columns.start..index * width + columns.end];
    let (fours, rest) = weights.as_chunks::<4>();
    for (index, [a, b, c, d]) in fours.iter().enumerate() {
        let (p, q) = (direction(4 * index), direction(4 * index + 1));
        let (r, s) = (direction(4 * index + 2), direction(4 * index + 3));
        for ((((value, p), q), r), s) in values.iter_mut().zip(p).zip(q).zip(r).zip(s) {
            *value += (a * p + b * q) + (c * r + d * s);
        }
    }
    for (index, weight) in rest.iter().enumerate() {
        for (value, change) in values.iter_mut().zip(direction(4 * fours.len() + index)) {
            *value += weight * change;
        }
    }
}

/// Turns keys, head after head, `offset` positions further on; pair `i` of a head is its numbers `i` and `i + head_dim / 2`.
pub(crate) fn rotate(keys: &mut [f32], offset: i64, frequencies: &[f32]) {
    let half = frequencies.len();
    let turns: Vec<(f64, f64)> =
        frequencies.iter().map(|frequency| (offset as f64 * f64::from(*frequency)).sin_cos()).collect();
    for key in keys.chunks_exact_mut((2 * half).max(1)) {
        let (first, second) = key.split_at_mut(half);
        for ((x, y), (sin, cos)) in first.iter_mut().zip(second).zip(&turns) {
            let (along, across) = (f64::from(*x), f64::from(*y));
            (*x, *y) = ((along * cos - across * sin) as f32, (across * cos + along * sin) as f32);
        }
    }
}

/// What brings the columns of `base` to the lengths `norms`. Lengths are summed in f64; a column of zeros stays.
pub(super) fn column_scales(base: &Matrix<'_>, norms: &[f32]) -> Vec<f32> {
    let mut squares = vec![0.0; norms.len()];
    for rows in base.row_blocks() {
        for row in base.block(rows, 0..base.columns).chunks_exact(norms.len().max(1)) {
            for (sum, value) in squares.iter_mut().zip(row) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
    }
    let scale = |(norm, sum): (&f32, &f64)| if *sum == 0.0 { 0.0 } else { (f64::from(*norm) / sum.sqrt()) as f32 };
    norms.iter().zip(&squares).map(scale).collect()
}
