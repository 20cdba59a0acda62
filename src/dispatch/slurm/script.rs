//! What runs on a node: the script of an element, and those of steps that are sent into it.
//!
//! An element looks whether it sees the directory of its round. If so, it takes program, plan and orders from there, and its
//! worker writes there what it has to say: nobody else is needed. If not, it only keeps the node, until a step that the
//! coordinator starts in it (`srun --overlap`) has brought program, plan and orders over its standard input, and has sent back
//! over its standard output what the worker said.

use super::super::orders::Round;
use super::super::place::{Program, SUMS};
use super::super::ssh::quoted;
use crate::ids::ShortHash;
use crate::image::BUNDLE_PROGRAM;

/// Exit status: something could not be written or read on the node.
pub(super) const BROKEN: i32 = 73;
/// The node does not see the directory, and the spec says that it does.
pub(super) const BLIND: i32 = 74;
/// No step came to a node that was kept for one.
pub(super) const ALONE: i32 = 75;
/// A step came to an element that keeps no node for it.
pub(super) const NOT_KEPT: i32 = 76;
/// The program is not there, and was not sent.
pub(super) const NO_PROGRAM: i32 = 77;
/// A node of another kind.
pub(super) const MACHINE: i32 = 78;
/// Seconds for which a node is kept without a step.
const PATIENCE: u32 = 120;
/// Seconds for which it is kept once a step has ended, until its result is stored.
const LINGER: u32 = 60;

/// What scripts speak of.
pub(super) struct Subject<'a> {
    pub(super) id: ShortHash,
    pub(super) round: &'a Round,
    pub(super) program: &'a Program,
    /// The round's directory; absolute.
    pub(super) directory: &'a str,
    /// Says the round's directory from others of that name.
    pub(super) nonce: &'a str,
    pub(super) shared: Option<bool>,
}

/// Names of files in the directory of a round.
pub(super) const NONCE: &str = "nonce";
pub(super) const FILES: &str = "files.tar";
pub(super) const PROGRAM: &str = "program.tar";
pub(super) const SAID: &str = "said";

impl Subject<'_> {
    /// Variables and functions of all scripts.
    fn common(&self) -> String {
        let (id, round, hash, machine) = (self.id, self.round.as_str(), self.program.hash(), self.program.machine());
        format!(
            r#"umask 077
cache="${{HOME:?}}/.cache/vptest"
place="$cache/campaigns/{id}-$(uname -n)"
program="$cache/programs/{hash}"
hold="$cache/hold/$SLURM_JOB_ID"
have() {{ (cd "$program" 2>/dev/null && sha256sum -c {SUMS} >/dev/null 2>&1); }}
install() {{
    mv "$t/files/plan.json" "$place/plan.json" && mv "$t"/files/.worker/orders-* "$place/.worker/" || return {BROKEN}
    rm -rf "$t/files"
    have && return 0
    [ -e "$t/{SUMS}" ] || return {NO_PROGRAM}
    (cd "$t" && sha256sum -c {SUMS} >/dev/null) || return {BROKEN}
    mv -T "$t" "$program" 2>/dev/null || have || {{ rm -rf "$program" && mv -T "$t" "$program"; }} || return {BROKEN}
}}
# Standard input: plan and orders, the program before them where it is needed.
unpack() {{
    mkdir -p "$cache/programs" "$place/.worker/sent" && t=$(mktemp -d "$cache/programs/.XXXXXX") || return {BROKEN}
    if tar -x -i -C "$t" && mkdir "$t/files" && mv "$t/plan.json" "$t/.worker" "$t/files/"; then install; e=$?; else e={BROKEN}; fi
    rm -rf "$t"
    return $e
}}
is_machine() {{
    [ "$(uname -m)" = {machine} ] && return 0
    echo "it is a $(uname -m), and this vptest runs on {machine}" >&2
    return 1
}}
# The worker takes its iteration down when it is asked to; nobody else must end before it.
work() {{
    trap 'kill -TERM "$worker" 2>/dev/null' TERM
    "$program/{BUNDLE_PROGRAM}" worker --place "$place" --round {round} --share "$2" --restarts "$1" --tell-rest &
    worker=$!
    while :; do wait "$worker"; e=$?; kill -0 "$worker" 2>/dev/null || break; done
    trap '' TERM
}}
"#
        )
    }

    /// The script of an element.
    pub(super) fn element(&self) -> String {
        let (directory, nonce) = (quoted(self.directory), quoted(self.nonce));
        let otherwise = match self.shared {
            Some(true) => format!("exit {BLIND}"),
            _ => "keep".to_owned(),
        };
        let sees = match self.shared {
            Some(false) => "false",
            _ => "sees",
        };
        format!(
            r#"#!/bin/sh
# An iteration of vptest's; `vptest status` and `vptest cancel` know it.
{common}
directory={directory}
restarts=${{SLURM_RESTART_COUNT:-0}}
sees() {{ [ -w "$directory/{SAID}" ] && [ "$(cat "$directory/{NONCE}" 2>/dev/null)" = {nonce} ]; }}
shared() {{
    said="$directory/{SAID}/$SLURM_ARRAY_TASK_ID-$restarts"
    mkdir "$said" && : > "$said/stdout" && exec 2> "$said/stderr" || exit {BROKEN}
    is_machine || exit {MACHINE}
    if have; then unpack < "$directory/{FILES}"; else cat "$directory/{PROGRAM}" "$directory/{FILES}" | unpack; fi || exit $?
    work "$restarts" "$SLURM_ARRAY_TASK_ID" > "$said/stdout"
    # All that it did is where the coordinator finds it. With another status, something may be here that is not.
    [ $e = 0 ] && rm -rf "$place"
    exit $e
}}
has_step() {{ read -r step 2>/dev/null < "$hold/begun" && kill -0 "$step" 2>/dev/null; }}
keep() {{
    rm -rf "$hold"; mkdir -p "$hold" || exit {BROKEN}
    trap 'gone=1; has_step && kill -TERM "$step"' TERM
    idle=0 gone=0 most={PATIENCE}
    until [ -e "$hold/done" ]; do
        if has_step; then
            idle=0 most={LINGER}
        else
            [ $gone = 1 ] && break
            idle=$((idle + 1))
            [ $idle -gt $most ] && break
        fi
        sleep 1
    done
    e=0
    [ -e "$hold/begun" ] || e={ALONE}
    rm -rf "$hold"
    exit $e
}}
if {sees}; then shared; else {otherwise}; fi
"#,
            common = self.common()
        )
    }

    /// A step in an element that keeps its node: brings what is needed and runs the worker.
    pub(super) fn step(&self) -> String {
        format!(
            r#"{common}
[ -d "$hold" ] || exit {NOT_KEPT}
echo $$ > "$hold/begun" || exit {BROKEN}
is_machine || exit {MACHINE}
unpack || exit $?
work "$1" "$2" < /dev/null
exit $e"#,
            common = self.common()
        )
    }

    /// A step that lets a node go. With the word `all`, all that was done there is stored.
    pub(super) fn release(&self) -> String {
        format!("{common}\n[ \"$1\" = all ] && rm -rf \"$place\"; : > \"$hold/done\"", common = self.common())
    }
}

/// What an exit status of an element or a step means; `None` for one of others.
pub(super) fn meaning(code: i32) -> Option<&'static str> {
    match code {
        BROKEN => Some("program, plan or orders could not be put there"),
        BLIND => Some("it does not see the campaign's directory, although `slurm.shared` is true"),
        ALONE => Some("no coordinator came to it"),
        MACHINE => Some("its processor is of another architecture"),
        _ => None,
    }
}
