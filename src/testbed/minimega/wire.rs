//! Bytes of a command socket: JSON values one after the other, the messages in them, tables. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::printable;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// minimega's: requests have three fields.
    Minimega,
    /// rond's: requests have one field, answers no `Status`.
    Rond,
}

/// Deepest nesting that is followed.
const DEPTH: u32 = 100;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FullRequest<'a> {
    command: &'a str,
    suggest: &'a str,
    plumb_pipe: &'a str,
}

/// The request for a command, as bytes.
pub fn request(dialect: Dialect, line: &str) -> Vec<u8> {
    let json = match dialect {
        Dialect::Minimega => serde_json::to_vec(&FullRequest { command: line, suggest: "", plumb_pipe: "" }),
        Dialect::Rond => serde_json::to_vec(&serde_json::json!({ "Command": line })),
    };
    let mut bytes = json.expect("texts become JSON");
    bytes.push(b'\n');
    bytes
}

/// One message of the daemon's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    /// One for each host; `null` for a blank line or a comment.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub resp: Vec<Response>,
    /// Does the answer go on?
    #[serde(default)]
    pub more: bool,
    /// Is it news of a transfer, which belongs to no answer?
    #[serde(default)]
    pub status: bool,
}

/// What one host answers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Response {
    /// Its name.
    #[serde(default)]
    pub host: String,
    /// The answer in words; empty for a table or none.
    #[serde(default, rename = "Response")]
    pub text: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    header: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    tabular: Vec<Vec<String>>,
    /// Why it could not be done; empty for done.
    #[serde(default)]
    pub error: String,
    /// The answer as data; `Null` for none.
    #[serde(default)]
    pub data: Value,
}

fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The whole answer to a command. No response in it has an error.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// In the order of their arrival.
    pub responses: Vec<Response>,
}

/// What came makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Garbled(pub(super) String);

impl Answer {
    /// The words of the only host; empty for none.
    pub fn text(&self) -> &str {
        self.responses.first().map_or("", |response| response.text.as_str())
    }

    /// The number of the command that was posted (`Data`, since minimega 2.6).
    ///
    /// # Errors
    /// When no host or more than one says one.
    pub fn id(&self) -> Result<u64, Garbled> {
        let mut ids = self.responses.iter().filter_map(|response| response.data.as_u64());
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(Garbled("it has no command number in `Data`".to_owned())),
            (Some(_), Some(_)) => Err(Garbled("several hosts have given the command numbers".to_owned())),
        }
    }

    /// The table of all hosts, with at least these columns. Hosts without rows may have no columns.
    ///
    /// # Errors
    /// When a column is missing, or a row has not as many fields as its header.
    pub fn table(&self, columns: &[&str]) -> Result<Vec<Row>, Garbled> {
        let mut rows = Vec::new();
        for response in &self.responses {
            if response.tabular.is_empty() {
                continue;
            }
            if let Some(missing) = columns.iter().find(|name| !response.header.iter().any(|have| have == *name)) {
                let have = printable(&response.header.join(", "), 300);
                return Err(Garbled(format!("its table has no column `{missing}` (it has: {have})")));
            }
            for fields in &response.tabular {
                if fields.len() != response.header.len() {
                    let (fields, header) = (fields.len(), response.header.len());
                    return Err(Garbled(format!("a row has {fields} fields under {header} columns")));
                }
                let fields = response.header.iter().cloned().zip(fields.iter().cloned()).collect();
                rows.push(Row { host: response.host.clone(), fields });
            }
        }
        Ok(rows)
    }
}

/// A row of a table: fields by the names of their columns, never by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    host: String,
    fields: Vec<(String, String)>,
}

impl Row {
    /// Name of the host that has said it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The field of a column; `None` for a column there is not.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == column).map(|(_, field)| field.as_str())
    }

    /// The field of a column that [`Answer::table`] was asked for; empty otherwise.
    pub fn field(&self, column: &str) -> &str {
        self.get(column).unwrap_or_default()
    }
}

/// Finds where JSON objects end in bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Splitter {
    depth: u32,
    in_string: bool,
    escaped: bool,
    scanned: usize,
}

