//! The hosts of a campaign: which can be used, and what each does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};

use super::hosts::Host;
use super::orders::Round;
use super::place::{self, Files, Look, PlaceError, Program};
use super::ssh::{Ssh, SshFailure};
use super::state::{HostState, Phase};
use crate::host::clock::now_ns;
use crate::ids::ShortHash;

/// Failures in a row after which a host is not tried again.
const STRIKES: u32 = 3;
/// Between two tries at fetching what a host has that is lost, or not used any more.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Seconds that clocks may differ by without a word.
const CLOCKS: f64 = 1.0;

/// See the module.
pub(super) struct Fleet {
    ssh: Arc<Ssh>,
    program: Arc<Program>,
    members: Vec<Member>,
    /// What the hosts are given, once there is something.
    files: Option<Arc<Files>>,
}

/// A host while it is looked at and prepared.
pub(super) type Attempt = BoxFuture<'static, (usize, Result<Look, PlaceError>)>;

/// A host of the fleet.
pub(super) struct Member {
    pub(super) host: Host,
    pub(super) state: HostState,
    /// Failures since it last had something to show.
    strikes: u32,
    /// Process number of its worker.
    pub(super) worker: Option<u32>,
    /// It may have results that nobody has taken.
    pub(super) owes: bool,
    /// When it was asked for them last.
    asked: Option<Instant>,
}

impl Member {
    fn of(host: &Host) -> Self {
        let state = HostState {
            host: host.to_string(),
            name: None,
            phase: Phase::Waiting,
            why: None,
            doing: None,
            heard_ns: None,
            ended: 0,
            complete: 0,
            clock_seconds: None,
        };
        Self { host: host.clone(), state, strikes: 0, worker: None, owes: false, asked: None }
    }
}

impl Fleet {
    /// `was_run` says whether these hosts may have been given iterations before.
    pub(super) fn new(hosts: &[Host], ssh: Arc<Ssh>, program: Arc<Program>, was_run: bool) -> Self {
        let member = |host| Member { owes: was_run, ..Member::of(host) };
        Self { ssh, program, members: hosts.iter().map(member).collect(), files: None }
    }

    /// A node that Slurm has chosen says what it calls itself.
    pub(super) fn met(&mut self, node: &str, name: &str) -> usize {
        let at = self.node(node);
        let state = &mut self.members[at].state;
        state.name = Some(name.to_owned());
        if state.phase != Phase::Unable {
            (state.phase, state.why) = (Phase::Working, None);
        }
        at
    }

    /// A node that Slurm has chosen, which may not have said anything yet.
    pub(super) fn node(&mut self, node: &str) -> usize {
        self.find(node).unwrap_or_else(|| {
            self.members.push(Member::of(&Host::named(node)));
            self.members.len() - 1
        })
    }

    /// What a node was given failed, and Slurm may choose it again. Says so.
    pub(super) fn struck(&mut self, at: usize, why: String) -> Option<String> {
        let member = &mut self.members[at];
        if member.state.phase == Phase::Unable {
            return None;
        }
        member.strikes += 1;
        if member.strikes >= STRIKES {
            return self.unable(at, format!("it failed {STRIKES} times in a row, the last time: {why}"));
        }
        let text = format!("{}: {why}; its iterations are run again", member.state.host);
        (member.state.why, member.state.doing) = (Some(why), None);
        Some(text)
    }

    /// Hosts that are not used any more.
    pub(super) fn unusable(&self) -> Vec<String> {
        let unable = self.members.iter().filter(|member| member.state.phase == Phase::Unable);
        unable.map(|member| member.state.host.clone()).collect()
    }

    pub(super) fn ssh(&self) -> &Arc<Ssh> {
        &self.ssh
    }

    pub(super) fn program(&self) -> &Arc<Program> {
        &self.program
    }

    pub(super) fn states(&self) -> Vec<HostState> {
        self.members.iter().map(|member| member.state.clone()).collect()
    }

    /// Hosts that may yet do something.
    pub(super) fn able(&self) -> usize {
        self.members.iter().filter(|member| member.state.phase != Phase::Unable).count()
    }

    /// Hosts that are given iterations.
    pub(super) fn working(&self) -> Vec<&Host> {
        let working = self.members.iter().filter(|member| member.state.phase == Phase::Working);
        working.map(|member| &member.host).collect()
    }

