use super::*;
use proptest::prelude::*;
use std::sync::Arc;

pub(super) fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor {
    Tensor::f32_from_fn(vec![rows, columns], |i| ((i as u32 * 37 + seed * 11) % 23) as f32 - 11.0)
}

fn whole(expression: &Expression) -> Vec<f32> {
    let checkpoint = checkpoint();
    let matrix = Matrix::new(expression, &checkpoint).unwrap();
    matrix.block(0..matrix.rows, 0..matrix.columns)
}

/// Nothing is read from it here: the expressions are of constants.
pub(super) fn checkpoint() -> Checkpoint {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-model");
    Checkpoint::open(&root).unwrap()
}

#[test]
fn low_rank_products_are_added() {
    // [1 1; 1 1] + [1; 2] [10 20]
    let base = Expression::constant(Tensor::f32_from_fn(vec![2, 2], |_| 1.0));
    let down = Arc::new(Tensor::f32_from_fn(vec![2, 1], |i| i as f32 + 1.0));
    let up = Arc::new(Tensor::f32_from_fn(vec![1, 2], |i| 10.0 * (i as f32 + 1.0)));
    assert_eq!(whole(&Expression::AddLowRank { base: Box::new(base), down, up }), [11.0, 21.0, 21.0, 41.0]);
}

#[test]
fn columns_get_their_norms() {
    let values = [3.0, 0.0, 1.0, 4.0, 0.0, 0.0];
    let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 3], |i| values[i])));
    let norms = Arc::new(Tensor::vector_f32(vec![10.0, 7.0, 2.0]));
    assert_eq!(whole(&Expression::ColumnNorms { base, norms }), [6.0, 0.0, 2.0, 8.0, 0.0, 0.0]);
}

#[test]
fn keys_are_turned_by_their_sets_positions() {
    // Two sets of one head of one row; a quarter turn and an eighth turn a position.
    let pi = std::f32::consts::PI;
    let keys = [1.0, 1.0, 0.0, 0.0];
    let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 1, 1, 4], |i| keys[i % 4])));
    let offsets = Arc::new(Tensor::vector_i64(vec![-1, 2]));
    let frequencies = Arc::new(Tensor::vector_f32(vec![pi / 2.0, pi / 4.0]));
    let turned = whole(&Expression::RotateKeys { base, offsets, frequencies });
    let half = 0.5f32.sqrt();
    let expected = [0.0, half, -1.0, -half, -1.0, 0.0, 0.0, 1.0];
    assert!(turned.iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{turned:?}");
}

#[test]
fn part_of_a_head_is_turned_as_the_whole() {
    let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 3, 1, 4], |i| i as f32)));
    let offsets = Arc::new(Tensor::vector_i64(vec![3, -5]));
    let turned = Expression::RotateKeys { base, offsets, frequencies: Arc::new(Tensor::vector_f32(vec![1.0, 0.01])) };
    let (all, checkpoint) = (whole(&turned), checkpoint());
    let matrix = Matrix::new(&turned, &checkpoint).unwrap();
    assert_eq!(matrix.block(1..2, 3..10), all[12 + 3..12 + 10]);
    assert_eq!(values(&turned, &checkpoint).unwrap().as_f32().unwrap(), all);
}

#[test]
fn parts_are_cut_along_the_first_axis() {
    let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![4, 2, 3], |i| i as f32)));
    let part = Expression::Slice { base, start: 1, end: 3 };
    assert_eq!(whole(&part), (6..18).map(|i| i as f32).collect::<Vec<_>>());
    let checkpoint = checkpoint();
    assert_eq!(Matrix::new(&part, &checkpoint).unwrap().block(1..2, 2..4), [14.0, 15.0]);
}

#[test]
fn a_weight_of_the_checkpoint_is_read_by_blocks() {
    let checkpoint = checkpoint();
    let name = "model.layers.0.mlp.up_proj.weight".to_owned();
    let shape = checkpoint.tensor(&name).unwrap().shape;
    let stored = checkpoint.tensor(&name).unwrap().to_f32();
    let leaf = Expression::Checkpoint { name, shape: shape.clone() };
    let transpose = Expression::Transpose(Box::new(leaf));
    let matrix = Matrix::new(&transpose, &checkpoint).unwrap();
    assert_eq!((matrix.rows, matrix.columns), (shape[1], shape[0]));
    let block = matrix.block(3..5, 1..4);
    let column = |row: usize| [1, 2, 3].map(|column| stored[column * shape[1] + row]);
    assert_eq!(block, [column(3), column(4)].concat());
}

proptest! {
    /// Whatever the expression, blocks are the parts of the whole, and the whole is what the definition says.
    #[test]
    fn blocks_are_parts_of_the_whole(
        rows in 1usize..9, columns in 1usize..9, rank in 1usize..7, seed in 0u32..50,
        (cut_rows, cut_columns) in (0.0f64..1.0, 0.0f64..1.0),
    ) {
        let (down, up) = (matrix(rows, rank, seed + 1), matrix(rank, columns, seed + 2));
        let base = Expression::Transpose(Box::new(Expression::constant(matrix(columns, rows, seed))));
        let sum = Expression::AddLowRank { base: Box::new(base), down: Arc::new(down.clone()), up: Arc::new(up.clone()) };
        let beside = Expression::ConcatColumns(vec![sum, Expression::constant(matrix(rows, 3, seed + 3))]);
        let (turned, low, high) = (matrix(columns, rows, seed), down.as_f32().unwrap(), up.as_f32().unwrap());
        let right = matrix(rows, 3, seed + 3);
        let mut expected = Vec::new();
        for row in 0..rows {
            for column in 0..columns {
                let product: f32 = (0..rank).map(|k| low[row * rank + k] * high[k * columns + column]).sum();
                expected.push(turned.as_f32().unwrap()[column * rows + row] + product);
            }
            expected.extend(&right.as_f32().unwrap()[row * 3..row * 3 + 3]);
        }
        prop_assert_eq!(&whole(&beside), &expected);
        let width = columns + 3;
        let (row, column) = ((cut_rows * rows as f64) as usize, (cut_columns * width as f64) as usize);
        let checkpoint = checkpoint();
        let found = Matrix::new(&beside, &checkpoint).unwrap().block(row..rows, column..width);
        let part: Vec<f32> = (row..rows).flat_map(|r| expected[r * width + column..(r + 1) * width].to_vec()).collect();
        prop_assert_eq!(found, part);
    }
}

#[test]
fn blocks_cover_all_rows() {
    assert_eq!(blocks(5, BLOCK / 2, BLOCK), [0..2, 2..4, 4..5]);
    assert_eq!(blocks(2, BLOCK * 3, BLOCK), [0..1, 1..2]);
    assert_eq!(blocks(3, 0, BLOCK).first(), Some(&(0..3)));
}
