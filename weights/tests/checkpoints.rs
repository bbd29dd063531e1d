//! Files that `torch.save` wrote, honest and hostile, whole and torn. `files/make.py` made them.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

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
    let (_, tensors, _) = read_torch(&file("training.pth")).unwrap();
    assert_is_expected(&tensors);
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
    ] {
        assert!(read_torch(&legacy(&pickle)).is_err());
    }
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
