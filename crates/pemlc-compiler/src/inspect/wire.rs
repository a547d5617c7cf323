//! How much memory decoding will take, read off the encoded bytes.
//!
//! Two bytes can encode an empty attribute of a kilobyte, so that a file of some megabytes could fill the machine. This walks the
//! encoded message without allocating and adds up what its parts take once decoded. What is malformed is left to the decoder to refuse:
//! it reads in the same order and so stops at the same place.

use tract_onnx::pb;

/// What decoding may leave in memory, beside a multiple of the file's size: real graphs stay far below both. While a list grows, half as
/// much again can be in use.
const BASE: u64 = 192 << 20;
/// See [`BASE`].
const TIMES: u64 = 24;
/// The decoder's own limit of nesting.
const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, Copy)]
enum Message {
    Annotation,
    Attribute,
    Dimension,
    Entry,
    Function,
    Graph,
    Model,
    Node,
    Opset,
    Segment,
    Shape,
    Sparse,
    Tensor,
    TensorType,
    Training,
    Type,
    ValueInfo,
}

/// What a field holds.
enum Field {
    Message(Message),
    /// A string or bytes, one of several.
    Text,
    /// Numbers that take so many bytes each.
    Numbers(u64),
    Other,
}

/// Why the walk ended early.
enum Stop {
    Malformed,
    TooLarge,
}

/// The limit in bytes, if decoding `bytes` would take more.
pub(super) fn check(bytes: &[u8]) -> Result<(), u64> {
    let limit = BASE.saturating_add(TIMES.saturating_mul(bytes.len() as u64));
    let mut budget = limit;
    match walk(bytes, Message::Model, 0, &mut budget) {
        Err(Stop::TooLarge) => Err(limit),
        Ok(()) | Err(Stop::Malformed) => Ok(()),
    }
}

fn walk(mut bytes: &[u8], message: Message, depth: usize, budget: &mut u64) -> Result<(), Stop> {
    if depth > MAX_DEPTH {
        return Err(Stop::Malformed);
    }
    // Bit by field number: which repeated fields have begun.
    let mut begun = 0u32;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = field(message, key >> 3);
        match key & 7 {
            0 => {
                varint(&mut bytes)?;
                if let Field::Numbers(size) = field {
                    spend(budget, 2 * size)?;
                }
            }
            1 => {
                take(&mut bytes, 8)?;
                spend(budget, 16)?;
            }
            2 => {
                let length = varint(&mut bytes)?;
                let inner = take(&mut bytes, length)?;
                match field {
                    // A growing vector holds up to twice its contents; the first element makes room for itself, or for four small ones.
                    Field::Message(kind) => {
                        let bit = 1 << (key >> 3).min(31);
                        let room = match (begun & bit != 0, size(kind)) {
                            (true, _) => 2,
                            (false, ..=1024) => 4,
                            (false, _) => 1,
                        };
                        begun |= bit;
                        spend(budget, room * size(kind))?;
                        walk(inner, kind, depth + 1, budget)?;
                    }
                    Field::Text => spend(budget, 2 * size_of::<String>() as u64)?,
                    Field::Numbers(size) => spend(budget, length.saturating_mul(2 * size))?,
                    Field::Other => {}
                }
            }
            3 => skip_group(&mut bytes)?,
            5 => {
                take(&mut bytes, 4)?;
                spend(budget, 8)?;
            }
            _ => return Err(Stop::Malformed),
        }
    }
    Ok(())
}

