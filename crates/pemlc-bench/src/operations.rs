//! The operations that training needs, each small enough to compare between two devices.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, activation, s};

/// One operation: inputs made from a fixed sequence, outputs flattened to f32.
pub(crate) struct Operation {
    /// What is shown.
    pub(crate) name: &'static str,
    /// Largest difference allowed, relative to the largest magnitude of the result.
    pub(crate) tolerance: f32,
    /// Runs it on a device with float inputs of the given type, and returns the result as f32.
    pub(crate) run: fn(&Device, DType) -> Tensor<1>,
}

/// f32 sums in another order, and tensor cores that may round inputs to TF32's 10-bit mantissa.
const F32: f32 = 2e-3;
/// Exact moves of data and comparisons.
const EXACT: f32 = 0.0;
/// Element-wise f32 arithmetic and functions.
const ELEMENT: f32 = 1e-5;

/// Every operation, in order of what depends on what: the first is the first kernel compiled.
pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { name: "add, multiply", tolerance: ELEMENT, run: add_multiply },
    Operation { name: "matmul [64, 96] x [96, 80]", tolerance: F32, run: |d, t| matmul(d, t, [64, 96, 80]) },
    Operation { name: "matmul [37, 53] x [53, 29]", tolerance: F32, run: |d, t| matmul(d, t, [37, 53, 29]) },
    Operation { name: "matmul [512, 512] x [512, 512]", tolerance: F32, run: |d, t| matmul(d, t, [512, 512, 512]) },
    Operation { name: "matmul by a transposed weight", tolerance: F32, run: matmul_transposed },
    Operation { name: "matmul over [batch, heads]", tolerance: F32, run: matmul_batched },
    Operation {
        name: "softmax",
        tolerance: ELEMENT,
        run: |d, t| flat(activation::softmax(matrix(d, t, [40, 130], 3), 1)),
    },
    Operation {
        name: "log-softmax",
        tolerance: ELEMENT,
        run: |d, t| flat(activation::log_softmax(matrix(d, t, [40, 130], 4), 1)),
    },
    Operation { name: "masked attention", tolerance: F32, run: attention },
    Operation { name: "sum, mean and max over a dimension", tolerance: 1e-4, run: reductions },
    Operation { name: "sum of everything", tolerance: 1e-4, run: |d, t| matrix(d, t, [300, 301], 5).abs().sum() },
    Operation { name: "argmax", tolerance: EXACT, run: argmax },
    Operation { name: "select rows", tolerance: EXACT, run: select_rows },
    Operation { name: "slice, concatenate, transpose", tolerance: EXACT, run: moves },
    Operation { name: "RMS norm and SwiGLU", tolerance: 1e-4, run: norm_and_gate },
    Operation { name: "rotary embedding", tolerance: 1e-4, run: rotary },
    Operation { name: "cast to bf16 and back", tolerance: EXACT, run: round_trip },
    Operation { name: "gradients of a low-rank layer", tolerance: F32, run: gradient },
];

/// `rows x columns` numbers in [-1, 1), the same on every device for the same `seed`.
pub(crate) fn matrix(device: &Device, dtype: DType, [rows, columns]: [usize; 2], seed: u64) -> Tensor<2> {
    Tensor::<2>::from_data(TensorData::new(numbers(rows * columns, seed), [rows, columns]), (device, DType::F32))
        .cast(dtype)
}

/// Numbers in [-1, 1) that bf16 holds exactly (steps of 1/128), so that bf16 and f32 start from the same inputs.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 56) as f32 - 128.0) / 128.0
        })
        .collect()
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    tensor.flatten::<1>(0, D - 1).cast(FloatDType::F32)
}

fn add_multiply(device: &Device, dtype: DType) -> Tensor<1> {
    let (a, b) = (matrix(device, dtype, [33, 65], 1), matrix(device, dtype, [33, 65], 2));
    flat((a.clone() + b.clone()) * a - b * 0.5)
}

