//! OUCH: what is read is what was written, and nothing else is read.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;

/// An option: known, of a known tag and another length, or anything.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let framed = |tag: u8, value: &[u8]| [&[value.len() as u8 + 1, tag], value].concat();
    prop_oneof![
        (0..TagValue::KNOWN.len(), any::<[u8; 8]>()).prop_map(move |(index, value)| {
            let (tag, len) = TagValue::KNOWN[index];
            framed(tag, &value[..len])
        }),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(move |(tag, value)| framed(tag, &value)),
    ]
}

/// A type: its letter, the length of its fixed part, what may follow.
type Kind = (u8, usize, Appended);

/// A message of the type with an appendage, where it may have one, or with as little as it may have.
fn message((kind, len, appended): Kind, noise: &[u8], options: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut bytes = [&[kind], &noise[..len - 1]].concat();
    let appendage = match (appended, options) {
        (Appended::Never, _) | (Appended::Optional, None) => None,
        (_, options) => Some(options.unwrap_or_default().concat()),
    };
    if let Some(options) = appendage {
        bytes.extend((options.len() as u16).to_be_bytes());
        bytes.extend(options);
    }
    bytes
}

/// Reads `bytes` in one direction: the message written again, and as JSON.
type Read = fn(&[u8]) -> Result<(Vec<u8>, String), Error>;

fn inbound(bytes: &[u8]) -> Result<(Vec<u8>, String), Error> {
    let (message, mut written) = (Inbound::parse(bytes)?, Vec::new());
    message.write(&mut written);
    Ok((written, serde_json::to_string(&message).unwrap()))
}

fn outbound(bytes: &[u8]) -> Result<(Vec<u8>, String), Error> {
    let (message, mut written) = (Outbound::parse(bytes)?, Vec::new());
    message.write(&mut written);
    Ok((written, serde_json::to_string(&message).unwrap()))
}

const DIRECTIONS: [(&[Kind], Read); 2] = [(Inbound::TYPES, inbound), (Outbound::TYPES, outbound)];

proptest! {
    #[test]
    fn every_type_survives_parse_and_write_and_no_other_length_does(
        noise in prop::collection::vec(any::<u8>(), 80),
        options in prop::option::of(prop::collection::vec(option(), 0..4)),
    ) {
        for (types, read) in DIRECTIONS {
            for &kind in types {
                let mut bytes = message(kind, &noise, options.as_deref());
                let whole = bytes.len();
                prop_assert_eq!(&read(&bytes).unwrap().0, &bytes);
                bytes.push(1);
                for len in (0..=bytes.len()).filter(|len| *len != whole) {
                    // A message that may leave its appendage away is complete before it.
                    let is_complete = kind.2 == Appended::Optional && len == kind.1;
                    prop_assert_eq!(read(&bytes[..len]).is_ok(), is_complete, "{:?} at {}", kind, len);
                }
            }
        }
    }

    #[test]
    fn wrong_appendage_length_is_refused(
        noise in prop::collection::vec(any::<u8>(), 80), options in prop::collection::vec(option(), 0..4), wrong in any::<u16>(),
    ) {
        for (types, read) in DIRECTIONS {
            for &kind in types.iter().filter(|kind| kind.2 != Appended::Never) {
                let mut bytes = message(kind, &noise, Some(&options));
                let right = options.concat().len();
                bytes[kind.1..kind.1 + 2].copy_from_slice(&wrong.to_be_bytes());
                prop_assert_eq!(read(&bytes).is_ok(), usize::from(wrong) == right);
            }
        }
    }

    #[test]
    fn wrong_option_length_is_refused_or_shifts_what_follows(
        options in prop::collection::vec(option(), 1..4), which in any::<prop::sample::Index>(), len in any::<u8>(),
    ) {
        let mut options = options;
        which.get_mut(&mut options)[0] = len;
        let bytes = options.concat();
        match Appendage::parse(&bytes) {
            Ok(appendage) => {
                let mut written = Vec::new();
                appendage.options().for_each(|option| option.write(&mut written));
                prop_assert_eq!(written, bytes);
            }
            Err(at) => prop_assert!(bytes[at] == 0 || at + 1 + usize::from(bytes[at]) > bytes.len()),
        }
    }

    #[test]
    fn every_option_survives_parse_and_write(options in prop::collection::vec(option(), 0..30)) {
        let bytes = options.concat();
        let mut written = Vec::new();
        let appendage = Appendage::parse(&bytes).unwrap();
        for option in appendage.options() {
            option.write(&mut written);
            if let TagValue::Unknown { tag, value } = option {
                prop_assert!(!TagValue::KNOWN.contains(&(tag, value.len())));
            }
        }
        prop_assert_eq!(&written, &bytes);
        prop_assert_eq!(appendage.options().count(), options.len());
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for (_, read) in DIRECTIONS {
            if let Ok((written, _)) = read(&bytes) {
                prop_assert_eq!(&written, &bytes);
            }
        }
    }
}

#[test]
fn unknown_types_are_named() {
    for (types, read) in DIRECTIONS {
        for kind in (0..=u8::MAX).filter(|kind| !types.iter().any(|known| known.0 == *kind)) {
            assert_eq!(read(&[kind; 64]).unwrap_err(), Error::UnknownType(kind));
        }
        assert_eq!(read(&[]).unwrap_err(), Error::Empty);
    }
}

#[test]
fn lengths_are_those_of_the_specification() {
    // With the two bytes of the appendage length where there may be one.
    let total = |types: &[Kind]| {
        let len = |kind: &Kind| kind.1 + if kind.2 == Appended::Never { 0 } else { 2 };
        types.iter().map(|kind| (char::from(kind.0), len(kind))).collect::<Vec<_>>()
    };
    let expected = [('O', 47), ('U', 40), ('X', 11), ('M', 12), ('C', 19), ('D', 11), ('E', 11), ('Q', 3)];
    assert_eq!(total(Inbound::TYPES), expected);
    let expected = [
        ('S', 10),
        ('A', 64),
        ('U', 68),
        ('C', 20),
        ('D', 34),
        ('E', 36),
        ('B', 38),
        ('J', 31),
        ('P', 15),
        ('I', 15),
        ('T', 32),
        ('M', 20),
        ('R', 16),
        ('X', 27),
        ('G', 19),
        ('K', 19),
        ('Q', 15),
    ];
    assert_eq!(total(Outbound::TYPES), expected);
}

#[test]
fn options_are_typed_and_shown_by_name() {
    let bytes = [&[5, 2][..], b"WIRE", &[5, 7], &(-25i32).to_be_bytes(), &[3, 200, 1, 2]].concat();
    let appendage = Appendage::parse(&bytes).unwrap();
    let options: Vec<_> = appendage.options().collect();
    let unknown = TagValue::Unknown { tag: 200, value: &[1, 2] };
    assert_eq!(options, [TagValue::Firm(Alpha::new("WIRE")), TagValue::PegOffset((-25).into()), unknown]);
    let shown = serde_json::to_value(appendage).unwrap();
    assert_eq!(shown, serde_json::json!({ "firm": "WIRE", "peg_offset": -25, "tag_200": [1, 2] }));
}
