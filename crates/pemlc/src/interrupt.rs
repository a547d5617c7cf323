//! Ctrl-C: the first asks for an orderly stop, the second stops at once.

use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell expects of a program that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// A flag that turns true at the first Ctrl-C (or SIGTERM).
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        eprintln!("\nstopping after this step; Ctrl-C again stops at once, without saving");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
