//! End-to-end tests: the program as its users run it.

mod agent;
mod bad_input;
mod campaign;
mod capture;
mod counters;
mod faults;
mod flows;
mod flows_real;
mod image;
mod keep;
mod linktest;
mod live;
mod need;
mod netns;
mod paths;
mod probe;
mod qemu;
mod qemu_bad;
mod real;
mod remote;
mod signals;
mod store;
mod syscalls;
mod wild;
mod workload;
