//! Grouping, tests and effect sizes. Pure: numbers in, numbers out.
