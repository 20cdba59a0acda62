//! Nodes over ssh: a real sshd in a network namespace, this host's own programs behind it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use vptest::agent::Limits;
use vptest::host::cage::{Cage, Job};
use vptest::host::link;
use vptest::host::namespace::Namespace;
use vptest::host::netlink::Netlink;
use vptest::image::{Bundle, trimmed};
use vptest::node::local::Processes;
use vptest::node::ssh::{Connection, HostKeys, Site, SshError, Target};
use vptest::node::{self, Process, Stream};

use super::campaign::VPTEST;
use super::need;

const PORT: u16 = 2222;

/// An sshd that lets root in with one key.
struct Server {
    directory: tempfile::TempDir,
    namespace: Arc<Namespace>,
    processes: Arc<Processes>,
    _sshd: Box<dyn Process>,
}

fn tools() -> bool {
    need::root() && ["ssh", "sshd", "ssh-keygen", "unshare", "setpriv"].iter().all(|name| need::program(name))
}

fn keygen(path: &Path) {
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

impl Server {
    /// `login` stands for the shell of whoever logs in; it finds the command in `SSH_ORIGINAL_COMMAND`.
    async fn start(login: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // For those who log in as somebody else.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["host", "user", "other"] {
            keygen(&at(name));
        }
        let force = login.map_or_else(String::new, |login| format!("ForceCommand {login}\n"));
        let place = directory.path().display();
        let config = format!(
            "Port {PORT}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPidFile none\nUseDNS no\nBanner {place}/host.pub\n{force}"
        );
        std::fs::write(at("config"), config).unwrap();
        let namespace = Arc::new(Namespace::new().unwrap());
        namespace.run(Netlink::open).unwrap().apply(&[link::up("lo", link::LOOPBACK)]).unwrap();
        let processes = Arc::new(Processes::new(Cage::open().unwrap()));
        // sshd wants a directory in /run, and nothing of it is to stay; nor has root's `.bashrc` a say.
        let run = "mount -t tmpfs none /run && mount -t tmpfs none ~root && mkdir /run/sshd && \
                   exec \"$(command -v sshd)\" -D -e -f \"$0\"";
        let argv = ["unshare", "--mount", "sh", "-c", run, at("config").to_str().unwrap()].map(str::to_owned).to_vec();
        let command = node::Command { argv, ..node::Command::default() };
        let job = Job { command, directory: directory.path().to_owned(), namespace: Some(Arc::clone(&namespace)) };
        let sshd = processes.spawn(job).await.unwrap();
        Self { directory, namespace, processes, _sshd: sshd }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn key(&self, name: &str) -> HostKeys {
        let text = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        HostKeys::This(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: Some(PORT),
            user: Some("root".to_owned()),
            identity: Some(self.path("user")),
            host_keys: self.key("host"),
            config: false,
        }
    }

    async fn open(&self, name: &str, target: &Target, wait: Duration) -> Result<Connection, SshError> {
        let site = Site {
            processes: &self.processes,
            namespace: Some(Arc::clone(&self.namespace)),
            directory: self.directory.path(),
            name,
        };
        Connection::open(&site, target, Instant::now() + wait).await
    }

    /// The error of a login that must fail.
    async fn refusal(&self, name: &str, target: &Target) -> SshError {
        self.open(name, target, Duration::from_secs(60)).await.err().expect("it was let in")
    }
}

const LONG: Duration = Duration::from_secs(120);

async fn output(client: &vptest::agent::Client, argv: &[&str]) -> String {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    let mut process = client.spawn(&node::Command { argv, ..node::Command::default() }).await.unwrap();
    let exit = process.wait().await.unwrap();
    assert!(exit.status.success(), "{:?}", process.output(Stream::Err));
    String::from_utf8(process.output(Stream::Out).bytes).unwrap()
}

/// Waits for something that follows within moments.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_agent_is_copied_and_started_and_goes_with_its_connection() {
    if !tools() {
        return;
    }
    let server = Server::start(None).await;
    let bundle = Bundle::of(Path::new(VPTEST)).unwrap();
    let mut connection = server.open("one", &server.target(), LONG).await.unwrap();
    let agent = connection.agent(&bundle, Limits::default()).await.unwrap();
    let client = &agent.client;
    assert_eq!(output(client, &["id", "-u"]).await, "0\n");
    let (place, hello) = (PathBuf::from(connection.place()), client.hello().clone());
    assert_eq!(Path::new(&hello.vptest), place.join("vptest"));
    assert!(output(client, &[&hello.vptest, "--version"]).await.contains(env!("CARGO_PKG_VERSION")));
    let sent = Sha256::digest(trimmed(&std::fs::read(VPTEST).unwrap()));
    let sent: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(client.build().await.unwrap(), sent);
    client.put("file", 0o644, 3, &b"abc"[..]).await.unwrap();
    assert!(Path::new(&hello.scratch).join("file").exists());
    drop(agent);
    connection.close().await.unwrap();
    assert!(!place.exists());
    until("the end of the agent", || !Path::new(&hello.scratch).exists()).await;

    // The server's key is not known beforehand, and everything here is killed.
    let target = Target { host_keys: HostKeys::First, ..server.target() };
    let mut connection = server.open("two", &target, LONG).await.unwrap();
    let agent = connection.agent(&bundle, Limits::default()).await.unwrap();
    let (place, scratch) = (PathBuf::from(connection.place()), PathBuf::from(&agent.client.hello().scratch));
    assert!(place.join("vptest.bin").exists() && scratch.exists());
    drop((agent, connection));
    until("the end of what was copied", || !place.exists() && !scratch.exists()).await;
    server.processes.close().await.unwrap();
}

