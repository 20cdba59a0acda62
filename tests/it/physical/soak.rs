//! A campaign on hosts to which everything happens that does within a month: coordinator and workers are killed, hosts die and come
//! back, stand still, become slow, lose their network and their disk, and set their clocks, and the coordinator's disk is full, too. At
//! its end, each iteration is there once, and what is analysed is what an undisturbed run gives.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::super::campaign::{Campaign, FAKE};
use super::super::need;
use super::super::qemu::wait_until;
use super::dispatch::{assert_left, column, command, is_at_work, tools};
use super::lab::{Kind, Lab};

/// Iterations, unless `VPTEST_SOAK` says how many.
const ITERATIONS: u32 = 600;
/// Where Debian has libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// After this long without a new iteration, what was done is undone: it may be that no host is left.
const PATIENCE: Duration = Duration::from_secs(30);
/// Without a new iteration for this long, the campaign has come to a standstill.
const STANDSTILL: Duration = Duration::from_secs(300);

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    CoordinatorKilled,
    WorkerKilled,
    HostDies,
    HostStandsStill,
    NetworkLost,
    DiskFull,
    ClockSet,
    HostSlow,
    CoordinatorDiskFull,
}

const EVENTS: [Event; 9] = [
    Event::CoordinatorKilled,
    Event::WorkerKilled,
    Event::ClockSet,
    Event::HostStandsStill,
    Event::HostDies,
    Event::DiskFull,
    Event::NetworkLost,
    Event::HostSlow,
    Event::CoordinatorDiskFull,
];

/// xorshift64*, so that a seed repeats a soak as far as the machine does.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % most
    }
}

struct Soak {
    lab: Lab,
    _disk: Disk,
    campaign: Campaign,
    /// The coordinator, while there is one.
    vptest: Option<Child>,
    random: Random,
    /// What has to be undone, and once how many files are there.
    undo: Vec<(usize, Event, usize)>,
    happened: BTreeMap<Event, u32>,
}

impl Drop for Soak {
    fn drop(&mut self) {
        if let Some(mut child) = self.vptest.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A file system in memory at a campaign's directory, as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&path).status().unwrap().success());
        Self(path)
    }

