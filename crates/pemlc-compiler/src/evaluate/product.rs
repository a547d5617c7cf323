//! A product with an initialiser that is never in memory as a whole.

use super::Matrix;
use std::ops::Range;
use std::panic::resume_unwind;

/// Numbers of the weight that a worker holds at a time.
const BLOCK: usize = 1 << 16;
/// Workers that make columns of the result.
const MAX_WORKERS: usize = 8;

/// `x` `[rows, in]` times `weight` `[in, out]`, whose columns are made a few at a time. Sums are made in f64 and rounded once.
pub(crate) fn product(x: &[f32], weight: &Matrix<'_>) -> Vec<f32> {
    let (inputs, outputs) = (weight.rows.max(1), weight.columns);
    let rows = x.len() / inputs;
    let width = (BLOCK / inputs).max(1);
    let parts: Vec<Range<usize>> =
        (0..outputs).step_by(width).map(|start| start..(start + width).min(outputs)).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let mut result = vec![0.0; rows * outputs];
    let of_worker = |worker: usize| {
        let own = parts.iter().skip(worker).step_by(workers);
        own.map(|columns| (columns, of_columns(x, weight, columns.clone()))).collect::<Vec<_>>()
    };
    let of_worker = &of_worker;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || of_worker(worker))).collect();
        let made = running.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        for (columns, values) in made.flatten() {
            for (row, values) in values.chunks_exact(columns.len()).enumerate() {
                result[row * outputs..][columns.clone()].copy_from_slice(values);
            }
        }
    });
    result
}

/// Columns `columns` of the product, row-major.
fn of_columns(x: &[f32], weight: &Matrix<'_>, columns: Range<usize>) -> Vec<f32> {
    let width = columns.len();
    let block = weight.block(0..weight.rows, columns);
    x.chunks_exact(weight.rows.max(1)).flat_map(|row| row_product(row, &block, width)).collect()
}

/// `x` `[in]` times `block` `[in, width]`, summed in f64. Four rows of the block at a time, so that the sums are read and written a quarter
/// as often.
pub(crate) fn row_product(x: &[f32], block: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    let (fours, rest) = x.as_chunks::<4>();
    let row = |index: usize| &block[index * width..][..width];
    for (index, four) in fours.iter().enumerate() {
        let [a, b, c, d] = four.map(f64::from);
        let (p, q, r, s) = (row(4 * index), row(4 * index + 1), row(4 * index + 2), row(4 * index + 3));
        for ((((sum, p), q), r), s) in sums.iter_mut().zip(p).zip(q).zip(r).zip(s) {
            *sum += (a * f64::from(*p) + b * f64::from(*q)) + (c * f64::from(*r) + d * f64::from(*s));
        }
    }
    for (index, x) in rest.iter().enumerate() {
        for (sum, value) in sums.iter_mut().zip(row(4 * fours.len() + index)) {
            *sum += f64::from(*x) * f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{checkpoint, matrix};
    use super::*;
    use crate::ir::Expression;
    use proptest::prelude::*;

    proptest! {
        /// Small whole numbers, whose sums are exact.
        #[test]
        fn products_are_those_of_the_definition(rows in 1usize..4, inputs in 1usize..14, outputs in 1usize..9, seed in 0u32..50) {
            let (x, w) = (matrix(rows, inputs, seed), matrix(inputs, outputs, seed + 1));
            let (x, w) = (x.as_f32().unwrap(), w.as_f32().unwrap());
            let mut expected = Vec::new();
            for row in 0..rows {
                for column in 0..outputs {
                    expected.push((0..inputs).map(|k| x[row * inputs + k] * w[k * outputs + column]).sum::<f32>());
                }
            }
            let (weight, checkpoint) = (Expression::constant(matrix(inputs, outputs, seed + 1)), checkpoint());
            prop_assert_eq!(product(x, &Matrix::new(&weight, &checkpoint).unwrap()), expected);
        }
    }

    #[test]
    fn a_wide_weight_is_made_in_parts() {
        // 3 inputs, so that a part has a third of BLOCK columns.
        let (x, w) = (matrix(2, 3, 5), matrix(3, BLOCK, 6));
        let (weight, checkpoint) = (Expression::constant(w.clone()), checkpoint());
        let found = product(x.as_f32().unwrap(), &Matrix::new(&weight, &checkpoint).unwrap());
        let (x, w) = (x.as_f32().unwrap(), w.as_f32().unwrap());
        for column in [0, BLOCK / 3 - 1, BLOCK / 3, BLOCK - 1] {
            for row in 0..2 {
                let expected: f32 = (0..3).map(|k| x[row * 3 + k] * w[k * BLOCK + column]).sum();
                assert_eq!(found[row * BLOCK + column], expected);
            }
        }
    }
}
