//! End-to-end tests: the program as its users run it.

mod campaign;
mod capture;
mod faults;
mod need;
mod netns;
mod signals;
mod workload;