    /// Leaves no room in it, or gives room again.
    fn fill(path: &Path, full: bool) {
        wait_until("a disk of that size", || {
            let held = nix::sys::statvfs::statvfs(path).unwrap();
            let bytes = (held.blocks() - held.blocks_free()) * held.fragment_size();
            // More may be written before the kernel looks, which then refuses.
            let size = if full { (bytes + (16 << 10)).to_string() } else { "50%".to_owned() };
            let mut mount = Command::new("mount");
            mount.arg("-o").arg(format!("remount,size={size}")).arg(path).stderr(Stdio::null());
            mount.status().unwrap().success()
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The file that says by how much the clock of a node is off.
fn clock(at: usize, directory: &Path) -> PathBuf {
    directory.join(format!("clock{at}"))
}

fn spec(iterations: u32) -> String {
    FAKE.replace("repetitions = 3", &format!("repetitions = {}", iterations / 2))
}

impl Soak {
    fn new(iterations: u32, seed: u64, clocks: &Path) -> Self {
        let login = |at: usize| {
            let file = clock(at, clocks);
            std::fs::write(&file, "+0\n").unwrap();
            format!(
                "exec env LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 \
                 FAKETIME_DONT_FAKE_MONOTONIC=1 sh -c \"$SSH_ORIGINAL_COMMAND\"",
                file.display()
            )
        };
        let logins = [login(0), login(1)];
        let kinds = logins.each_ref().map(|login| Kind { login: Some(login), ..Kind::default() });
        let campaign = Campaign::new(&spec(iterations));
        let disk = Disk::mount(campaign.out());
        campaign.expect(0, &["sweep", "params.toml"]);
        Self {
            lab: Lab::with(&kinds),
            _disk: disk,
            campaign,
            vptest: None,
            random: Random(seed),
            undo: Vec::new(),
            happened: BTreeMap::new(),
        }
    }

    fn said(&self) -> PathBuf {
        self.campaign.path().join("said")
    }

    fn start(&mut self) {
        let mut command = command(&self.lab, &self.campaign, &[]);
        let said = File::options().create(true).append(true).open(self.said()).unwrap();
        command.stdout(Stdio::null()).stderr(said);
        self.vptest = Some(self.lab.spawn(command));
    }

    /// Has the coordinator ended, with which status?
    fn ended(&mut self) -> Option<i32> {
        let status = self.vptest.as_mut()?.try_wait().unwrap()?;
        self.vptest = None;
        // Signals are this test's.
        Some(status.code().unwrap_or(-1))
    }

    /// Runs until all is complete, with something new to cope with now and then.
    fn run(&mut self, iterations: usize, events: usize, clocks: &Path) {
        let between = (iterations / events).max(2);
        let mut next = self.random.below(between);
        let (mut before, mut since) = (0, Instant::now());
        self.start();
        for number in 0.. {
            let files = loop {
                let files = self.count();
                if files > before {
                    (before, since) = (files, Instant::now());
                }
                let is_still = since.elapsed() > STANDSTILL;
                assert!(!is_still, "{files} files, {:?}: {}", self.happened, self.tail());
                if since.elapsed() > PATIENCE {
                    self.undo_all(clocks);
                }
                match self.ended() {
                    Some(0) if self.complete().len() == iterations => return self.undo_all(clocks),
                    // Some failed or are suspect, as where a clock was set, or no host was left.
                    Some(0 | 1 | 3 | 4 | -1) => {
                        self.undo_all(clocks);
                        self.start();
                    }
                    Some(other) => panic!("exit status {other}: {}", self.tail()),
                    None if files >= next => break files,
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            self.undo_due(files, clocks);
            if number < events {
                let event = EVENTS[if number < EVENTS.len() { number } else { self.random.below(EVENTS.len()) }];
                let at = self.random.below(2);
                self.happen(event, at, clocks);
                *self.happened.entry(event).or_default() += 1;
                self.undo.push((files + between / 2, event, at));
                self.start_again();
            }
            next = if number < events { files + 1 + self.random.below(between) } else { files + between };
        }
    }

    fn start_again(&mut self) {
        if self.vptest.is_none() {
            self.start();
        }
    }

    fn happen(&mut self, event: Event, at: usize, clocks: &Path) {
        match event {
            Event::CoordinatorKilled => {
                let mut child = self.vptest.take().expect("it runs");
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Event::WorkerKilled => drop(self.lab.nodes[at].signal_workers(Signal::SIGKILL)),
            Event::HostStandsStill => drop(self.lab.nodes[at].signal_workers(Signal::SIGSTOP)),
            Event::HostDies => self.lab.switch_off(at),
            Event::NetworkLost => self.lab.cut(at),
            Event::DiskFull => self.lab.nodes[at].fill_home(true),
            Event::HostSlow => self.lab.slow(at, true),
            Event::CoordinatorDiskFull => Disk::fill(&self.campaign.out(), true),
            Event::ClockSet => {
                let days = i64::try_from(self.random.below(7)).unwrap() - 3;
                std::fs::write(clock(at, clocks), format!("{:+}\n", days * 86_400 + 1)).unwrap();
            }
        }
    }

    fn undo_due(&mut self, files: usize, clocks: &Path) {
        type Undo = Vec<(usize, Event, usize)>;
        let (due, rest): (Undo, Undo) =
            std::mem::take(&mut self.undo).into_iter().partition(|&(until, ..)| until <= files);
        self.undo = rest;
        for (_, event, at) in due {
            self.undo(event, at, clocks);
        }
    }

    fn undo_all(&mut self, clocks: &Path) {
        // A host comes up only where it can be reached.
        self.undo.sort_by_key(|(_, event, _)| *event == Event::HostDies);
        self.undo_due(usize::MAX, clocks);
    }

    /// Once more, with all hosts there: nothing is left to do but to clean up.
    fn close(&mut self) {
        self.start();
        let child = self.vptest.take().unwrap();
        assert!(child.wait_with_output().unwrap().status.success(), "{}", self.tail());
    }

    fn undo(&mut self, event: Event, at: usize, clocks: &Path) {
        match event {
            Event::CoordinatorKilled | Event::WorkerKilled => {}
            Event::HostStandsStill => drop(self.lab.nodes[at].signal_workers(Signal::SIGCONT)),
            // A second time it is there already; it comes up only where it can be reached.
            Event::HostDies if self.lab.nodes[at].command_lines().is_empty() => {
                self.lab.plug(at);
                self.lab.switch_on(at);
            }
            Event::HostDies => {}
            Event::NetworkLost => self.lab.plug(at),
            Event::DiskFull => self.lab.nodes[at].fill_home(false),
            Event::HostSlow => self.lab.slow(at, false),
            Event::CoordinatorDiskFull => Disk::fill(&self.campaign.out(), false),
            Event::ClockSet => std::fs::write(clock(at, clocks), "+0\n").unwrap(),
        }
    }

    /// Files, without opening them.
    fn count(&self) -> usize {
        self.campaign.files().len()
    }

    /// Hosts on which each iteration was completed.
    fn complete(&self) -> BTreeMap<u32, Vec<String>> {
        let hosts = "SELECT number, CASE status WHEN 'complete' THEN host ELSE '' END FROM iteration";
        let mut complete: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (number, host) in column(&self.campaign, hosts).into_iter().filter(|(_, host)| !host.is_empty()) {
            complete.entry(number).or_default().push(host);
        }
        complete
    }

    fn tail(&self) -> String {
        let said = std::fs::read_to_string(self.said()).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.contains("complete")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// What is made of the values. Whether they depend on each other in the order in which they were measured is another question
/// after a disturbed run.
fn analysed(campaign: &Campaign) -> serde_json::Value {
    let paths: Vec<String> = campaign.files().iter().map(|name| format!("out/{name}")).collect();
    let mut merge = campaign.command(&["merge"]);
    merge.args(paths);
    let merged = super::super::campaign::said(merge.output().unwrap());
    assert_eq!(merged.code, Some(0), "{}{}", merged.out, merged.err);
    let said = campaign.expect(0, &["analyze", "--metric", "rps", "--format", "json"]);
    let mut groups = serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["groups"].take();
    for group in groups.as_array_mut().unwrap() {
        group.as_object_mut().unwrap().remove("doubts").unwrap();
    }
    groups
}

#[test]
fn whatever_happens_each_iteration_is_there_once_as_in_an_undisturbed_run() {
    let faketime = need::need("faketime", Path::new(FAKETIME).exists());
    if !tools() || !need::program("nsenter") || !need::program("tc") || !faketime {
        return;
    }
    let iterations = std::env::var("VPTEST_SOAK").map_or(ITERATIONS, |text| text.parse().unwrap());
    let seed = std::env::var("VPTEST_SOAK_SEED").map_or(20_261_129, |text| text.parse().unwrap());
    let clocks = tempfile::tempdir().unwrap();
    let mut soak = Soak::new(iterations, seed, clocks.path());
    let begun = Instant::now();
    let events = usize::try_from(iterations / 100).unwrap().max(EVENTS.len());
    soak.run(usize::try_from(iterations).unwrap(), events, clocks.path());
    soak.close();
    assert_eq!(soak.happened.len(), EVENTS.len(), "{:?}", soak.happened);
    println!("seed {seed}: {iterations} iterations in {:?}, {:?}", begun.elapsed(), soak.happened);

    let campaign = &soak.campaign;
    let complete = soak.complete();
    let missing: Vec<u32> = (1..=iterations).filter(|number| !complete.contains_key(number)).collect();
    let outcomes =
        || campaign.outcomes().into_iter().filter(|(number, ..)| missing.contains(number)).collect::<Vec<_>>();
    assert!(missing.is_empty(), "{:?}: {}", outcomes(), soak.tail());
    // Only what a host could not send while its network was lost is there twice, once of each host.
    let twice: Vec<_> = complete.iter().filter(|(_, hosts)| hosts.len() > 1).collect();
    assert!(twice.iter().all(|(_, hosts)| hosts.len() == 2 && hosts[0] != hosts[1]), "{twice:?}");
    println!("{} of them were run on both hosts", twice.len());
    assert!(!campaign.out().join(".dispatch").join("incoming.twice").exists());

    let undisturbed = Campaign::planned(&spec(iterations));
    undisturbed.expect(0, &["run"]);
    let (disturbed, undisturbed) = (analysed(campaign), analysed(&undisturbed));
    assert_eq!(disturbed, undisturbed);
    assert!(disturbed.as_array().is_some_and(|groups| groups.len() == 2), "{disturbed}");
    wait_until("the end of workers", || !soak.lab.nodes.iter().any(is_at_work));
    soak.lab.nodes.iter().for_each(assert_left);
}
