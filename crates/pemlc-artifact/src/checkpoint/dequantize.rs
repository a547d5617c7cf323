//! Stored numbers to f32. GGUF's block formats keep 32 or 256 numbers of a row behind one or two f16 scales.

use half::{bf16, f16};

/// How a tensor's numbers are stored in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)]
pub enum StoredType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q6_K,
}

impl StoredType {
    /// `(numbers, bytes)` of one block, the smallest part that can be decoded alone.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q6_K => (256, 210),
        }
    }

    /// Bytes of a row of `columns` numbers: none when blocks do not fill the row, or when the product overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        if columns.is_multiple_of(numbers) { (columns / numbers).checked_mul(bytes) } else { None }
    }

    /// The type as safetensors spells it.
    pub(super) fn from_safetensors(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::BF16),
            _ => None,
        }
    }
}

/// Appends the numbers of whole blocks to `out`; bytes after the last whole block are ignored.
pub(super) fn append_f32(stored: StoredType, bytes: &[u8], out: &mut Vec<f32>) {
    match stored {
        StoredType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        StoredType::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
        StoredType::BF16 => {
            out.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()));
        }
        StoredType::Q8_0 => bytes.as_chunks::<34>().0.iter().for_each(|block| q8_0(block, out)),
        StoredType::Q4_0 => bytes.as_chunks::<18>().0.iter().for_each(|block| q4_0(block, out)),
        StoredType::Q4_1 => bytes.as_chunks::<20>().0.iter().for_each(|block| q4_1(block, out)),
        StoredType::Q6_K => bytes.as_chunks::<210>().0.iter().for_each(|block| q6_k(block, out)),
    }
}

/// Scale, then 32 signed bytes: `scale * q`.
fn q8_0([s0, s1, quants @ ..]: &[u8; 34], out: &mut Vec<f32>) {
    let scale = f16::from_le_bytes([*s0, *s1]).to_f32();
    out.extend(quants.iter().map(|quant| scale * f32::from(*quant as i8)));
}

/// Scale, then 16 bytes whose low halves are numbers 0-15 and high halves 16-31: `scale * (q - 8)`.
fn q4_0([s0, s1, quants @ ..]: &[u8; 18], out: &mut Vec<f32>) {
    let scale = f16::from_le_bytes([*s0, *s1]).to_f32();
    out.extend(quants.iter().map(|quant| scale * f32::from((quant & 15) as i8 - 8)));
    out.extend(quants.iter().map(|quant| scale * f32::from((quant >> 4) as i8 - 8)));
}

/// Scale and minimum, then halves as in Q4_0: `scale * q + minimum`.
fn q4_1([s0, s1, m0, m1, quants @ ..]: &[u8; 20], out: &mut Vec<f32>) {
    let scale = f16::from_le_bytes([*s0, *s1]).to_f32();
    let minimum = f16::from_le_bytes([*m0, *m1]).to_f32();
    out.extend(quants.iter().map(|quant| scale * f32::from(quant & 15) + minimum));
    out.extend(quants.iter().map(|quant| scale * f32::from(quant >> 4) + minimum));
}

