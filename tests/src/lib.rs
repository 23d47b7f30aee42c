//! Reference, cases and comparisons shared by the test suites.
