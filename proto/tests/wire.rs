//! The wire of today against that of earlier releases: daemons are upgraded one after the other, under running
//! jobs, and old clients go on asking.
//!
//! `releases/<version>.bin` is the set of descriptors that the release was built from. A release adds its own.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets what it does not expect fails, and that is its job"
)]

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value,
};

const RELEASES: [(&str, &[u8]); 1] = [("0.1.0", include_bytes!("releases/0.1.0.bin"))];
/// How deep messages within messages are filled.
const DEPTH: u32 = 6;
const PACKAGE: &str = "marquee.v1.";

fn now() -> DescriptorPool {
    DescriptorPool::decode(marquee_proto::FILE_DESCRIPTOR_SET).unwrap()
}

fn releases() -> impl Iterator<Item = (&'static str, DescriptorPool)> {
    RELEASES
        .into_iter()
        .map(|(version, bytes)| (version, DescriptorPool::decode(bytes).unwrap()))
}

fn messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let all = pool.all_messages();
    all.filter(|message| message.full_name().starts_with(PACKAGE) && !message.is_map_entry())
        .collect()
}

/// What a field is on the wire and in code.
fn shape(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => of.full_name().to_owned(),
        plain => format!("{plain:?}"),
    };
    let oneof = field
        .containing_oneof()
        .map(|oneof| oneof.name().to_owned());
    format!(
        "{} {:?} {kind} in {oneof:?}, map {}",
        field.name(),
        field.cardinality(),
        field.is_map()
    )
}

#[test]
fn nothing_of_an_earlier_release_was_taken_away_or_means_something_else() {
    let now = now();
    for (version, old) in releases() {
        for message in messages(&old) {
            let name = message.full_name();
            let today = now.get_message_by_name(name);
            let today = today.unwrap_or_else(|| panic!("{version}: message {name} is gone"));
            for field in message.fields() {
                let number = field.number();
                let kept = today.get_field(number);
                let kept =
                    kept.unwrap_or_else(|| panic!("{version}: {name}.{} is gone", field.name()));
                assert_eq!(
                    shape(&field),
                    shape(&kept),
                    "{version}: {name}, number {number}"
                );
            }
        }
        for of in old
            .all_enums()
            .filter(|of| of.full_name().starts_with(PACKAGE))
        {
            let name = of.full_name();
            let today = now.get_enum_by_name(name);
            let today = today.unwrap_or_else(|| panic!("{version}: enum {name} is gone"));
            for value in of.values() {
                let kept = today
                    .get_value(value.number())
                    .map(|kept| kept.name().to_owned());
                assert_eq!(kept.as_deref(), Some(value.name()), "{version}: {name}");
            }
        }
        for service in old
            .services()
            .filter(|s| s.full_name().starts_with(PACKAGE))
        {
            let name = service.full_name();
            let today = now.get_service_by_name(name);
            let today = today.unwrap_or_else(|| panic!("{version}: service {name} is gone"));
            let methods: BTreeMap<_, _> = today
                .methods()
                .map(|method| (method.name().to_owned(), method))
                .collect();
            for method in service.methods() {
                let kept = &methods[method.name()];
                let of = |m: &prost_reflect::MethodDescriptor| {
                    (
                        m.input().full_name().to_owned(),
                        m.output().full_name().to_owned(),
                        m.is_client_streaming(),
                        m.is_server_streaming(),
                    )
                };
                assert_eq!(of(&method), of(kept), "{version}: {name}/{}", method.name());
            }
        }
    }
}