/// 128 bytes of low halves, 64 bytes of upper bit pairs, 16 signed scales, one f16 scale: `scale * scales[n / 16] * (q - 32)`.
/// Each half of the block is four runs of 32 numbers: run `r` takes the low (r < 2) or high halves of 32 bytes, and bit pair `r`.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    let scale = scale.first_chunk().map_or(0.0, |bytes| f16::from_le_bytes(*bytes).to_f32());
    let halves = low.as_chunks::<64>().0.iter().zip(high.as_chunks::<32>().0).zip(scales.as_chunks::<8>().0);
    for ((low, high), scales) in halves {
        for run in 0..4 {
            let low = low.iter().skip(32 * (run & 1)).take(32);
            for (n, (low, high)) in low.zip(high).enumerate() {
                let quant = ((low >> (4 * (run >> 1))) & 15) | (((high >> (2 * run)) & 3) << 4);
                let scale = scale * f32::from(scales[2 * run + n / 16] as i8);
                out.push(scale * f32::from(quant as i8 - 32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(stored: StoredType, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        append_f32(stored, bytes, &mut out);
        out
    }

    /// f16 little-endian: 0.5 is 0x3800, 2.0 is 0x4000, -1.0 is 0xbc00.
    const HALF: [u8; 2] = [0x00, 0x38];
    const TWO: [u8; 2] = [0x00, 0x40];
    const MINUS_ONE: [u8; 2] = [0x00, 0xbc];

    #[test]
    fn plain_types() {
        assert_eq!(decode(StoredType::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(decode(StoredType::F16, &[HALF, MINUS_ONE].concat()), [0.5, -1.0]);
        assert_eq!(decode(StoredType::BF16, &[0xc0, 0x3f, 0x80, 0xbf]), [1.5, -1.0]);
    }

    #[test]
    fn q8_0_block() {
        let mut block = HALF.to_vec();
        block.extend((0..32).map(|n| if n == 0 { 128u8 } else { n }));
        let values = decode(StoredType::Q8_0, &block);
        assert_eq!(values.len(), 32);
        assert_eq!((values[0], values[1], values[31]), (-64.0, 0.5, 15.5));
    }

    #[test]
    fn q4_0_block() {
        let mut block = TWO.to_vec();
        block.extend([0xf0; 15]);
        block.push(0x19);
        let values = decode(StoredType::Q4_0, &block);
        // Low half 0 is -8, high half 15 is 7; the last byte holds 9 and 1.
        assert_eq!((values[0], values[15], values[16], values[31]), (-16.0, 2.0, 14.0, -14.0));
        assert_eq!(values.len(), 32);
    }

    #[test]
    fn q4_1_block() {
        let mut block = [HALF, MINUS_ONE].concat();
        block.extend([0xf0; 15]);
        block.push(0x19);
        let values = decode(StoredType::Q4_1, &block);
        assert_eq!((values[0], values[15], values[16], values[31]), (-1.0, 3.5, 6.5, -0.5));
        assert_eq!(values.len(), 32);
    }

    #[test]
    fn q6_k_block() {
        let mut block = [0u8; 210];
        // Number 0: low half 5, upper pair 2: 5 + 32 - 32 = 5. Number 64 shares the byte's high half (3) and has pair 1: 19 - 32 = -13.
        block[0] = 0x35;
        block[128] = 0b10_01_11_10;
        // Number 32: byte 32, low half 15, pair 3 of the same byte: 63 - 32 = 31. Number 96: high half 0, pair 2: 0.
        block[32] = 0x0f;
        // Number 255, the last: byte 127's high half 1, last pair 3: 49 - 32 = 17.
        block[127] = 0x10;
        block[191] = 0b11_00_00_00;
        for (n, scale) in block[192..208].iter_mut().enumerate() {
            *scale = (n as i8 - 8) as u8;
        }
        block[208..].copy_from_slice(&HALF);
        let values = decode(StoredType::Q6_K, &block);
        assert_eq!(values.len(), 256);
        // Scales of numbers 0, 32, 64, 96, 255: -8, -6, -4, -2, 7, each times 0.5.
        assert_eq!(values[0], -4.0 * 5.0);
        assert_eq!(values[32], -3.0 * 31.0);
        assert_eq!(values[64], -2.0 * -13.0);
        assert_eq!(values[96], 0.0);
        assert_eq!(values[255], 3.5 * 17.0);
        // An untouched number of the first run's second half: q = 0 - 32, scale -7 * 0.5.
        assert_eq!(values[16], -3.5 * -32.0);
    }

    #[test]
    fn rows_must_be_whole_blocks() {
        assert_eq!(StoredType::Q4_1.row_bytes(576), Some(360));
        assert_eq!(StoredType::Q6_K.row_bytes(576), None);
        assert_eq!(StoredType::F32.row_bytes(usize::MAX), None);
    }
}
