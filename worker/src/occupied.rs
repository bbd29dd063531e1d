//! Which rank's child is on which device of this host.
//!
//! The coordinator gives a device away only when nothing of the rank before can run there any more. Should it be wrong
//! in that, or an order of its come late, this host knows better: the second child waits until nothing is left of the
//! first, and whoever reads the log hears that it does. Neither loses anything, and a rank that should not be here is
//! told to stop while it waits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use marquee_domain::RankKey;
use marquee_domain::resources::Device;
use tokio::sync::Notify;
use tracing::{info, warn};

/// The devices on which there are children.
#[derive(Debug, Default)]
pub struct Occupied {
    by: Mutex<BTreeMap<Device, RankKey>>,
    freed: Notify,
}

impl Occupied {
    /// Takes all of `devices` for the child of `key`, which is about to be started. Waits while another rank's child is
    /// on any of them; given up meanwhile, it takes none.
    pub async fn enter(&self, key: RankKey, devices: &[Device]) {
        let mut has_waited = false;
        loop {
            // Made before the look: a rank that leaves between the look and the wait is not missed.
            let freed = self.freed.notified();
            let Some((device, other)) = self.try_enter(key, devices) else {
                if has_waited {
                    info!(rank = %key, "its devices are free now");
                }
                return;
            };
            if !has_waited {
                warn!(rank = %key, ?device, %other, "a device was given to two ranks: the second waits until nothing is left of the other");
                has_waited = true;
            }
            freed.await;
        }
    }

    /// The same of a child that runs already, whoever else is there.
    pub fn take_over(&self, key: RankKey, devices: &[Device]) {
        let mut by = self.lock();
        for device in devices {
            by.insert(device.clone(), key);
        }
    }

    /// Nothing of the child of `key` is left.
    pub fn leave(&self, key: RankKey) {
        self.lock().retain(|_, by| *by != key);
        self.freed.notify_waiters();
    }

    /// None: they are taken. Else a device on which another rank's child is.
    fn try_enter(&self, key: RankKey, devices: &[Device]) -> Option<(Device, RankKey)> {
        let mut by = self.lock();
        let taken = devices.iter().find_map(|device| {
            let other = by.get(device).filter(|other| **other != key)?;
            Some((device.clone(), *other))
        });
        if taken.is_none() {
            by.extend(devices.iter().map(|device| (device.clone(), key)));
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Device, RankKey>> {
        // Each change is one step.
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const CPUS: [Device; 2] = [Device::Cpu { index: 0 }, Device::Cpu { index: 1 }];

    #[tokio::test]
    async fn a_second_child_waits_until_the_first_has_left_all_that_it_needs() {
        let occupied = Occupied::default();
        let (one, two) = (RankKey::new(9, 1, 0), RankKey::new(21, 1, 0));
        occupied.enter(one, &CPUS[..1]).await;
        // Its own devices are no obstacle.
        occupied.enter(one, &CPUS[..1]).await;
        let mut waits = std::pin::pin!(occupied.enter(two, &CPUS));
        assert!(waits.as_mut().now_or_never().is_none());
        occupied.enter(RankKey::new(30, 1, 0), &CPUS[1..]).await;
        occupied.leave(one);
        assert!(waits.as_mut().now_or_never().is_none(), "it took a part");
        occupied.leave(RankKey::new(30, 1, 0));
        waits.await;
        occupied.take_over(one, &CPUS[..1]);
        occupied.leave(two);
        let left = occupied.lock().clone();
        assert_eq!(left, BTreeMap::from([(CPUS[0].clone(), one)]));
    }
}
