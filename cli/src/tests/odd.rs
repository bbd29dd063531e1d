//! Messages as no coordinator of today sends them: of a later version, of one that is damaged, of somebody who means harm.
//!
//! They are drawn from the descriptors, so that a field that is added tomorrow is odd, too.

use std::collections::HashMap;
use std::sync::LazyLock;

use marquee_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// How deep messages lie in each other: the deepest of ours are five.
const DEPTH_MAX: u32 = 6;
const TIMESTAMP: &str = ".google.protobuf.Timestamp";

static MESSAGES: LazyLock<HashMap<String, DescriptorProto>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut all = HashMap::new();
    for file in set.file {
        let package = format!(".{}", file.package());
        for message in file.message_type {
            gather(&package, message, &mut all);
        }
    }
    all
});

/// The message that each method answers with.
static ANSWERS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.into_iter().flat_map(|file| file.service);
    let methods = services.flat_map(|service| {
        let name = service.name().to_owned();
        let methods = service.method.into_iter();
        methods.map(move |method| {
            let path = format!("{name}/{}", method.name());
            (path, method.output_type().to_owned())
        })
    });
    methods.collect()
});

fn gather(within: &str, message: DescriptorProto, all: &mut HashMap<String, DescriptorProto>) {
    let name = format!("{within}.{}", message.name());
    for nested in message.nested_type.clone() {
        gather(&name, nested, all);
    }
    all.insert(name, message);
}

/// A message of ours by its name, drawn by a seed: the same each time.
pub(crate) fn message<M: Message + Default>(name: &str, seed: u64) -> M {
    let mut bytes = Vec::new();
    fill(
        &format!(".marquee.v1.{name}"),
        &mut Draw(seed),
        0,
        &mut bytes,
    );
    M::decode(bytes.as_slice()).unwrap()
}

/// What the method of a path such as `Jobs/GetJob` answers, as it goes over the wire.
pub(crate) fn answer(path: &str, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    fill(&ANSWERS[path], &mut Draw(seed), 0, &mut bytes);
    bytes
}

/// Several of them.
pub(crate) fn messages<M: Message + Default>(name: &str, seed: u64) -> Vec<M> {
    (0..4)
        .map(|number| message(name, seed * 4 + number))
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing test cases.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let index = self.next() % all.len() as u64;
        all[usize::try_from(index).unwrap()]
    }
}

/// What a terminal obeys, what breaks lines and tables, and what is merely unusual.
const TEXTS: [&str; 14] = [
    "",
    "train",
    "p3",
    "17",
    "\u{1b}]52;c;eA==\u{7}\u{1b}[2J",
    "a\nb\r\nc\td",
    "\u{202e}gnp.exe\u{2066}",
    "\u{9b}31m",
    "sch\u{f6}n \u{4e2d}\u{6587} \u{1f600}",
    "{\"a\":[1,{\"b\":null}]}",
    "{not json",
    " ",
    "\"quoted\" 'and' `more` $(true) | & ; \\",
    "0000000000000000000000000000000000000000000000000000000000000000",
];
const NUMBERS: [u64; 9] = [
    0,
    1,
    2,
    17,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
const REALS: [f64; 9] = [
    0.0,
    -0.0,
    0.5,
    1e300,
    -1.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    1e-300,
];
const SECONDS: [i64; 7] = [
    0,
    1_800_000_000,
    1_800_000_090,
    -62_135_596_801,
    253_402_300_799,
    i64::MIN,
    i64::MAX,
];

fn fill(name: &str, draw: &mut Draw, depth: u32, out: &mut Vec<u8>) {
    if name == TIMESTAMP {
        encode_key(1, WireType::Varint, out);
        encode_varint(draw.one_of(&SECONDS).cast_unsigned(), out);
        encode_key(2, WireType::Varint, out);
        encode_varint(
            draw.one_of(&[0, 999_999_999, u64::MAX, i32::MAX as u64]),
            out,
        );
        return;
    }
    let message = &MESSAGES[name];
    for field in &message.field {
        let times = match field.label() {
            Label::Repeated => draw.one_of(&[0, 1, 1, 2]),
            Label::Optional | Label::Required => draw.one_of(&[0, 1, 1, 1]),
        };
        for _ in 0..times {
            put(field, draw, depth, out);
        }
    }
}

fn put(field: &prost_types::FieldDescriptorProto, draw: &mut Draw, depth: u32, out: &mut Vec<u8>) {
    let tag = field.number().cast_unsigned();
    match field.r#type() {
        Type::Double => {
            encode_key(tag, WireType::SixtyFourBit, out);
            out.extend(draw.one_of(&REALS).to_le_bytes());
        }
        Type::Fixed64 | Type::Sfixed64 => {
            encode_key(tag, WireType::SixtyFourBit, out);
            out.extend(draw.one_of(&NUMBERS).to_le_bytes());
        }
        Type::Float | Type::Fixed32 | Type::Sfixed32 => {
            encode_key(tag, WireType::ThirtyTwoBit, out);
            out.extend(u32::MAX.to_le_bytes());
        }
        Type::Int64
        | Type::Uint64
        | Type::Int32
        | Type::Uint32
        | Type::Sint32
        | Type::Sint64
        | Type::Bool => {
            encode_key(tag, WireType::Varint, out);
            encode_varint(draw.one_of(&NUMBERS), out);
        }
        Type::Enum => {
            encode_key(tag, WireType::Varint, out);
            // 99 is of a later version.
            encode_varint(draw.one_of(&[0, 1, 2, 3, 4, 5, 6, 99, u64::MAX]), out);
        }
        Type::String => bytes(tag, draw.one_of(&TEXTS).as_bytes(), out),
        Type::Bytes => bytes(tag, &[0xff, 0, 0x1b], out),
        Type::Message => {
            let mut inner = Vec::new();
            if depth < DEPTH_MAX {
                fill(field.type_name(), draw, depth + 1, &mut inner);
            }
            bytes(tag, &inner, out);
        }
        Type::Group => panic!("no message of ours has one"),
    }
}

fn bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[test]
fn what_is_drawn_is_a_message_and_reaches_the_odd() {
    let jobs: Vec<marquee_proto::v1::Job> = (0..40).map(|seed| message("Job", seed)).collect();
    assert!(jobs.iter().any(|job| job.name.contains('\u{1b}')));
    assert!(jobs.iter().any(|job| job.state == 99));
    assert!(jobs.iter().any(|job| job.progress.is_some()));
    assert!(jobs.iter().any(|job| !job.values.is_empty()));
    let again: marquee_proto::v1::Job = message("Job", 7);
    assert_eq!(again, jobs[7]);
}
