//! Which of protonuke's options a spec may add.

use super::super::WorkloadError;

/// Options with a value that a spec may add.
const WITH_VALUE: &[&str] = &[
    "channels",
    "ftpfilesize",
    "http-user-agent",
    "httptlscert",
    "httptlskey",
    "max",
    "messages",
    "min",
    "s",
    "smtpmail",
    "smtpuser",
    "tlsversion",
    "u",
];

/// Switches that a spec may add.
const SWITCHES: &[&str] = &["httpcookies", "httpgzip", "ipv4", "ipv6", "markov", "smtptls"];

/// Options that would change what vptest asks for or reads, and what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("serve", "vptest starts a server of its own"),
    ("report", "set `duration` instead"),
    ("level", "set `times` instead"),
    ("logfile", "vptest reads the log from standard error"),
    ("v", "vptest reads the log from standard error"),
    ("verbose", "vptest reads the log from standard error"),
    ("httpimagesize", "set `image_size` instead"),
    ("httproot", "images of other names would pass for pages"),
    ("ircport", "vptest waits for the usual port"),
    ("random-hosts", "the only target is the pair's server"),
    ("dns", "nothing tells when its server is ready"),
    ("dnsv4", "nothing tells when its server is ready"),
    ("dnsv6", "nothing tells when its server is ready"),
];

/// Refuses whatever is no option that may be added. Go's flags take `-name value`, `-name=value` and the same with two
/// dashes; a switch takes a value after `=` only.
pub(super) fn check(arguments: &[String]) -> Result<(), WorkloadError> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let refuse = |why: String| WorkloadError::Unusable { value: argument.clone(), why };
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Err(refuse("protonuke's options begin with `-`; the target is put last by vptest".to_owned()));
        };
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(refuse(format!("option -{name} of protonuke cannot be used here: {why}")));
        }
        match (WITH_VALUE.contains(&name), SWITCHES.contains(&name)) {
            (true, _) if value.is_none() && rest.next().is_none() => {
                return Err(refuse(format!("option -{name} of protonuke needs a value")));
            }
            (false, false) => {
                let known = [WITH_VALUE, SWITCHES].concat().join(", ");
                return Err(refuse(format!("-{name} cannot be added to protonuke's options; these can: {known}")));
            }
            _ => {}
        }
    }
    Ok(())
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
        for good in [&[][..], &["-u", "5ms"], &["--u=5ms", "-httpcookies"], &["-ipv6=false", "-s", "-serve"]] {
            assert_eq!(refused(good), None, "{good:?}");
        }
    }

    #[test]
    fn options_that_vptest_sets_or_relies_on_are_refused() {
        for bad in [&["-serve"][..], &["-report=1s"], &["--level", "debug"], &["10.0.0.9"], &["-"], &["--"], &["-http"]]
        {
            assert!(refused(bad).is_some(), "{bad:?} passed");
        }
        let text = refused(&["-report", "1s"]).unwrap();
        assert_eq!(text, "`-report`: option -report of protonuke cannot be used here: set `duration` instead");
        assert_eq!(refused(&["-u"]).unwrap(), "`-u`: option -u of protonuke needs a value");
    }
}
