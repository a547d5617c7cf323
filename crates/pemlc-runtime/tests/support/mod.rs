//! A toy task-conditioned decoder with the inputs and outputs of an artifact, its arithmetic written out by hand as the oracle, and
//! faulty variants of it, one for each thing that the check must notice.
#![allow(dead_code)] // Each test file uses a part.

pub(crate) mod artifact;
pub(crate) mod attention;
pub(crate) mod beside;
pub(crate) mod builder;
pub(crate) mod fault;
pub(crate) mod oracle;
pub(crate) mod ort_adapter;
pub(crate) mod toy;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Whether tests of ONNX Runtime can run. Where they must (`CI` or `PEMLC_REQUIRE_ORT` set), a missing library fails the test.
pub(crate) fn ort_available() -> bool {
    match pemlc_runtime::locate_ort() {
        Ok(_) => true,
        Err(error) => {
            let required = ["CI", "PEMLC_REQUIRE_ORT"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{error}");
            eprintln!("skipped, for want of ONNX Runtime: {error}");
            false
        }
    }
}
