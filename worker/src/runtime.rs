//! `marquee-worker install-runtime`: the libraries that this host's trainer loads, from pinned wheels.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use marquee_wheels::bundle::Source;
use marquee_wheels::report::megabytes;
use marquee_wheels::runtime::{self, Flavour, Installed};

/// Where the trainer looks, seen from the folder of the programs.
const BESIDE_PROGRAMS: &str = "../lib/marquee";

/// What to install, from where, and where to.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which: cpu, cu130 (GPUs since Turing, driver 580 or newer), kepler (K80, driver 470; another build of the trainer)
    #[arg(long, value_parser = str::parse::<Flavour>)]
    flavour: Flavour,
    /// Take the wheels from this folder instead of the internet; --download fills it
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// Only fetch the wheels into this folder, to be carried to hosts without internet
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["from", "to"])]
    download: Option<PathBuf>,
    /// Where to put it [default: lib/marquee beside the folder of the programs]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

/// Does it, and says what was done.
pub fn run(args: &Args, bin_dir: Option<&Path>) -> anyhow::Result<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the wheels are for Linux on x86-64");
    }
    let flavour = args.flavour;
    // Before any folder of the runtime is made: the host that downloads is mostly not the one that
    // will use it.
    if let Some(folder) = &args.download {
        runtime::download(flavour, folder)?;
        let size = megabytes(flavour.bundle().download_bytes());
        return Ok(format!(
            "{size} of wheels are in {0}; on the host: marquee-worker install-runtime --flavour {flavour} --from {0}\n",
            folder.display()
        ));
    }
    let to = match (&args.to, bin_dir) {
        (Some(to), _) => to.clone(),
        (None, Some(bin)) => bin.join(BESIDE_PROGRAMS),
        (None, None) => std::env::current_exe()?
            .parent()
            .context("this program lies in a folder")?
            .join(BESIDE_PROGRAMS),
    };
    let to = std::fs::create_dir_all(&to)
        .and_then(|()| std::fs::canonicalize(&to))
        .with_context(|| {
            format!(
                "cannot write {}; run it as root, or name a folder with --to",
                to.display()
            )
        })?;
    let source = args.from.as_deref().map_or(Source::Index, Source::Folder);
    let what = flavour.bundle().what;
    Ok(match runtime::install(flavour, source, &to)? {
        Installed::Before => format!("{what} is in {} already, whole\n", to.display()),
        Installed::Now => format!(
            "{what} is in {}; running ranks keep what they have, the next ones take this; \
             \"marquee-worker doctor\" says whether it works\n",
            to.display()
        ),
    })
}
