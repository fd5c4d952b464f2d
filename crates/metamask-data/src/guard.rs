//! A fence around parsers of others: their panics become errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is inside a parser whose panic will be turned
/// into an error. A program's panic hook can ask, and stay silent.
pub fn panic_is_guarded() -> bool {
    GUARDED.get()
}

/// Runs a parser of a foreign format; a panic in it comes back as `Err`.
///
/// What the parser held is dropped, so a half-changed state is never seen.
pub(crate) fn guarded<T>(parse: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(parse));
    GUARDED.set(outer);
    result.map_err(|_| Panicked)
}

/// A parser gave up in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_an_error_and_the_fence_is_taken_down() {
        std::thread::spawn(|| {
            assert_eq!(guarded(|| 3), Ok(3));
            let inside = guarded(|| {
                assert!(panic_is_guarded());
                let empty: &[u8] = std::hint::black_box(&[]);
                empty[0]
            });
            assert_eq!(inside, Err(Panicked));
            assert!(!panic_is_guarded());
        })
        .join()
        .expect("nothing escapes");
    }
}
