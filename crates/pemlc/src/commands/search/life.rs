//! Signs of life of the worker that has a trial.

use super::Search;
use pemlc_study::Claim;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Seconds between two signs of life.
const HEARTBEAT: u64 = 15;

/// Stops the thread when it goes.
pub(super) struct KeepAlive {
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("warning: the heartbeat thread panicked");
        }
    }
}

impl Search<'_> {
    /// Signs of life from a thread of its own, until the guard is dropped.
    pub(super) fn keep_alive(&self, claim: &Claim) -> anyhow::Result<KeepAlive> {
        let mut study = self.open()?;
        let claim = claim.clone();
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut ticks = 0;
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                ticks += 1;
                if ticks % (10 * HEARTBEAT) == 0
                    && let Err(error) = study.heartbeat(&claim)
                {
                    eprintln!("warning: no heartbeat of trial {}: {error}", claim.number);
                }
            }
        });
        Ok(KeepAlive { done, thread: Some(thread) })
    }
}
