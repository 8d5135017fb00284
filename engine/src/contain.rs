//! Panics of what we stand on (Automerge on hostile input, redb on a damaged file) become errors here. What a contained call
//! touched may be half done: the caller throws it away.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`. `Err` is what its panic said.
pub(crate) fn contain<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(f));
    DEPTH.set(DEPTH.get() - 1);
    outcome.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
    })
}

/// Whether a panic of this thread would become an error of the engine now. A program's panic hook asks, so that it alarms
/// nobody about what is told as an error anyway.
pub fn panics_are_contained() -> bool {
    DEPTH.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_an_error_with_its_message_and_leaves_nothing_contained() {
        assert_eq!(contain(panics_are_contained), Ok(true));
        let inner = contain(|| {
            let _ = contain(|| panic!("inner"));
            assert!(panics_are_contained());
            panic!("outer {}", 1)
        });
        assert_eq!(inner, Err::<(), _>("outer 1".to_owned()));
        assert!(!panics_are_contained());
    }
}
