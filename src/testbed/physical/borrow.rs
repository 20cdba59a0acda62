//! Reaching the nodes of an iteration and borrowing their settings.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::member::Member;
use super::nodes::{Held, Nodes};
use super::wishes::{NodeWish, Wishes};
use crate::agent::{AgentError, Client, FailureKind, Hello, Lent, LoanRequest};
use crate::spec::Way;
use crate::testbed::{Request, TestbedError};

/// How long an interface may be somebody else's: longer than an agent takes to notice that it has lost its vptest. With ssh that
/// is 15 s, with letters 45 s.
const TURN: Duration = Duration::from_secs(20);
const TURN_BY_ROND: Duration = Duration::from_secs(60);
const TURN_POLL: Duration = Duration::from_millis(250);

/// A node that was reached, and its part.
pub(super) type Reached = (NodeWish, Arc<Held>);

/// What came of borrowing.
#[derive(Default)]
pub(super) struct Borrowed {
    /// Those that lent.
    pub(super) members: Vec<Member>,
    /// Those that went meanwhile, with the reason: what they had changed is not known.
    pub(super) lost: Vec<(NodeWish, String)>,
    /// The first that did not lend.
    pub(super) refused: Option<TestbedError>,
}

/// Reaches all nodes at the same time.
pub(super) async fn reach_all(wishes: &Wishes, nodes: &Nodes, request: &Request) -> Result<Vec<Reached>, TestbedError> {
    let mut all = Vec::new();
    for wish in &wishes.nodes {
        all.push(async move { Ok::<_, TestbedError>((wish.clone(), nodes.reach(wish, &request.vptest).await?)) });
    }
    try_join_all(all).await
}

/// Which network stack a node is: two names may lead to the same host. `None` when it does not say.
fn stack(hello: &Hello) -> Option<(&str, &str)> {
    hello.boot_id.as_deref().zip(hello.network.as_deref())
}

/// Refuses two nodes that are one host: nothing between them would use a link.
pub(super) fn apart(reached: &[Reached]) -> Result<(), TestbedError> {
    for (at, (wish, held)) in reached.iter().enumerate() {
        let same = |other: &&Reached| stack(other.1.client.hello()) == stack(held.client.hello());
        if stack(held.client.hello()).is_some()
            && let Some((other, _)) = reached[..at].iter().find(same)
        {
            let what = format!(
                "{} is the same host as {} ({}): nothing between them would use a link",
                wish.host, other.id, other.host
            );
            return Err(TestbedError::Guest { node: wish.id, what });
        }
    }
    Ok(())
}

/// Borrows from all nodes, at the same time where nobody else has any of them. Otherwise one after the other, in an order that
/// is the same for everybody: two campaigns that wait for each other's nodes would both wait in vain.
pub(super) async fn borrow_all(wishes: &Wishes, reached: Vec<Reached>, by: &str) -> Borrowed {
    let tries = reached.iter().map(|(wish, held)| async { held.client.lend(&wishes.loan(wish, by)).await });
    let tried = join_all(tries).await;
    if !tried.iter().any(is_busy) {
        return collect(reached.into_iter().zip(tried));
    }
    // Whoever waits holds nothing that comes later in the order.
    let mut borrowed = Borrowed::default();
    for ((wish, _), lent) in reached.iter().zip(&tried) {
        // Whether it has lent before it went is not known: nothing may be borrowed on top of that.
        if let Some(error) = lent.as_ref().err().filter(|error| error.failure().is_none()) {
            borrowed.lose(wish, error);
        }
    }
    let free = reached.iter().zip(&tried).filter(|(_, lent)| lent.is_ok());
    let back = join_all(free.map(|((wish, held), _)| async move { (wish, held.client.give_back().await) })).await;
    for (wish, back) in back {
        match back {
            Ok(left) if left.is_empty() => {}
            Ok(left) => borrowed.keep(wish, &left),
            Err(error) => borrowed.lose(wish, &error),
        }
    }
    if borrowed.refused.is_some() {
        return borrowed;
    }
    in_turn(wishes, reached, by).await
}

async fn in_turn(wishes: &Wishes, mut reached: Vec<Reached>, by: &str) -> Borrowed {
    let order = |(wish, held): &Reached| {
        let stack = stack(held.client.hello()).map(|(boot, network)| (boot.to_owned(), network.to_owned()));
        (stack, wish.host.clone())
    };
    reached.sort_by_cached_key(order);
    let mut lent = Vec::new();
    for (wish, held) in &reached {
        lent.push(take_turn(wish, &held.client, &wishes.loan(wish, by)).await);
        if lent.last().is_some_and(Result::is_err) {
            break;
        }
    }
    let mut borrowed = collect(reached.into_iter().zip(lent));
    borrowed.members.sort_by_key(|member| wishes.nodes.iter().position(|wish| wish.id == member.wish.id));
    borrowed
}

fn is_busy(lent: &Result<Lent, AgentError>) -> bool {
    lent.as_ref().is_err_and(|error| error.failure() == Some(FailureKind::Busy))
}

fn collect(lent: impl Iterator<Item = (Reached, Result<Lent, AgentError>)>) -> Borrowed {
    let mut borrowed = Borrowed::default();
    for ((wish, held), lent) in lent {
        match lent {
            Ok(Lent { interface, address, notes }) => {
                for note in &notes {
                    tracing::warn!("{}: {note}", wish.id);
                }
                let trips = held.round_trips();
                borrowed.members.push(Member { wish, held, interface, address, notes, trips });
            }
            // Its agent said no, and changed nothing.
            Err(error) if error.failure().is_some() => borrowed.refuse(&wish, &error),
            Err(error) => borrowed.lose(&wish, &error),
        }
    }
    borrowed
}

impl Borrowed {
    fn refuse(&mut self, wish: &NodeWish, error: &AgentError) {
        self.refused.get_or_insert(TestbedError::Guest { node: wish.id, what: said(wish, error) });
    }

    fn lose(&mut self, wish: &NodeWish, error: &AgentError) {
        self.refuse(wish, error);
        self.lost.push((wish.clone(), error.to_string()));
    }

    /// Not everything was put back.
    fn keep(&mut self, wish: &NodeWish, left: &[String]) {
        let why = format!("{}: not put back: {}", wish.host, left.join(", "));
        self.refused.get_or_insert(TestbedError::Guest { node: wish.id, what: why.clone() });
        self.lost.push((wish.clone(), why));
    }
}

/// Borrows as soon as nobody else has the interface: an agent that lost its vptest notices that only after a while.
pub(super) async fn take_turn(wish: &NodeWish, client: &Client, request: &LoanRequest) -> Result<Lent, AgentError> {
    let turn = match wish.reach.way() {
        Way::Ssh => TURN,
        Way::Rond => TURN_BY_ROND,
    };
    let deadline = Instant::now() + turn;
    loop {
        match client.lend(request).await {
            Err(error) if error.failure() == Some(FailureKind::Busy) && Instant::now() < deadline => {
                tokio::time::sleep(TURN_POLL).await;
            }
            other => return other,
        }
    }
}

/// A node's error with its host.
pub(super) fn said(wish: &NodeWish, error: &AgentError) -> String {
    let text = error.to_string();
    // Some say it themselves.
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let cause = if text.ends_with(&cause) { String::new() } else { cause };
    format!("{}: {text}{cause}", wish.host)
}
