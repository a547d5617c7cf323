//! ONNX Runtime's adapter files, byte by byte: the compiler, which writes them with a library, is not here to be had.
//!
//! A flatbuffer of `Adapter { format_version, adapter_version, model_version, [Parameter] }` with `Parameter { name, [dims], data_type,
//! [raw_data] }`: an offset counts from where it stands to what it names, and a table begins with its distance from the list of its
//! fields' places.

use super::builder::FLOAT;

/// The file that holds f32 tensors: name, dimensions, values.
pub(crate) fn adapter(parameters: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let mut file = File(Vec::new());
    file.u32(0);
    file.0.extend(b"TORT");
    let (root, fields) = file.table();
    file.set(0, root as u32);
    for place in &fields[..3] {
        file.set(*place, 1);
    }
    file.points_here(fields[3]);
    file.u32(parameters.len() as u32);
    let places: Vec<usize> = parameters.iter().map(|_| file.u32(0)).collect();
    for (place, (name, dims, values)) in places.into_iter().zip(parameters) {
        let (table, [name_at, dims_at, type_at, data_at]) = file.table();
        file.set(place, (table - place) as u32);
        file.set(type_at, FLOAT as u32);
        file.vector(name_at, name.len(), name.bytes().chain([0]));
        file.vector(dims_at, dims.len(), dims.iter().flat_map(|size| (*size as i64).to_le_bytes()));
        file.vector(data_at, 4 * values.len(), values.iter().flat_map(|value| value.to_le_bytes()));
    }
    file.0
}

struct File(Vec<u8>);

impl File {
    /// Writes a number and says where.
    fn u32(&mut self, value: u32) -> usize {
        self.0.extend(value.to_le_bytes());
        self.0.len() - 4
    }

    fn set(&mut self, place: usize, value: u32) {
        self.0[place..place + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn points_here(&mut self, place: usize) {
        self.set(place, (self.0.len() - place) as u32);
    }

    /// A table of four fields of four bytes: where it is and where they are.
    fn table(&mut self) -> (usize, [usize; 4]) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        // Bytes of this list and of the table, and the fields' places in the table.
        for number in [12u16, 20, 4, 8, 12, 16] {
            self.0.extend(number.to_le_bytes());
        }
        let table = self.u32(12);
        (table, [0; 4].map(|_| self.u32(0)))
    }

    /// `count` elements, to which the offset at `place` points. The first lies at a multiple of eight.
    fn vector(&mut self, place: usize, count: usize, bytes: impl Iterator<Item = u8>) {
        self.0.resize((self.0.len() + 4).next_multiple_of(8) - 4, 0);
        self.points_here(place);
        self.u32(count as u32);
        self.0.extend(bytes);
    }
}
