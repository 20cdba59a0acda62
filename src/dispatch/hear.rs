//! What a worker says, whichever way it came: what becomes of it here.

use super::coordinator::Coordinator;
use super::frame::{Found, Frame, Left, Tail};
use crate::host::clock::now_ns;
use crate::record::Status;
use crate::text::printable;

/// What the engine has to do about it.
pub(super) enum Heard {
    /// Nothing.
    Nothing,
    /// The host's guests are of another image than those before: why it is not used any more.
    Changed(Option<String>),
    /// It was the last word.
    End(Option<Left>),
}

impl Coordinator<'_> {
    /// Takes what a worker on the host number `at` said, but for its first word.
    ///
    /// # Errors
    /// When something cannot be stored or noted here.
    pub(super) fn hear(&mut self, at: usize, found: &Found, tail: &Tail) -> anyhow::Result<Heard> {
        let host = self.fleet.member(at).state.host.clone();
        self.fleet.member(at).state.heard_ns = Some(now_ns());
        match &found.frame {
            Frame::Hello { .. } => {}
            Frame::Beat { running } => {
                self.fleet.member(at).state.doing.clone_from(running);
                if let Some(doing) = running {
                    self.doing(doing, &host)?;
                }
            }
            Frame::File { .. } => {
                if let Some(status) = self.take(found, tail)? {
                    self.fleet.ended(at, status == Status::Complete);
                }
            }
            Frame::Ended { number, attempt, again } => {
                let changed = self.changed_image(*number, *attempt);
                self.ended(*number, *attempt, *again)?;
                if let Some(why) = changed {
                    let news = self.fleet.unable(at, why);
                    return Ok(Heard::Changed(
                        news.map(|text| format!("{text} (--allow-changed-image goes on all the same)")),
                    ));
                }
            }
            Frame::Note { text } => self.say(&format!("{host}: {}", printable(text, 500))),
            Frame::End { left } => return Ok(Heard::End(left.clone())),
        }
        Ok(Heard::Nothing)
    }
}
