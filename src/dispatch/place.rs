//! What vptest needs on a host, and how it gets there: `~/.cache/vptest/programs/HASH/` for the program with its libraries,
//! `~/.cache/vptest/campaigns/HASH/` for a campaign's plan and files.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::hosts::Host;
use super::orders::{Orders, Round};
use super::ssh::{Ssh, SshFailure};
use crate::host::clock::now_ns;
use crate::ids::ShortHash;
use crate::image::{BUNDLE_PROGRAM, Bundle};
use crate::text::hex;

/// What a host may take for a look, or a word.
const WORD: Duration = Duration::from_secs(30);
/// What it may take for a copy of the program or of a plan.
const COPY: Duration = Duration::from_secs(600);
/// How long a worker may send nothing of what it has, signs of life aside. It may wait so long for one before it to end.
const FETCH: Duration = Duration::from_secs(180);
/// Where all of it lies.
const CACHE: &str = "\"$HOME\"/.cache/vptest";
/// List of checksums beside the program, as `sha256sum` reads it.
pub(super) const SUMS: &str = "SHA256SUMS";

/// The program as it is copied.
pub(super) struct Program {
    archive: Vec<u8>,
    hash: String,
    machine: String,
}

/// What a host said of itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    /// Name that it has for itself.
    pub(super) name: String,
    /// Is the program there, as it was copied?
    has_program: bool,
    /// Its clock less the one here, in seconds.
    pub(super) clock: f64,
    /// How far that may be off.
    pub(super) clock_error: f64,
}

/// Why a host cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error(transparent)]
    Ssh(#[from] SshFailure),
    /// It is of another kind.
    #[error("it is a {found}, and this vptest runs on {wanted}")]
    Machine { found: String, wanted: String },
    /// It says something else.
    #[error("its answer makes no sense: {0}")]
    Answer(String),
}

impl Program {
    /// This vptest with its libraries.
    pub(super) fn of(bundle: &Bundle) -> anyhow::Result<Self> {
        let sums = sums(&bundle.tar)?;
        let mut archive = tar::Builder::new(Vec::new());
        let mut entries = tar::Archive::new(bundle.tar.as_slice());
        for entry in entries.entries()? {
            let entry = entry?;
            archive.append(&entry.header().clone(), entry)?;
        }
        append(&mut archive, SUMS, sums.as_bytes())?;
        let machine = nix::sys::utsname::uname()?.machine().to_string_lossy().into_owned();
        Ok(Self { archive: archive.into_inner()?, hash: hex(&Sha256::digest(sums.as_bytes())), machine })
    }

    fn directory(&self) -> String {
        format!("{CACHE}/programs/{}", self.hash)
    }

    /// Program, libraries and their checksums, as a tar archive.
    pub(super) fn archive(&self) -> &[u8] {
        &self.archive
    }

    /// Identifies all of it: hexadecimal digits.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// The architecture that it runs on, as `uname -m` has it.
    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    /// Its path there, as a word for a shell there.
    pub(super) fn path(&self) -> String {
        format!("{}/{BUNDLE_PROGRAM}", self.directory())
    }
}

fn sums(archive: &[u8]) -> io::Result<String> {
    let mut lines = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            lines.push(format!("{}  {}\n", hex(&Sha256::digest(&content)), entry.path()?.display()));
        }
    }
    lines.sort();
    Ok(lines.concat())
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content)
}

/// A campaign's directory there, as a word for a shell there.
pub(super) fn campaign(id: ShortHash) -> String {
    // A home may be the same on all hosts.
    format!("{CACHE}/campaigns/{id}-\"$(uname -n)\"")
}

/// Asks a host what it is.
pub(super) async fn look(ssh: &Ssh, host: &Host, program: &Program) -> Result<Look, PlaceError> {
    let nonce = format!("{:016x}", crate::agent::fresh_number());
    let directory = program.directory();
    let script = format!(
        "cd {directory} 2>/dev/null && sha256sum -c {SUMS} >/dev/null 2>&1 && h=yes || h=no; \
         echo \"{nonce} $h $(uname -m) $(date +%s.%N) $(uname -n)\""
    );
    let (before, begun) = (now_ns(), SystemTime::now());
    let answer = ssh.run(host, &script, b"", WORD).await?;
    let took = begun.elapsed().unwrap_or_default().as_secs_f64();
    let text = String::from_utf8_lossy(&answer);
    let garbled = || PlaceError::Answer(crate::text::printable(&text, 200));
    let line = text.lines().find_map(|line| line.strip_prefix(&nonce)).ok_or_else(garbled)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [has_program, machine, clock, name] = words.as_slice() else { return Err(garbled()) };
    if *machine != program.machine {
        return Err(PlaceError::Machine { found: (*machine).to_owned(), wanted: program.machine.clone() });
    }
    let clock: f64 = clock.parse().map_err(|_| garbled())?;
    #[expect(clippy::cast_precision_loss, reason = "a microsecond is not lost")]
    let here = before as f64 / 1e9 + took;
    // It looked at its clock last of all, after the checksums, and its answer then had half of a round trip to go at most.
    Ok(Look {
        name: crate::text::printable(name, 100),
        has_program: *has_program == "yes",
        clock: clock - here,
        clock_error: took,
    })
}

