//! The hosts that iterations are to run on, as the user names them.

use std::fmt;
use std::path::Path;

/// A host as ssh takes it: `[user@]name[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    /// `None` for what `ssh_config` says, or the name of the user here.
    user: Option<String>,
    /// Name, address, or a name from `ssh_config`.
    name: String,
    /// `None` for what `ssh_config` says, or 22.
    port: Option<u16>,
}

/// The text names no host.
#[derive(Debug, thiserror::Error)]
#[error("{place}`{text}` is no host: {why} (`kn1`, `root@kn1`, `root@10.0.0.7:2222`)")]
pub struct BadHost {
    /// Where it is written, with a colon and a blank; empty on the command line.
    place: String,
    text: String,
    why: &'static str,
}

impl Host {
    /// One that nobody logs in to, by the name that whoever chose it gave.
    pub(super) fn named(name: &str) -> Self {
        Self { user: None, name: name.to_owned(), port: None }
    }

    /// Where to log in to, as ssh takes it.
    pub fn login(&self) -> String {
        self.user.as_ref().map_or_else(|| self.name.clone(), |user| format!("{user}@{}", self.name))
    }

    /// `None` for the usual one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    fn parse(text: &str, place: &str) -> Result<Self, BadHost> {
        let bad = |why| BadHost { place: place.to_owned(), text: crate::text::printable(text, 100), why };
        let (user, rest) = match text.split_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| bad("after `:` comes the number of a port"))?)),
            None => (rest, None),
        };
        let fits = |word: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            // What begins with a hyphen would be an option of ssh's.
            !word.is_empty() && !word.starts_with('-') && word.chars().all(allowed)
        };
        if !fits(name) {
            return Err(bad("a name has letters, digits, `.`, `_` and `-`"));
        }
        if user.as_deref().is_some_and(|user| !fits(user)) {
            return Err(bad("a user's name has letters, digits, `.`, `_` and `-`"));
        }
        Ok(Self { user, name: name.to_owned(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.login())?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Hosts separated by commas.
///
/// # Errors
/// For one that is none, or is there twice, and when there is none.
pub fn from_list(text: &str) -> Result<Vec<Host>, BadHost> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    checked(words.map(|word| Host::parse(word, "")).collect::<Result<_, _>>()?, text, "")
}

/// Hosts of a file, one in a line; what follows `#` does not count.
///
/// # Errors
/// As [`from_list`].
pub fn from_file(path: &Path, text: &str) -> Result<Vec<Host>, BadHost> {
    let mut hosts = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if !word.is_empty() {
            hosts.push(Host::parse(word, &format!("{}:{}: ", path.display(), number + 1))?);
        }
    }
    checked(hosts, "", &format!("{}: ", path.display()))
}

fn checked(hosts: Vec<Host>, text: &str, place: &str) -> Result<Vec<Host>, BadHost> {
    let bad = |text: String, why| Err(BadHost { place: place.to_owned(), text, why });
    if hosts.is_empty() {
        return bad(text.to_owned(), "there is not one");
    }
    for (at, host) in hosts.iter().enumerate() {
        if hosts[..at].contains(host) {
            return bad(host.to_string(), "it is there twice, and a host runs one iteration at a time");
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_ssh_takes_them() {
        let hosts = from_list("kn1, root@10.0.0.7:2222").unwrap();
        assert_eq!(hosts[0].login(), "kn1");
        assert_eq!((hosts[1].login().as_str(), hosts[1].port()), ("root@10.0.0.7", Some(2222)));
        assert_eq!(hosts[1].to_string(), "root@10.0.0.7:2222");
        let file = "# the cluster\nkn1   # head\n\nme@kn2\n";
        assert_eq!(from_file(Path::new("h"), file).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_place() {
        for (text, why) in [
            ("", "there is not one"),
            ("-oProxyCommand=x", "a name has letters"),
            ("kn1;reboot", "a name has letters"),
            ("@kn1", "a user's name"),
            ("kn1:x", "the number of a port"),
            ("kn1,kn2,kn1", "it is there twice"),
        ] {
            let error = from_list(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = from_file(Path::new("hosts"), "kn1\nkn 2\n").unwrap_err().to_string();
        assert!(error.starts_with("hosts:2: `kn 2` is no host: "), "{error}");
    }
}
