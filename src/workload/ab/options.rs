//! Which of ab's options a spec may add.

use super::super::WorkloadError;

/// ab's options that take a value (ab 2.3, `ab -h`).
const WITH_VALUE: &str = "nctsbBpuTvxyzCHAPXgemZfE";

/// Options that would change what vptest asks for or reads, and what to do instead.
const RESERVED: &[(char, &str)] = &[
    ('n', "set the factor `count` instead"),
    ('c', "set the factor `workers` instead"),
    ('k', "set `keepalive = true` instead"),
    ('t', "it ends ab before all requests are done; set the spec's `timeout` instead"),
    ('e', "vptest reads that file itself"),
    ('w', "vptest reads ab's text output, not HTML"),
    ('S', "vptest reads the columns it leaves out"),
    ('v', "what it prints could be taken for results"),
    ('i', "a HEAD request has no body, so its length cannot be checked"),
    ('V', "ab would print its version and end"),
    ('h', "ab would print its usage and end"),
];

/// Refuses arguments with a reserved option, or with anything that ab would take for the URL.
pub(super) fn check(arguments: &[String]) -> Result<(), WorkloadError> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let refuse = |why: &str| WorkloadError::Unusable { value: argument.clone(), why: why.to_owned() };
        let letters = argument.strip_prefix('-').filter(|letters| !letters.is_empty() && *letters != "-");
        let letters = letters.ok_or_else(|| refuse("ab's options begin with `-`; the URL is put last by vptest"))?;
        for (at, letter) in letters.char_indices() {
            if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == letter) {
                return Err(refuse(&format!("option -{letter} of ab cannot be used here: {why}")));
            }
            if WITH_VALUE.contains(letter) {
                // The value is the rest of this argument, or the whole next one.
                if at + letter.len_utf8() == letters.len() && rest.next().is_none() {
                    return Err(refuse(&format!("option -{letter} of ab needs a value")));
                }
                break;
            }
        }
    }
    Ok(())
}

/// Is this switch among arguments that [`check`] let pass?
pub(super) fn has(arguments: &[String], switch: char) -> bool {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        for (at, letter) in argument.char_indices().skip(1) {
            if letter == switch {
                return true;
            }
            if WITH_VALUE.contains(letter) {
                if at + letter.len_utf8() == argument.len() {
                    rest.next();
                }
                break;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> Option<String> {
        let owned: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        check(&owned).err().map(|error| error.to_string())
    }

    #[test]
    fn harmless_options_pass() {
        for good in [&[][..], &["-s", "120"], &["-s120", "-r"], &["-H", "-n: a header", "-rl"], &["-C", "k=v"]] {
            assert_eq!(refused(good), None);
        }
    }

    #[test]
    fn switches_are_found_and_values_are_none() {
        let has_l = |arguments: &[&str]| has(&arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>(), 'l');
        assert!(has_l(&["-l"]) && has_l(&["-H", "x", "-rl"]) && has_l(&["-s120", "-l"]));
        assert!(!has_l(&["-H", "-l"]) && !has_l(&["-Hl"]) && !has_l(&[]));
    }

    #[test]
    fn options_that_vptest_sets_or_relies_on_are_refused() {
        for bad in [&["-n", "5"][..], &["-rk"], &["-s", "9", "-t1"], &["http://x/"], &["--", "x"], &["-"], &["-w"]] {
            assert!(refused(bad).is_some(), "{bad:?} passed");
        }
        let text = refused(&["-rn5"]).unwrap();
        assert_eq!(text, "`-rn5`: option -n of ab cannot be used here: set the factor `count` instead");
        assert_eq!(refused(&["-s"]).unwrap(), "`-s`: option -s of ab needs a value");
    }
}
