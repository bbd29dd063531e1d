//! Files that `torch.save` wrote, honest and hostile, whole and torn. `files/make.py` made them.

#![allow(clippy::unwrap_used, reason = "tests may panic")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "what is written out here is short"
)]

use std::fs;
use std::path::PathBuf;

use marquee_weights::{Dtype, Format, Source, Tensors, WeightsError, import, read_torch};
use safetensors::SafeTensors;

fn file(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/files")
        .join(name)
}

fn assert_is_expected(tensors: &Tensors) {
    let bytes = file("expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), expected.len());
    for (name, view) in expected.tensors() {
        let tensor = &tensors[&name];
        assert_eq!(
            format!("{:?}", tensor.dtype).to_uppercase(),
            format!("{:?}", view.dtype())
        );
        assert_eq!(tensor.shape, view.shape(), "{name}");
        assert_eq!(tensor.bytes, view.data(), "{name}");
    }
}

#[test]
fn both_formats_give_every_tensor_bit_for_bit_whatever_its_layout() {
    for (name, format) in [
        ("zip.pth", Format::TorchZip),
        ("legacy.pth", Format::TorchLegacy),
    ] {
        let (found, tensors, others) = read_torch(&file(name)).unwrap();
        assert_eq!(found, format);
        assert_is_expected(&tensors);
        assert!(others.is_empty());
        assert_eq!(tensors["bfloat"].dtype, Dtype::BF16);
        assert_eq!(tensors["expanded"].count(), 6);
    }
}

#[test]
fn a_training_checkpoint_gives_its_state_dict() {
    let (_, tensors, others) = read_torch(&file("training.pth")).unwrap();
    assert_is_expected(&tensors);
    assert_eq!(others, ["epoch", "lr", "best", "notes"]);
    let (_, tensors, _) = read_torch(&file("norm.pth")).unwrap();
    assert_eq!(tensors["1.num_batches_tracked"].dtype, Dtype::I64);
}

#[test]
fn a_pickle_that_would_run_something_is_refused_by_that_name() {
    for (name, what) in [
        ("evil.pth", "posix.system"),
        ("evil_legacy.pth", "posix.system"),
        ("model.pth", "torch.nn.modules.linear.Linear"),
    ] {
        let error = read_torch(&file(name)).unwrap_err();
        assert!(matches!(error, WeightsError::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let text = read_torch(&file("model.pth")).unwrap_err().to_string();
    assert!(text.contains("state_dict()"), "{text}");
    assert!(!PathBuf::from("marquee-was-here").exists());
}

#[test]
fn a_file_torn_anywhere_is_refused_and_never_a_panic() {
    for name in ["zip.pth", "legacy.pth"] {
        let whole = file(name);
        for length in 0..whole.len() {
            let result = read_torch(&whole[..length]);
            assert!(result.is_err(), "{name} cut at {length} of {}", whole.len());
        }
    }
}

#[test]
fn a_flipped_bit_never_panics() {
    for name in ["zip.pth", "legacy.pth", "evil_legacy.pth"] {
        let whole = file(name);
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1 << (at % 8);
            // Numbers may differ unseen in the legacy format, which has no checksum.
            let _ = read_torch(&altered);
        }
    }
}

/// The legacy container around one pickle.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut bytes = file("legacy.pth");
    // Magic, version and system information are the same for all.
    let dict = bytes.windows(2).position(|pair| pair == b"}q").unwrap();
    let end = dict + bytes[dict..].iter().position(|byte| *byte == b'.').unwrap() + 1;
    bytes.truncate(end);
    bytes.extend_from_slice(pickle);
    bytes
}

#[test]
fn hostile_pickles_end_quickly() {
    // Nested a million deep; recursion would end the process.
    let mut deep = b"\x80\x02)".to_vec();
    deep.extend(std::iter::repeat_n(b'\x85', 1_000_000));
    deep.push(b'.');
    // A list of 20,000 items given to 20,000 calls.
    let mut wide = b"\x80\x02]q\x00(".to_vec();
    wide.extend(std::iter::repeat_n(*b"))\x86", 20_000).flatten());
    wide.push(b'e');
    for _ in 0..20_000 {
        wide.extend_from_slice(b"ccollections\nOrderedDict\nh\x00\x85R0");
    }
    wide.push(b'.');
    for pickle in [
        deep,
        wide,
        b"\x80\x02X\xff\xff\xff\xff.".to_vec(),
        b"\x80\x02h\x07.".to_vec(),
        b"\x80\x02(.".to_vec(),
        b"\x80\x02e.".to_vec(),
        b"\x80\x63.".to_vec(),
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(),
        b"\x80\x02i__builtin__\neval\n.".to_vec(),
        // A stranger whose strangers are without end, and one that nobody called.
        [&b"\x80\x02"[..], &b"cx\ny\n)R".repeat(100_000), b"."].concat(),
        b"\x80\x02cx\ny\n.".to_vec(),
        b"\x80\x02)R.".to_vec(),
        b"\x80\x02)\x81.".to_vec(),
        b"\x80\x02N)\x92.".to_vec(),
        b"\x80\x021.".to_vec(),
        b"\x80\x022.".to_vec(),
    ] {
        assert!(read_torch(&legacy(&pickle)).is_err());
    }
}

/// What `torch.save` writes in the older form, of a dictionary with these entries; each value is pickled as it
/// stands.
fn saved(entries: &[(&str, &[u8])]) -> Vec<u8> {
    // One float in storage "0".
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01Nt\
        QK\x00(K\x01t(K\x01t\x89ccollections\nOrderedDict\n)RtR";
    let mut pickle = b"\x80\x02}(".to_vec();
    for (name, value) in entries {
        pickle.push(b'X');
        pickle.extend((name.len() as u32).to_le_bytes());
        pickle.extend(name.as_bytes());
        match *value {
            b"TENSOR" => pickle.extend(tensor),
            b"WEIGHTS" => {
                pickle.extend(b"}X\x01\0\0\0w");
                pickle.extend(tensor);
                pickle.push(b's');
            }
            value => pickle.extend(value),
        }
    }
    pickle.extend(b"u.");
    let mut file = legacy(&pickle);
    file.extend(b"\x80\x02]X\x01\0\0\x000a.");
    file.extend(1_u64.to_le_bytes());
    file.extend(7.5_f32.to_le_bytes());
    file
}

#[test]
fn what_strangers_left_beside_the_weights_is_inert_and_left_out_by_name() {
    let file = saved(&[
        ("epoch", b"K\x03"),
        // argparse.Namespace(lr=0.1), an object with attributes.
        ("args", b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?\xb9\x99\x99\x99\x99\x99\x9asb"),
        ("device", b"ctorch\ndevice\nX\x04\0\0\0cudaK\x00\x86R"),
        ("dtype", b"ctorch\nfloat32\n"),
        // A call of what a call returned, and entries of a stranger's dictionary and list.
        ("odd", b"c__builtin__\ngetattr\n)R)Rc__main__\nConfig\n)R}K\x01K\x02s0(K\x01K\x02u(K\x05e0"),
        ("run", b"cposix\nsystem\nX\x16\0\0\0touch marquee-was-here\x85R"),
        ("numbers", b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01NC\x04abcdtb"),
        ("set", b"c__builtin__\nset\n](K\x01K\x02e\x85R"),
        ("state_dict", b"WEIGHTS"),
    ]);
    let (_, tensors, others) = read_torch(&file).unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!(tensors["w"].bytes, 7.5_f32.to_le_bytes());
    assert_eq!(
        others,
        [
            "epoch",
            "args (argparse.Namespace)",
            "device (torch.device)",
            "dtype (torch.float32)",
            "odd (__builtin__.getattr)",
            "run (posix.system)",
            "numbers (numpy.core.multiarray._reconstruct)",
            "set (__builtin__.set)",
        ]
    );
    assert!(!PathBuf::from("marquee-was-here").exists());
}

#[test]
fn among_the_weights_a_stranger_is_refused_by_name() {
    let stranger: &[u8] = b"cargparse\nNamespace\n)\x81";
    for file in [
        saved(&[("w", b"TENSOR"), ("args", stranger)]),
        saved(&[("state_dict", stranger), ("w", b"TENSOR")]),
        legacy(b"\x80\x02cargparse\nNamespace\n)\x81.\x80\x02]."),
    ] {
        let error = read_torch(&file).unwrap_err().to_string();
        assert!(error.contains("argparse.Namespace"), "{error}");
    }
    // A stranger's name alone is nothing that could be called.
    let file = saved(&[("w", b"TENSOR"), ("dtype", b"ctorch\nfloat32\n")]);
    let (_, tensors, others) = read_torch(&file).unwrap();
    assert_eq!(
        (tensors.len(), others),
        (1, vec!["dtype (torch.float32)".to_owned()])
    );
}

/// A ZIP archive with these entries, each a name and where its local header stands; all have the one
/// local header and content at the start.
fn overlapping(names: &[String]) -> Vec<u8> {
    let content = vec![7_u8; 10_000];
    let mut crc = 0xffff_ffff_u32;
    for byte in &content {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    let size = (content.len() as u32).to_le_bytes();
    let about = [&[0; 8][..], &(!crc).to_le_bytes(), &size, &size].concat();
    let mut file = [b"PK\x03\x04\x14\0", &about[..], &[0; 4], &content].concat();
    let start = file.len() as u32;
    for name in names {
        file.extend(b"PK\x01\x02\x14\0\x14\0");
        file.extend(&about);
        file.extend((name.len() as u16).to_le_bytes());
        file.extend([0; 16]);
        file.extend(name.as_bytes());
    }
    let directory = file.len() as u32 - start;
    let count = (names.len() as u16).to_le_bytes();
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].concat());
    file.extend(directory.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

#[test]
fn an_archive_whose_entries_share_bytes_is_refused_before_they_are_read() {
    let names: Vec<String> = ["x/data.pkl".to_owned()]
        .into_iter()
        .chain((0..5_000).map(|at| format!("x/data/{at}")))
        .collect();
    let text = read_torch(&overlapping(&names)).unwrap_err().to_string();
    assert!(text.contains("entries overlap"), "{text}");
    // One entry alone is read, and found to be no pickle.
    let text = read_torch(&overlapping(&names[..1]))
        .unwrap_err()
        .to_string();
    assert!(!text.contains("overlap"), "{text}");
}

#[test]
fn an_import_writes_weights_and_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source {
        from: Some("a test".into()),
        licence: Some("CC0-1.0".into()),
    };
    let done = import(&path("norm.pth"), folder.path(), source).unwrap();
    let bytes = fs::read(&done.weights).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 6, "without the batch counter");
    let note: serde_json::Value =
        serde_json::from_slice(&fs::read(&done.note_file).unwrap()).unwrap();
    assert_eq!(note["licence"], "CC0-1.0");
    assert_eq!(note["imported"]["format"], "torch-zip");
    assert_eq!(note["dropped"][0], "1.num_batches_tracked");
    assert_eq!(note["sha256"], done.note.sha256.as_str());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

    // A safetensors file is imported too, but never over itself.
    let again = import(&done.weights, folder.path(), Source::default()).unwrap_err();
    assert!(again.to_string().contains("another folder"), "{again}");
    let other = tempfile::tempdir().unwrap();
    let copy = import(&done.weights, other.path(), Source::default()).unwrap();
    assert_eq!(fs::read(copy.weights).unwrap(), bytes);
}

#[test]
fn what_is_no_checkpoint_is_said_to_be_none() {
    for (bytes, says) in [
        (&b""[..], "no PyTorch checkpoint"),
        (b"hello, world", "no PyTorch checkpoint"),
        (b"\x80\x02K\x01.", "none that torch.save writes"),
        (b"PK\x03\x04 and so on", "truncated"),
    ] {
        let text = read_torch(bytes).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}
