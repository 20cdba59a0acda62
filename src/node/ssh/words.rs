//! What ssh is started with, what the node is asked, and its answer. Pure.

use std::fmt::Write as _;

use super::error::SshError;
use super::{HostKeys, Target};

/// Marks the answer among what a login may print.
const MARK: &str = "vptest-node";

/// Name under which the server's key is looked for, where only one is expected.
pub(super) fn alias(name: &str) -> String {
    format!("vptest-{name}")
}

/// File with the server's key, in the site's directory.
pub(super) fn known_hosts(name: &str) -> String {
    format!("{name}.known_hosts")
}

/// The beginning of every command: how to get there, nothing asked of anybody, nothing forwarded.
///
/// Files are named relative to the directory ssh is started in: the name of a socket holds 107 bytes.
pub(super) fn options(target: &Target, name: &str) -> Vec<String> {
    let mut argv = Argv(vec!["ssh".to_owned(), "-T".to_owned()]);
    if !target.config {
        argv.with("-F", "none");
    }
    for option in [
        "BatchMode=yes",
        "ConnectTimeout=10",
        "LogLevel=ERROR",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "ControlPersist=no",
    ] {
        argv.option(option);
    }
    argv.option(&format!("ControlPath={name}.ssh"));
    match &target.host_keys {
        HostKeys::Known => _ = argv.option("StrictHostKeyChecking=yes"),
        HostKeys::This(_) => argv.own_keys("yes", name),
        HostKeys::First => argv.own_keys("accept-new", name),
    }
    if let Some(port) = target.port {
        argv.with("-p", &port.to_string());
    }
    if let Some(user) = &target.user {
        argv.with("-l", user);
    }
    if let Some(identity) = &target.identity {
        argv.with("-i", &identity.to_string_lossy()).option("IdentitiesOnly=yes");
    }
    argv.0
}

/// For the one that logs in.
pub(super) fn master() -> Vec<String> {
    let mut argv = Argv(Vec::new());
    argv.option("ControlMaster=yes").option("ServerAliveInterval=10");
    argv.0
}

/// For those that go through it. Without the master ssh would log in anew: it is given no way to.
pub(super) fn through() -> Vec<String> {
    let mut argv = Argv(Vec::new());
    argv.option("ControlMaster=no").option("ProxyCommand=false");
    argv.0
}

struct Argv(Vec<String>);

impl Argv {
    fn with(&mut self, flag: &str, value: &str) -> &mut Self {
        self.0.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    fn option(&mut self, option: &str) -> &mut Self {
        self.with("-o", option)
    }

    fn own_keys(&mut self, strict: &str, name: &str) {
        self.option(&format!("StrictHostKeyChecking={strict}"))
            .option(&format!("UserKnownHostsFile={}", known_hosts(name)))
            .option("GlobalKnownHostsFile=none")
            .option("UpdateHostKeys=no")
            .option(&format!("HostKeyAlias={}", alias(name)));
    }
}

/// A word for the shell of a login, whichever that is: csh and fish take single quotes as sh does.
pub(super) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A script in one line without single quotes, run by sh whatever the login's shell is.
pub(super) fn in_shell(script: &str) -> String {
    format!("sh -c {}", quoted(script))
}

/// Makes a directory that takes programs, says what the node is, waits for the end of the connection and removes the
/// directory.
///
/// What an agent that runs as root left in there is root's, so that root removes it.
pub(super) fn look(nonce: &str) -> String {
    let mut script = String::new();
    let mut line = |text: &str| _ = write!(script, "{text}; ");
    line("umask 077");
    line("root=no; if [ \"$(id -u)\" = 0 ]; then root=yes; elif sudo -n true 2>/dev/null; then root=sudo; fi");
    line(
        "try() { dir=$(mktemp -d \"$1/vptest-XXXXXXXX\" 2>/dev/null) || return 1; \
          printf \"#\\041/bin/sh\\n\" > \"$dir/try\" && chmod 700 \"$dir/try\" && \"$dir/try\" 2>/dev/null \
          && rm -f \"$dir/try\" && return 0; rm -rf \"$dir\"; return 1; }",
    );
    line("try \"${TMPDIR:-/tmp}\" || try /tmp || try /var/tmp || try \"$HOME\" || dir=");
    line(&format!("echo \"{MARK} {nonce} $(uname -s) $(uname -m) $root $dir\""));
    line("cat >/dev/null");
    line("if [ -n \"$dir\" ]; then if [ $root = sudo ]; then sudo -n rm -rf \"$dir\"; fi; rm -rf \"$dir\"; fi");
    script
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    system: String,
    machine: String,
    root: Root,
    /// Its directory; empty when none takes programs.
    pub(super) place: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// The login is.
    Is,
    /// By `sudo -n`.
    Sudo,
    No,
}

impl Facts {
    /// Reads the answer; `None` for any other line.
    pub(super) fn parse(line: &str, nonce: &str) -> Option<Self> {
        let rest = line.trim_end_matches(['\r', '\n']).strip_prefix(MARK)?.strip_prefix(' ')?.strip_prefix(nonce)?;
        let mut words = rest.strip_prefix(' ')?.splitn(4, ' ');
        let mut word = || words.next().map(|word| crate::text::printable(word, 40));
        let (system, machine) = (word()?, word()?);
        let root = match words.next()? {
            "yes" => Root::Is,
            "sudo" => Root::Sudo,
            "no" => Root::No,
            _ => return None,
        };
        let place = words.next().unwrap_or_default();
        // It is put into commands: a path, and nothing that could be taken for anything else.
        let sane =
            place.is_empty() || (place.starts_with('/') && place.len() < 512 && !place.contains(char::is_control));
        sane.then(|| Self { system, machine, root, place: place.to_owned() })
    }

