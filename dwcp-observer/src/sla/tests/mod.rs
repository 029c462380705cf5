mod budget;
mod decision;
mod windows;

use super::{
    Window,
    counts::FinishedBlackout,
    judge::{Levels, judge},
    windows::Windows,
};
use crate::config::Targets;
use crate::model::record::Mode;

fn blackout(mode: Mode, seconds: f64) -> FinishedBlackout {
    FinishedBlackout { mode: Some(mode), seconds }
}

fn levels(windows: &Windows, now: i64) -> Vec<Levels> {
    Window::ALL
        .into_iter()
        .map(|window| judge(window, &windows.content(window, now), &Targets::default()))
        .collect()
}
