//! The hosts' network: a bridge in our own network namespace, with a link to a namespace for each host. The
//! namespaces are ours and not the hosts', so that a host has its address and its link again after a power cut.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use marquee_xtask::process;

const BRIDGE: &str = "hosts";

/// What is wrong with a host's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No cable.
    Cut,
    /// It hears the others, and nobody hears it.
    Unheard,
    /// The others hear it, and it hears nobody.
    Deaf,
    /// So many of a hundred of its packets are lost.
    Loses(u8),
    /// So many kilobits a second, each way.
    Slow(u32),
}

#[derive(Debug)]
pub(super) struct Network {
    faults: BTreeMap<String, Fault>,
}

impl Network {
    /// In the namespace of this process, which has nothing in it yet.
    pub(super) fn start() -> Result<Self> {
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        std::fs::create_dir_all("/run/netns")?;
        // The names of namespaces are mounts, which are to be ours alone.
        process::read(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run/netns"]))?;
        Ok(Self {
            faults: BTreeMap::new(),
        })
    }

    /// A namespace for a host, with its link up; gives the namespace's file.
    pub(super) fn plug(&self, host: &str, address: &str) -> Result<PathBuf> {
        ip(&format!("netns add {host}"))?;
        let link = link(host);
        ip(&format!(
            "link add {link} type veth peer name host0 netns {host}"
        ))?;
        ip(&format!("link set {link} master {BRIDGE} up"))?;
        for inside in [
            "link set lo up".to_owned(),
            format!("addr add {address}/24 dev host0"),
            "link set host0 up".to_owned(),
        ] {
            ip(&format!("-n {host} {inside}"))?;
        }
        Ok(PathBuf::from("/run/netns").join(host))
    }

    pub(super) fn harm(&mut self, host: &str, fault: Fault) -> Result<()> {
        // A link has one fault at a time: the one before is taken away first.
        self.mend(host)?;
        self.faults.insert(host.to_owned(), fault);
        if let Fault::Slow(kilobits) = fault {
            let how = format!("tbf rate {kilobits}kbit burst 32kbit latency 400ms");
            shape(host, "add", &how)?;
        }
        self.apply(host)
    }

    pub(super) fn mend(&mut self, host: &str) -> Result<()> {
        if let Some(Fault::Slow(_)) = self.faults.remove(host) {
            shape(host, "del", "")?;
        }
        self.apply(host)
    }

    fn apply(&self, host: &str) -> Result<()> {
        let state = match self.faults.get(host) {
            Some(Fault::Cut) => "down",
            Some(Fault::Unheard | Fault::Deaf | Fault::Loses(_) | Fault::Slow(_)) | None => "up",
        };
        ip(&format!("link set {} {state}", link(host)))?;
        // All rules anew in one transaction: nothing passes between the old ones and the new.
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start nft")?;
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(rules(&self.faults).as_bytes())?;
        }
        if !nft.wait()?.success() {
            bail!("nft does not take the faults of {host:?}");
        }
        Ok(())
    }
}

/// All that the bridge is to drop. The table is made before it is deleted: the first time there is none.
fn rules(faults: &BTreeMap<String, Fault>) -> String {
    let drops: String = faults
        .iter()
        .filter_map(|(host, fault)| {
            let link = link(host);
            match fault {
                Fault::Cut | Fault::Slow(_) => None,
                Fault::Deaf => Some(format!("oifname \"{link}\" drop\n")),
                Fault::Unheard => Some(format!("iifname \"{link}\" drop\n")),
                Fault::Loses(percent) => Some(format!(
                    "iifname \"{link}\" numgen random mod 100 < {percent} drop\n"
                )),
            }
        })
        .collect();
    format!(
        "table bridge faults {{ }}\ndelete table bridge faults\ntable bridge faults {{\n\
         chain passing {{ type filter hook forward priority 0; policy accept;\n{drops}}}\n}}\n"
    )
}

/// A host's link, as the bridge sees it; a name of an interface has at most 15 bytes.
fn link(host: &str) -> String {
    format!("to-{host}")
}

/// Shapes what leaves both ends of a host's link, the bridge's and the host's own.
fn shape(host: &str, verb: &str, how: &str) -> Result<()> {
    for (namespace, device) in [
        (String::new(), link(host)),
        (format!("-n {host}"), "host0".to_owned()),
    ] {
        let words = format!("{namespace} qdisc {verb} dev {device} root {how}");
        process::read(Command::new("tc").args(words.split_whitespace()))?;
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    process::read(Command::new("ip").args(words.split(' '))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_drops_what_it_says_and_a_cut_needs_no_rule() {
        let faults = [
            ("worker-1", Fault::Unheard),
            ("worker-2", Fault::Loses(30)),
            ("head-1", Fault::Cut),
            ("head-2", Fault::Deaf),
            ("desk", Fault::Slow(1_000)),
        ];
        let rules = rules(&faults.map(|(host, fault)| (host.to_owned(), fault)).into());
        assert!(rules.contains("iifname \"to-worker-1\" drop"), "{rules}");
        assert!(
            rules.contains("iifname \"to-worker-2\" numgen random mod 100 < 30 drop"),
            "{rules}"
        );
        assert!(rules.contains("oifname \"to-head-2\" drop"), "{rules}");
        assert!(
            !rules.contains("head-1") && !rules.contains("desk"),
            "{rules}"
        );
    }
}
