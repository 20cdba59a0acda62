//! Several iterations at once on this host (`--jobs`), each with CPU cores that no other one uses.
//!
//! Each job is a thread bound to its cores, with a runtime of its own: what it starts (threads, processes, guests) inherits
//! that, and so does the kernel's work on packets, which is done where they are sent. What the kernel does for nobody in
//! particular (removing namespaces, writing files back) is not bound, and caches, memory and disks are shared.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::campaign::{CampaignError, Options};
use super::load;
use super::space::size;
use crate::host::cpus;
use crate::ids::IterationNumber;
use crate::instrument::capture::available_memory;
use crate::instrument::host::started;
use crate::record::{JOBS, Setting};
use crate::spec::{Instrument, Reuse, Tuple};
use crate::testbed::{Beside, Testbed};

/// After the beginning of the workload, when strays are looked for first.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// Longest pause between two looks, each of which takes some 10 µs for each process of the host.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What one job among several has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Which job, from 1.
    pub(super) job: usize,
    /// How many there are.
    pub(super) jobs: usize,
    /// Its CPUs, ascending.
    pub(super) cpus: Vec<usize>,
    /// CPUs of the other jobs.
    others: Vec<usize>,
}

impl Share {
    /// Binds the thread that calls it, and all that it will start.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn enter(&self) -> std::io::Result<()> {
        cpus::pin(0, &self.cpus)
    }

    /// How many jobs there are, and the CPUs of this one: as dealt out, and those of the thread that calls it, from which all that it
    /// starts inherits them.
    pub(super) fn settings(&self) -> Vec<Setting> {
        vec![
            // Nothing else could say how many there are.
            Setting::compare(None, JOBS, None, Some(self.jobs.to_string())),
            Setting::compare(None, "job_cpus", Some(list(&self.cpus)), cpus::usable().map(|cpus| list(&cpus))),
        ]
    }

    /// Looks for strays until it is dropped: soon after the beginning, then at intervals that double.
    pub(super) async fn watch(&self, strays: &Mutex<BTreeSet<String>>) -> Infallible {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            self.look(strays);
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Adds processes of this job, and those of which nobody knows whose they are, that may run on CPUs of other jobs: what was
    /// started has bound itself anew.
    pub(super) fn look(&self, strays: &Mutex<BTreeSet<String>>) {
        let mut strays = strays.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(started) = started() else {
            strays.insert("nobody knows whether its processes kept to their CPUs: /proc could not be read".to_owned());
            return;
        };
        let homes: BTreeMap<PathBuf, Vec<usize>> = started.iter().filter_map(|(pid, _)| home(*pid)).collect();
        for (pid, name) in started {
            let home = namespace(pid).and_then(|namespace| homes.get(&namespace));
            if self.is_stray(home, threads(pid).filter_map(cpus::of)) {
                strays.insert(format!("{name} left the CPUs of its job ({})", list(&self.cpus)));
            }
        }
    }

    /// Is a process a stray whose PID namespace has its first process on the CPUs `home`, and which may run on `masks`?
    fn is_stray(&self, home: Option<&Vec<usize>>, mut masks: impl Iterator<Item = Vec<usize>>) -> bool {
        let mine = |cpus: &[usize]| cpus.iter().all(|cpu| self.cpus.contains(cpu));
        let others = |cpus: &[usize]| cpus.iter().all(|cpu| self.others.contains(cpu));
        match home {
            Some(home) if mine(home) => masks.any(|cpus| !mine(&cpus)),
            Some(home) if others(home) => false,
            _ => masks.any(|cpus| !mine(&cpus) && !others(&cpus)),
        }
    }
}

fn threads(pid: u32) -> impl Iterator<Item = i32> {
    // A thread may end while the others are looked at.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| thread.file_name().to_str()?.parse::<i32>().ok())
}

