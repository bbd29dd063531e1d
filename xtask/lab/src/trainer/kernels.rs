//! For which GPUs a shared library carries kernels, read from the library itself.
//!
//! nvcc puts device code into the section `.nv_fatbin`: containers ("fat binaries"), one after the
//! other, each with one entry for every architecture it was compiled for. An entry is either SASS, a
//! whole ELF file with machine code for one compute capability, or PTX, which a driver can translate
//! for later ones. A header before each says which, and for what; the SASS itself says it again in
//! its own ELF header, and both must agree, or reading fails.
//!
//! The format is not documented by NVIDIA. Invariant: containers and entries are followed by their
//! lengths from the start of the section to its end; what does not add up is an error, never skipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// First word of a container.
const MAGIC: u32 = 0xba55_ed50;
/// Bytes of a container's header, and of the part of an entry's that is read here.
const CONTAINER_HEADER: u64 = 16;
const ENTRY_HEADER: usize = 64;
const PTX: u16 = 1;
const SASS: u16 = 2;
/// The flag of an entry whose payload is compressed, by LZ4.
const COMPRESSED: u64 = 0x2000;
/// `e_machine` of SASS.
const EM_CUDA: u16 = 190;
const ELF_HEADER: usize = 64;
/// Enough of a compressed payload to get an ELF header out of.
const HEAD: u64 = 256;

/// How many pieces of device code there are, by kind and compute capability times ten.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kernels {
    pub sass: BTreeMap<u32, u64>,
    pub ptx: BTreeMap<u32, u64>,
}

impl Kernels {
    /// Whether a GPU of this compute capability (times ten) finds machine code: made for it, or for an
    /// earlier minor version of the same major one.
    pub(super) fn serves(&self, capability: u32) -> bool {
        let first = capability / 10 * 10;
        self.sass.range(first..=capability).next().is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sass.is_empty() && self.ptx.is_empty()
    }
}

/// Reads the library at `path`; one without device code gives an empty table.
pub(super) fn read(path: &Path) -> Result<Kernels> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut file = BufReader::new(file);
    let mut kernels = Kernels::default();
    let sections = fatbin_sections(&mut file).context("this is no 64-bit ELF library");
    for (start, length) in sections.with_context(|| format!("cannot read {}", path.display()))? {
        read_section(&mut file, start, length, &mut kernels)
            .with_context(|| format!("cannot read the device code in {}", path.display()))?;
    }
    Ok(kernels)
}

/// Offset and length of each section that holds device code.
fn fatbin_sections(file: &mut (impl Read + Seek)) -> Result<Vec<(u64, u64)>> {
    let header = bytes::<ELF_HEADER>(file, 0)?;
    // ELF, 64 bits, little endian.
    ensure!(header.starts_with(b"\x7fELF\x02\x01"), "no such header");
    let table = u64_at(&header, 0x28);
    let size = u64::from(u16_at(&header, 0x3a));
    let count = u64::from(u16_at(&header, 0x3c));
    let names = u64::from(u16_at(&header, 0x3e));
    ensure!(size == 64, "sections of {size} bytes");
    let section = |file: &mut _, index: u64| bytes::<64>(file, table + index * size);
    let strings = u64_at(&section(file, names)?, 0x18);
    let mut found = Vec::new();
    for index in 0..count {
        let header = section(file, index)?;
        let mut name = [0; 16];
        file.seek(SeekFrom::Start(strings + u64::from(u32_at(&header, 0))))?;
        // A name near the end of the table may be shorter than this.
        let length = file.read(&mut name)?;
        // With the zero at its end: other sections have names that begin alike.
        if name[..length].starts_with(b".nv_fatbin\0") {
            found.push((u64_at(&header, 0x18), u64_at(&header, 0x20)));
        }
    }
    Ok(found)
}

