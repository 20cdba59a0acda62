//! miniccc, as far as it is known from outside: one command after the other, results with the next heartbeat.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::double::{Command, HEARTBEAT, HERE, Shared, What};

/// Held by a phase where guests share a directory.
static PHASES: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// A miniccc that has reported.
pub(crate) struct Client {
    pub(crate) name: String,
    /// Directory of its files, on this host.
    files: PathBuf,
    /// Begins each command that it runs.
    by: Vec<String>,
    /// The container that it is in, as its first process; otherwise this host.
    inside: Option<Inside>,
    /// Number of the last command it was given.
    last: u64,
    /// An empty file was received: what is sent no longer arrives.
    broken: bool,
}

/// Has a miniccc report, and follow orders as long as it is listed. Returns the directory of its files.
pub(crate) fn report(shared: &Arc<Shared>, namespace: &str, name: &str, uuid: &str) -> PathBuf {
    report_by(shared, namespace, name, uuid, Vec::new())
}

/// The same; `by` begins each command that it runs.
pub(crate) fn report_by(shared: &Arc<Shared>, namespace: &str, name: &str, uuid: &str, by: Vec<String>) -> PathBuf {
    let files = if shared.trap().same_files { shared_files(shared) } else { shared.directory.join("guest").join(uuid) };
    std::fs::create_dir_all(&files).unwrap();
    let client = Client { name: name.to_owned(), files: files.clone(), by, inside: None, last: 0, broken: false };
    let mut state = shared.state.lock().unwrap();
    state.namespaces.entry(namespace.to_owned()).or_default().clients.insert(uuid.to_owned(), client);
    drop(state);
    let (shared, namespace, uuid) = (Arc::clone(shared), namespace.to_owned(), uuid.to_owned());
    std::thread::spawn(move || while beat(&shared, &namespace, &uuid).is_some() {});
    files
}

/// What a container has as its miniccc: it runs what it is given, one after the other. The rest of one is in the double.
pub(crate) const MINICCC: &str = r#"#!/bin/sh
d=/tmp/miniccc
mkdir -p $d/files
mkfifo $d/orders
while :; do
  read -r n <$d/orders || continue
  (cd $d/files && exec sh $d/$n.sh) </dev/null >$d/$n.out 2>$d/$n.err
  echo $? >$d/$n.new
  mv $d/$n.new $d/$n.code
done
"#;

/// A container with that program in it, by its first process.
#[derive(Clone)]
struct Inside {
    pid: u32,
}

impl Inside {
    /// A path in it, as this host sees it.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Waits for something in it; `None` when it ends before.
    fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if !self.path("/tmp").exists() {
                return None;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Runs a command in it; `None` when it ends before that has.
    fn run(&self, number: u64, argv: &[String]) -> Option<Outcome> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let at = |end: &str| self.path(&format!("/tmp/miniccc/{number}.{end}"));
        let words: Vec<String> = argv.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        std::fs::write(
            at("sh"),
            format!(
                "exec {}
",
                words.join(" ")
            ),
        )
        .ok()?;
        let orders = self.path("/tmp/miniccc/orders");
        let open = || std::fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&orders).ok();
        use io::Write as _;
        writeln!(self.wait(open)?, "{number}").ok()?;
        let code = self.wait(|| std::fs::read_to_string(at("code")).ok())?;
        let read = |end: &str| std::fs::read(at(end)).unwrap_or_default();
        let (exit, stdout, stderr) = (code.trim().parse().ok(), read("out"), read("err"));
        ["sh", "out", "err", "code"].into_iter().for_each(|end| drop(std::fs::remove_file(at(end))));
        Some(Outcome { exit, stdout, stderr, ..Outcome::of(number) })
    }
}