/// Copies what the host lacks: program, plan and orders. One that was lost is told that what it has sent may not have arrived.
pub(super) async fn prepare(
    ssh: &Ssh,
    host: &Host,
    (look, was_lost): (&Look, bool),
    program: &Program,
    files: &Files,
) -> Result<(), PlaceError> {
    if !look.has_program {
        let (directory, mode) = (program.directory(), "umask 077");
        let script = format!(
            "{mode}; mkdir -p {CACHE}/programs && t=$(mktemp -d {CACHE}/programs/.XXXXXX) && tar -x -C \"$t\" && \
             (cd \"$t\" && sha256sum -c {SUMS} >/dev/null) || {{ e=$?; rm -rf \"$t\"; exit $e; }}; \
             if mv -T \"$t\" {directory} 2>/dev/null; then exit 0; fi; \
             if (cd {directory} && sha256sum -c {SUMS} >/dev/null 2>&1); then rm -rf \"$t\"; exit 0; fi; \
             rm -rf {directory} && mv -T \"$t\" {directory}"
        );
        ssh.run(host, &script, &program.archive, COPY).await?;
    }
    let directory = campaign(files.campaign);
    let mark = if was_lost { format!("&& : > {} ", files.round.again()) } else { String::new() };
    let script = format!(
        "umask 077; mkdir -p {directory}/.worker/sent && cd {directory} {mark}&& t=$(mktemp -d .worker/new.XXXXXX) && \
         tar -x -C \"$t\" && mv \"$t\"/plan.json plan.json && mv \"$t\"/.worker/orders-* .worker/; e=$?; rm -rf \"$t\"; exit $e"
    );
    ssh.run(host, &script, &files.archive, COPY).await?;
    Ok(())
}

/// A plan and a round's orders, packed.
pub(super) struct Files {
    campaign: ShortHash,
    round: Round,
    archive: Vec<u8>,
}

impl Files {
    pub(super) fn pack(campaign: ShortHash, plan: &[u8], round: &Round, orders: &Orders) -> anyhow::Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "plan.json", plan)?;
        append(&mut archive, &round.orders(), &serde_json::to_vec(orders)?)?;
        Ok(Self { campaign, round: round.clone(), archive: archive.into_inner()? })
    }

    /// As a tar archive.
    pub(super) fn archive(&self) -> &[u8] {
        &self.archive
    }
}

/// Has a host send what no coordinator has taken, as a worker's words in a file.
pub(super) async fn fetch(
    ssh: &Ssh,
    host: &Host,
    (program, id, round): (&Program, ShortHash, &Round),
    path: &Path,
) -> Result<(), SshFailure> {
    let script = format!("exec {} worker --place {} --round {}", program.path(), campaign(id), round.as_str());
    ssh.save(host, &script, path, FETCH).await
}

/// Leaves the wish to end on a host.
pub(super) async fn halt(ssh: &Ssh, host: &Host, id: ShortHash, round: &Round, wish: &str) -> Result<(), SshFailure> {
    let script = format!("echo {wish} > {}/{}", campaign(id), round.halt());
    ssh.run(host, &script, b"", WORD).await.map(drop)
}

/// Kills a worker, by the number that it gave; another process of that number is left alone.
pub(super) async fn kill(ssh: &Ssh, host: &Host, worker: u32) -> Result<(), SshFailure> {
    let script = format!("tr '\\0' ' ' < /proc/{worker}/cmdline | grep -q ' worker --place ' && kill -9 {worker}");
    ssh.run(host, &script, b"", WORD).await.map(drop)
}

/// Removes a campaign from a host: all of it has arrived.
pub(super) async fn remove(ssh: &Ssh, host: &Host, id: ShortHash) -> Result<(), SshFailure> {
    ssh.run(host, &format!("rm -rf {}", campaign(id)), b"", WORD).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_known_by_what_it_is() {
        let bundle = |content: &[u8]| {
            let mut archive = tar::Builder::new(Vec::new());
            append(&mut archive, "vptest", content).unwrap();
            Bundle { tar: archive.into_inner().unwrap() }
        };
        let (one, same, other) = (bundle(b"a"), bundle(b"a"), bundle(b"b"));
        let hash = |bundle: &Bundle| Program::of(bundle).unwrap().hash;
        assert_eq!(hash(&one), hash(&same));
        assert_ne!(hash(&one), hash(&other));
        let program = Program::of(&one).unwrap();
        let mut archive = tar::Archive::new(program.archive.as_slice());
        let names: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("vptest"), Path::new(SUMS)]);
    }
}
