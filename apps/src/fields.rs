//! Fields of exchange protocols: fixed places, big-endian, read and written where they lie.
#![forbid(unsafe_code)]

use serde::Serialize;
use zerocopy::byteorder::big_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Text of a fixed width, filled up with blanks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Alpha<const N: usize>(pub [u8; N]);

impl<const N: usize> Alpha<N> {
    /// `text`, cut or filled up.
    pub fn new(text: &str) -> Self {
        let mut bytes = [b' '; N];
        bytes.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
        Self(bytes)
    }
}

impl<const N: usize> std::fmt::Display for Alpha<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bytes beyond ASCII are shown as the Latin-1 characters they would be.
        let len = self.0.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
        self.0.iter().take(len).try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl<const N: usize> std::fmt::Debug for Alpha<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// How a field is shown.
pub trait Field {
    /// What serde is given.
    type Shown: Serialize;
    /// The value to show.
    fn shown(&self) -> Self::Shown;
}

macro_rules! fields {
    ($($field:ty => $shown:ty, |$value:ident| $show:expr;)*) => {
        $(impl Field for $field {
            type Shown = $shown;
            fn shown(&self) -> $shown {
                let $value = self;
                $show
            }
        })*
    };
}

fields! {
    u8 => u8, |value| *value;
    I32 => i32, |value| value.get();
    U16 => u16, |value| value.get();
    U32 => u32, |value| value.get();
    U64 => u64, |value| value.get();
}

impl<const N: usize> Field for Alpha<N> {
    type Shown = String;
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// A message of fixed fields: a structure with the wire's layout, shown as one flat object under the specification's names.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(None)?;
                $(map.serialize_entry(stringify!($field), &$crate::fields::Field::shown(&self.$field))?;)*
                map.end()
            }
        }
    };
}

pub(crate) use record;
