//! The zoo: real migrations between every version of QEMU that people run, in every way in which
//! they go well or wrong, each judged by a truth from outside the observer.

pub mod case;
pub mod cases;
pub mod images;
pub mod judge;
pub mod rig;
pub mod run;
pub mod table;
pub mod truth;
pub mod version;