fn spend(budget: &mut u64, amount: u64) -> Result<(), Stop> {
    *budget = budget.checked_sub(amount).ok_or(Stop::TooLarge)?;
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Stop> {
    let mut value = 0u64;
    for place in 0..10 {
        let (first, rest) = bytes.split_first().ok_or(Stop::Malformed)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << (7 * place);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Stop::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Stop> {
    let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Stop::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// Skips to the end of the group that has just begun; the decoder skips unknown groups too.
fn skip_group(bytes: &mut &[u8]) -> Result<(), Stop> {
    let mut open = 1;
    while open > 0 {
        match varint(bytes)? & 7 {
            0 => {
                varint(bytes)?;
            }
            1 => {
                take(bytes, 8)?;
            }
            2 => {
                let length = varint(bytes)?;
                take(bytes, length)?;
            }
            3 => open += 1,
            4 => open -= 1,
            5 => {
                take(bytes, 4)?;
            }
            _ => return Err(Stop::Malformed),
        }
    }
    Ok(())
}

fn size(message: Message) -> u64 {
    let bytes = match message {
        Message::Annotation => size_of::<pb::TensorAnnotation>(),
        Message::Attribute => size_of::<pb::AttributeProto>(),
        Message::Dimension => size_of::<pb::tensor_shape_proto::Dimension>(),
        Message::Entry => size_of::<pb::StringStringEntryProto>(),
        Message::Function => size_of::<pb::FunctionProto>(),
        Message::Graph => size_of::<pb::GraphProto>(),
        Message::Model => size_of::<pb::ModelProto>(),
        Message::Node => size_of::<pb::NodeProto>(),
        Message::Opset => size_of::<pb::OperatorSetIdProto>(),
        Message::Segment => size_of::<pb::tensor_proto::Segment>(),
        Message::Shape => size_of::<pb::TensorShapeProto>(),
        Message::Sparse => size_of::<pb::SparseTensorProto>(),
        Message::Tensor => size_of::<pb::TensorProto>(),
        Message::TensorType => size_of::<pb::type_proto::Tensor>(),
        Message::Training => size_of::<pb::TrainingInfoProto>(),
        Message::Type => size_of::<pb::TypeProto>(),
        Message::ValueInfo => size_of::<pb::ValueInfoProto>(),
    };
    bytes as u64
}

/// The schema of ONNX, as far as sizes depend on it.
fn field(message: Message, number: u64) -> Field {
    use Message as M;
    let kind = match (message, number) {
        (M::Model, 7) | (M::Attribute, 6 | 11) | (M::Training, 1 | 2) => M::Graph,
        (M::Model, 8) | (M::Function, 9) => M::Opset,
        (M::Model, 14) | (M::Tensor, 13) | (M::Annotation, 2) | (M::Training, 3 | 4) => M::Entry,
        (M::Model, 20) => M::Training,
        (M::Model, 25) => M::Function,
        (M::Graph, 1) | (M::Function, 7) => M::Node,
        (M::Graph, 5) | (M::Attribute, 5 | 10) | (M::Sparse, 1 | 2) => M::Tensor,
        (M::Graph, 15) | (M::Attribute, 22 | 23) => M::Sparse,
        (M::Graph, 11..=13) => M::ValueInfo,
        (M::Graph, 14) => M::Annotation,
        (M::Node, 5) => M::Attribute,
        (M::Attribute, 15) | (M::ValueInfo, 2) => M::Type,
        (M::Type, 1) => M::TensorType,
        (M::TensorType, 2) => M::Shape,
        (M::Shape, 1) => M::Dimension,
        (M::Tensor, 3) => M::Segment,
        (M::Node, 1 | 2) | (M::Function, 4..=6) | (M::Attribute, 9) | (M::Tensor, 6) => return Field::Text,
        (M::Attribute, 8) | (M::Tensor, 1 | 7 | 11) | (M::Sparse, 3) => return Field::Numbers(8),
        (M::Tensor, 5) => return Field::Numbers(4),
        _ => return Field::Other,
    };
    Field::Message(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of `inner`, whose length must fit one byte or be written in full.
    fn nest(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![(number << 3) | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(inner);
        bytes
    }

    #[test]
    fn empty_parts_by_the_million_are_refused() {
        // Model.graph.node.attribute, a million times empty: two megabytes that would decode to a gigabyte.
        let attributes = nest(5, &[]).repeat(1_000_000);
        assert!(check(&nest(7, &nest(1, &attributes))).is_err());
        assert!(check(&nest(7, &nest(1, &nest(5, &[]).repeat(1000)))).is_ok());
    }

    #[test]
    fn numbers_of_one_byte_are_counted_at_their_size() {
        // Tensor.int64_data, packed: 8 bytes for each.
        let model = |count: usize| nest(7, &nest(5, &nest(7, &vec![1; count])));
        assert!(check(&model(1 << 24)).is_ok());
        let mut budget = (1 << 24) * 16;
        assert!(matches!(walk(&model(1 << 24), Message::Model, 0, &mut budget), Err(Stop::TooLarge)));
    }

    #[test]
    fn what_is_malformed_is_the_decoders_affair() {
        for bytes in [&[][..], &[0xff; 30], &[0x3a, 0x7f], &[7], &[3, 4, 3]] {
            assert!(check(bytes).is_ok());
        }
    }
}