    /// The host of that name, as it was named by the user.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        self.members.iter().position(|member| member.state.host == host)
    }

    pub(super) fn member(&mut self, at: usize) -> &mut Member {
        &mut self.members[at]
    }

    /// Why the hosts that are not used are not.
    pub(super) fn why(&self) -> String {
        let why = |member: &Member| {
            let why = member.state.why.clone().unwrap_or_else(|| "it runs nothing".to_owned());
            format!("{}: {why}", member.state.host)
        };
        self.members.iter().map(why).collect::<Vec<_>>().join("; ")
    }

    /// Copies to each host what it lacks; says what is worth knowing.
    pub(super) async fn prepare(&mut self, files: Arc<Files>) -> Vec<String> {
        self.files = Some(files);
        let tries: Vec<_> = (0..self.members.len()).filter(|&at| self.may_try(at)).map(|at| self.attempt(at)).collect();
        let mut news = Vec::new();
        for (at, result) in join_all(tries).await {
            news.extend(self.tried(at, result));
        }
        news
    }

    fn may_try(&self, at: usize) -> bool {
        self.members[at].state.phase != Phase::Unable
    }

    /// Hosts that may have results which nobody has taken.
    pub(super) fn owing(&self) -> Vec<usize> {
        let is_due = |member: &Member| {
            // One that did not answer just now is not waited for again.
            matches!(member.state.phase, Phase::Waiting | Phase::Working)
                || member.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN)
        };
        (0..self.members.len()).filter(|&at| self.members[at].owes && is_due(&self.members[at])).collect()
    }

    /// Copies to some of the hosts what they lack; what comes of it is for [`Fleet::prepared`].
    pub(super) fn prepare_only(&mut self, hosts: impl Iterator<Item = usize>, files: Arc<Files>) -> Vec<Attempt> {
        self.files = Some(files);
        let hosts: Vec<usize> = hosts.collect();
        hosts.iter().for_each(|&at| self.members[at].asked = Some(Instant::now()));
        hosts.into_iter().map(|at| self.attempt(at)).collect()
    }

    /// What came of it; says what is worth knowing. Those that are not used any more stay so.
    pub(super) fn prepared(&mut self, at: usize, result: Result<Look, PlaceError>) -> Vec<String> {
        if self.may_try(at) { self.tried(at, result) } else { Vec::new() }
    }

    /// Looks whether hosts that were lost are back; says what is worth knowing.
    pub(super) async fn look_again(&mut self, hosts: Vec<usize>) -> Vec<String> {
        let tries: Vec<_> = hosts.into_iter().map(|at| self.attempt(at)).collect();
        let mut news = Vec::new();
        for (at, result) in join_all(tries).await {
            news.extend(self.tried(at, result));
        }
        news
    }

    /// There is no connection to a host that was given nothing. Says so, unless it is known.
    pub(super) fn absent(&mut self, at: usize, why: String) -> Option<String> {
        let state = &mut self.members[at].state;
        let is_news = state.phase == Phase::Working;
        if is_news {
            state.phase = Phase::Lost;
        }
        let text = format!("{}: {why}", state.host);
        state.why = Some(why);
        is_news.then_some(text)
    }

    /// Has a host send what it has; its words come into a file.
    pub(super) fn fetch(
        &self,
        at: usize,
        id: ShortHash,
        round: &Round,
        path: PathBuf,
    ) -> BoxFuture<'static, Result<(), SshFailure>> {
        let (ssh, program) = (Arc::clone(&self.ssh), Arc::clone(&self.program));
        let (host, round) = (self.members[at].host.clone(), round.clone());
        async move { place::fetch(&ssh, &host, (&program, id, &round), &path).await }.boxed()
    }

    /// Hosts that are lost and may come back.
    pub(super) fn lost(&self) -> Vec<usize> {
        let is_lost = |&at: &usize| self.members[at].state.phase == Phase::Lost;
        (0..self.members.len()).filter(is_lost).collect()
    }

    /// Looks at a host and prepares it; what comes of it is for [`Fleet::tried`].
    pub(super) fn attempt(&self, at: usize) -> Attempt {
        let (ssh, program) = (Arc::clone(&self.ssh), Arc::clone(&self.program));
        let (host, files) = (self.members[at].host.clone(), self.files.clone());
        let was_lost = self.members[at].state.phase == Phase::Lost;
        async move {
            let prepared = async {
                let look = place::look(&ssh, &host, &program).await?;
                if let Some(files) = files {
                    place::prepare(&ssh, &host, (&look, was_lost), &program, &files).await?;
                }
                Ok(look)
            };
            (at, prepared.await)
        }
        .boxed()
    }

    /// What came of an attempt; says what is worth knowing.
    pub(super) fn tried(&mut self, at: usize, result: Result<Look, PlaceError>) -> Vec<String> {
        let before = self.members[at].state.phase;
        match result {
            Ok(look) => {
                let mut news = Vec::new();
                if before == Phase::Lost {
                    news.push(format!("{}: it is back", self.members[at].state.host));
                }
                news.extend(self.introduce(at, &look));
                let state = &mut self.members[at].state;
                (state.phase, state.why) = (Phase::Working, None);
                news
            }
            Err(PlaceError::Machine { found, wanted }) => {
                self.unable(at, PlaceError::Machine { found, wanted }.to_string()).into_iter().collect()
            }
            Err(error) if before == Phase::Lost => {
                self.members[at].state.why = Some(error.to_string());
                Vec::new()
            }
            Err(error) => self.lose(at, error.to_string()).into_iter().collect(),
        }
    }

    /// What its first answer tells.
    fn introduce(&mut self, at: usize, look: &Look) -> Vec<String> {
        let is_new = self.members[at].state.name.is_none();
        let same = |member: &&Member| member.state.name.as_ref() == Some(&look.name);
        let twin = self.members.iter().find(same).map(|twin| twin.state.host.clone());
        let state = &mut self.members[at].state;
        state.name = Some(look.name.clone());
        state.heard_ns = Some(now_ns());
        state.clock_seconds = Some(look.clock);
        if !is_new {
            return Vec::new();
        }
        let mut news = Vec::new();
        if let Some(twin) = twin {
            let (host, name) = (&state.host, &look.name);
            news.push(format!("{host} and {twin} both call themselves {name}: their iterations cannot be told apart"));
        }
        if look.clock.abs() - look.clock_error > CLOCKS {
            let (way, seconds) = (if look.clock > 0.0 { "ahead of" } else { "behind" }, look.clock.abs());
            news.push(format!("{}: its clock is {seconds:.1} s {way} the one here", state.host));
        }
        news
    }

    /// There is no connection to a host, or what it was given failed. Says so, unless it is known.
    pub(super) fn lose(&mut self, at: usize, why: String) -> Option<String> {
        let member = &mut self.members[at];
        member.owes = true;
        if member.state.phase == Phase::Unable {
            return None;
        }
        // GNU parallel may have given a host that is gone more before it heard of it.
        member.strikes += u32::from(member.state.phase == Phase::Working);
        if member.strikes >= STRIKES {
            return self.unable(at, format!("it failed {STRIKES} times in a row, the last time: {why}"));
        }
        let state = &mut member.state;
        let is_news = state.phase != Phase::Lost;
        (state.phase, state.doing) = (Phase::Lost, None);
        let text = format!("{}: {why}; its iterations go to others", state.host);
        state.why = Some(why);
        is_news.then_some(text)
    }

    /// A host is not used any more.
    pub(super) fn unable(&mut self, at: usize, why: String) -> Option<String> {
        let state = &mut self.members[at].state;
        let is_news = state.phase != Phase::Unable;
        (state.phase, state.doing) = (Phase::Unable, None);
        let text = format!("{}: {why}; it is not used", state.host);
        state.why = Some(why);
        is_news.then_some(text)
    }

    /// An attempt came from a host.
    pub(super) fn ended(&mut self, at: usize, is_complete: bool) {
        let member = &mut self.members[at];
        member.strikes = 0;
        member.state.ended += 1;
        member.state.complete += usize::from(is_complete);
    }

    /// A round is over: nobody runs anything.
    pub(super) fn rest(&mut self) {
        for member in &mut self.members {
            (member.state.doing, member.worker) = (None, None);
        }
    }

    /// Was any host reached yet?
    pub(super) fn was_reached(&self) -> bool {
        self.members.iter().any(|member| member.state.name.is_some())
    }

    /// Leaves the wish to end on all hosts that may have something to do.
    pub(super) fn halt(&self, id: ShortHash, round: &Round, wish: &'static str) -> BoxFuture<'static, Vec<String>> {
        let may_work = |member: &&Member| member.state.phase == Phase::Working || member.worker.is_some();
        let each = self.members.iter().filter(may_work).map(|member| {
            let (ssh, host, round) = (Arc::clone(&self.ssh), member.host.clone(), round.clone());
            async move { failure(&host, "cannot be told to end", place::halt(&ssh, &host, id, &round, wish).await) }
        });
        join_all(each).map(|all| all.into_iter().flatten().collect()).boxed()
    }

    /// Ends a worker that gives no sign of life.
    pub(super) fn kill(&self, at: usize) -> BoxFuture<'static, Vec<String>> {
        let Some(worker) = self.members[at].worker else { return std::future::ready(Vec::new()).boxed() };
        let (ssh, host) = (Arc::clone(&self.ssh), self.members[at].host.clone());
        async move {
            failure(&host, "its worker cannot be killed", place::kill(&ssh, &host, worker).await).into_iter().collect()
        }
        .boxed()
    }

    /// Removes the campaign from all hosts; what cannot be removed.
    pub(super) async fn remove(&self, id: ShortHash) -> Vec<String> {
        let (owing, reached): (Vec<_>, Vec<_>) =
            self.members.iter().filter(|member| member.state.name.is_some()).partition(|member| member.owes);
        let owed =
            owing.iter().map(|member| format!("{}: it may have results, and its files stay there", member.state.host));
        let owed: Vec<String> = owed.collect();
        let each = reached.into_iter().map(|member| async move {
            let removed = place::remove(&self.ssh, &member.host, id).await;
            failure(&member.host, "the campaign's files stay there", removed)
        });
        owed.into_iter().chain(join_all(each).await.into_iter().flatten()).collect()
    }
}

fn failure(host: &Host, what: &str, result: Result<(), SshFailure>) -> Option<String> {
    result.err().map(|error| format!("{host}: {what}: {error}"))
}