/// The PID namespace of a process, by the name that the kernel gives it.
fn namespace(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// For the first process of a PID namespace, which never binds itself anew, the namespace and its CPUs.
fn home(pid: u32) -> Option<(PathBuf, Vec<usize>)> {
    let pid_here = i32::try_from(pid).ok()?;
    (cpus::thread_of(pid, 1).ok()? == pid_here).then_some((namespace(pid)?, cpus::of(pid_here)?))
}

/// `0-3,7`
fn list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// What each job has; empty for one job, which has the whole host.
///
/// # Errors
/// [`CampaignError::Jobs`] when the iterations cannot run beside each other without being in each other's way, or when there are
/// too few cores.
pub(super) fn shares(
    options: &Options<'_>,
    to_do: &[IterationNumber],
    testbeds: &BTreeMap<String, Box<dyn Testbed>>,
) -> Result<Vec<Share>, CampaignError> {
    let jobs = options.jobs.get();
    if jobs == 1 {
        return Ok(Vec::new());
    }
    let refused = |why: String| CampaignError::Jobs(format!("--jobs {jobs}: {why}"));
    let mut memory = 0;
    for iteration in to_do.iter().filter_map(|&number| options.plan.get(number)) {
        let testbed = testbeds[iteration.tuple.testbed()].as_ref();
        let why = in_the_way(options, iteration.tuple, testbed);
        why.map_err(|why| refused(format!("{why} (iteration {})", iteration.number)))?;
        memory = memory.max(testbed.memory(iteration.tuple));
    }
    let (needed, available) = (memory.saturating_mul(jobs as u64), available_memory());
    if let Some(available) = available.filter(|available| needed > *available) {
        return Err(refused(format!(
            "guests of {jobs} iterations need {}, {} are available",
            size(needed),
            size(available)
        )));
    }
    let packages = cpus::packages().ok_or_else(|| refused("the kernel says no CPUs that may be used".to_owned()))?;
    divide(&packages, jobs).ok_or_else(|| {
        let cores = packages.concat().len();
        let many = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
        refused(format!("each job needs a core of its own, and vptest may use {many} here"))
    })
}

/// Why iterations of a tuple cannot run beside others.
fn in_the_way(options: &Options<'_>, tuple: &Tuple, testbed: &dyn Testbed) -> Result<(), String> {
    let kernel = match testbed.beside() {
        Beside::No(why) => return Err(format!("testbed {}: {why}", testbed.name())),
        Beside::Kernel => true,
        Beside::Guests => false,
    };
    if load::wanted(tuple) {
        return Err("the load of `stress_…` would reach the iterations beside".to_owned());
    }
    let has = |instrument| tuple.instruments().has(instrument);
    if options.plan.spec.instrument.counters.is_some() && has(Instrument::Counters) {
        return Err(
            "`[instrument] counters` counts what the whole host does, the iterations beside included".to_owned()
        );
    }
    let traced = options.plan.spec.instrument.syscalls.is_some() && has(Instrument::Syscalls);
    if kernel && traced {
        return Err("following system calls slows all processes of the host, those of the iterations beside included"
            .to_owned());
    }
    if options.plan.spec.testbed.reuse == Reuse::Tuple && testbed.beside() == Beside::Guests {
        return Err(
            "guests that jobs keep (`reuse = \"tuple\"`) would take the memory of those of the others".to_owned()
        );
    }
    Ok(())
}

/// Gives each job as many neighbouring cores of one package as every other, as many as can be; those that are left over are used by
/// none. `None` when there are too few.
fn divide(packages: &[Vec<Vec<usize>>], jobs: usize) -> Option<Vec<Share>> {
    let largest = packages.iter().map(Vec::len).max()?;
    let parts = |each: usize| packages.iter().flat_map(move |cores| cores.chunks_exact(each));
    let each = (1..=largest).rev().find(|each| parts(*each).count() >= jobs)?;
    let cpus: Vec<Vec<usize>> = parts(each).take(jobs).map(|cores| sorted(cores.concat())).collect();
    let of = |(index, own): (usize, &Vec<usize>)| {
        let others = cpus.iter().enumerate().filter(|(other, _)| *other != index).flat_map(|(_, cpus)| cpus);
        Share { job: index + 1, jobs, cpus: own.clone(), others: sorted(others.copied().collect()) }
    };
    Some(cpus.iter().enumerate().map(of).collect())
}

fn sorted(mut cpus: Vec<usize>) -> Vec<usize> {
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_dealt_out_evenly_and_threads_of_a_core_stay_together() {
        let cores = [vec![0, 8], vec![1, 9], vec![2, 10], vec![3, 11], vec![4, 12]];
        let one = [cores.to_vec()];
        let shares = divide(&one, 2).unwrap();
        assert_eq!(shares[0], Share { job: 1, jobs: 2, cpus: vec![0, 1, 8, 9], others: vec![2, 3, 10, 11] });
        assert_eq!(shares[1], Share { job: 2, jobs: 2, cpus: vec![2, 3, 10, 11], others: vec![0, 1, 8, 9] });
        assert_eq!(divide(&one, 5).unwrap().len(), 5);
        assert_eq!(divide(&one, 6), None);
        assert_eq!(divide(&[], 1), None);
    }

    #[test]
    fn a_job_is_in_one_package() {
        let package = |from: usize| (from..from + 5).map(|cpu| vec![cpu]).collect::<Vec<_>>();
        let packages = [package(0), package(10)];
        let cpus = |jobs| divide(&packages, jobs).unwrap().into_iter().map(|share| share.cpus).collect::<Vec<_>>();
        assert_eq!(cpus(6), [[0], [1], [2], [3], [4], [10]]);
        assert_eq!(cpus(4), [[0, 1], [2, 3], [10, 11], [12, 13]]);
        assert_eq!(cpus(3), [[0, 1], [2, 3], [10, 11]]);
        assert_eq!(cpus(2), [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]);
    }

    #[test]
    fn lists_are_written_as_the_kernel_writes_them() {
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn who_leaves_the_cpus_of_its_job_is_a_stray() {
        let share = Share { job: 1, jobs: 2, cpus: vec![0, 1], others: vec![2, 3] };
        let (mine, other) = (vec![0, 1], vec![2, 3]);
        let is_stray = |home: Option<&Vec<usize>>, masks: &[&[usize]]| {
            share.is_stray(home, masks.iter().map(|mask| mask.to_vec()))
        };
        assert!(!is_stray(Some(&mine), &[&[0, 1], &[1]]));
        assert!(
            is_stray(Some(&mine), &[&[0, 1], &[1, 2]])
                && is_stray(Some(&mine), &[&[2]])
                && is_stray(Some(&mine), &[&[4]])
        );
        assert!(!is_stray(Some(&other), &[&[0, 1], &[4]]), "the other job tells it");
        assert!(is_stray(None, &[&[0, 2]]) && is_stray(None, &[&[4]]));
        assert!(!is_stray(None, &[&[2, 3]]) && !is_stray(None, &[&[0]]));
    }
}