impl Splitter {
    /// Number of bytes at the beginning of `bytes` that are the next object with the blanks before it; `None` while it is
    /// incomplete. Bytes that were there at the call before must be there again.
    ///
    /// # Errors
    /// When what comes is no object, or one too deep.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<usize>, Garbled> {
        for (at, &byte) in bytes.iter().enumerate().skip(self.scanned) {
            if self.step(byte)? {
                *self = Self::default();
                return Ok(Some(at + 1));
            }
        }
        self.scanned = bytes.len();
        Ok(None)
    }

    /// Was this the last byte of an object?
    fn step(&mut self, byte: u8) -> Result<bool, Garbled> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'{' | b'[' if self.depth > 0 || byte == b'{' => {
                self.depth += 1;
                if self.depth > DEPTH {
                    return Err(Garbled(format!("it is nested more than {DEPTH} deep")));
                }
            }
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            b'"' if self.depth > 0 => self.in_string = true,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.depth > 0 => {}
            other => return Err(Garbled(format!("it begins with byte {other:#04x} and is no JSON object"))),
        }
        Ok(false)
    }
}

impl Message {
    /// # Errors
    /// When the object is no message.
    pub fn parse(bytes: &[u8]) -> Result<Self, Garbled> {
        serde_json::from_slice(bytes).map_err(|error| Garbled(printable(&error.to_string(), 200)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(json: &str) -> Answer {
        Answer { responses: Message::parse(json.as_bytes()).unwrap().resp }
    }

    #[test]
    fn requests_are_as_the_programs_own_clients_send_them() {
        assert_eq!(
            request(Dialect::Minimega, "a \"b\""),
            b"{\"Command\":\"a \\\"b\\\"\",\"Suggest\":\"\",\"PlumbPipe\":\"\"}\n"
        );
        assert_eq!(request(Dialect::Rond, "clients"), b"{\"Command\":\"clients\"}\n");
    }

    #[test]
    fn tables_are_read_by_their_headers() {
        let text = r#"{"Resp":[{"Header":["b","a"],"Tabular":[["2","1"]]},{"Header":["a"],"Tabular":[["3"]]}]}"#;
        let rows = answer(text).table(&["a"]).unwrap();
        assert_eq!(rows.iter().map(|row| row.field("a")).collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!((rows[0].get("b"), rows[1].get("b")), (Some("2"), None));
        let error = answer(text).table(&["b"]).unwrap_err().to_string();
        assert_eq!(error, "its table has no column `b` (it has: a)");
    }

    #[test]
    fn null_and_empty_tables_are_the_same() {
        for tabular in ["null", "[]"] {
            let text = format!(r#"{{"Resp":[{{"Header":["a"],"Tabular":{tabular}}}]}}"#);
            assert_eq!(answer(&text).table(&["a"]).unwrap(), []);
        }
        assert_eq!(answer(r#"{"Resp":null,"Rendered":""}"#), Answer::default());
    }

    #[test]
    fn a_row_that_does_not_fit_its_header_is_refused() {
        let text = r#"{"Resp":[{"Header":["a","b"],"Tabular":[["1"]]}]}"#;
        assert_eq!(answer(text).table(&["a"]).unwrap_err().to_string(), "a row has 1 fields under 2 columns");
    }

    #[test]
    fn ids_come_from_data() {
        assert_eq!(answer(r#"{"Resp":[{"Data":17}]}"#).id().unwrap(), 17);
        for bad in [r#"{"Resp":[{"Data":null}]}"#, r#"{"Resp":[{"Data":1},{"Data":2}]}"#, r#"{"Resp":[{"Data":-1}]}"#] {
            answer(bad).id().unwrap_err();
        }
    }

    #[test]
    fn other_things_than_objects_are_refused_at_their_first_byte() {
        for bad in ["x", "[", "\"a\"", "}", "1", "\u{0}"] {
            assert!(Splitter::default().next(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(200));
        assert!(Splitter::default().next(deep.as_bytes()).is_err());
    }

    proptest! {
        /// Strings may hold braces, quotes and backslashes, and bytes come in any pieces.
        #[test]
        fn objects_are_found_whole(texts in proptest::collection::vec("[\\\\\"{}\\[\\]a\n]{0,20}", 1..4), piece in 1_usize..9) {
            let all: Vec<u8> = texts
                .iter()
                .flat_map(|text| serde_json::to_vec(&serde_json::json!({ "Rendered": text, "Resp": [{ "Host": text }] })).unwrap())
                .collect();
            let (mut splitter, mut buffer, mut found) = (Splitter::default(), Vec::new(), Vec::new());
            for bytes in all.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some(end) = splitter.next(&buffer).unwrap() {
                    let message = Message::parse(&buffer[..end]).unwrap();
                    found.push(message.resp[0].host.clone());
                    buffer.drain(..end);
                }
            }
            prop_assert_eq!(found, texts);
            prop_assert!(buffer.is_empty());
        }
    }
}