fn read_section(
    file: &mut (impl Read + Seek),
    start: u64,
    length: u64,
    kernels: &mut Kernels,
) -> Result<()> {
    let end = start + length;
    let mut at = start;
    while at + CONTAINER_HEADER <= end {
        let header = bytes::<16>(file, at)?;
        if header[..8] == [0; 8] {
            // Padding between containers.
            at += 8;
            continue;
        }
        let magic = u32_at(&header, 0);
        ensure!(magic == MAGIC, "{magic:#x} at {at:#x} starts no container");
        let body = at + u64::from(u16_at(&header, 6));
        let next = body + u64_at(&header, 8);
        ensure!(
            next <= end,
            "the container at {at:#x} is longer than its section"
        );
        read_container(file, body, next, kernels)?;
        at = next;
    }
    Ok(())
}

fn read_container(
    file: &mut (impl Read + Seek),
    start: u64,
    end: u64,
    kernels: &mut Kernels,
) -> Result<()> {
    let mut at = start;
    while at < end {
        let header = bytes::<ENTRY_HEADER>(file, at)?;
        let kind = u16_at(&header, 0);
        let payload = at + u64::from(u32_at(&header, 4));
        let next = payload + u64_at(&header, 8);
        let capability = u32_at(&header, 28);
        ensure!(
            at < payload && payload <= next && next <= end,
            "the entry at {at:#x} is longer than its container"
        );
        let table = match kind {
            PTX => &mut kernels.ptx,
            SASS => {
                let compressed = u64_at(&header, 40) & COMPRESSED != 0;
                let inner = inner_capability(file, payload, next - payload, compressed)
                    .with_context(|| format!("the code at {payload:#x}"))?;
                ensure!(
                    inner == capability,
                    "the entry at {at:#x} is for {capability}, its code for {inner}"
                );
                &mut kernels.sass
            }
            other => bail!("the entry at {at:#x} is of the unknown kind {other}"),
        };
        *table.entry(capability).or_default() += 1;
        at = next;
    }
    Ok(())
}

/// What a piece of SASS says of itself, in the flags of its own ELF header.
fn inner_capability(
    file: &mut (impl Read + Seek),
    start: u64,
    length: u64,
    compressed: bool,
) -> Result<u32> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.by_ref()
        .take(length.min(HEAD))
        .read_to_end(&mut head)?;
    if compressed {
        head = lz4_head(&head, ELF_HEADER)?;
    }
    ensure!(head.len() >= ELF_HEADER, "is too short for an ELF header");
    ensure!(head.starts_with(b"\x7fELF"), "is no ELF file");
    let machine = u16_at(&head, 0x12);
    ensure!(machine == EM_CUDA, "is for machine {machine}, not for GPUs");
    Ok(u32_at(&head, 0x30) & 0xff)
}

/// The first `wanted` bytes that an LZ4 block unpacks to (the format is that of the LZ4 project's
/// `lz4_Block_format.md`: literals, then a copy of what came before, over and over).
fn lz4_head(block: &[u8], wanted: usize) -> Result<Vec<u8>> {
    let mut input = block.iter().copied();
    let mut out = Vec::new();
    while out.len() < wanted {
        let token = next(&mut input)?;
        for _ in 0..lz4_length(token >> 4, &mut input)? {
            out.push(next(&mut input)?);
            if out.len() >= wanted {
                return Ok(out);
            }
        }
        let distance = usize::from(next(&mut input)?) | usize::from(next(&mut input)?) << 8;
        ensure!(
            (1..=out.len()).contains(&distance),
            "the compressed code refers to what is before its start"
        );
        // The shortest copy is 4 bytes.
        for _ in 0..lz4_length(token & 15, &mut input)? + 4 {
            out.push(out[out.len() - distance]);
        }
    }
    out.truncate(wanted);
    Ok(out)
}

/// A length of LZ4: four bits, and while there is no room left, another byte.
fn lz4_length(nibble: u8, input: &mut impl Iterator<Item = u8>) -> Result<usize> {
    let mut sum = usize::from(nibble);
    let mut last = if nibble == 15 { 255 } else { 0 };
    while last == 255 {
        last = next(input)?;
        sum += usize::from(last);
    }
    Ok(sum)
}

