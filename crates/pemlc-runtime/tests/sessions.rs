//! Sessions as a client uses them: scoring, generation and the errors of both, against the oracle.

mod support;

use pemlc_runtime::{
    GenerateOptions, Inputs, OpenOptions, Padding, Row, RuntimeError, RuntimeKind, ScoreRow, Session, generate, open,
    score,
};
use support::fault::Fault;
use support::oracle::{VOCABULARY, logits};
use support::toy::{self, TASKS};
use support::{Outcome, artifact, ort_available};

fn sessions(dir: &std::path::Path) -> Result<Vec<Box<dyn Session>>, Box<dyn std::error::Error>> {
    toy::write(dir, TASKS, Fault::None)?;
    let mut kinds = vec![RuntimeKind::Tract];
    if ort_available() {
        kinds.extend([RuntimeKind::OrtCpu, RuntimeKind::OrtCpuUnoptimized]);
    }
    let open = |kind| open(kind, &dir.join("model.onnx"), &OpenOptions::default());
    Ok(kinds.into_iter().map(open).collect::<Result<_, _>>()?)
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best })
}

#[test]
fn scores_are_the_oracles_log_probabilities() -> Outcome {
    let dir = tempfile::tempdir()?;
    let examples = [(artifact::probe(0), 4), (artifact::probe(4), 11)];
    let rows: Vec<ScoreRow> = (examples.iter())
        .map(|((tokens, task), position)| ScoreRow {
            tokens: tokens.iter().map(|token| *token as u32).collect(),
            task_id: *task as i64,
            queries: (0..VOCABULARY as u32).map(|token| (*position, token)).collect(),
        })
        .collect();
    for mut session in sessions(dir.path())? {
        let answers = score(session.as_mut(), &rows)?;
        for (((tokens, task), position), scores) in examples.iter().zip(answers) {
            let logits = &logits(tokens, Some(*task))[*position];
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            for (token, score) in scores.iter().enumerate() {
                let expected = f64::from(logits[token]) - sum.ln();
                assert!((score.log_probability - expected).abs() < 1e-5, "{score:?}, expected {expected}");
                assert_eq!(score.is_argmax, token == argmax(logits));
            }
        }
    }
    Ok(())
}

#[test]
fn generation_with_a_cache_follows_the_oracle_without_one() -> Outcome {
    let dir = tempfile::tempdir()?;
    for mut session in sessions(dir.path())? {
        for task in 0..TASKS {
            let (mut tokens, _) = artifact::probe(1);
            let prompt: Vec<u32> = tokens.iter().map(|token| *token as u32).collect();
            let mut expected = Vec::new();
            for _ in 0..6 {
                let logits = logits(&tokens, Some(task));
                let next = argmax(&logits[logits.len() - 1]);
                tokens.push(next as i64);
                expected.push(next as u32);
            }
            let mut options = GenerateOptions { max_new_tokens: 6, eos_token_ids: Vec::new() };
            let mut seen = Vec::new();
            let generated = generate(session.as_mut(), &prompt, task as i64, &options, &mut |token| seen.push(token))?;
            assert_eq!((&generated.tokens, generated.ended), (&expected, false));
            assert_eq!(seen, expected);

            // The answer stops before the end token, wherever it first comes.
            options.eos_token_ids = vec![expected[3]];
            let stop = expected.iter().position(|token| *token == expected[3]).ok_or("not there")?;
            let generated = generate(session.as_mut(), &prompt, task as i64, &options, &mut |_| ())?;
            assert_eq!((generated.tokens.as_slice(), generated.ended), (&expected[..stop], true));
        }
    }
    Ok(())
}

#[test]
fn an_unknown_task_is_an_error_and_not_an_answer() -> Outcome {
    let dir = tempfile::tempdir()?;
    let options = GenerateOptions { max_new_tokens: 1, eos_token_ids: Vec::new() };
    for mut session in sessions(dir.path())? {
        for task in [-1, TASKS as i64, i64::MAX] {
            let error = generate(session.as_mut(), &[1, 2], task, &options, &mut |_| ()).err().ok_or("answered")?;
            assert!(matches!(error, RuntimeError::NotFinite { task_id, .. } if task_id == task), "{error}");
            let row = ScoreRow { tokens: vec![1, 2], task_id: task, queries: vec![(1, 3)] };
            let error = score(session.as_mut(), &[row]).err().ok_or("answered")?;
            assert!(matches!(error, RuntimeError::NotFinite { row: 0, position: 1, .. }), "{error}");
        }
    }
    Ok(())
}

#[test]
fn inputs_that_a_graph_cannot_take_are_errors() -> Outcome {
    let dir = tempfile::tempdir()?;
    for mut session in sessions(dir.path())? {
        // A token outside the vocabulary: one runtime raises, the other panics inside.
        let row = Row { tokens: &[1, 1000], task_id: 0 };
        let error = session.run(&Inputs::prefill(&[row], 2, Padding::Right)).err().ok_or("answered")?;
        assert!(matches!(error, RuntimeError::Run { .. }), "{error}");
        // The session works on.
        let row = Row { tokens: &[1, 2], task_id: 0 };
        let outputs = session.run(&Inputs::prefill(&[row], 2, Padding::Right))?;
        assert_eq!(outputs.logits.dim(), (1, 2, VOCABULARY));
        let empty = generate(
            session.as_mut(),
            &[],
            0,
            &GenerateOptions { max_new_tokens: 1, eos_token_ids: Vec::new() },
            &mut |_| (),
        );
        assert!(matches!(empty, Err(RuntimeError::Inputs(_))));
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_graph_is_an_error() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, b"not a graph")?;
    let mut kinds = vec![RuntimeKind::Tract];
    if ort_available() {
        kinds.extend([RuntimeKind::OrtCpu, RuntimeKind::OrtCpuUnoptimized]);
    }
    for kind in kinds {
        let error = open(kind, &path, &OpenOptions::default()).err().ok_or("opened")?;
        assert!(matches!(error, RuntimeError::Load { .. } | RuntimeError::Interface { .. }), "{error}");
    }
    Ok(())
}
