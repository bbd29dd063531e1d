//! Programs that set-up leans on, and the line that installs each where it is missing.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// Something to install, by its name in the two package families we know.
#[derive(Debug, Clone, Copy)]
pub struct PackageNames {
    pub debian: &'static str,
    pub fedora: &'static str,
}

const PIP: PackageNames = PackageNames {
    debian: "python3-pip",
    fedora: "python3-pip",
};
const CXX: PackageNames = PackageNames {
    debian: "g++",
    fedora: "gcc-c++",
};

/// torch-sys compiles one C++ file.
pub fn require_cxx() -> Result<()> {
    let named = std::env::var("CXX").ok();
    let found = match &named {
        // CXX may also be a path, or a command with options (`ccache g++`): then the build itself
        // finds out.
        Some(compiler) => process::on_path(compiler).is_some() || compiler.contains(['/', ' ']),
        None => ["c++", "g++"]
            .iter()
            .any(|name| process::on_path(name).is_some()),
    };
    if found {
        return Ok(());
    }
    let missing = named.map_or("no C++ compiler found".to_owned(), |name| {
        format!(r#"CXX names "{name}", which is not on PATH"#)
    });
    bail!("{missing}; install one: {}", install_line(CXX));
}

pub fn require_pip() -> Result<()> {
    if process::on_path("python3").is_none() {
        bail!(
            "python3 not found; install it with pip: {}",
            install_line(PIP)
        );
    }
    let pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !pip.success() {
        bail!("python3 has no pip; install it: {}", install_line(PIP));
    }
    Ok(())
}

/// The exact line for this machine's package manager, or for both families if it is neither.
pub fn install_line(names: PackageNames) -> String {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let sudo = if process::is_root() { "" } else { "sudo " };
    install_line_for(names, &os_release, sudo)
}

fn install_line_for(names: PackageNames, os_release: &str, sudo: &str) -> String {
    let apt = format!("{sudo}apt-get install -y {}", names.debian);
    let dnf = format!("{sudo}dnf install -y {}", names.fedora);
    let families: Vec<&str> = os_release
        .lines()
        // Derivatives have a name of their own in ID, and the family's in ID_LIKE.
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .collect();
    if families.iter().any(|id| ["debian", "ubuntu"].contains(id)) {
        apt
    } else if families
        .iter()
        .any(|id| ["fedora", "rhel", "centos"].contains(id))
    {
        dnf
    } else {
        format!("{apt} (Debian, Ubuntu) or {dnf} (Fedora)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_install_something_fits_the_distribution() {
        let line = |os_release| install_line_for(CXX, os_release, "sudo ");
        assert_eq!(line("ID=debian\n"), "sudo apt-get install -y g++");
        assert_eq!(
            line("NAME=\"Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            "sudo apt-get install -y g++"
        );
        assert_eq!(
            line("ID=\"rocky\"\nID_LIKE=\"rhel fedora\"\n"),
            "sudo dnf install -y gcc-c++"
        );
        assert!(line("ID=void\n").contains("(Debian, Ubuntu) or"));
    }
}
