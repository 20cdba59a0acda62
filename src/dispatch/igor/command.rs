//! Classic igor's program: `igor show`, `sub`, `del`.

use std::sync::Arc;
use std::time::Duration;

use super::{BadReservations, Reservation, read};
use crate::host::cage::{Cage, Job};
use crate::node::local::Processes;
use crate::node::{Command, ExitStatus, Stream};
use crate::text::printable;

/// How long igor may take. It installs images of hosts meanwhile.
const LIMIT: Duration = Duration::from_secs(300);

/// The program.
#[derive(Debug, Clone)]
pub struct Igor {
    program: String,
}

/// What is to be reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Name of the reservation.
    pub name: String,
    /// Which hosts.
    pub size: Size,
    /// What they boot, as igor's options: `-k KERNEL -i INITRD` or `-profile NAME`.
    pub boot: Vec<String>,
    /// For how long, as igor takes it: `2d`, `90` (minutes); `None` for igor's own choice.
    pub time: Option<String>,
}

/// Which hosts are reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// So many.
    Count(u32),
    /// These: `kn[1-3]`.
    Hosts(String),
}

/// igor could not do it.
#[derive(Debug, thiserror::Error)]
pub enum IgorError {
    /// There is no igor.
    #[error("program `{0}` not found")]
    NoProgram(String),
    /// It says why.
    #[error("`igor {what}` failed: {text}")]
    Failed {
        /// Its subcommand.
        what: String,
        /// Its words.
        text: String,
    },
    /// It does not end.
    #[error("`igor {what}` has not ended within {LIMIT:?}")]
    TimedOut {
        /// Its subcommand.
        what: String,
    },
    /// It could not be started or waited for.
    #[error("cannot run igor")]
    Io(#[from] std::io::Error),
    /// What it prints is not known.
    #[error(transparent)]
    Read(#[from] BadReservations),
    /// The reservation was made for later, because its hosts are taken.
    #[error("reservation {name} begins only at {start}: its hosts are taken until then")]
    Later {
        /// Its name.
        name: String,
        /// RFC 3339.
        start: String,
    },
    /// igor has said that it was made, and does not have it.
    #[error("igor has no reservation {0} although it was made")]
    Missing(String),
}

impl Igor {
    /// A program in `PATH`, or a path.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned() }
    }

    /// All reservations.
    ///
    /// # Errors
    /// See [`IgorError`].
    pub async fn show(&self) -> Result<Vec<Reservation>, IgorError> {
        // With colours it would print escape sequences, and without `-t=false` scan the network.
        let text = self.run(&["show", "-t=false", "-json"]).await?;
        Ok(read(&text)?)
    }

    /// Makes a reservation that is in force at once. `now` tells the time (seconds since 1970): igor may have waited for its turn.
    ///
    /// # Errors
    /// [`IgorError::Later`] for one that begins later, which stays; others as they come.
    pub async fn reserve(&self, order: &Order, now: impl FnOnce() -> i64) -> Result<Reservation, IgorError> {
        let mut words = vec!["sub", "-r", &order.name];
        words.extend(order.boot.iter().map(String::as_str));
        let count;
        match &order.size {
            Size::Count(number) => {
                count = number.to_string();
                words.extend(["-n", &count]);
            }
            Size::Hosts(hosts) => words.extend(["-w", hosts]),
        }
        if let Some(time) = &order.time {
            words.extend(["-t", time]);
        }
        self.run(&words).await?;
        let made = self.show().await?.into_iter().find(|one| one.name == order.name);
        let made = made.ok_or_else(|| IgorError::Missing(order.name.clone()))?;
        // It begins with the current minute, so that it never begins within the next one by itself.
        if made.is_active(now()) {
            return Ok(made);
        }
        let start = jiff::Timestamp::from_second(made.start).map_or_else(|_| made.start.to_string(), |t| t.to_string());
        Err(IgorError::Later { name: made.name, start })
    }

    /// Ends a reservation.
    ///
    /// # Errors
    /// See [`IgorError`].
    pub async fn release(&self, name: &str) -> Result<(), IgorError> {
        self.run(&["del", name]).await.map(drop)
    }

    async fn run(&self, words: &[&str]) -> Result<String, IgorError> {
        let what = words.first().copied().unwrap_or_default().to_owned();
        let processes = Arc::new(Processes::new(Cage::open_or_groups()?));
        let argv = std::iter::once(self.program.as_str()).chain(words.iter().copied()).map(str::to_owned).collect();
        let command = Command { argv, ..Command::default() };
        // igor looks for kernels where it is started, as its users are used to.
        let job = Job { command, directory: std::env::current_dir()?, namespace: None };
        let mut process = processes.spawn(job).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => IgorError::NoProgram(self.program.clone()),
            _ => IgorError::Io(error),
        })?;
        let ended = tokio::time::timeout(LIMIT, process.wait()).await;
        let output = |stream| String::from_utf8_lossy(&process.output(stream).bytes).into_owned();
        let result = match ended {
            Err(_) => Err(IgorError::TimedOut { what }),
            Ok(Err(error)) => Err(IgorError::Io(std::io::Error::other(error))),
            Ok(Ok(exit)) if exit.status == ExitStatus::Code(0) => Ok(output(Stream::Out)),
            Ok(Ok(exit)) => {
                let said = last_words(&output(Stream::Err));
                let text = if said.is_empty() { exit.status.to_string() } else { said };
                Err(IgorError::Failed { what, text })
            }
        };
        processes.close().await?;
        result
    }
}