    /// Can the agent run there?
    pub(super) fn check(&self, host: &str) -> Result<(), SshError> {
        let host = host.to_owned();
        let theirs = format!("{} {}", self.system, self.machine);
        let ours = format!("Linux {}", std::env::consts::ARCH);
        if theirs != ours {
            return Err(SshError::Machine { host, theirs, ours });
        }
        if self.root == Root::No {
            return Err(SshError::NoRoot { host });
        }
        if self.place.is_empty() { Err(SshError::NoPlace { host }) } else { Ok(()) }
    }

    /// What is put before a command that root is to run.
    pub(super) fn become_root(&self) -> &'static [&'static str] {
        if self.root == Root::Sudo { &["sudo", "-n"] } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host_keys: HostKeys) -> Target {
        Target {
            host: "node".to_owned(),
            port: Some(2200),
            user: Some("me".to_owned()),
            identity: Some("key".into()),
            host_keys,
            config: false,
        }
    }

    #[test]
    fn keys_are_checked_as_asked_for() {
        let line = |keys| options(&target(keys), "n1").join(" ");
        let known = line(HostKeys::Known);
        assert!(known.contains("StrictHostKeyChecking=yes") && !known.contains("KnownHosts"), "{known}");
        let this = line(HostKeys::This("k".to_owned()));
        assert!(this.contains("StrictHostKeyChecking=yes") && this.contains("UserKnownHostsFile=n1.known_hosts"));
        assert!(this.contains("HostKeyAlias=vptest-n1"), "{this}");
        assert!(line(HostKeys::First).contains("StrictHostKeyChecking=accept-new"));
        assert!(this.starts_with("ssh -T -F none") && this.ends_with("-p 2200 -l me -i key -o IdentitiesOnly=yes"));
        let config = Target { config: true, ..target(HostKeys::Known) };
        assert!(!options(&config, "n1").contains(&"-F".to_owned()));
    }

    #[test]
    fn words_reach_the_command_as_they_are() {
        for word in ["", "a b", "it's", "$HOME", "`id`", "a\\b", "*", "~", "!x", "plain"] {
            let line = format!("printf %s {}", quoted(word));
            let out = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word, "{line}");
        }
    }

    #[test]
    fn the_script_is_one_line_that_every_shell_can_quote() {
        let script = look("0123");
        assert!(!script.contains(['\'', '\n', '!']), "{script}");
        let mut shell = std::process::Command::new("sh");
        let out = shell.args(["-c", &in_shell(&script)]).stdin(std::process::Stdio::null()).output().unwrap();
        let facts = Facts::parse(&String::from_utf8(out.stdout).unwrap(), "0123").unwrap();
        assert_eq!(facts.machine, std::env::consts::ARCH);
        // Its input was at its end at once.
        assert!(facts.place.starts_with('/') && !std::path::Path::new(&facts.place).exists(), "{facts:?}");
    }

    #[test]
    fn answers_are_told_from_noise_and_tricks() {
        let parse = |line: &str| Facts::parse(line, "77");
        let facts = parse("vptest-node 77 Linux x86_64 sudo /home/a b/vptest-1\n").unwrap();
        assert_eq!(facts.place, "/home/a b/vptest-1");
        assert_eq!(facts.become_root(), ["sudo", "-n"]);
        for line in [
            "Welcome!\n",
            "vptest-node 78 Linux x86_64 yes /tmp/x\n",
            "vptest-node 77 Linux x86_64 maybe /tmp/x\n",
            "vptest-node 77 Linux x86_64 yes -rf\n",
            "vptest-node 77 Linux x86_64 yes /tmp/\x1b[0m\n",
            "vptest-node 77 Linux\n",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn what_no_agent_can_run_on_is_refused_with_the_reason() {
        let check = |line: &str| Facts::parse(line, "1").unwrap().check("h").unwrap_err();
        let arch = std::env::consts::ARCH;
        assert!(matches!(check("vptest-node 1 Linux riscv64 yes /tmp/x"), SshError::Machine { .. }));
        assert!(matches!(check(&format!("vptest-node 1 Linux {arch} no /tmp/x")), SshError::NoRoot { .. }));
        assert!(matches!(check(&format!("vptest-node 1 Linux {arch} yes ")), SshError::NoPlace { .. }));
    }
}
