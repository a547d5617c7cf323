//! One tensor of a checkpoint, still in its file.

use super::dequantize::{StoredType, append_f32};
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

    /// Columns `columns` of rows `rows` as f32, row-major. Of types that are not stored in blocks nothing else is read.
    ///
    /// # Panics
    /// When a range goes beyond the matrix.
    pub fn block_f32(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<f32> {
        let width = self.columns();
        if columns == (0..width) {
            return self.rows_f32(rows);
        }
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        if let (1, bytes) = self.stored.block() {
            for row in rows {
                let start = self.interleaved.map_or(row, |head| interleaved_row(row, head)) * width;
                let bytes = &self.bytes[(start + columns.start) * bytes..(start + columns.end) * bytes];
                append_f32(self.stored, bytes, &mut values);
            }
            self.round(&mut values);
        } else {
            for row in rows {
                values.extend_from_slice(&self.rows_f32(row..row + 1)[columns.clone()]);
            }
        }
        values
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
        let row_bytes = self.bytes.len().checked_div(self.rows()).unwrap_or(0);
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
        };
        assert_eq!(view.block_f32(1..3, 1..3), [4.0, 5.0, 7.0, 8.0]);
        assert_eq!(view.block_f32(1..3, 0..3), view.rows_f32(1..3));
        // The file's rows 0, 2, 1, 3 in the rotate-half order.
        view.interleaved = Some(4);
        assert_eq!(view.block_f32(1..2, 1..3), [7.0, 8.0]);
    }

    #[test]
    fn rounded_values_have_eight_bits() {
        let stored: Vec<u8> = [1.0f32, 1.001, 1.004].iter().flat_map(|n| n.to_le_bytes()).collect();
        let (name, shape) = ("w".to_owned(), vec![3]);
        let (stored, bytes) = (StoredType::F32, stored.as_slice());
        let view = TensorView { name, shape, stored, bytes, interleaved: None, rounded: true };
        assert_eq!(view.to_f32(), [1.0, 1.0, 1.0078125]);
    }
}
