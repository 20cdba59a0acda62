//! Reservations of hosts with igor: which there are, and which of them are in force.
//!
//! Three kinds of igor say it in three ways: classic igor's `igor show -t=false -json` (minimega 2.6 to 2.9; without `-t=false`
//! it runs nmap), the file `reservations.json` of all classic ones (other names of fields up to 2.5), and the answer of
//! igor2's `GET /igor/reservations`.

mod command;
mod read;

pub use command::{Igor, IgorError, Order, Size};
pub use read::{BadReservations, read};

use regex::Regex;

/// Hosts that somebody has for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its name.
    pub name: String,
    /// Whose it is; empty where igor does not say.
    pub owner: String,
    /// From when, in seconds since 1970.
    pub start: i64,
    /// Until when, likewise.
    pub end: i64,
    /// Its hosts, in igor's order.
    pub hosts: Vec<String>,
    /// Is its image in place, so that a host that boots now boots it? `None` where igor does not say.
    pub installed: Option<bool>,
    /// Why it is not; `None` for no failure.
    pub failure: Option<String>,
}

impl Reservation {
    /// Is it in force? One that starts later is not one that somebody has.
    pub const fn is_active(&self, now: i64) -> bool {
        self.start <= now && now < self.end
    }

    /// Its first host, on which the head of an experiment runs; `None` for a reservation without hosts.
    pub fn head(&self) -> Option<&str> {
        self.hosts.first().map(String::as_str)
    }
}

/// Those in force whose whole name matches, by name: `que1` is not `que10`. (`igor.py` took every name that begins so.)
pub fn matching<'a>(all: &'a [Reservation], expression: &Regex, now: i64) -> Vec<&'a Reservation> {
    // Alternatives may match less than another would, so the whole is asked for.
    let whole = Regex::new(&format!("^(?:{expression})$"));
    let is_it = |name: &str| whole.as_ref().is_ok_and(|whole| whole.is_match(name));
    let mut found: Vec<_> = all.iter().filter(|one| one.is_active(now) && is_it(&one.name)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(name: &str, start: i64, hosts: &[&str]) -> Reservation {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Reservation { name: name.into(), owner: "root".into(), start, end: 100, hosts, installed: None, failure: None }
    }

    #[test]
    fn only_reservations_in_force_are_had() {
        let all = [
            reservation("que2", 50, &["kn4"]),
            reservation("que1", 10, &["kn1", "kn2"]),
            reservation("xque", 0, &["kn9"]),
        ];
        let names = |expression: &str, now| {
            let found = matching(&all, &Regex::new(expression).unwrap(), now);
            found.iter().map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names("que[0-9]+", 49), ["que1"]);
        assert_eq!(names("que[0-9]+", 50), ["que1", "que2"]);
        assert_eq!(names("que.", 99), ["que1", "que2"]);
        assert_eq!(names("que", 99), [] as [&str; 0], "names that begin so are others");
        assert_eq!(names("que.", 100), [] as [&str; 0]);
        assert_eq!(names("que1|x.*", 60), ["que1", "xque"]);
        assert_eq!(names("que|que1", 60), ["que1"]);
        assert_eq!((all[1].head(), reservation("a", 0, &[]).head()), (Some("kn1"), None));
    }
}
