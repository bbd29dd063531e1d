//! What a simulated host says of itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::BootId;
use marquee_domain::resources::Inventory;
use marquee_worker::config::Config;
use marquee_worker::env::Machine;
use uuid::Uuid;

use crate::draw::Draw;

/// The first port that a host gives out.
const PORT_FIRST: u16 = 20_000;

/// A host with CPU slots and no GPU.
#[derive(Debug)]
pub struct HostMachine {
    boots: Mutex<(Draw, Uuid)>,
    slots: u32,
    ports: AtomicU16,
}

impl HostMachine {
    pub(crate) fn new(mut boots: Draw, slots: u32) -> Self {
        let first = Uuid::from_bytes(boots.bytes());
        Self {
            boots: Mutex::new((boots, first)),
            slots,
            ports: AtomicU16::new(PORT_FIRST),
        }
    }

    /// The host starts anew.
    pub(crate) fn boot(&self) {
        let mut boots = self.boots();
        boots.1 = Uuid::from_bytes(boots.0.bytes());
    }

    fn boots(&self) -> MutexGuard<'_, (Draw, Uuid)> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for HostMachine {
    fn boot_id(&self) -> io::Result<BootId> {
        Ok(BootId(self.boots().1))
    }

    fn inventory<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Inventory> {
        let inventory = Inventory {
            hostname: config.name.clone(),
            cpu_threads: self.slots,
            memory_bytes: 1 << 34,
            cpu_slots: self.slots,
            threads_per_slot: 1,
            gpus: Vec::new(),
            address: config.name.clone(),
            flavour: String::new(),
            labels: Default::default(),
        };
        async move { inventory }.boxed()
    }

    fn prep_code<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, String> {
        async { String::new() }.boxed()
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        BTreeMap::from([("PATH".into(), "/played".into())])
    }

    fn free_port(&self, _: &str) -> io::Result<u16> {
        // Each one once: nobody really listens on them, so nothing could tell that one is free
        // again.
        Ok(self.ports.fetch_add(1, Ordering::Relaxed))
    }
}
