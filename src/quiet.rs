//! Panics of other people's code, told as errors.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Whether this thread's panics are expected, and told as errors.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What a function gives, or `None` if it panics, which is not printed.
pub(crate) fn caught<T>(function: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                print(info);
            }
        }));
    });
    EXPECTED.set(true);
    let found = panic::catch_unwind(AssertUnwindSafe(function));
    EXPECTED.set(false);
    found.ok()
}