/// A value for a field that follows from its number alone, so that two releases make the same.
fn sample(field: &FieldDescriptor, depth: u32) -> Value {
    let one = |kind: &Kind| {
        let number = field.number();
        match kind {
            Kind::Double => Value::F64(f64::from(number) + 0.5),
            Kind::Float => Value::F32(1.5),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(-7),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(-i64::from(number)),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::from(number) << 40),
            Kind::Bool => Value::Bool(true),
            Kind::String => Value::String(format!("text {number}")),
            Kind::Bytes => Value::Bytes(vec![1, 2, 3].into()),
            // The first that says something is in all releases.
            Kind::Enum(of) => Value::EnumNumber(of.values().nth(1).unwrap().number()),
            Kind::Message(message) => Value::Message(filled(message, depth - 1, 0)),
        }
    };
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            panic!("a map has entries")
        };
        let value = one(&entry.map_entry_value_field().kind());
        let key = match entry.map_entry_key_field().kind() {
            Kind::String => MapKey::String("key".into()),
            Kind::Uint32 => MapKey::U32(1),
            Kind::Uint64 => MapKey::U64(1),
            other => panic!("no sample of a key of {other:?}"),
        };
        return Value::Map([(key, value)].into());
    }
    match field.cardinality() {
        Cardinality::Repeated => Value::List(vec![one(&field.kind()), one(&field.kind())]),
        Cardinality::Optional | Cardinality::Required => one(&field.kind()),
    }
}

/// A message with all its fields; of each oneof that one whose turn it is.
fn filled(of: &MessageDescriptor, depth: u32, turn: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    if depth == 0 {
        return message;
    }
    for field in of.fields() {
        let others = field.containing_oneof().map(|oneof| {
            let fields: Vec<u32> = oneof.fields().map(|field| field.number()).collect();
            fields[turn % fields.len()]
        });
        if others.is_none_or(|chosen| chosen == field.number()) {
            message.set_field(&field, sample(&field, depth));
        }
    }
    message
}

fn turns(of: &MessageDescriptor) -> usize {
    let oneofs = of.oneofs().map(|oneof| oneof.fields().count());
    oneofs.max().unwrap_or(1)
}

/// Whether `message` says at least what `wanted` does.
fn says(message: &DynamicMessage, wanted: &DynamicMessage) -> Result<(), String> {
    for (field, value) in wanted.fields() {
        let found = message.get_field_by_number(field.number());
        let found = found.ok_or_else(|| format!("{} is not known", field.full_name()))?;
        same(&found, value).map_err(|why| format!("{}: {why}", field.full_name()))?;
    }
    Ok(())
}

fn same(found: &Value, wanted: &Value) -> Result<(), String> {
    match (found, wanted) {
        (Value::Message(found), Value::Message(wanted)) => says(found, wanted),
        (Value::List(found), Value::List(wanted)) if found.len() == wanted.len() => {
            let mut pairs = found.iter().zip(wanted);
            pairs.try_for_each(|(found, wanted)| same(found, wanted))
        }
        (Value::Map(found), Value::Map(wanted)) if found.len() == wanted.len() => {
            let mut pairs = wanted.iter().map(|(key, wanted)| (found.get(key), wanted));
            pairs.try_for_each(|(found, wanted)| same(found.ok_or("a key is lost")?, wanted))
        }
        (found, wanted) if found == wanted => Ok(()),
        (found, wanted) => Err(format!("{found:?} is not {wanted:?}")),
    }
}

/// What one release writes the other reads, and what it does not know it passes over.
#[test]
fn each_message_is_understood_both_ways() {
    let now = now();
    let mut tried = 0;
    for (version, old) in releases() {
        for message in messages(&old) {
            let today = now.get_message_by_name(message.full_name()).unwrap();
            for turn in 0..turns(&message) {
                let was = filled(&message, DEPTH, turn);
                let read = DynamicMessage::decode(today.clone(), &was.encode_to_vec()[..]).unwrap();
                says(&read, &was).unwrap_or_else(|why| panic!("{version} to now: {why}"));
                // What comes back from here is what went there.
                let back =
                    DynamicMessage::decode(message.clone(), &read.encode_to_vec()[..]).unwrap();
                assert_eq!(back, was, "{version}: {}", message.full_name());
                tried += 1;
            }
            for turn in 0..turns(&today) {
                let is = filled(&today, DEPTH, turn);
                let read =
                    DynamicMessage::decode(message.clone(), &is.encode_to_vec()[..]).unwrap();
                // Of a oneof whose newest member it does not know, it knows nothing.
                let known: Vec<_> = is
                    .fields()
                    .filter(|(field, _)| message.get_field(field.number()).is_some())
                    .map(|(field, _)| field.number())
                    .collect();
                for number in known {
                    assert!(
                        read.has_field_by_number(number),
                        "now to {version}: {}.{number}",
                        message.full_name()
                    );
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "{tried} messages");
}
