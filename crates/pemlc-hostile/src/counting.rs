//! An allocator that counts what each thread holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what this thread holds, so that tests that run beside it do not matter.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // Threads that are ending have no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A measurement that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    held: i64,
}

/// Forgets the peak of this thread; what it holds now is not counted.
pub fn peak() -> Peak {
    PEAK.set(HELD.get());
    Peak { held: HELD.get() }
}

impl Peak {
    /// The most bytes that this thread held at once since, beyond what it held then.
    pub fn bytes(self) -> i64 {
        PEAK.get() - self.held
    }
}

/// What `read` gives, which may hold at most `bound` bytes at once on this thread.
///
/// # Panics
/// When it holds more; `input` is the number of bytes that it reads, for the message.
pub fn bounded<T>(bound: i64, input: usize, read: impl FnOnce() -> T) -> T {
    let peak = peak();
    let result = read();
    let used = peak.bytes();
    assert!(used < bound, "{input} bytes of input took {used} bytes of memory, {bound} allowed");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let before = vec![0u8; 1 << 20];
        let measured = peak();
        drop(vec![0u8; 3 << 20]);
        let after = vec![0u8; 1 << 20];
        assert!((3 << 20..4 << 20).contains(&measured.bytes()), "{}", measured.bytes());
        assert_eq!(before.len(), after.len());
    }

    #[test]
    #[should_panic(expected = "100 bytes of input took")]
    fn more_than_the_bound_is_a_failure() {
        bounded(1 << 20, 100, || vec![0u8; 1 << 21]);
    }
}
