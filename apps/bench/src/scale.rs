//! The scale report: which problem a service has. Analyses measurements and draws the report; makes no load itself.

pub(crate) mod axis;
pub(crate) mod capacity;
pub(crate) mod diff;
pub(crate) mod html;
pub(crate) mod judgement;
pub(crate) mod objective;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod stationarity;
pub(crate) mod statistics;
pub(crate) mod usl;
pub(crate) mod verdict;
