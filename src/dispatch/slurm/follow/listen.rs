//! What workers say.

use std::time::Instant;

use anyhow::Context as _;

use super::super::super::frame::{Found, Frame, Left, StreamError, Tail, VERSION};
use super::super::super::hear::Heard;
use super::super::super::round::Nonsense;
use super::super::element::{Begun, Element, Stream};
use super::super::script;
use super::super::submit::slurm;
use super::{Following, LIST};
use crate::text::printable;

impl Following<'_, '_> {
    /// Looks for workers that have been begun.
    pub(super) fn list(&mut self) -> anyhow::Result<()> {
        if self.listed.is_some_and(|listed| listed.elapsed() < LIST) {
            return Ok(());
        }
        self.listed = Some(Instant::now());
        let directory = self.array.directory.join(script::SAID);
        let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((number, begun)) = name.to_str().and_then(Begun::parse) else { continue };
            let Some(element) = self.elements.get_mut(&number) else { continue };
            let path = begun.said(&self.array.directory, number).join("stdout");
            if !element.streams.contains_key(&begun) && path.exists() {
                element.streams.insert(begun, Stream::of(&path));
            }
        }
        Ok(())
    }

    /// Reads all that was said.
    pub(super) fn read_all(&mut self) -> anyhow::Result<()> {
        self.each(|this, element| this.read(element))
    }

    /// Reads what an element's workers have said.
    pub(super) fn read(&mut self, element: &mut Element) -> anyhow::Result<()> {
        let mut streams = std::mem::take(&mut element.streams);
        let mut result = Ok(());
        for (begun, stream) in streams.iter_mut().filter(|(_, stream)| stream.is_open()) {
            result = match self.frames(*begun, element, stream) {
                Err(error) if error.is::<StreamError>() || error.is::<Nonsense>() => {
                    stream.is_bad = true;
                    self.coordinator.say(&format!("{}: what its worker says makes no sense: {error}", element.name()));
                    self.kill(element, "its worker talks nonsense".to_owned());
                    Ok(())
                }
                other => other,
            };
            if result.is_err() {
                break;
            }
        }
        element.streams = streams;
        result
    }

    fn frames(&mut self, begun: Begun, element: &mut Element, stream: &mut Stream) -> anyhow::Result<()> {
        let tail = Tail::open_at(&stream.path, stream.mark);
        let mut tail = tail.with_context(|| format!("cannot open {}", stream.path.display()))?;
        let length = tail.length().map_err(StreamError::from)?;
        if length > stream.length {
            (stream.length, stream.heard) = (length, Instant::now());
        }
        while stream.is_open() {
            let Some(found) = tail.next()? else { break };
            stream.mark = tail.mark();
            let refused = self.coordinator.refused;
            self.frame((&found, &tail), begun, element, stream)?;
            stream.is_lacking |= self.coordinator.refused > refused;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        (found, tail): (&Found, &Tail),
        begun: Begun,
        element: &mut Element,
        stream: &mut Stream,
    ) -> anyhow::Result<()> {
        if let Frame::Hello { version, host, login, .. } = &found.frame {
            if *version != VERSION {
                return Err(Nonsense(format!("it speaks version {version}, and {VERSION} is spoken here")).into());
            }
            let (host, node) = (printable(host, 100), login.as_deref().unwrap_or(host));
            stream.at = Some(self.coordinator.fleet.met(&printable(node, 100), &host));
            slurm(self.coordinator).is_shared = Some(matches!(begun, Begun::Itself(_)));
        }
        let Some(at) = stream.at else { return Ok(()) };
        match self.coordinator.hear(at, found, tail)? {
            Heard::Nothing | Heard::Changed(None) => {}
            Heard::Changed(Some(text)) => {
                self.coordinator.say(&text);
                self.nodes_changed();
                // The rest of its share would be of that image too.
                self.kill(element, "its node's image is another one".to_owned());
            }
            Heard::End(left) => {
                stream.has_ended = true;
                self.last_word(at, left, stream);
            }
        }
        Ok(())
    }

    fn last_word(&mut self, at: usize, left: Option<Left>, stream: &mut Stream) {
        stream.is_lacking |= matches!(left, Some(Left::Busy(_) | Left::Unable(_)));
        let fleet = &mut self.coordinator.fleet;
        let news = match left {
            None | Some(Left::Late(_)) => None,
            Some(Left::Interrupted(by)) => {
                stream.was_interrupted = Some(printable(&by, 200));
                None
            }
            // It is what it was told.
            Some(Left::Limit(_)) if self.halted.is_some() => None,
            Some(Left::Busy(why)) => fleet.struck(at, printable(&why, 500)),
            Some(Left::Limit(why) | Left::Unable(why)) => fleet.unable(at, printable(&why, 500)),
        };
        if let Some(text) = news {
            self.coordinator.say(&text);
            slurm(self.coordinator).trouble = Some(text);
            self.nodes_changed();
        }
    }
}
