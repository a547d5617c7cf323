//! Which execution provider ran a graph, read from the profile that ONNX Runtime writes of one run.

use serde_json::Value;

/// Fails unless `wanted` ran every matrix product of the run that `profile` describes. Bookkeeping on shapes may run elsewhere: the
/// CUDA provider leaves it to the CPU by design.
pub(crate) fn verify(profile: &str, wanted: &str) -> Result<(), String> {
    let events: Vec<Value> =
        serde_json::from_str(profile).map_err(|error| format!("cannot read ONNX Runtime's profile: {error}"))?;
    let nodes = events.iter().filter_map(|event| {
        let arguments = event.get("args")?;
        Some((arguments.get("op_name")?.as_str()?, arguments.get("provider")?.as_str()?, event.get("name")?.as_str()?))
    });
    let mut products = 0;
    for (operator, provider, name) in nodes {
        if operator.contains("MatMul") || operator.contains("Gemm") {
            if provider != wanted {
                return Err(format!("{provider}, and not {wanted}, ran {operator} ({name})"));
            }
            products += 1;
        }
    }
    if products == 0 {
        return Err(format!("ONNX Runtime's profile shows no matrix product on {wanted}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::verify;

    fn event(operator: &str, provider: &str) -> String {
        format!(
            r#"{{"cat":"Node","ph":"X","name":"{operator}_1_kernel_time","args":{{"op_name":"{operator}","provider":"{provider}"}}}}"#
        )
    }

    #[test]
    fn every_matrix_product_must_run_where_it_was_asked_to() {
        let (cpu, cuda) = ("CPUExecutionProvider", "CUDAExecutionProvider");
        let session = r#"{"cat":"Session","name":"model_run","args":{}}"#;
        let profile = |nodes: &[String]| format!("[{session},{}]", nodes.join(","));
        assert_eq!(verify(&profile(&[event("Shape", cpu), event("FusedMatMul", cuda)]), cuda), Ok(()));
        let fallen_back = verify(&profile(&[event("MatMul", cuda), event("Gemm", cpu)]), cuda);
        let expected = "CPUExecutionProvider, and not CUDAExecutionProvider, ran Gemm (Gemm_1_kernel_time)";
        assert_eq!(fallen_back, Err(expected.to_owned()));
        assert!(verify(&profile(&[event("Add", cuda)]), cuda).is_err(), "nothing shows that CUDA did the work");
        assert!(verify("", cuda).is_err());
    }
}
