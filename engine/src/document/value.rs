//! Names and values of a document as the application sees them. Nothing of the CRDT library shows in these types.

use std::fmt;

use automerge as am;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::ids::{Ids, OpName};

/// One step of a path: a key of a map, or an index of a list or text (text counts Unicode code points).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prop {
    /// A position in a list or text.
    Index(usize),
    /// A key of a map.
    Key(String),
}

impl From<&str> for Prop {
    fn from(key: &str) -> Self {
        Prop::Key(key.to_owned())
    }
}

impl From<String> for Prop {
    fn from(key: String) -> Self {
        Prop::Key(key)
    }
}

impl From<usize> for Prop {
    fn from(index: usize) -> Self {
        Prop::Index(index)
    }
}

impl fmt::Display for Prop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prop::Key(key) => write!(f, "{key:?}"),
            Prop::Index(index) => write!(f, "{index}"),
        }
    }
}

impl From<&Prop> for am::Prop {
    fn from(prop: &Prop) -> Self {
        match prop {
            Prop::Key(key) => am::Prop::Map(key.clone()),
            Prop::Index(index) => am::Prop::Seq(*index),
        }
    }
}

impl From<am::Prop> for Prop {
    fn from(prop: am::Prop) -> Self {
        match prop {
            am::Prop::Map(key) => Prop::Key(key),
            am::Prop::Seq(index) => Prop::Index(index),
        }
    }
}

/// A handle to a map, list or text of one document. It stays good while the object moves within its list, and when the view is
/// made again; it means nothing in another document, and nothing on the wire. A handle of an object whose change was not yet
/// closed equals the later ones.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjId(pub(super) OpName);

impl ObjId {
    /// The map that every document starts with.
    pub const ROOT: ObjId = ObjId(OpName::ROOT);
}

impl fmt::Debug for ObjId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjId({})", self.0)
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjKind {
    /// Keys to values.
    Map,
    /// An ordered list of values.
    List,
    /// Collaborative text.
    Text,
}

impl From<am::ObjType> for ObjKind {
    fn from(kind: am::ObjType) -> Self {
        match kind {
            am::ObjType::Map | am::ObjType::Table => ObjKind::Map,
            am::ObjType::List => ObjKind::List,
            am::ObjType::Text => ObjKind::Text,
        }
    }
}

impl From<ObjKind> for am::ObjType {
    fn from(kind: ObjKind) -> Self {
        match kind {
            ObjKind::Map => am::ObjType::Map,
            ObjKind::List => am::ObjType::List,
            ObjKind::Text => am::ObjType::Text,
        }
    }
}

/// A value that is no object.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// Nothing, on purpose.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating-point number.
    F64(f64),
    /// A string that is replaced as a whole (collaborative text is an object).
    Str(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// A number whose concurrent increments add up.
    Counter(i64),
    /// A value of a kind that this version does not know, kept as it came.
    Unknown {
        /// Kind number.
        code: u8,
        /// Raw bytes.
        bytes: Vec<u8>,
    },
}

impl Scalar {
    /// Bytes of content, as the rules count them.
    pub(super) fn size(&self) -> usize {
        match self {
            Scalar::Str(text) => text.len(),
            Scalar::Bytes(bytes) | Scalar::Unknown { bytes, .. } => bytes.len(),
            _ => 10,
        }
    }

    /// The JSON form: bytes as a list of numbers, timestamps and counters as numbers, NaN and infinities as null.
    pub fn to_json(&self) -> Json {
        match self {
            Scalar::Null => Json::Null,
            Scalar::Bool(b) => Json::from(*b),
            Scalar::Int(n) | Scalar::Timestamp(n) | Scalar::Counter(n) => Json::from(*n),
            Scalar::Uint(n) => Json::from(*n),
            Scalar::F64(n) => Json::from(*n),
            Scalar::Str(text) => Json::from(text.as_str()),
            Scalar::Bytes(bytes) | Scalar::Unknown { bytes, .. } => Json::from(bytes.as_slice()),
        }
    }
}

macro_rules! scalar_from {
    ($($from:ty => $variant:ident),+) => { $(impl From<$from> for Scalar {
        fn from(value: $from) -> Self { Scalar::$variant(value.into()) }
    })+ };
}
scalar_from!(bool => Bool, i64 => Int, i32 => Int, u64 => Uint, u32 => Uint, f64 => F64, &str => Str, String => Str, Vec<u8> => Bytes);

impl From<&am::ScalarValue> for Scalar {
    fn from(value: &am::ScalarValue) -> Self {
        match value {
            am::ScalarValue::Null => Scalar::Null,
            am::ScalarValue::Boolean(b) => Scalar::Bool(*b),
            am::ScalarValue::Int(n) => Scalar::Int(*n),
            am::ScalarValue::Uint(n) => Scalar::Uint(*n),
            am::ScalarValue::F64(n) => Scalar::F64(*n),
            am::ScalarValue::Str(text) => Scalar::Str(text.to_string()),
            am::ScalarValue::Bytes(bytes) => Scalar::Bytes(bytes.clone()),
            am::ScalarValue::Timestamp(n) => Scalar::Timestamp(*n),
            am::ScalarValue::Counter(c) => Scalar::Counter(c.into()),
            am::ScalarValue::Unknown { type_code, bytes } => Scalar::Unknown { code: *type_code, bytes: bytes.clone() },
        }
    }
}

impl From<Scalar> for am::ScalarValue {
    fn from(value: Scalar) -> Self {
        match value {
            Scalar::Null => am::ScalarValue::Null,
            Scalar::Bool(b) => am::ScalarValue::Boolean(b),
            Scalar::Int(n) => am::ScalarValue::Int(n),
            Scalar::Uint(n) => am::ScalarValue::Uint(n),
            Scalar::F64(n) => am::ScalarValue::F64(n),
            Scalar::Str(text) => am::ScalarValue::Str(text.into()),
            Scalar::Bytes(bytes) => am::ScalarValue::Bytes(bytes),
            Scalar::Timestamp(n) => am::ScalarValue::Timestamp(n),
            Scalar::Counter(n) => am::ScalarValue::counter(n),
            Scalar::Unknown { code, bytes } => am::ScalarValue::Unknown { type_code: code, bytes },
        }
    }
}

/// What stands at a place of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A plain value.
    Scalar(Scalar),
    /// An object, by its handle.
    Object(ObjKind, ObjId),
}

impl Value {
    pub(super) fn from_am((value, id): (am::Value<'_>, am::ObjId), ids: Ids<'_>) -> Value {
        match value {
            am::Value::Object(kind) => Value::Object(kind.into(), ids.handle(&id)),
            am::Value::Scalar(scalar) => Value::Scalar(scalar.as_ref().into()),
        }
    }
}

/// The JSON form of a hydrated object.
pub(super) fn hydrated_json(value: &am::hydrate::Value) -> Json {
    match value {
        am::hydrate::Value::Scalar(scalar) => Scalar::from(scalar).to_json(),
        am::hydrate::Value::Map(map) => {
            Json::Object(map.iter().map(|(key, entry)| (key.clone(), hydrated_json(&entry.value))).collect())
        }
        am::hydrate::Value::List(list) => Json::Array(list.iter().map(|entry| hydrated_json(&entry.value)).collect()),
        am::hydrate::Value::Text(text) => Json::String(String::from(text)),
    }
}