/// Has the miniccc of a container report as soon as it is there.
pub(crate) fn report_from(shared: &Arc<Shared>, namespace: &str, name: &str, uuid: &str, pid: u32) {
    let (shared, inside) = (Arc::clone(shared), Inside { pid });
    let [namespace, name, uuid] = [namespace, name, uuid].map(str::to_owned);
    std::thread::spawn(move || {
        let files = inside.path("/tmp/miniccc/files");
        if inside.wait(|| inside.path("/tmp/miniccc/orders").exists().then_some(())).is_none() {
            return;
        }
        let client = Client { name, files, by: Vec::new(), inside: Some(inside), last: 0, broken: false };
        {
            let mut state = shared.state.lock().unwrap();
            // It may have gone meanwhile.
            let Some(space) = state.namespaces.get_mut(&namespace) else { return };
            space.clients.insert(uuid.clone(), client);
        }
        while beat(&shared, &namespace, &uuid).is_some() {}
    });
}

/// Directory of all guests' files, where they have one together.
pub(crate) fn shared_files(shared: &Shared) -> PathBuf {
    shared.directory.join("guest/all")
}

/// It connects anew: all commands are given to it again that are not run once.
pub(crate) fn reconnect(shared: &Shared, namespace: &str, uuid: &str) {
    let mut state = shared.state.lock().unwrap();
    state.namespaces.get_mut(namespace).unwrap().clients.get_mut(uuid).unwrap().last = 0;
}

struct Outcome {
    id: u64,
    exit: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Path in the guest and content.
    received: Vec<(String, Vec<u8>)>,
}

impl Outcome {
    fn of(id: u64) -> Self {
        Self { id, exit: None, stdout: vec![], stderr: vec![], received: vec![] }
    }
}

fn run(argv: &[String]) -> std::process::Command {
    let mut command = std::process::Command::new(&argv[0]);
    command.args(&argv[1..]);
    command
}

/// All numbers begin anew.
pub(crate) fn renumber(client: &mut Client) {
    client.last = 0;
}

/// One heartbeat; `None` when the client is gone.
fn beat(shared: &Shared, namespace: &str, uuid: &str) -> Option<()> {
    let traps = shared.trap();
    let (commands, place, mut broken) = {
        let mut state = shared.state.lock().unwrap();
        let space = state.namespaces.get_mut(namespace)?;
        let client = space.clients.get_mut(uuid)?;
        let mine = |command: &&Command| {
            command.id > client.last
                && command.filter.as_ref().is_none_or(|filter| *filter == format!("uuid={uuid}"))
                && (!command.once || command.there.contains(&uuid.to_owned()))
        };
        let mut commands: Vec<Command> = space.commands.iter().filter(mine).cloned().collect();
        if traps.hang {
            commands.clear();
        }
        let given: Vec<u64> = commands.iter().map(|command| command.id).collect();
        client.last = client.last.max(given.iter().copied().max().unwrap_or(0));
        let place = (client.files.clone(), client.by.clone(), client.inside.clone());
        let found = (commands, place, client.broken);
        for command in space.commands.iter_mut().filter(|command| command.once && given.contains(&command.id)) {
            // Never given again.
            command.there.retain(|one| one != uuid);
        }
        found
    };
    let mut results = Vec::new();
    for command in commands {
        let mut result = follow(shared, &place, &command, &mut broken)?;
        // Files are given at once; the rest waits for the heartbeat.
        let received = Outcome { received: std::mem::take(&mut result.received), ..Outcome::of(command.id) };
        match deliver(shared, namespace, uuid, &received) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.unwrap(),
        }
        results.push(result);
    }
    std::thread::sleep(HEARTBEAT);
    {
        let mut state = shared.state.lock().unwrap();
        let space = state.namespaces.get_mut(namespace)?;
        space.clients.get_mut(uuid)?.broken = broken;
        // First the counter, then the files.
        for result in &results {
            if let Some(command) = space.commands.iter_mut().find(|command| command.id == result.id) {
                command.responses += 1;
            }
        }
    }
    for result in &results {
        match deliver(shared, namespace, uuid, result) {
            // Whoever asked had enough and removed the directory meanwhile; the daemon logs that, and goes on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.unwrap(),
        }
    }
    Some(())
}

