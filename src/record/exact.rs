//! Real numbers that come back bit by bit: JSON has no words for infinities and what is not a number, so they go as text.

use serde::{Deserialize, Serialize};

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Bits(String),
}

impl From<f64> for Written {
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::Bits(format!("{:016x}", value.to_bits())) }
    }
}

impl TryFrom<Written> for f64 {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(value) => Ok(value),
            Written::Bits(text) => u64::from_str_radix(&text, 16)
                .map(Self::from_bits)
                .map_err(|_| format!("`{text}` are not the bits of a number")),
        }
    }
}

/// For `Option<f64>`.
pub(super) mod option {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Written;

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Written::from).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Option<f64>, D::Error> {
        let written = Option::<Written>::deserialize(source)?;
        written.map(f64::try_from).transpose().map_err(D::Error::custom)
    }
}

/// For the values of a connection.
pub(super) mod values {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Written;

    type Values = [Vec<Option<f64>>; 2];

    pub(crate) fn serialize<S: Serializer>(values: &Values, serializer: S) -> Result<S::Ok, S::Error> {
        let way =
            |values: &Vec<Option<f64>>| -> Vec<_> { values.iter().map(|value| value.map(Written::from)).collect() };
        [way(&values[0]), way(&values[1])].serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Values, D::Error> {
        let [a, b] = <[Vec<Option<Written>>; 2]>::deserialize(source)?;
        let way = |written: Vec<Option<Written>>| {
            written.into_iter().map(|written| written.map(f64::try_from).transpose()).collect::<Result<Vec<_>, _>>()
        };
        Ok([way(a).map_err(D::Error::custom)?, way(b).map_err(D::Error::custom)?])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Both {
        #[serde(with = "super::option")]
        one: Option<f64>,
        #[serde(with = "super::values")]
        many: [Vec<Option<f64>>; 2],
    }

    fn check(bits: Option<u64>) {
        let one = bits.map(f64::from_bits);
        let text = serde_json::to_string(&Both { one, many: [vec![one, None], vec![]] }).unwrap();
        let back: Both = serde_json::from_str(&text).unwrap();
        assert_eq!(back.one.map(f64::to_bits), bits, "{text}");
        assert_eq!(back.many[0][0].map(f64::to_bits), bits, "{text}");
        assert_eq!((back.many[0].len(), back.many[0][1], back.many[1].len()), (2, None, 0));
    }

    #[test]
    fn special_values_come_back() {
        for value in [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0, f64::MAX, 1e23] {
            check(Some(value.to_bits()));
        }
        check(None);
        assert!(serde_json::from_str::<Both>(r#"{"one":"x","many":[[],[]]}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bits_come_back(bits: u64) {
            check(Some(bits));
        }
    }
}
