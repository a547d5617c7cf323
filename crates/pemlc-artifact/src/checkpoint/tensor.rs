//! One tensor of a checkpoint, still in its file.

use super::dequantize::{StoredType, append_f32};
use super::mapped::MappedFile;
use half::bf16;
use std::ops::Range;

/// One tensor of a checkpoint, still in its file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// Hugging Face name.
    pub name: String,
    /// Logical shape, row-major, `[out, in]` for weights.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub stored: StoredType,
    pub(super) bytes: &'a [u8],
    /// Rows per head, when the file interleaves the two rotary halves of each head's rows.
    pub(super) interleaved: Option<usize>,
    /// Whether values are rounded to bf16 as they are read.
    pub(super) rounded: bool,
    /// The file that `bytes` are of, and where they begin in it.
    pub(super) file: Option<(&'a MappedFile, usize)>,
}

impl TensorView<'_> {
    /// All values as f32, row-major (dequantised; query and key rows in rotate-half order; rounded if the checkpoint is).
    pub fn to_f32(&self) -> Vec<f32> {
        self.rows_f32(0..self.rows())
    }

    /// Rows `rows` of a matrix (or elements of a vector) as f32.
    ///
    /// # Panics
    /// When `rows` goes beyond the first dimension.
    pub fn rows_f32(&self, rows: Range<usize>) -> Vec<f32> {
        let mut values = self.decode(rows);
        self.round(&mut values);
        values
    }

    /// Columns `columns` of rows `rows` as f32, row-major. Nothing else is read but the rest of the blocks that the range cuts.
    ///
    /// # Panics
    /// When a range goes beyond the matrix.
    pub fn block_f32(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<f32> {
        let width = self.columns();
        if columns == (0..width) {
            return self.rows_f32(rows);
        }
        let (numbers, bytes) = self.stored.block();
        let row_blocks = width / numbers;
        let blocks = columns.start / numbers..columns.end.div_ceil(numbers);
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        let mut whole = Vec::new();
        for row in rows {
            let start = self.interleaved.map_or(row, |head| interleaved_row(row, head)) * row_blocks;
            let stored = &self.bytes[(start + blocks.start) * bytes..(start + blocks.end) * bytes];
            if numbers == 1 {
                append_f32(self.stored, stored, &mut values);
            } else {
                whole.clear();
                append_f32(self.stored, stored, &mut whole);
                let first = blocks.start * numbers;
                values.extend_from_slice(&whole[columns.start - first..columns.end - first]);
            }
        }
        self.round(&mut values);
        values
    }

    /// Bytes of one row in the file.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len().checked_div(self.rows()).unwrap_or(0)
    }

    /// Gives back the memory that reading the rows took; reading them again fetches them again. Views stay valid.
    pub fn release(&self, rows: Range<usize>) {
        if let Some((file, start)) = self.file {
            let row = self.row_bytes();
            file.release(start + rows.start * row..start + rows.end.min(self.rows()) * row);
        }
    }

    fn round(&self, values: &mut [f32]) {
        if self.rounded {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
    }

    fn decode(&self, rows: Range<usize>) -> Vec<f32> {
        let columns = self.columns();
        // A quantised vector is one row of blocks: its elements are cut out after decoding.
        if columns == 1 && self.stored.block().0 != 1 {
            let mut all = Vec::new();
            append_f32(self.stored, self.bytes, &mut all);
            return all.drain(rows).collect();
        }
        // Opening the checkpoint checked that whole rows of blocks fill the bytes.
        let row_bytes = self.row_bytes();
        let mut values = Vec::with_capacity(rows.len() * columns);
        match self.interleaved {
            None => {
                let bytes = &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
                append_f32(self.stored, bytes, &mut values);
            }
            Some(head) => {
                for row in rows {
                    let stored = interleaved_row(row, head);
                    append_f32(self.stored, &self.bytes[stored * row_bytes..(stored + 1) * row_bytes], &mut values);
                }
            }
        }
        values
    }

    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// Where row `row` of the rotate-half order is when every head's `head` rows alternate between its two halves.
fn interleaved_row(row: usize, head: usize) -> usize {
    let within = row % head;
    let half = head / 2;
    row - within + 2 * (within % half) + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_put_back() {
        // Two heads of four rows. The file alternates (0, 2, 1, 3 of the rotate-half order in its places 0, 1, 2, 3).
        let stored: Vec<u8> = [0f32, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut view = TensorView {
            name: "q".to_owned(),
            shape: vec![8, 1],
            stored: StoredType::F32,
            bytes: &stored,
            interleaved: Some(4),
            rounded: false,
            file: None,
        };
        assert_eq!(view.to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(view.rows_f32(3..6), [3.0, 4.0, 5.0]);
        view.interleaved = None;
        assert_eq!(view.rows_f32(1..3), [2.0, 1.0]);
    }

    #[test]
    fn a_block_is_cut_out_of_a_matrix() {
        let numbers: Vec<u8> = (0..12u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        let mut view = TensorView {
            name: "w".to_owned(),
            shape: vec![4, 3],
            stored: StoredType::F32,
            bytes: &numbers,
            interleaved: None,
            rounded: false,
            file: None,
        };
        assert_eq!(view.block_f32(1..3, 1..3), [4.0, 5.0, 7.0, 8.0]);
        assert_eq!(view.block_f32(1..3, 0..3), view.rows_f32(1..3));
        // The file's rows 0, 2, 1, 3 in the rotate-half order.
        view.interleaved = Some(4);
        assert_eq!(view.block_f32(1..2, 1..3), [7.0, 8.0]);
    }

    /// Columns that begin and end inside blocks, of rows that are interleaved.
    #[test]
    fn a_block_is_cut_out_of_quantised_rows() {
        let (rows, width) = (4, 96);
        let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
        let blocks = (0..rows * width / 32).map(|block| {
            let quants = (0..32).map(|n| (n * 7 + block * 3) as u8);
            half(block as f32 * 0.5).into_iter().chain(quants).collect::<Vec<u8>>()
        });
        let bytes: Vec<u8> = blocks.flatten().collect();
        let (name, shape, stored) = ("w".to_owned(), vec![rows, width], StoredType::Q8_0);
        let view = TensorView { name, shape, stored, bytes: &bytes, interleaved: Some(4), rounded: false, file: None };
        let all = view.to_f32();
        for columns in [0..96, 0..32, 31..33, 40..41, 5..95, 64..96] {
            let expected: Vec<f32> = (1..4).flat_map(|row| all[row * width..][columns.clone()].to_vec()).collect();
            assert_eq!(view.block_f32(1..4, columns.clone()), expected, "{columns:?}");
        }
    }

    #[test]
    fn rounded_values_have_eight_bits() {
        let stored: Vec<u8> = [1.0f32, 1.001, 1.004].iter().flat_map(|n| n.to_le_bytes()).collect();
        let (name, shape) = ("w".to_owned(), vec![3]);
        let (stored, bytes) = (StoredType::F32, stored.as_slice());
        let view = TensorView { name, shape, stored, bytes, interleaved: None, rounded: true, file: None };
        assert_eq!(view.to_f32(), [1.0, 1.0, 1.0078125]);
    }
}