fn next(input: &mut impl Iterator<Item = u8>) -> Result<u8> {
    input.next().context("the compressed code is cut short")
}

fn bytes<const N: usize>(file: &mut (impl Read + Seek), at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)
        .with_context(|| format!("the file ends before {at:#x}"))?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// The ELF header of SASS for `capability`.
    fn sass(capability: u8) -> Vec<u8> {
        let mut elf = vec![0; ELF_HEADER + 16];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[0x12..0x14].copy_from_slice(&EM_CUDA.to_le_bytes());
        elf[0x30] = capability;
        elf
    }

    /// An LZ4 block that unpacks to `bytes`: all of them literals.
    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut block = vec![0xf0, u8::try_from(bytes.len() - 15).unwrap()];
        block.extend(bytes);
        block
    }

    fn entry(kind: u16, capability: u32, flags: u64, payload: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; ENTRY_HEADER];
        entry[..2].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&64_u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        entry[28..32].copy_from_slice(&capability.to_le_bytes());
        entry[40..48].copy_from_slice(&flags.to_le_bytes());
        entry.extend(payload);
        entry
    }

    fn container(entries: &[Vec<u8>]) -> Vec<u8> {
        let body = entries.concat();
        let mut container = MAGIC.to_le_bytes().to_vec();
        container.extend([1, 0, 16, 0]);
        container.extend((body.len() as u64).to_le_bytes());
        container.extend(body);
        container
    }

    fn read_bytes(section: Vec<u8>) -> Result<Kernels> {
        let mut kernels = Kernels::default();
        let length = section.len() as u64;
        read_section(&mut Cursor::new(section), 0, length, &mut kernels)?;
        Ok(kernels)
    }

    #[test]
    fn code_is_counted_by_architecture_packed_or_not() {
        let mut section = container(&[
            entry(SASS, 37, 0, &sass(37)),
            entry(SASS, 80, COMPRESSED, &packed(&sass(80))),
            entry(PTX, 80, COMPRESSED, b"any"),
        ]);
        section.extend([0; 24]);
        section.extend(container(&[entry(SASS, 37, 0, &sass(37))]));
        let found = read_bytes(section).unwrap();
        assert_eq!(found.sass, BTreeMap::from([(37, 2), (80, 1)]));
        assert_eq!(found.ptx, BTreeMap::from([(80, 1)]));
        assert!(found.serves(37) && found.serves(86));
        assert!(
            !found.serves(35) && !found.serves(75),
            "no later code runs on them"
        );
    }

    #[test]
    fn what_does_not_add_up_is_an_error_that_says_where() {
        let says = |section: Vec<u8>| format!("{:#}", read_bytes(section).unwrap_err());
        let lying = says(container(&[entry(SASS, 37, 0, &sass(80))]));
        assert!(lying.contains("is for 37, its code for 80"), "{lying}");
        let other = says(container(&[entry(SASS, 37, 0, &[0; 80])]));
        assert!(other.contains("no ELF file"), "{other}");
        let mut long = container(&[entry(PTX, 37, 0, b"x")]);
        long.truncate(20);
        assert!(says(long).contains("longer than its section"));
        assert!(says(vec![7; 32]).contains("starts no container"));
        assert!(says(container(&[entry(9, 37, 0, b"x")])).contains("unknown kind 9"));
    }

    #[test]
    fn a_packed_head_may_repeat_what_came_before() {
        // Two literals, a copy of 4 + 4 from 2 back, then one literal.
        let block = [0x24, b'a', b'b', 2, 0, 0x10, b'c'];
        assert_eq!(lz4_head(&block, 11).unwrap(), b"abababababc");
        assert!(lz4_head(&block, 12).is_err(), "cut short");
        assert!(
            lz4_head(&[0x10, b'a', 9, 0], 8).is_err(),
            "before the start"
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_refused() {
        let error = fatbin_sections(&mut Cursor::new(vec![0; 100])).unwrap_err();
        assert!(error.to_string().contains("no such header"), "{error}");
    }
}
