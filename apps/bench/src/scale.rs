//! The scale report: which problem a service has. Analyses measurements and draws the report; makes no load itself.

pub(crate) mod statistics;
pub(crate) mod usl;
