//! `marquee-trainer facts`: what this trainer is built on, for which GPUs, and whether the libraries that
//! GPUs need load on this host. It asks no device: `marquee-worker doctor` compares it with them.

use marquee_domain::flavour::{self, Capability};
use serde::Serialize;

use crate::ffi;

/// What a trainer knows of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    pub version: &'static str,
    pub flavour: String,
    /// Compute capabilities with machine code in its libtorch, as major and minor.
    pub kernels: Vec<Capability>,
    /// The CUDA that its libtorch was built for, as NVML writes it: 13000 is 13.0.
    pub cuda: Option<u32>,
    /// Why `libtorch_cuda.so` and what it needs do not load; None: they do.
    pub cuda_missing: Option<String>,
}

impl Facts {
    /// Looks. Loads CUDA's libraries, which takes a moment where they are there.
    #[must_use]
    pub fn of(flavour: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            flavour: flavour.to_owned(),
            kernels: flavour::kernels(flavour).unwrap_or_default().to_vec(),
            cuda: flavour::cuda(flavour),
            // Loaded and not only looked for: the usual fault is a library that it needs in turn.
            cuda_missing: ffi::load_cuda().err(),
        }
    }

    /// For programs, on one line.
    #[must_use]
    pub fn json(&self) -> String {
        // Numbers and strings alone: there is nothing that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let kernels: Vec<String> = self
            .kernels
            .iter()
            .map(|(major, minor)| format!("{major}.{minor}"))
            .collect();
        let cuda = self.cuda.map_or_else(
            || "unknown".to_owned(),
            |cuda| format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
        );
        let library = self.cuda_missing.as_deref().unwrap_or("loads here");
        format!(
            "marquee-trainer {} on {}\nkernels for compute capability {}\nCUDA {cuda}: {library}",
            self.version,
            self.flavour,
            kernels.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_those_of_the_flavour() {
        let facts = Facts::of("libtorch-2.11.0");
        assert!(facts.kernels.contains(&(7, 5)));
        let json: serde_json::Value = serde_json::from_str(&facts.json()).unwrap();
        assert_eq!(json["flavour"], "libtorch-2.11.0");
        assert_eq!(json["cuda"], 13_000);
        assert!(facts.text().contains("7.5"), "{}", facts.text());
    }
}
