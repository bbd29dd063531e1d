//! `cargo xtask bench page`: how soon the web page is there, with a large cluster behind it and an empty one.
//!
//! `web/browser/measure.ts` starts a cluster, visits it with Chromium, fills it, and visits it again.

use anyhow::Result;

use super::Options;
use super::figure::Sheet;
use super::program::measure;
use marquee_xtask::setup::Setup;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report, web};

pub(super) const PARTS: &[&str] = &["first"];

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let setup = Setup::ensure()?;
    // Before the coordinator is built, which takes the page's files into itself.
    web::build_if_possible(workspace);
    report::step("build: the coordinator", || {
        let mut command = workspace.cargo("build");
        command.args(["--package", "marquee-coordinator", "--bins"]);
        process::run(setup.apply(&mut command))
    })?;
    let bin = options.bin_dir.as_ref().unwrap_or(&workspace.bin_dir);
    let mut command = match web::measuring(workspace, bin)? {
        Ok(command) => command,
        Err(why) => {
            sheet.skip("first page", &why);
            return Ok(());
        }
    };
    report::step(&format!("measure: pages, with {}", bin.display()), || {
        measure(setup.apply(&mut command), options, sheet)
    })
}