/// `None` when the client is gone.
fn follow(
    shared: &Shared,
    (files, by, inside): &(PathBuf, Vec<String>, Option<Inside>),
    command: &Command,
    broken: &mut bool,
) -> Option<Outcome> {
    let traps = shared.trap();
    // A mailbox that is just being started looks like one that was left, to whoever shares its directory.
    let phase = matches!(&command.what, What::Run(argv) if argv[0] == "timeout");
    let _alone = (traps.same_files && phase).then(|| PHASES.lock().unwrap());
    let ends = |name: &str, with: Option<&str>| with.is_some_and(|with| name.ends_with(with));
    let mut result = Outcome::of(command.id);
    match &command.what {
        What::Run(argv) if inside.is_some() => result = inside.as_ref()?.run(command.id, argv)?,
        What::Run(argv) => match run(&[&by[..], argv].concat()).current_dir(files).output() {
            Ok(output) => {
                result.exit = Some(output.status.code().unwrap_or(-1));
                (result.stdout, result.stderr) = (output.stdout, output.stderr);
            }
            Err(error) => (result.exit, result.stderr) = (Some(-1), error.to_string().into_bytes()),
        },
        What::Send(name) => {
            let (from, to) = (shared.files().join(name), files.join(name));
            // Never overwritten, and never an error.
            if !*broken && !to.exists() && !ends(name, traps.lose) {
                // Of a directory, nothing is sent.
                let Ok(mut content) = std::fs::read(from) else { return Some(result) };
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                if ends(name, traps.damage) {
                    content.push(b'!');
                }
                std::fs::write(to, content).unwrap();
            }
        }
        What::Receive(names) if !traps.keep_received => {
            for name in names {
                // A file that is not there is no error.
                let path = inside.as_ref().map_or_else(|| PathBuf::from(name), |inside| inside.path(name));
                let Ok(mut content) = std::fs::read(path) else { continue };
                *broken |= content.is_empty();
                if traps.damage_received && !content.is_empty() {
                    content[0] ^= 1;
                }
                result.received.push((name.clone(), content));
            }
        }
        What::Receive(_) => {}
    }
    Some(result)
}

fn deliver(shared: &Shared, namespace: &str, uuid: &str, result: &Outcome) -> io::Result<()> {
    let host = shared.state.lock().unwrap().namespaces.get(namespace).map(|space| space.host().to_owned());
    let files = shared.files_at(host.as_deref().unwrap_or(HERE));
    let base = files.join(if namespace == "minimega" { "" } else { namespace });
    let directory = base.join("miniccc_responses").join(result.id.to_string()).join(uuid);
    let late = || std::thread::sleep(shared.trap().late);
    // Once a namespace is gone, nothing of it is made anew.
    let make = |directory: &Path| {
        let state = shared.state.lock().unwrap();
        match state.namespaces.contains_key(namespace) {
            true => std::fs::create_dir_all(directory),
            false => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    };
    make(&directory)?;
    if let Some(exit) = result.exit {
        late();
        std::fs::write(directory.join("exitcode"), exit.to_string())?;
    }
    for (name, content) in [("stdout", &result.stdout), ("stderr", &result.stderr)] {
        if !content.is_empty() {
            late();
            // In two pieces.
            let (begin, end) = content.split_at(content.len() / 2);
            std::fs::write(directory.join(name), begin)?;
            late();
            use io::Write as _;
            std::fs::File::options().append(true).open(directory.join(name))?.write_all(end)?;
        }
    }
    for (name, content) in result.received.iter().filter(|(_, content)| !content.is_empty()) {
        let path = directory.join(name.trim_start_matches('/'));
        make(path.parent().unwrap())?;
        let partial = path.with_extension("tar.partial");
        std::fs::write(&partial, content)?;
        late();
        std::fs::rename(partial, path)?;
    }
    Ok(())
}
