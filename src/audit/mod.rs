//! Audits: whether thoughts do any work, and how that is counted.

pub mod miscount;
