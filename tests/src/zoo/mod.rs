//! The zoo: real migrations between every version of QEMU that people run, in every way in which
//! they go well or wrong, each judged by a truth from outside the observer.

pub mod images;
pub mod version;
