//! Random numbers as a pure function of names: `(seed, purpose, a, b)`.
//!
//! Draws are written out here rather than taken from `rand`, whose distributions may change between releases: a seed must
//! mean the same batches for ever, or a resumed run would differ.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What random numbers are for; each purpose has its own stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    TaskChoice = 1,
    EpochOrder = 2,
    Bootstrap = 3,
}

/// The generator named `(seed, purpose, a, b)`.
pub(crate) fn generator(seed: u64, purpose: Purpose, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `[0, 1)`.
pub(crate) fn unit(generator: &mut impl RngCore) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in `0..bound` (the bias of at most `bound / 2^64` does not matter here); 0 when `bound` is 0.
pub(crate) fn below(generator: &mut impl RngCore, bound: usize) -> usize {
    ((u128::from(generator.next_u64()) * bound as u128) >> 64) as usize
}

/// A uniformly random order of `0..count`.
pub(crate) fn permutation(generator: &mut impl RngCore, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(generator, last + 1));
    }
    order
}
