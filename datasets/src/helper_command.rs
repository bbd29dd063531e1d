//! `marquee-prep decode-helper WIDTH HEIGHT ENCODING`: decodes pictures for a preprocess job, which
//! starts it, so that a file that breaks a decoder costs one picture.

use std::process::ExitCode;

use marquee_datasets::preprocess;
use marquee_domain::spec::ImageEncoding;

#[derive(Debug, clap::Args)]
pub(crate) struct HelperArgs {
    width: u32,
    height: u32,
    #[arg(value_parser = ["raw", "jpeg", "original"])]
    encoding: String,
}

pub(crate) fn serve(args: &HelperArgs) -> anyhow::Result<ExitCode> {
    let encoding = match args.encoding.as_str() {
        "jpeg" => ImageEncoding::Jpeg,
        "original" => ImageEncoding::Original,
        _ => ImageEncoding::Raw,
    };
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    preprocess::serve_helper(args.width, args.height, encoding, &mut input, &mut out)?;
    Ok(ExitCode::SUCCESS)
}
