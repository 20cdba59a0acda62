//! vptest's agent in a guest whose image has a miniccc and no agent: it is sent and started by the one, and then answers on a
//! port of its own, so that all of this is one round trip through miniccc.

use std::time::Duration;

use super::super::error::{MinimegaError, PhaseFailure};
use super::mailbox::{LONGEST, START, UNPACK, failed_step};
use super::{Channel, Member, Phase, Sent, Step};
use crate::image::{BUNDLE_PROGRAM, Bundle};

/// Runs the agent, and says why it has ended. What it was unpacked from is looked at once more for the report of the phase, which
/// is over by then.
const RUN: &str = r#"cd /
(sleep 120; rm -f "$1/vptest.tar") &
"$1/vptest" agent --port "$2" --program "$1/vptest" 2>"$1/said"
echo $? >"$1/ended""#;
/// An agent that cannot have the port ends at once. One that can says nothing; the host will hear it.
const CHECK: &str = r#"n=0
until [ $n -ge 20 ]; do
  if [ -e "$1/ended" ]; then head -c 2000 "$1/said"; exit 1; fi
  n=$((n+1)); sleep 0.1 2>/dev/null || { sleep 1; n=$((n+10)); }
done"#;

/// Sends vptest to a guest and starts it at the virtio-serial port of that name. It ends with the guest. Its program lies in a
/// directory called `name`, which nothing else may be, so that its greeting tells it from another agent at the port.
///
/// # Errors
/// [`MinimegaError::Phase`] for what the guest lacks or cannot do, also when another agent has the port.
pub async fn start_at_port(
    channel: &Channel,
    member: &Member,
    bundle: &Bundle,
    port: &str,
    name: &str,
) -> Result<(), MinimegaError> {
    let incoming = format!("{}/{}", member.files, channel.head.outgoing().1);
    let directory = format!("{incoming}/{name}");
    let outcomes = channel.run(&[(member.clone(), phase(&directory, port, bundle))], &std::env::temp_dir()).await?;
    match outcomes.iter().find_map(failed_step) {
        Some(why) => Err(MinimegaError::phase(&member.node, PhaseFailure::NotStarted(why))),
        None => Ok(()),
    }
}

fn phase(directory: &str, port: &str, bundle: &Bundle) -> Phase {
    debug_assert_eq!(BUNDLE_PROGRAM, "vptest", "the script names it");
    let tar = format!("{directory}/vptest.tar");
    let sh = |script: &str, words: &[&str], limit: Duration| {
        let words = ["sh", "-c", script, "sh"].into_iter().chain(words.iter().copied());
        Step::of(words, limit)
    };
    let run = Step { background: true, ..sh(RUN, &[directory, port], LONGEST) };
    Phase {
        send: vec![Sent { path: tar.clone(), mode: 0o600, content: bundle.tar.clone() }],
        steps: vec![sh(UNPACK, &[directory, &tar], START), run, sh(CHECK, &[directory], START)],
        fetch: Vec::new(),
    }
}
