//! Tests of the evaluation: reports as a node could hand them over.
