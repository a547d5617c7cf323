//! Number types and shapes as text.

use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{TypeProto, type_proto};

/// The short name of a `TensorProto.DataType` number.
pub(super) fn data_type(number: i32) -> String {
    let known = match number {
        1 => "f32",
        2 => "u8",
        3 => "i8",
        4 => "u16",
        5 => "i16",
        6 => "i32",
        7 => "i64",
        8 => "string",
        9 => "bool",
        10 => "f16",
        11 => "f64",
        12 => "u32",
        13 => "u64",
        14 => "complex64",
        15 => "complex128",
        16 => "bf16",
        17 => "f8e4m3fn",
        18 => "f8e4m3fnuz",
        19 => "f8e5m2",
        20 => "f8e5m2fnuz",
        21 => "u4",
        22 => "i4",
        23 => "f4e2m1",
        other => return format!("type{other}"),
    };
    known.to_owned()
}

/// A longer type is cut: one type can be shown at many values, and must not make a small file a large text.
const MAX_LENGTH: usize = 512;

/// `dtype[dim, dim]`, or `?` where the file does not say.
pub(super) fn describe(proto: Option<&TypeProto>) -> String {
    let Some(type_proto::Value::TensorType(tensor)) = proto.and_then(|proto| proto.value.as_ref()) else {
        return "?".to_owned();
    };
    let Some(shape) = &tensor.shape else {
        return format!("{}[?]", data_type(tensor.elem_type));
    };
    let dims: Vec<String> = shape
        .dim
        .iter()
        .take(MAX_LENGTH)
        .map(|dim| match &dim.value {
            Some(dimension::Value::DimValue(size)) => size.to_string(),
            Some(dimension::Value::DimParam(symbol)) => super::name(symbol),
            None => "?".to_owned(),
        })
        .collect();
    let mut text = format!("{}[{}]", data_type(tensor.elem_type), dims.join(", "));
    if text.len() > MAX_LENGTH || shape.dim.len() > MAX_LENGTH {
        text.truncate(text.floor_char_boundary(MAX_LENGTH));
        text.push_str(&format!("... {} dimensions]", shape.dim.len()));
    }
    text
}
