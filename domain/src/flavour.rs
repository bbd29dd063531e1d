//! Flavours of the trainer: which libtorch one is built on, and for which GPUs that has kernels.
//!
//! A library of CUDA kernels holds machine code for some compute capabilities. Code for X.Y runs on
//! X.Z with Z >= Y, and on no other major number; none of these libraries carries code that a driver
//! could compile for others (found by reading their fat binaries). Source of the rule: NVIDIA, "CUDA
//! C++ Programming Guide", Binary Compatibility.

/// A CUDA compute capability, as major and minor.
pub type Capability = (u32, u32);

/// Flavours that are built from this source, newest first: name, kernels, and the CUDA that the
/// library was built for, as NVML writes it (13000 is 13.0).
const KNOWN: [(&str, &[Capability], u32); 2] = [
    (
        "libtorch-2.11.0",
        &[(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)],
        13_000,
    ),
    (
        "libtorch-2.0.1-kepler",
        &[(3, 7), (5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6)],
        11_070,
    ),
];

/// The capabilities that a flavour has machine code for; None for one that is not known here.
#[must_use]
pub fn kernels(flavour: &str) -> Option<&'static [Capability]> {
    let known = KNOWN.iter().find(|(name, ..)| *name == flavour)?;
    Some(known.1)
}

/// The CUDA that a flavour was built for; None for one that is not known here.
#[must_use]
pub fn cuda(flavour: &str) -> Option<u32> {
    let known = KNOWN.iter().find(|(name, ..)| *name == flavour)?;
    Some(known.2)
}

/// Whether a flavour runs on a GPU. One that is not known here is believed: it says itself, when it
/// starts, what it cannot do.
#[must_use]
pub fn runs_on(flavour: &str, gpu: Capability) -> bool {
    // A newer flavour than this program knows must not be kept from its GPUs by an old table.
    kernels(flavour).is_none_or(|kernels| covers(kernels, gpu))
}

/// Whether machine code for one of `kernels` runs on a GPU.
#[must_use]
pub fn covers(kernels: &[Capability], gpu: Capability) -> bool {
    kernels
        .iter()
        // The major number must be the same: machine code for 8.x does not run on 9.0 at all.
        .any(|kernel| kernel.0 == gpu.0 && kernel.1 <= gpu.1)
}

/// Why a flavour does not run on a GPU, and the cure: the end of a sentence about its host.
#[must_use]
pub fn refusal(flavour: &str, gpu: Capability) -> String {
    let kernels = kernels(flavour).unwrap_or_default();
    let lowest = kernels.iter().min().copied().unwrap_or_default();
    let highest = kernels.iter().max().copied().unwrap_or_default();
    let (major, minor) = if gpu < lowest { lowest } else { highest };
    let bound = if gpu < lowest {
        "needs"
    } else {
        "knows no newer than"
    };
    let cure = KNOWN.iter().find(|(_, kernels, _)| covers(kernels, gpu));
    let cure = match cure {
        Some((name, ..)) => format!("install the {} (docs/deploy.md)", words_of(name)),
        None => "no flavour has kernels for it: leave this GPU to other programs".to_owned(),
    };
    format!(
        "its trainer is {}, which {bound} {major}.{minor}: {cure}",
        library(flavour)
    )
}

/// `libtorch 2.11.0`, as people write it.
fn library(flavour: &str) -> String {
    flavour.replacen('-', " ", 1)
}

fn words_of(flavour: &str) -> String {
    match flavour.rsplit_once('-') {
        Some((_, "kepler")) => "kepler flavour".to_owned(),
        _ => format!("flavour of {}", library(flavour)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: &str = "libtorch-2.11.0";
    const KEPLER: &str = "libtorch-2.0.1-kepler";

    #[test]
    fn code_runs_on_its_own_major_number_from_its_minor_on() {
        for (gpu, current, kepler) in [
            ((3, 5), false, false),
            ((3, 7), false, true),
            ((6, 1), false, true),
            ((7, 0), false, true),
            ((7, 5), true, true),
            ((8, 9), true, true),
            ((9, 0), true, false),
            ((12, 1), true, false),
            ((13, 0), false, false),
        ] {
            assert_eq!(runs_on(CURRENT, gpu), current, "{gpu:?}");
            assert_eq!(runs_on(KEPLER, gpu), kepler, "{gpu:?}");
        }
        assert!(runs_on("libtorch-3.0.0", (3, 7)), "nothing is known of it");
    }

    #[test]
    fn a_refusal_names_what_is_needed_and_the_cure() {
        assert_eq!(
            refusal(CURRENT, (3, 7)),
            "its trainer is libtorch 2.11.0, which needs 7.5: install the kepler flavour (docs/deploy.md)"
        );
        assert_eq!(
            refusal(KEPLER, (9, 0)),
            "its trainer is libtorch 2.0.1-kepler, which knows no newer than 8.6: install the flavour of libtorch 2.11.0 (docs/deploy.md)"
        );
        assert!(refusal(CURRENT, (3, 0)).contains("no flavour has kernels"));
    }
}
