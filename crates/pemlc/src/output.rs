//! What is printed. A reader that has gone (`pemlc methods | head -1`) stops nothing: the work goes on without it, and the exit code says how it
//! ended. The standard library's `print!`, `println!` and `eprintln!` panic there, so in this crate the names mean the macros below.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

macro_rules! print {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::output::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Why standard output takes no more.
static CLOSED: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output until that fails for the first time.
pub(crate) fn out(text: Arguments<'_>) {
    if CLOSED.get().is_some() {
        return;
    }
    let mut stream = io::stdout().lock();
    if let Err(error) = stream.write_fmt(text).and_then(|()| stream.flush()) {
        // Another thread may have been first.
        let _ = CLOSED.set(error);
    }
}

/// Writes to standard error.
pub(crate) fn err(text: Arguments<'_>) {
    // There is no other place to tell of a failure.
    let _ = io::stderr().lock().write_fmt(text);
}

/// Why not all of the output could be written (a full disk, for instance), unless its reader has gone.
pub(crate) fn failure() -> Option<&'static io::Error> {
    CLOSED.get().filter(|error| error.kind() != ErrorKind::BrokenPipe)
}
