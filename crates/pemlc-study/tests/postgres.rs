//! Studies on a PostgreSQL server, which is started here; without PostgreSQL the tests say so and pass.

mod common;

use common::open;
use common::server::Server;
use pemlc_study::{Location, StorageError, Study};
use serde_json::json;

#[test]
fn worker_process() {
    common::work_if_told();
}

#[test]
fn a_server_serves_studies_as_a_file_does() {
    let Some(server) = Server::start() else { return };
    for database in ["killed", "many", "rungs"] {
        server.execute("postgres", &format!("CREATE DATABASE {database}"));
    }
    common::a_killed_worker_loses_nothing(&server.url("killed"));
    common::workers_never_share_a_trial(&server.url("many"));
    common::weak_trials_stop_at_a_rung(&server.url("rungs"));
}

#[test]
fn workers_that_start_together_make_one_study() {
    let Some(server) = Server::start() else { return };
    let url = server.url("postgres");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| drop(open(&url)));
        }
    });
    common::workers_never_share_a_trial(&url);
}

#[test]
fn a_lost_connection_is_made_again() {
    let Some(server) = Server::start() else { return };
    let mut study = open(&server.url("postgres"));
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pemlc'";
    server.execute("postgres", others);
    assert!(study.trials().unwrap().is_empty());
}

#[test]
fn databases_that_are_no_studies_stay_as_they_are() {
    let Some(server) = Server::start() else { return };
    server.execute("postgres", "CREATE TABLE notes (text TEXT)");
    let url = server.url("postgres");
    let error = Study::open(&Location::parse(&url, None).unwrap(), "demo", &[]).err().unwrap();
    assert!(matches!(&error, StorageError::Foreign { tables, .. } if tables == "notes"), "{error}");
    server.execute("postgres", "DROP TABLE notes");
    drop(open(&url));
    let other = [("pemlc:space", json!({"other": 1}))];
    let error = Study::open(&Location::parse(&url, None).unwrap(), "demo", &other).err().unwrap();
    assert!(matches!(error, StorageError::Differs { .. }), "{error}");
}

#[test]
fn what_cannot_be_reached_is_named_without_its_password() {
    let url = "postgresql://me:secret@127.0.0.1:1/db";
    let error = Study::open(&Location::parse(url, None).unwrap(), "demo", &[]).err().unwrap().to_string();
    assert!(error.contains("postgresql://me@127.0.0.1:1/db: cannot connect") && error.contains("refused"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn optuna_opens_the_study() {
    let Some(server) = Server::start() else { return };
    // Which driver a URL without one means depends on the version of SQLAlchemy.
    let url = server.url("postgres").replace("postgresql://", "postgresql+psycopg2://");
    common::optuna_opens_the_study(&url, "optuna, sqlalchemy, psycopg2");
}