fn matmul(device: &Device, dtype: DType, [rows, inner, columns]: [usize; 3]) -> Tensor<1> {
    flat(matrix(device, dtype, [rows, inner], 1).matmul(matrix(device, dtype, [inner, columns], 2)))
}

fn matmul_transposed(device: &Device, dtype: DType) -> Tensor<1> {
    flat(matrix(device, dtype, [48, 96], 1).matmul(matrix(device, dtype, [80, 96], 2).transpose()))
}

fn matmul_batched(device: &Device, dtype: DType) -> Tensor<1> {
    let a = matrix(device, dtype, [2 * 3 * 24, 16], 1).reshape([2, 3, 24, 16]);
    let b = matrix(device, dtype, [2 * 3 * 40, 16], 2).reshape([2, 3, 40, 16]);
    flat(a.matmul(b.transpose()))
}

fn attention(device: &Device, dtype: DType) -> Tensor<1> {
    let (tokens, prefix, width) = (24, 8, 16);
    let head = |rows: usize, seed| matrix(device, dtype, [2 * 3 * rows, width], seed).reshape([2, 3, rows, width]);
    let (query, key, value) = (head(tokens, 1), head(prefix + tokens, 2), head(prefix + tokens, 3));
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|row| (0..prefix + tokens).map(move |column| if column > prefix + row { -1e9 } else { 0.0 }))
        .collect();
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, tokens, prefix + tokens]), (device, DType::F32))
        .cast(dtype);
    let scores = query.matmul(key.transpose()) * 0.25 + mask;
    flat(activation::softmax(scores, 3).matmul(value))
}

fn reductions(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [70, 190], 7);
    Tensor::cat(vec![flat(x.clone().sum_dim(1)), flat(x.clone().mean_dim(0)), flat(x.max_dim(1))], 0)
}

/// The values at the positions of the largest, since equal values leave the position open.
fn argmax(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [40, 130], 6);
    flat(x.clone().gather(1, x.argmax(1)))
}

fn select_rows(device: &Device, dtype: DType) -> Tensor<1> {
    let rows = Tensor::<1, Int>::from_data(TensorData::from([5_i64, 0, 63, 5, 17]), device);
    flat(matrix(device, dtype, [64, 48], 8).select(0, rows))
}

fn moves(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [32, 64], 9);
    let halves = Tensor::cat(vec![x.clone().slice(s![.., 32..64]), x.slice(s![.., 0..32])], 1);
    flat(halves.reshape([4, 8, 64]).swap_dims(0, 1))
}

fn norm_and_gate(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [40, 96], 10);
    let scale = (x.clone().square().mean_dim(1) + 1e-5).sqrt().recip();
    let x = x * scale;
    flat(activation::silu(x.clone()) * x)
}

fn rotary(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [40, 32], 11);
    let angle = matrix(device, dtype, [40, 32], 12) * 3.0;
    let turned = Tensor::cat(vec![-x.clone().slice(s![.., 16..32]), x.clone().slice(s![.., 0..16])], 1);
    flat(x * angle.clone().cos() + turned * angle.sin())
}

fn round_trip(device: &Device, _: DType) -> Tensor<1> {
    flat(matrix(device, DType::F32, [40, 96], 13).cast(FloatDType::BF16))
}

/// Gradients of half the squared norm of `x W + 2 (x A) B` with respect to A and B.
fn gradient(device: &Device, dtype: DType) -> Tensor<1> {
    let x = matrix(device, dtype, [48, 64], 14);
    let weight = matrix(device, dtype, [64, 56], 15);
    let (a, b) = (matrix(device, dtype, [64, 8], 16), matrix(device, dtype, [8, 56], 17));
    let low = x.clone().matmul(a);
    let y = x.clone().matmul(weight) + low.clone().matmul(b.clone()) * 2.0;
    let into_b = low.transpose().matmul(y.clone()) * 2.0;
    let into_a = x.transpose().matmul(y.matmul(b.transpose())) * 2.0;
    Tensor::cat(vec![flat(into_a), flat(into_b)], 0)
}
