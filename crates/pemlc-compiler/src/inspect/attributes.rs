//! A node attribute as text.

use super::initialiser::{self, short};
use super::text::{Context, name};
use sha2::{Digest, Sha256};
use std::fmt;
use tract_onnx::pb::AttributeProto;
use tract_onnx::pb::attribute_proto::AttributeType;

/// Lists longer than this are cut, with their length and a hash of the whole.
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
        // What is not spelled out is told apart all the same.
        Ok(kind) => format!(
            "{} #{}",
            format!("{kind:?}").to_lowercase(),
            Hashed::default().then(format_args!("{attribute:?}")).digits()
        ),
        Err(_) => format!("attribute type {}", attribute.r#type),
    }
}

fn list<T>(values: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = values.iter().take(MAX_LISTED).map(&show).collect();
    if values.len() > MAX_LISTED {
        let all = Hashed::default();
        let all = values.iter().fold(all, |all, value| all.then(format_args!("{},", show(value))));
        shown.push(format!("... {} in all, #{}", values.len(), all.digits()));
    }
    format!("[{}]", shown.join(", "))
}

/// Text of which only a hash is kept.
#[derive(Default)]
struct Hashed(Sha256);

impl Hashed {
    fn then(mut self, text: fmt::Arguments<'_>) -> Self {
        // Nothing is written to anywhere that could fail.
        let _ = fmt::write(&mut self, text);
        self
    }

    fn digits(self) -> String {
        short(&self.0.finalize())
    }
}

impl fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
