//! Hosts with GPUs that there are none of: `tests/nvml/nvml.c` compiled as `libnvidia-ml.so.1`, which
//! the real programs load in the place of the driver's. What its devices say stands in a file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Two dies of a Tesla K80 under its last driver.
pub(crate) const K80: &str = "\
driver 470.256.02
cuda 11040
count 2
0.uuid GPU-k80-a
0.name Tesla K80
0.capability 37
0.bus 00000000:0A:00.0
0.memory_total 11996954624
0.memory_used 2147483648
0.utilisation 97
0.memory_utilisation 41
0.power 139400
0.power_limit 149000
0.temperature 71
0.slowdown 93
0.sm_clock 823
0.sm_clock_max 875
0.memory_clock 2505
0.memory_clock_max 2505
0.throttle 4
0.ecc 1
0.ecc.corrected.volatile 3
0.ecc.corrected.aggregate 1200
0.ecc.uncorrected.aggregate 1
0.pcie_generation 3
0.pcie_generation_max 3
0.pcie_width 8
0.pcie_width_max 16
0.persistence 0
0.processes 1
0.process.0.pid 4242
0.process.0.memory 2097152000
process.4242 /usr/local/bin/marquee-trainer
1.uuid GPU-k80-b
1.name Tesla K80
1.capability 37
1.bus 00000000:0B:00.0
1.memory_total 11996954624
1.memory_used 0
1.utilisation 0
1.memory_utilisation 0
1.temperature 40
1.persistence 0
";

/// A library with its file of answers.
pub(crate) struct FakeNvml {
    dir: tempfile::TempDir,
}

impl FakeNvml {
    pub(crate) fn new(answers: &str) -> Self {
        Self::built(answers, &[])
    }

    /// As drivers before 510 have it.
    pub(crate) fn of_an_old_driver(answers: &str) -> Self {
        Self::built(answers, &["-DOLD_DRIVER"])
    }

    fn built(answers: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml/nvml.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"])
            .args(flags)
            .arg("-o")
            .arg(dir.path().join("libnvidia-ml.so.1"))
            .arg(source)
            .status()
            .unwrap();
        assert!(built.success(), "cc does not compile {source}");
        let fake = Self { dir };
        fake.write(answers);
        fake
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("answers")
    }

    fn write(&self, answers: &str) {
        let aside = self.dir.path().join("new");
        fs::write(&aside, answers).unwrap();
        fs::rename(aside, self.file()).unwrap();
    }

    /// Puts lines before the others: the first line with a key counts.
    pub(crate) fn say(&self, lines: &str) {
        let before = fs::read_to_string(self.file()).unwrap();
        self.write(&format!("{lines}\n{before}"));
    }

    /// Environment of a program that shall load it.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let dir = self.dir.path().display().to_string();
        vec![
            ("LD_LIBRARY_PATH".into(), dir),
            ("FAKE_NVML".into(), self.file().display().to_string()),
        ]
    }
}
