//! Settings that the node lends to an iteration.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::ifaddrs::getifaddrs;

use super::super::message::{Failure, FailureKind, Lent, LoanRequest, Outcome};
use crate::host::loan::{DIRECTORY, Loan, LoanError, Wanted};

type Place = Mutex<Option<Loan>>;

/// Changes settings; those that are lent already are put back first.
pub(super) fn lend(place: &Place, request: &LoanRequest) -> Result<Outcome, Failure> {
    give_back(place)?;
    // Held to the end: whoever gives back meanwhile waits for what is being changed.
    let mut place = locked(place);
    let (interface, address) = interface(request)?;
    let wanted = Wanted { interface: interface.clone(), ..request.wanted.clone() };
    let (loan, notes) = Loan::take(Path::new(DIRECTORY), &wanted, &request.by).map_err(refused)?;
    *place = Some(loan);
    Ok(Outcome::Lent(Lent { interface, address, notes }))
}

/// Puts settings back, if any are lent.
pub(super) fn give_back(place: &Place) -> Result<Outcome, Failure> {
    let loan = locked(place).take();
    Ok(Outcome::GaveBack { left: loan.map_or_else(Vec::new, |mut loan| loan.give_back()) })
}

fn locked(place: &Place) -> MutexGuard<'_, Option<Loan>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The interface and its address.
fn interface(request: &LoanRequest) -> Result<(String, IpAddr), Failure> {
    let name = &request.wanted.interface;
    let what = || match request.address {
        Some(address) if name.is_empty() => format!("find the interface with {address}"),
        Some(address) => format!("find {address} on {name}"),
        None => format!("find an address of {name}"),
    };
    let listed = getifaddrs().map_err(|error| Failure::io(what(), &error.into()))?;
    let all: Vec<(String, IpAddr)> = listed
        .filter_map(|found| {
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
            Some((without_label(&found.interface_name), v4.or_else(v6)?))
        })
        .collect();
    let is_it = |(interface, address): &&(String, IpAddr)| {
        (name.is_empty() || interface == name) && request.address.map_or(address.is_ipv4(), |asked| asked == *address)
    };
    all.iter().find(is_it).cloned().ok_or_else(|| {
        let known: Vec<String> = all.iter().map(|(interface, address)| format!("{interface} {address}")).collect();
        Failure::new(FailureKind::NotFound, what(), format!("there are {}", known.join(", ")))
    })
}

/// getifaddrs(3) gives the label of an IPv4 address for the name: `eth0:1` is one on `eth0`.
fn without_label(name: &str) -> String {
    name.split(':').next().unwrap_or_default().to_owned()
}

fn refused(error: LoanError) -> Failure {
    let what = "change its settings";
    match &error {
        LoanError::Io { what, source } => Failure::io(what, source),
        LoanError::Busy { .. } => Failure::new(FailureKind::Busy, what, error.to_string()),
        LoanError::NoInterface { .. } => Failure::new(FailureKind::NotFound, what, error.to_string()),
        _ => Failure::new(FailureKind::Other, what, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_label_is_no_part_of_an_interface() {
        assert_eq!(["eth0:1", "eth0"].map(super::without_label), ["eth0", "eth0"]);
    }
}
