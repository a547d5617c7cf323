//! Golden numbers of `fixtures/golden`, for tests.

use serde_json::Value;
use std::cell::RefCell;
use std::path::Path;

pub(crate) struct Golden(Value);

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        FILE.with(|file| name.clone_into(&mut file.borrow_mut()));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(name);
        Self(serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap())
    }

    fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.0, |value, key| &value[key])
    }

    pub(crate) fn f32(&self, path: &[&str]) -> Vec<f32> {
        let data = self.at(path)["data"].as_array().unwrap_or_else(|| panic!("no tensor {path:?}"));
        data.iter().map(|value| value.as_f64().unwrap() as f32).collect()
    }

    pub(crate) fn i64(&self, path: &[&str]) -> Vec<i64> {
        self.at(path)["data"].as_array().unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
    }

    pub(crate) fn number(&self, path: &[&str]) -> f64 {
        self.at(path).as_f64().unwrap()
    }
}

thread_local! {
    /// The file that this test read last.
    static FILE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Asserts that `found` is `expected` up to `tolerance`, absolute and relative. With the variable PEMLC_GOLDEN_TABLE set it prints the
/// worst error, for `benches/golden.sh`.
#[track_caller]
pub(crate) fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    if std::env::var_os("PEMLC_GOLDEN_TABLE").is_some() {
        let error = |(found, expected): (&f32, &f32)| (found - expected).abs() / (1.0 + expected.abs());
        let worst = found.iter().zip(expected).map(error).fold(0.0, f32::max);
        FILE.with(|file| println!("golden {} {tolerance:e} {worst:e}", file.borrow()));
    }
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = tolerance * (1.0 + expected.abs());
        assert!((found - expected).abs() <= allowed, "value {index} is {found}, expected {expected}");
    }
}
