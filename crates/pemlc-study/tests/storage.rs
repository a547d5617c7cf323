//! Studies in SQLite files that are shared by processes and by Optuna, and files that are no studies.

mod common;

use common::open;
use pemlc_study::{Location, StorageError, Study};
use serde_json::json;

fn file(folder: &tempfile::TempDir) -> String {
    format!("sqlite:///{}", folder.path().join("study.db").display())
}

#[test]
fn worker_process() {
    common::work_if_told();
}

#[test]
fn a_killed_worker_loses_no_finished_trial_and_its_own_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    common::a_killed_worker_loses_nothing(&file(&folder));
}

#[test]
fn workers_never_share_a_trial() {
    let folder = tempfile::tempdir().unwrap();
    common::workers_never_share_a_trial(&file(&folder));
}

#[test]
fn weak_trials_stop_at_a_rung() {
    let folder = tempfile::tempdir().unwrap();
    common::weak_trials_stop_at_a_rung(&file(&folder));
}

#[test]
fn optuna_opens_the_study() {
    let folder = tempfile::tempdir().unwrap();
    common::optuna_opens_the_study(&file(&folder), "optuna, sqlalchemy");
}

#[test]
fn files_that_are_no_studies_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let corrupt = folder.path().join("corrupt.db");
    std::fs::write(&corrupt, "this is a text and no database\n".repeat(100)).unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    for path in [corrupt, foreign] {
        let before = std::fs::read(&path).unwrap();
        let error = Study::open(&Location::Sqlite(path.clone()), "demo", &[]).err().unwrap();
        assert!(matches!(error, StorageError::Corrupt { .. } | StorageError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn another_space_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&file(&folder)));
    let location = Location::Sqlite(folder.path().join("study.db"));
    let error = Study::open(&location, "demo", &[("pemlc:space", json!({"other": 1}))]).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(r#"{"other":1}"#) && text.contains("rate"), "{text}");
}
