//! A node attribute as text.

use super::initialiser;
use super::text::{Context, name};
use tract_onnx::pb::AttributeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

/// Lists longer than this are cut, with their length.
const MAX_LISTED: usize = 16;

/// The value of `attribute`; graphs are shown by the caller.
pub(super) fn describe(attribute: &AttributeProto, context: Context<'_>) -> String {
    let string = |bytes: &Vec<u8>| format!("\"{}\"", String::from_utf8_lossy(bytes).escape_debug());
    if !attribute.ref_attr_name.is_empty() {
        return format!("@{}", name(&attribute.ref_attr_name));
    }
    match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Float) => format!("{:?}", attribute.f),
        Ok(AttributeType::Int) => attribute.i.to_string(),
        Ok(AttributeType::String) => string(&attribute.s),
        Ok(AttributeType::Tensor) => {
            attribute.t.as_ref().map_or_else(|| "?".to_owned(), |tensor| initialiser::describe(tensor, context))
        }
        Ok(AttributeType::Floats) => list(&attribute.floats, |value| format!("{value:?}")),
        Ok(AttributeType::Ints) => list(&attribute.ints, i64::to_string),
        Ok(AttributeType::Strings) => list(&attribute.strings, string),
        Ok(AttributeType::Tensors) => list(&attribute.tensors, |tensor| initialiser::describe(tensor, context)),
        Ok(kind) => format!("{kind:?}").to_lowercase(),
        Err(_) => format!("attribute type {}", attribute.r#type),
    }
}

fn list<T>(values: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = values.iter().take(MAX_LISTED).map(show).collect();
    if values.len() > MAX_LISTED {
        shown.push(format!("... {} in all", values.len()));
    }
    format!("[{}]", shown.join(", "))
}
