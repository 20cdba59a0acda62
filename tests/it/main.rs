//! End-to-end tests: the program as its users run it.

mod agent;
mod bad_input;
mod browser;
mod campaign;
mod capture;
mod export;
mod faults;
mod flows;
mod flows_real;
mod image;
mod keep;
mod live;
mod need;
mod netns;
mod paths;
mod qemu;
mod qemu_bad;
mod real;
mod remote;
mod report;
mod signals;
mod store;
mod syscalls;
mod wild;
mod workload;
