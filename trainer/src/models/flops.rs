//! Counts multiply-adds, for the test that holds the zoo's table against the networks.

use std::cell::Cell;

thread_local! {
    static MULTIPLY_ADDS: Cell<u64> = const { Cell::new(0) };
}

/// Adds `products` / `shared_by`: a product of sizes counts each shared side twice.
pub(super) fn count(products: usize, shared_by: i64) {
    let multiply_adds = products as u64 / shared_by.unsigned_abs();
    MULTIPLY_ADDS.set(MULTIPLY_ADDS.get() + multiply_adds);
}

/// What this thread has counted since it was last asked.
pub(super) fn take() -> u64 {
    MULTIPLY_ADDS.replace(0)
}
