//! Tests against the real kernel and real tools. Each skips with a printed reason where it lacks something, and fails
//! instead when `VPTEST_REQUIRE` names the need.

mod capture;
mod need;
