//! What ranks ask of devices, and the devices of one host during a round.

use std::collections::BTreeSet;

use marquee_domain::flavour;
use marquee_domain::ids::JobId;
use marquee_domain::resources::{Device, PartKind};
use marquee_domain::spec::{HostRules, OneGpu};

use super::{End, Gpu, Host};

/// A kind that a device has (a job may also ask for "any").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Cpu,
    Gpu,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }

    pub(super) fn of(device: &Device) -> Self {
        match device {
            Device::Cpu { .. } => Self::Cpu,
            Device::Gpu { .. } => Self::Gpu,
        }
    }
}

/// What a gang needs of the hosts' trainers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trainer<'a> {
    NotNeeded,
    /// For counting: any flavour that has kernels for the device.
    Any,
    /// This flavour, with kernels for the device.
    Of(&'a str),
}

/// Whether a GPU must be a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Portion {
    /// As CPU slots are.
    Whole,
    /// A part alone; a share only of who says how much of its memory he uses.
    Part { shares: bool },
    /// For counting: either.
    Any { shares: bool },
}

impl Portion {
    fn allows(self, part: Option<PartKind>) -> bool {
        match (part, self) {
            (None, Self::Whole | Self::Any { .. }) => true,
            (None, Self::Part { .. }) | (Some(_), Self::Whole) => false,
            (Some(PartKind::Mig), Self::Part { .. } | Self::Any { .. }) => true,
            (Some(PartKind::Share), Self::Part { shares } | Self::Any { shares }) => shares,
        }
    }
}

/// What a rank asks of each of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted<'a> {
    pub(super) kind: Kind,
    pub(super) trainer: Trainer<'a>,
    pub(super) portion: Portion,
    /// Memory of a GPU in MiB, at least.
    pub(super) memory_mib: u32,
    /// None: any host will do.
    pub(super) rules: Option<&'a HostRules>,
}

impl<'a> Wanted<'a> {
    /// Whether a device of a host would do, were it free.
    pub(super) fn fits(self, host: &Host, device: &Device) -> bool {
        if Kind::of(device) != self.kind || !self.allows(host) {
            return false;
        }
        let has_trainer = match self.trainer {
            Trainer::NotNeeded => true,
            Trainer::Any => !host.flavour.is_empty(),
            Trainer::Of(flavour) => host.flavour == flavour,
        };
        has_trainer
            && match device {
                Device::Cpu { .. } => true,
                Device::Gpu { index } => match host.gpus.get(index) {
                    Some(gpu) => self.fits_gpu(host, gpu),
                    None => self.one_gpu().is_none(),
                },
            }
    }

    fn fits_gpu(self, host: &Host, gpu: &Gpu) -> bool {
        let has_kernels =
            self.trainer == Trainer::NotNeeded || flavour::runs_on(&host.flavour, gpu.capability);
        let is_offered = match self.one_gpu() {
            // Its burn-in alone gets a GPU in quarantine, once it answers again.
            Some(one) => host.worker == one.worker && gpu.uuid == one.uuid && gpu.fault.is_none(),
            None => gpu.closed().is_none(),
        };
        is_offered
            && has_kernels
            && self.portion.allows(gpu.part)
            && gpu.memory_mib >= self.memory_mib
    }

    /// The one GPU that is wanted; None: any that fits.
    fn one_gpu(self) -> Option<&'a OneGpu> {
        self.rules.and_then(|rules| rules.gpu.as_ref())
    }

    /// Whether a rank may run on this host.
    pub(super) fn allows(self, host: &Host) -> bool {
        self.rules
            .is_none_or(|rules| rules.allow(&host.name, &host.labels))
    }

    pub(super) fn count<'d>(
        self,
        host: &Host,
        devices: impl IntoIterator<Item = &'d Device>,
    ) -> u32 {
        let fitting = devices.into_iter().filter(|device| self.fits(host, device));
        u32::try_from(fitting.count()).unwrap_or(u32::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) host: &'a Host,
    pub(super) free: BTreeSet<Device>,
    /// Jobs that were given devices here in this round, with when they end.
    pub(super) started: Vec<Started>,
}

/// What a job was given on a host in this round.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) job: JobId,
    pub(super) devices: Vec<Device>,
    pub(super) end: Option<End>,
}
