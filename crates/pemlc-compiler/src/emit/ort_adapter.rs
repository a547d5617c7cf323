//! ONNX Runtime's adapter files (`.onnx_adapter`): named tensors that fill inputs of a graph. A flatbuffer of the schema `adapter_schema.fbs`
//! of ONNX Runtime, format version 1:
//!
//! ```text
//! table Parameter { name: string; dims: [int64]; data_type: TensorDataType (int32); raw_data: [uint8] (force_align: 8); }
//! table Adapter { format_version: int; adapter_version: int; model_version: int; parameters: [Parameter]; }
//! file_identifier "TORT"
//! ```

use crate::ir::{Data, Tensor};
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, UOffsetT, Vector, WIPOffset};

/// `TensorDataType` of f32.
const FLOAT: i32 = 1;
const FORMAT_VERSION: i32 = 1;
const FILE_IDENTIFIER: &str = "TORT";

/// Field offsets in a table, in the order of the schema.
const SLOTS: [u16; 4] = [4, 6, 8, 10];

/// The bytes of an adapter file that holds `parameters`, all f32.
///
/// # Errors
/// When a parameter is not f32, which the message names.
pub fn ort_adapter(parameters: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let mut builder = FlatBufferBuilder::new();
    let mut tables: Vec<WIPOffset<TableFinishedWIPOffset>> = Vec::new();
    for (name, tensor) in parameters {
        let Data::F32(values) = tensor.data() else {
            return Err(format!("adapter parameter `{name}` is {}, expected f32", tensor.value_type()));
        };
        let raw = bytes(&mut builder, values);
        let dims: Vec<i64> = tensor.shape().iter().map(|size| *size as i64).collect();
        let dims = builder.create_vector(&dims);
        let name = builder.create_string(name);
        let table = builder.start_table();
        builder.push_slot_always(SLOTS[0], name);
        builder.push_slot_always(SLOTS[1], dims);
        builder.push_slot_always(SLOTS[2], FLOAT);
        builder.push_slot_always(SLOTS[3], raw);
        tables.push(builder.end_table(table));
    }
    let parameters: WIPOffset<Vector<'_, ForwardsUOffset<TableFinishedWIPOffset>>> = builder.create_vector(&tables);
    let adapter = builder.start_table();
    for (slot, version) in SLOTS.into_iter().zip([FORMAT_VERSION, 1, 1]) {
        builder.push_slot_always(slot, version);
    }
    builder.push_slot_always(SLOTS[3], parameters);
    let adapter = builder.end_table(adapter);
    builder.finish(adapter, Some(FILE_IDENTIFIER));
    Ok(builder.finished_data().to_vec())
}

/// The values as a vector of bytes whose first lies at a multiple of eight, as the schema asks: a plain vector of bytes would not.
fn bytes<'a>(builder: &mut FlatBufferBuilder<'a>, values: &[f32]) -> WIPOffset<Vector<'a, u8>> {
    let size = values.len() * 4;
    let word = |pair: &[f32]| {
        let low = pair.first().copied().unwrap_or_default().to_bits();
        let high = pair.get(1).copied().unwrap_or_default().to_bits();
        u64::from(low) | u64::from(high) << 32
    };
    // Built from the back. An odd count ends in half a word of zeros, behind the bytes that the length counts.
    let words: Vec<u64> = values.chunks(2).map(word).collect();
    builder.start_vector::<u64>(words.len());
    for word in words.iter().rev() {
        builder.push(*word);
    }
    let end = builder.end_vector::<u64>(size);
    WIPOffset::new(end.value() as UOffsetT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_readable() {
        let odd = Tensor::f32_from_fn(vec![1, 3], |i| i as f32 + 0.5);
        let even = Tensor::f32_from_fn(vec![2, 2], |i| -(i as f32));
        let file = ort_adapter(&[("odd".to_owned(), odd), ("even".to_owned(), even)]).unwrap();
        assert_eq!(&file[4..8], b"TORT");
        let at = |values: &[f32]| {
            let wanted: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let place = file.windows(wanted.len()).position(|window| window == wanted).unwrap();
            let length = u32::from_le_bytes(file[place - 4..place].try_into().unwrap());
            assert_eq!((place % 8, length as usize), (0, wanted.len()), "{values:?}");
        };
        at(&[0.5, 1.5, 2.5]);
        at(&[-0.0, -1.0, -2.0, -3.0]);
    }

    #[test]
    fn other_types_are_named() {
        let error = ort_adapter(&[("ids".to_owned(), Tensor::vector_i64(vec![1]))]).unwrap_err();
        assert_eq!(error, "adapter parameter `ids` is i64[1], expected f32");
    }
}
