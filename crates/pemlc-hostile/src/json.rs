//! Senseless JSON made from sensible JSON: values replaced, keys renamed, removed and repeated, nesting.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

/// Values, or bytes of a text, that multiplying makes at most.
const LARGEST: usize = 20_000;

/// One change of a document.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which of the document's values, in the order in which they are written.
    at: Index,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Replace(Value),
    /// A value from elsewhere in the document.
    Copy(Index),
    /// The value out of its object or list.
    Remove,
    /// The key of its object.
    Rename(String),
    /// Lists of lists around it.
    Nest(usize),
    /// The same list several times over, or the same text.
    Multiply(usize),
}

impl Change {
    /// Changes `document` in place.
    pub fn apply(&self, document: &mut Value) {
        let count = size(document);
        let copied = match &self.what {
            What::Copy(from) => find(document, &mut from.index(count)).cloned(),
            _ => None,
        };
        let mut place = self.at.index(count);
        match &self.what {
            What::Remove | What::Rename(_) => self.change_in_parent(document, &mut place),
            _ => {
                let Some(value) = find_mut(document, &mut place) else { return };
                match &self.what {
                    What::Replace(other) => *value = other.clone(),
                    What::Copy(_) => *value = copied.unwrap_or_default(),
                    What::Nest(depth) => {
                        *value = (0..*depth).fold(value.take(), |inner, _| Value::Array(vec![inner]));
                    }
                    // Not of what was multiplied before.
                    What::Multiply(times) if size(value) * times > LARGEST => {}
                    What::Multiply(times) => match value {
                        Value::Array(items) => *items = vec![items.clone(); *times].concat(),
                        Value::String(text) if text.len() * times > LARGEST => {}
                        Value::String(text) => *text = text.repeat(*times),
                        other => *other = Value::Array(vec![other.clone(); *times]),
                    },
                    What::Remove | What::Rename(_) => {}
                }
            }
        }
    }

    /// Removes or renames the value that is `place` values on.
    fn change_in_parent(&self, document: &mut Value, place: &mut usize) {
        if *place == 0 {
            *document = Value::Null;
            return;
        }
        *place -= 1;
        match document {
            Value::Object(fields) => {
                let keys: Vec<String> = fields.keys().cloned().collect();
                for key in keys {
                    let Some(value) = fields.get_mut(&key) else { continue };
                    let own = size(value);
                    if *place == 0 {
                        let value = fields.remove(&key);
                        if let (What::Rename(name), Some(value)) = (&self.what, value) {
                            fields.insert(name.clone(), value);
                        }
                        return;
                    }
                    if *place < own {
                        return self.change_in_parent(value, place);
                    }
                    *place -= own;
                }
            }
            Value::Array(items) => {
                for index in 0..items.len() {
                    let own = size(&items[index]);
                    if *place == 0 {
                        items.remove(index);
                        return;
                    }
                    if *place < own {
                        return self.change_in_parent(&mut items[index], place);
                    }
                    *place -= own;
                }
            }
            _ => {}
        }
    }
}

/// Values in `value`, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(size).sum(),
        Value::Array(items) => items.iter().map(size).sum(),
        _ => 0,
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

fn find<'a>(value: &'a Value, place: &mut usize) -> Option<&'a Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    for child in children(value) {
        let own = size(child);
        if *place < own {
            return find(child, place);
        }
        *place -= own;
    }
    None
}

fn find_mut<'a>(value: &'a mut Value, place: &mut usize) -> Option<&'a mut Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let own = size(child);
        if *place < own {
            return find_mut(child, place);
        }
        *place -= own;
    }
    None
}

/// A number that is no size: negative, far too large, not whole, next to the limits of its type.
pub fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-2..70i64).prop_map(|number| json!(number)),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
        Just(json!(i64::MAX)),
        Just(json!(1u64 << 63)),
        Just(json!(1u64 << 32)),
        Just(json!(u32::MAX)),
        Just(json!(1u64 << 28)),
        Just(json!(100_000_000)),
        Just(json!(65_536)),
        Just(json!(0.5)),
        Just(json!(-0.0)),
        Just(json!(1e308)),
        Just(json!(1e-308)),
        any::<u64>().prop_map(|number| json!(number >> (number % 64))),
        any::<f64>().prop_map(|number| json!(number)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => number(),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => Just(json!("")),
        1 => Just(json!("\0")),
        1 => Just(json!("../../../../../../dev/zero")),
        1 => Just(json!("/dev/zero")),
        1 => Just(json!("x".repeat(5_000))),
        1 => "\\PC{0,12}".prop_map(Value::String),
        1 => Just(json!([])),
        1 => Just(Value::Object(Map::new())),
        1 => proptest::collection::vec(number(), 0..9).prop_map(Value::Array),
    ]
}

/// One to five changes.
pub fn changes() -> impl Strategy<Value = Vec<Change>> {
    let what = prop_oneof![
        8 => value().prop_map(What::Replace),
        2 => any::<Index>().prop_map(What::Copy),
        2 => Just(What::Remove),
        1 => prop_oneof![Just(String::new()), "\\PC{1,8}", Just("default".to_owned())].prop_map(What::Rename),
        1 => prop_oneof![1..4usize, Just(200)].prop_map(What::Nest),
        1 => prop_oneof![2..5usize, Just(300)].prop_map(What::Multiply),
    ];
    proptest::collection::vec((any::<Index>(), what).prop_map(|(at, what)| Change { at, what }), 1..6)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        /// Every value can be found, and the counts that places are taken from are right.
        #[test]
        fn places_are_those_of_values(changes in changes()) {
            let mut document = json!({"a": [1, {"b": null}, "c"], "d": {"e": 2.5}, "f": true});
            for change in changes {
                let all = size(&document);
                for place in 0..all {
                    prop_assert!(find(&document, &mut place.clone()).is_some());
                    prop_assert!(find_mut(&mut document, &mut place.clone()).is_some());
                }
                prop_assert!(find(&document, &mut all.clone()).is_none());
                change.apply(&mut document);
            }
        }
    }
}
