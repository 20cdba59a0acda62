//! Reservations as the three kinds of igor write them. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::Reservation;
use crate::text::printable;

/// Most reservations that are read.
const MOST: usize = 100_000;

/// The text has no reservations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reservations of igor: {0}")]
pub struct BadReservations(String);

fn bad(what: impl Into<String>) -> BadReservations {
    BadReservations(what.into())
}

/// A reservation of any kind.
#[derive(Deserialize)]
struct Raw {
    #[serde(alias = "Name", alias = "ResName")]
    name: String,
    #[serde(default, alias = "Owner")]
    owner: String,
    #[serde(alias = "Start", alias = "StartTime")]
    start: When,
    #[serde(alias = "End", alias = "EndTime")]
    end: When,
    #[serde(default, alias = "Hosts")]
    hosts: Option<Vec<String>>,
    #[serde(default, alias = "Installed")]
    installed: Option<bool>,
    #[serde(default, alias = "InstallError", rename = "installError")]
    failure: Option<String>,
}

/// Classic igor from 2.6 on writes RFC 3339, the others seconds since 1970.
#[derive(Deserialize)]
#[serde(untagged)]
enum When {
    Seconds(i64),
    Text(String),
}

impl When {
    fn seconds(&self, name: &str) -> Result<i64, BadReservations> {
        match self {
            Self::Seconds(seconds) => Ok(*seconds),
            Self::Text(text) => {
                let time: Result<jiff::Timestamp, _> = text.parse();
                time.map(jiff::Timestamp::as_second)
                    .map_err(|_| bad(format!("{}: `{}` is no time", printable(name, 60), printable(text, 40))))
            }
        }
    }
}

impl Raw {
    fn checked(self) -> Result<Reservation, BadReservations> {
        let (start, end) = (self.start.seconds(&self.name)?, self.end.seconds(&self.name)?);
        let shown = |text: String| printable(&text, 200);
        let hosts = self.hosts.unwrap_or_default();
        if let Some(strange) = hosts.iter().find(|host| !is_host(host)) {
            return Err(bad(format!(
                "{}: `{}` is no name of a host",
                printable(&self.name, 60),
                printable(strange, 80)
            )));
        }
        Ok(Reservation {
            start,
            end,
            name: shown(self.name),
            owner: shown(self.owner),
            hosts,
            installed: self.installed,
            failure: self.failure.map(shown).filter(|text| !text.is_empty()),
        })
    }
}

/// They are joined by commas, and handed to programs.
fn is_host(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() < 256 && name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

/// Reads any of the three forms; which one it is, it says itself.
///
/// # Errors
/// For anything else, and for a refusal of igor2's in its words.
pub fn read(text: &str) -> Result<Vec<Reservation>, BadReservations> {
    let value: Value = serde_json::from_str(text).map_err(|error| bad(printable(&error.to_string(), 200)))?;
    let Value::Object(fields) = &value else { return Err(bad("it is no JSON object")) };
    let list = if let Some(list) = fields.get("Reservations") {
        elements(list)?
    } else if let Some(data) = fields.get("data") {
        match data.get("reservations") {
            Some(list) => elements(list)?,
            None => return Err(bad(format!("igor says: {}", said(&value)))),
        }
    } else if fields.contains_key("status") && fields.contains_key("message") {
        return Err(bad(format!("igor says: {}", said(&value))));
    } else {
        // An object of identifiers and reservations.
        fields.values().collect()
    };
    if list.len() > MOST {
        return Err(bad(format!("{} are too many ({MOST} at most)", list.len())));
    }
    list.into_iter()
        .map(|one| Raw::deserialize(one).map_err(|error| bad(printable(&error.to_string(), 200)))?.checked())
        .collect()
}

/// A list that igor writes as `null` when it is empty.
fn elements(list: &Value) -> Result<Vec<&Value>, BadReservations> {
    match list {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => Ok(all.iter().collect()),
        _ => Err(bad("its reservations are no list")),
    }
}

fn said(value: &Value) -> String {
    printable(value.get("message").and_then(Value::as_str).unwrap_or("nothing"), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a recorded session that are JSON: `igor show -t=false -json`, and later the file.
    fn recorded() -> Vec<&'static str> {
        let text = include_str!("../../../tests/data/igor/classic.txt");
        text.lines().filter(|line| line.starts_with("{\"")).collect()
    }

    fn names(text: &str) -> Vec<(String, i64, Vec<String>)> {
        read(text).unwrap().into_iter().map(|one| (one.name, one.end - one.start, one.hosts)).collect()
    }

    #[test]
    fn classic_igor_is_read_as_it_was_recorded() {
        let lines = recorded();
        let [show, file] = lines.as_slice() else { panic!("{}", lines.len()) };
        let hosts = |hosts: &[&str]| hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            names(show),
            [
                ("que1".to_owned(), 172_800, hosts(&["kn1", "kn2", "kn3"])),
                ("que2".to_owned(), 3600, hosts(&["kn4", "kn5"])),
                ("que3".to_owned(), 3600, hosts(&["kn4", "kn5"])),
            ]
        );
        let all = read(show).unwrap();
        assert_eq!((all[0].installed, all[2].installed, all[2].failure.clone()), (Some(true), Some(false), None));
        // `que3` has the hosts of `que2`, later: `igor sub` had said that it was created.
        let now = all[1].start;
        assert!(all[1].is_active(now) && !all[2].is_active(now) && all[2].is_active(all[1].end));
        assert_eq!(names(file).len(), 2);
    }

    #[test]
    fn the_oldest_files_have_other_names() {
        let text =
            r#"{"17":{"ResName":"que1","Hosts":["kn1"],"StartTime":1000,"EndTime":4600,"Duration":60,"Owner":"a"}}"#;
        assert_eq!(names(text), [("que1".to_owned(), 3600, vec!["kn1".to_owned()])]);
    }

    #[test]
    fn igor2_answers_in_an_envelope() {
        let text = r#"{"status":"success","message":"","serverTime":"x","data":{"reservations":[
            {"name":"que1","owner":"a","start":1000,"end":2000,"hosts":["kn1","kn2"],"hostRange":"kn[1-2]","installed":true,"installError":""}]}}"#;
        let all = read(text).unwrap();
        assert_eq!((all[0].hosts.len(), all[0].installed, &all[0].failure), (2, Some(true), &None));
        assert_eq!(read(r#"{"status":"success","message":"","data":{"reservations":null}}"#).unwrap(), []);
        for refused in
            [r#"{"status":"error","message":"no token","data":{}}"#, r#"{"status":"error","message":"no token"}"#]
        {
            assert_eq!(read(refused).unwrap_err().to_string(), "no reservations of igor: igor says: no token");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "[]",
            "x",
            r#"{"Reservations":7}"#,
            r#"{"Reservations":[{"Name":"a"}]}"#,
            r#"{"1":{"Name":"a","Start":"x","End":1}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("{}").unwrap(), []);
        assert_eq!(read(r#"{"Reservations":null}"#).unwrap(), []);
    }
}
