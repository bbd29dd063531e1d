//! Compiles `marquee/v1/*.proto` without an installed protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 13] = [
    "marquee/v1/common.proto",
    "marquee/v1/jobs.proto",
    "marquee/v1/artifacts.proto",
    "marquee/v1/backups.proto",
    "marquee/v1/workers.proto",
    "marquee/v1/audit.proto",
    "marquee/v1/cluster.proto",
    "marquee/v1/projects.proto",
    "marquee/v1/chaos.proto",
    "marquee/v1/schedules.proto",
    "marquee/v1/secrets.proto",
    "marquee/v1/trust.proto",
    "marquee/v1/users.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=marquee");
    let descriptors = protox::compile(FILES, ["."])?;

    // Reflection serves the same descriptors that the code was made from.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("marquee.v1.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        // Chunks are the bulk of what is sent: as `Bytes` they are handed on without a copy.
        .bytes(".marquee.v1.UploadBlobRequest.chunk")
        .bytes(".marquee.v1.DownloadBlobResponse.chunk")
        .bytes(".marquee.v1.MomentPart.dump")
        .btree_map(".marquee.v1")
        // What they hold is in no log, whoever logs them.
        .skip_debug([".marquee.v1.SetSecretRequest", ".marquee.v1.SecretValue"])
        .compile_fds(descriptors)?;
    Ok(())
}
