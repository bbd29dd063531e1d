//! Work on many threads, results in order, memory bounded.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::thread;

/// Items that may be begun before the oldest unfinished one is taken: enough that a slow picture
/// holds nobody up, few enough that all of them fit in memory (some 70 MB at 299x299).
const AHEAD_MAX: usize = 256;

/// Does `work` on the items 0..`count` on `threads` threads, each with a state of its own made by
/// `start`, and gives the results to `sink` in order, on the calling thread. Ends with the first
/// error of `sink`. `work` must not panic.
pub fn in_order<S, T: Send, E>(
    threads: usize,
    count: usize,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
    mut sink: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let gate = Gate::new(count);
    // Without a bound of its own: the gate lets only so many items in at once.
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| {
                let sender = sender;
                let mut state = start();
                while let Some(item) = gate.enter() {
                    if sender.send((item, work(&mut state, item))).is_err() {
                        break;
                    }
                }
            });
        }
        // The results end with the last sender: one that is kept here would make this thread wait
        // for ever.
        drop(sender);
        let taken = take_in_order(&results, &gate, &mut sink);
        // Also after an error: threads that wait for room would do so for ever.
        gate.close();
        taken
    })
}

fn take_in_order<T, E>(
    results: &mpsc::Receiver<(usize, T)>,
    gate: &Gate,
    sink: &mut impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (item, result) in results {
        early.insert(item, result);
        while let Some(result) = early.remove(&next) {
            sink(next, result)?;
            next += 1;
            gate.pass(next);
        }
    }
    Ok(())
}

/// Lets items in, in order, as long as not too many are ahead of what was taken.
struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

struct GateState {
    next: usize,
    taken: usize,
    end: usize,
}

impl Gate {
    fn new(count: usize) -> Self {
        let state = GateState {
            next: 0,
            taken: 0,
            end: count,
        };
        Self {
            state: Mutex::new(state),
            moved: Condvar::new(),
        }
    }

    /// The next item to work on; waits for room. None when there is none left.
    fn enter(&self) -> Option<usize> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .moved
            .wait_while(state, |state| {
                state.next < state.end && state.next >= state.taken + AHEAD_MAX
            })
            .unwrap_or_else(PoisonError::into_inner);
        let item = state.next;
        (item < state.end).then(|| {
            state.next += 1;
            item
        })
    }

    /// All items before `taken` were taken.
    fn pass(&self, taken: usize) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .taken = taken;
        self.moved.notify_all();
    }

    /// Lets nothing in any more.
    fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end = 0;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_order_and_not_too_far_ahead() {
        let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |state: &mut usize, item: usize| {
            begun.fetch_max(item, Ordering::SeqCst);
            assert!(item < taken.load(Ordering::SeqCst) + AHEAD_MAX + 1);
            if item == 0 {
                // Everyone else runs ahead of this one, as far as the gate lets them.
                thread::sleep(Duration::from_millis(50));
            }
            *state += 1;
            item * 2
        };
        let mut seen = Vec::new();
        let result = in_order(
            4,
            2_000,
            || 0,
            work,
            |item, double| {
                assert_eq!(double, item * 2);
                taken.store(item + 1, Ordering::SeqCst);
                seen.push(item);
                Ok::<_, ()>(())
            },
        );
        assert_eq!(result, Ok(()));
        assert_eq!(seen, (0..2_000).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_the_sink_ends_the_work() {
        let worked = AtomicUsize::new(0);
        let result = in_order(
            3,
            1_000_000,
            || (),
            |(), item| {
                worked.fetch_add(1, Ordering::SeqCst);
                item
            },
            |item, _| if item == 10 { Err("enough") } else { Ok(()) },
        );
        assert_eq!(result, Err("enough"));
        assert!(worked.load(Ordering::SeqCst) < 1_000);
    }

    #[test]
    fn nothing_to_do_is_done_at_once() {
        assert_eq!(
            in_order(2, 0, || (), |(), _| (), |_, ()| Err("called")),
            Ok(())
        );
    }
}
