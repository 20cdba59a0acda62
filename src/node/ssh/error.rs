//! Why a node cannot be reached over ssh, as far as the words of OpenSSH's client tell.

use std::io;

use crate::agent::AgentError;

/// A node over ssh could not be reached, or is not fit for the agent.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// There is no `ssh` on this host.
    #[error("program `ssh` not found")]
    NoProgram,
    /// Nobody answers there, or not as an ssh server.
    #[error("{host} cannot be reached over ssh: {text}")]
    Unreachable {
        /// As ssh was told.
        host: String,
        /// In ssh's words.
        text: String,
    },
    /// The server is there and does not let us in.
    #[error("{host} refuses the login: {text}")]
    Refused {
        /// As ssh was told.
        host: String,
        /// In ssh's words.
        text: String,
    },
    /// The server's key is not the one that was expected, or none was expected of it.
    #[error("{host} does not show the host key it should: {text}")]
    HostKey {
        /// As ssh was told.
        host: String,
        /// In ssh's words.
        text: String,
    },
    /// The login is not root, and `sudo` does not let it become root without a password.
    #[error("{host}: the login is not root, and `sudo -n` does not make it root")]
    NoRoot {
        /// As ssh was told.
        host: String,
    },
    /// The node is no machine that this vptest runs on.
    #[error("{host} is a machine for {theirs}; this vptest is for {ours}")]
    Machine {
        /// As ssh was told.
        host: String,
        /// `Linux aarch64`
        theirs: String,
        /// Likewise.
        ours: String,
    },
    /// No directory takes files that can be started.
    #[error("{host}: no directory among $TMPDIR, /tmp, /var/tmp and $HOME takes programs that can be started")]
    NoPlace {
        /// As ssh was told.
        host: String,
    },
    /// A command on the node, or ssh itself, failed in another way.
    #[error("{host}: cannot {what}: {text}")]
    Failed {
        /// As ssh was told.
        host: String,
        /// Verb and object.
        what: &'static str,
        /// In the command's words.
        text: String,
    },
    /// vptest was started on the node, but does not answer as an agent.
    #[error("{host}: {source}{said}")]
    Agent {
        /// As ssh was told.
        host: String,
        /// What came instead.
        source: AgentError,
        /// What the agent or ssh said; empty, or `; …`.
        said: String,
    },
    /// Something failed on this side.
    #[error("cannot {what}")]
    Io {
        /// Verb and object.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SshError {
    /// May another attempt go better a moment later, when the node is up? A wrong key or a refused login stays.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What to do about it; `None` where the message says it all.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoProgram => Some("apt-get install openssh-client"),
            Self::NoRoot { .. } => Some("log in as root, or allow the login `NOPASSWD: ALL` in its sudoers file"),
            Self::Refused { .. } => Some("passwords are never asked for: the node must accept a key without one"),
            _ => None,
        }
    }
}

/// What ssh's last words mean when no session came about (exit status 255). It has no other way to say.
///
/// Source: the messages of OpenSSH 9.2, `sshconnect.c`, `sshconnect2.c`, `packet.c`.
pub(super) fn classify(host: &str, said: &str) -> SshError {
    const KEY: [&str; 4] = [
        "Host key verification failed",
        "HOST IDENTIFICATION HAS CHANGED",
        "host key is known for",
        "no matching host key type found",
    ];
    const REFUSED: [&str; 3] = ["Permission denied", "Too many authentication failures", "No supported authentication"];
    const UNREACHABLE: [&str; 10] = [
        "Connection refused",
        "Connection timed out",
        "Connection closed by",
        "Connection reset by",
        "Operation timed out",
        "No route to host",
        "Network is unreachable",
        "Could not resolve hostname",
        "kex_exchange_identification",
        "banner exchange",
    ];
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let (host, text) = (host.to_owned(), last_line(said));
    if has(&KEY) {
        SshError::HostKey { host, text }
    } else if has(&REFUSED) {
        SshError::Refused { host, text }
    } else if has(&UNREACHABLE) {
        SshError::Unreachable { host, text }
    } else {
        SshError::Failed { host, what: "log in", text }
    }
}

/// The last thing that was said, fit to be shown.
pub(super) fn last_line(said: &str) -> String {
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("ssh says nothing");
    crate::text::printable(last.trim(), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, is: fn(&SshError) -> bool) {
        let error = classify("node", said);
        assert!(is(&error), "{said}: {error:?}");
    }

    #[test]
    fn what_ssh_says_has_a_kind() {
        let unreachable = |e: &SshError| matches!(e, SshError::Unreachable { .. });
        let refused = |e: &SshError| matches!(e, SshError::Refused { .. });
        let key = |e: &SshError| matches!(e, SshError::HostKey { .. });
        check("ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n", unreachable);
        check("kex_exchange_identification: read: Connection reset by peer\r\n", unreachable);
        check("Connection timed out during banner exchange\r\nConnection to ::1 port 22 timed out\r\n", unreachable);
        check(
            "\"System is booting up. See pam_nologin(8)\"\r\nConnection closed by 10.0.2.15 port 22\r\n",
            unreachable,
        );
        check("root@127.0.0.1: Permission denied (publickey).\r\n", refused);
        check("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.\r\n", key);
        check("No ED25519 host key is known for x and you have requested strict checking.\r\nHost key …", key);
        check("Bad owner or permissions on /root/.ssh/config\r\n", |e| matches!(e, SshError::Failed { .. }));
    }

    #[test]
    fn the_last_words_are_printable() {
        assert_eq!(last_line("first\r\n\x1b[31mlast\x07\r\n\r\n"), "[31mlast");
        assert_eq!(last_line(""), "ssh says nothing");
    }
}
