//! A PostgreSQL server of a test's own, behind a Unix socket in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running server; it ends with this value.
pub(crate) struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// `None`, and a message, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let (Some(initdb), Some(postgres)) = (find("initdb"), find("postgres")) else {
            eprintln!("skipped: initdb and postgres are neither in PATH nor in /usr/lib/postgresql");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        // PostgreSQL refuses to run as root.
        let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        if root {
            let owner = Command::new("chown").arg("nobody:nogroup").arg(folder.path()).status();
            assert!(owner.unwrap().success(), "the folder cannot be given to nobody");
        }
        let command = |program: &Path| {
            let mut command = match root {
                true => Command::new("setpriv"),
                false => Command::new(program),
            };
            if root {
                command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
            }
            command.arg("-D").arg(&data).current_dir(folder.path());
            command
        };
        let made =
            command(&initdb).args(["-U", "study", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]).output();
        let made = made.unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        // A zone that is not UTC: heartbeats are written in the server's.
        let settings = ["listen_addresses=", "fsync=off", "timezone=America/New_York"];
        let settings = settings.into_iter().flat_map(|setting| ["-c", setting]);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process =
            command(&postgres).args(settings).arg("-k").arg(folder.path()).stderr(log).stdout(Stdio::null()).spawn();
        let server = Self { process: process.unwrap(), folder };
        for _ in 0..200 {
            if postgres::Client::connect(&server.url("postgres"), postgres::NoTls).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
        panic!("the server does not answer: {log}");
    }

    /// Of one of its databases; `postgres` is there from the start.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://study@/{database}?host={}", self.folder.path().display())
    }

    /// Executes statements outside of any study.
    pub(crate) fn execute(&self, database: &str, statements: &str) {
        let mut client = postgres::Client::connect(&self.url(database), postgres::NoTls).unwrap();
        client.batch_execute(statements).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let asked = Command::new("kill").arg("-INT").arg(self.process.id().to_string()).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Debian keeps the server's programs out of PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for version in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        folders.push(version.path().join("bin"));
    }
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.exists())
}