#[tokio::test]
async fn what_keeps_a_node_from_being_reached_has_a_name() {
    if !tools() {
        return;
    }
    let server = Server::start(None).await;
    let target = server.target();
    server.open("first", &target, LONG).await.unwrap().close().await.unwrap();

    let other_key = Target { host_keys: server.key("other"), ..target.clone() };
    let error = server.refusal("key", &other_key).await;
    assert!(matches!(error, SshError::HostKey { .. }), "{error}");

    let other_user = Target { identity: Some(server.path("other")), ..target.clone() };
    let error = server.refusal("user", &other_user).await;
    assert!(matches!(&error, SshError::Refused { text, .. } if text.contains("Permission denied")), "{error}");

    let nobody = Target { port: Some(PORT + 1), ..target };
    let error = server.open("port", &nobody, Duration::from_secs(20)).await.err().unwrap();
    assert!(matches!(&error, SshError::Unreachable { text, .. } if text.contains("refused")), "{error}");
    server.processes.close().await.unwrap();
}

#[tokio::test]
async fn a_login_that_is_not_root_needs_sudo_and_a_machine_of_our_kind() {
    if !tools() {
        return;
    }
    let bin = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bin.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| bin.path().join(name);
    let as_nobody = format!(
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/ PATH={}:/usr/bin:/bin sh -c \
         \"$SSH_ORIGINAL_COMMAND\"",
        bin.path().display()
    );
    script(&path("login"), &as_nobody);
    // Neither this host's own sudo nor its absence has a say.
    script(&path("sudo"), "exit 1");
    let server = Server::start(path("login").to_str()).await;
    let error = server.refusal("nobody", &server.target()).await;
    assert!(matches!(error, SshError::NoRoot { .. }), "{error}");

    let log = path("log");
    std::fs::write(&log, "").unwrap();
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
    script(
        &path("sudo"),
        &format!("[ \"$1\" = -n ] || exit 1; shift; echo \"$1 $2 $3\" >> {}; exec \"$@\"", log.display()),
    );
    let mut connection = server.open("sudo", &server.target(), LONG).await.unwrap();
    let bundle = Bundle::of(Path::new(VPTEST)).unwrap();
    let agent = connection.agent(&bundle, Limits::default()).await.unwrap();
    assert_eq!(output(&agent.client, &["echo", "it's", "$HOME"]).await, "it's $HOME\n");
    let place = connection.place().to_owned();
    drop(agent);
    connection.close().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!("true  \nenv TMPDIR={place} {place}/vptest\nrm -rf {place}\n")
    );

    script(&path("uname"), "[ \"$1\" = -m ] && echo riscv64 || echo Linux");
    let error = server.refusal("machine", &server.target()).await;
    assert!(matches!(&error, SshError::Machine { theirs, .. } if theirs == "Linux riscv64"), "{error}");
    server.processes.close().await.unwrap();
}
