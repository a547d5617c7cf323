//! The other processes of a search.

use anyhow::Context;
use std::process::{Child, Command, Stdio};

/// Processes that run trials of the same study. None of them outlives this: where the search ends by an error, they are killed, and their
/// trials are given back as those of any dead worker are.
pub(super) struct Workers(Vec<Child>);

impl Workers {
    /// This program again, `count` times, for one worker each.
    pub(super) fn start(count: usize) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut workers = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.args(std::env::args_os().skip(1)).args(["--workers", "1"]);
            workers.0.push(command.stdout(Stdio::null()).spawn().context("starting a worker")?);
        }
        Ok(workers)
    }

    /// Waits until all have ended, and says which did not end well.
    pub(super) fn wait(mut self) -> anyhow::Result<()> {
        for worker in &mut self.0 {
            let status = worker.wait().context("waiting for a worker")?;
            if !status.success() {
                eprintln!("a worker ended with {status}; what it had finished is in the study");
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // One that has ended takes no harm, and nobody is left to be told of one that cannot be ended.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn no_worker_outlives_the_search() {
        let sleeper = || Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let workers = Workers(vec![sleeper(), sleeper()]);
        let ids: Vec<String> = workers.0.iter().map(|worker| worker.id().to_string()).collect();
        let alive = |id: &String| {
            let signal = Command::new("kill").args(["-0", id]).stderr(Stdio::null()).status();
            signal.expect("kill starts").success()
        };
        assert!(ids.iter().all(alive));
        drop(workers);
        assert!(!ids.iter().any(alive));
    }
}
