//! Time as a bound: servers that take as long as they are told, to the fraction of a millisecond, whatever this machine's
//! CPUs do meanwhile.

pub(crate) mod clock;
pub(crate) mod lockstep;
pub(crate) mod workers;