/// The last line without time, colours and place in the source:
/// `2026/11/22 21:18:52 [33mFATAL sub.go:161: [31mA reservation named que1 already exists.[0m`.
fn last_words(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let plain = without_colours(line);
    let said =
        plain.split_once(".go:").and_then(|(_, rest)| rest.split_once(": ")).map_or(plain.as_str(), |(_, said)| said);
    printable(said, 300)
}

fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// An igor that prints the recorded answer to `show`, whose other subcommands go as they are told to.
    fn igor(place: &Path, sub: &str) -> Igor {
        let data = include_str!("../../../tests/data/igor/classic.txt");
        let show = data.lines().find(|line| line.starts_with("{\"Prefix")).unwrap();
        std::fs::write(place.join("show"), show).unwrap();
        let path = place.join("igor");
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in show) [ \"$2$3\" = -t=false-json ] && cat {0}/show;;\n\
             sub) echo \"$*\" >{0}/said; {sub};;\ndel) [ \"$2\" = que1 ] || {{ \
             printf '2026/11/22 21:18:52 \\033[33mFATAL del.go:33: \\033[31mreservation does not exist: nosuch\\033[0m\\n' >&2; exit 1; }};;\nesac\n",
            place.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Igor::new(path.to_str().unwrap())
    }

    fn order(name: &str) -> Order {
        let boot = ["-k", "/k", "-i", "/i"].map(str::to_owned).to_vec();
        Order { name: name.to_owned(), size: Size::Count(2), boot, time: Some("2d".to_owned()) }
    }

    /// When the session was recorded.
    const NOW: i64 = 1_795_382_332;

    #[tokio::test]
    async fn a_reservation_counts_only_when_it_is_in_force() {
        let place = tempfile::tempdir().unwrap();
        let igor = igor(place.path(), "echo made");
        assert_eq!(igor.show().await.unwrap().len(), 3);
        assert_eq!(igor.reserve(&order("que1"), || NOW).await.unwrap().hosts, ["kn1", "kn2", "kn3"]);
        let said = std::fs::read_to_string(place.path().join("said")).unwrap();
        assert_eq!(said, "sub -r que1 -k /k -i /i -n 2 -t 2d\n");
        // `igor sub` had said of it: Reservation created for Nov 22 22:18.
        let error = igor.reserve(&order("que3"), || NOW).await.unwrap_err().to_string();
        assert_eq!(error, "reservation que3 begins only at 2026-11-22T22:18:00Z: its hosts are taken until then");
        let error = igor.reserve(&order("que4"), || NOW).await.unwrap_err();
        assert!(matches!(error, IgorError::Missing(_)), "{error}");
    }

    #[tokio::test]
    async fn failures_are_told_in_igors_words() {
        let place = tempfile::tempdir().unwrap();
        let igor = igor(place.path(), "exit 3");
        igor.release("que1").await.unwrap();
        let error = igor.release("nosuch").await.unwrap_err().to_string();
        assert_eq!(error, "`igor del` failed: reservation does not exist: nosuch");
        assert_eq!(
            igor.reserve(&order("a"), || NOW).await.unwrap_err().to_string(),
            "`igor sub` failed: exit status 3"
        );
        let none = Igor::new("/no/such/igor").show().await.unwrap_err();
        assert!(matches!(none, IgorError::NoProgram(_)), "{none}");
        // What is no igor at all, or an unknown subcommand, ends with 0.
        assert!(matches!(Igor::new("true").show().await.unwrap_err(), IgorError::Read(_)));
    }
}
