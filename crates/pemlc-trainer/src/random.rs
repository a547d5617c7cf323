//! Random numbers as a pure function of names: nothing about them has to be saved for a run to resume bitwise.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers that belongs to `(seed, name, step)`.
#[derive(Debug)]
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn new(seed: u64, name: &str, step: u64) -> Self {
        // FNV-1a: names are few and chosen here, so 64 bits keep them apart.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut key = [0; 32];
        // The last word keeps these streams apart from those of the data mixer.
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, hash, step, 0x7472_6169_6e65_7221]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Goes on as if `count` numbers had been taken with [`unit`](Self::unit).
    pub(crate) fn skip(&mut self, count: usize) {
        self.0.set_word_pos(self.0.get_word_pos() + count as u128);
    }

    /// `count` numbers, uniform in `[-bound, bound)`.
    pub(crate) fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        (0..count).map(|_| (2.0 * self.unit() - 1.0) * bound).collect()
    }

    /// `count` normal numbers of mean 0 (Box-Muller).
    pub(crate) fn normal(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            // 1 - u is in (0, 1], where the logarithm is finite.
            let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt() * f64::from(deviation);
            let angle = std::f64::consts::TAU * f64::from(self.unit());
            values.push((radius * angle.cos()) as f32);
            values.push((radius * angle.sin()) as f32);
        }
        values.truncate(count);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_name() {
        let draw = |seed, name, step| Stream::new(seed, name, step).uniform(4, 1.0);
        assert_eq!(draw(1, "a", 0), draw(1, "a", 0));
        for other in [draw(2, "a", 0), draw(1, "b", 0), draw(1, "a", 1)] {
            assert_ne!(draw(1, "a", 0), other);
        }
    }

    #[test]
    fn skipping_is_drawing() {
        let mut drawn = Stream::new(1, "a", 0);
        drawn.uniform(7, 1.0);
        let mut skipped = Stream::new(1, "a", 0);
        skipped.skip(7);
        assert_eq!(drawn.uniform(40, 1.0), skipped.uniform(40, 1.0));
    }

    #[test]
    fn normal_numbers_have_their_deviation() {
        let values = Stream::new(7, "normal", 0).normal(20_001, 0.5);
        let mean = values.iter().sum::<f32>() / 20_001.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 20_001.0;
        assert!(mean.abs() < 0.02 && (variance.sqrt() - 0.5).abs() < 0.01, "{mean} {variance}");
    }
}
