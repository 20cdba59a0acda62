//! Settings: in force as asked, and unchanged by the workload.

use super::Verdict;
use crate::record::{Moment, Setting};

/// Compares each reading with what was asked.
///
/// Not in force: invalid. Asked but not readable: suspect. Settings whose `ok` the testbed has decided are taken as it says; where it is `None` and both texts are
/// there, equal texts agree.
pub fn settings(settings: &[Setting]) -> Verdict {
    let mut verdict = Verdict::new();
    let mut agreed = 0;
    for setting in settings {
        match (&setting.requested, &setting.observed) {
            (Some(requested), Some(observed)) if !setting.ok.unwrap_or(requested == observed) => {
                verdict.invalid(format!("{}: asked {requested}, is {observed}{}", name(setting), when(setting)));
            }
            (Some(requested), None) => {
                let text = format!("{}: asked {requested}, could not be read back{}", name(setting), when(setting));
                verdict.suspect(text);
            }
            (Some(_), Some(_)) => agreed += 1,
            (None, _) => {}
        }
    }
    if verdict == Verdict::new() {
        verdict.passed(format!("settings: {agreed} readings as asked, {} in all", settings.len()));
    }
    verdict
}

/// Readings that differ between before and after: invalid if the setting was asked for, otherwise suspect.
pub fn changes(settings: &[Setting]) -> Verdict {
    let mut verdict = Verdict::new();
    let before = settings.iter().filter(|setting| setting.when == Moment::Before);
    for first in before {
        let same =
            |other: &&Setting| other.when == Moment::After && other.node == first.node && other.name == first.name;
        let Some(second) = settings.iter().find(same) else { continue };
        let (Some(was), Some(is)) = (&first.observed, &second.observed) else { continue };
        // One that was asked for is found wanting above, by the reading that is off.
        let told = [first, second].iter().any(|setting| {
            setting
                .requested
                .as_ref()
                .is_some_and(|asked| !setting.ok.unwrap_or(setting.observed.as_ref() == Some(asked)))
        });
        if was != is && !told {
            let text = format!("{}: changed from {was} to {is} during the workload", name(first));
            if first.requested.is_some() { verdict.invalid(text) } else { verdict.suspect(text) }
        }
    }
    verdict
}

/// `setting tso on client1`
fn name(setting: &Setting) -> String {
    match setting.node {
        Some(node) => format!("setting {} on {node}", setting.name),
        None => format!("setting {} on the host", setting.name),
    }
}

fn when(setting: &Setting) -> &'static str {
    match setting.when {
        Moment::Before => "",
        Moment::After => " (after the workload)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn setting(requested: Option<&str>, observed: Option<&str>, ok: Option<bool>, when: Moment) -> Setting {
        Setting {
            node: Some(NodeId::client(1)),
            name: "tso".to_owned(),
            requested: requested.map(str::to_owned),
            observed: observed.map(str::to_owned),
            ok,
            when,
        }
    }

    fn check(all: &[Setting], invalid: &[&str], suspect: &[&str]) {
        let mut verdict = settings(all);
        verdict.add(changes(all));
        assert_eq!(verdict.invalid, invalid);
        assert_eq!(verdict.suspect, suspect);
        assert!(!verdict.events.is_empty());
    }

    #[test]
    fn one_reading() {
        use Moment::{After, Before};
        let (on, off) = (Some("on"), Some("off"));
        let is_on = "setting tso on client1: asked off, is on";
        let after = "setting tso on client1: asked off, is on (after the workload)";
        let unread = "setting tso on client1: asked off, could not be read back";
        check(&[], &[], &[]);
        check(&[setting(off, off, Some(true), Before)], &[], &[]);
        check(&[setting(off, off, None, Before)], &[], &[]);
        check(&[setting(off, on, Some(false), Before)], &[is_on], &[]);
        check(&[setting(off, on, None, Before)], &[is_on], &[]);
        check(&[setting(off, on, Some(false), After)], &[after], &[]);
        check(&[setting(off, None, None, Before)], &[], &[unread]);
        check(&[setting(None, on, None, Before)], &[], &[]);
        check(&[setting(None, None, None, Before)], &[], &[]);
        // "1 Gbit/s" and "1000 Mbit/s": the testbed knows that they agree.
        check(&[setting(Some("1 Gbit/s"), Some("1000 Mbit/s"), Some(true), Before)], &[], &[]);
    }

    #[test]
    fn two_readings() {
        use Moment::{After, Before};
        let (on, off) = (Some("on"), Some("off"));
        let changed = "setting tso on client1: changed from on to off during the workload";
        let after = "setting tso on client1: asked on, is off (after the workload)";
        check(&[setting(None, on, None, Before), setting(None, off, None, After)], &[], &[changed]);
        check(&[setting(None, on, None, Before), setting(None, None, None, After)], &[], &[]);
        check(&[setting(None, on, None, Before), setting(None, on, None, After)], &[], &[]);
        check(&[setting(on, on, Some(true), Before), setting(on, off, Some(false), After)], &[after], &[]);
        // Both agree, says the testbed, but not with each other.
        check(&[setting(on, on, Some(true), Before), setting(on, off, Some(true), After)], &[changed], &[]);
        let other = Setting { node: None, ..setting(None, off, None, After) };
        check(&[setting(None, on, None, Before), other], &[], &[]);
    }
}
