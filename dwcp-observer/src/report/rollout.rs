//! The rollout, and v1 beside v3.

use super::{
    data::Data,
    document::Document,
    words::{Ranked, bare},
};
use crate::model::record::{Migration, Outcome, Version};

pub(super) fn rollout(data: &Data, document: &mut Document) {
    document.heading(2, "8 Rollout");
    document.heading(3, "8.1 Progress");
    match data.live.components.as_ref().map(|view| &view.rollout) {
        None => document.text("Not known: no observer answered."),
        Some(None) => document.text(
            "Not measured: [v1] is not configured, or no migration ran within the hour before the end of the period.",
        ),
        Some(Some(progress)) => {
            let label = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            document.table(
                &["Stage", "Region", "Migrations of v3", "Migrations of v1", "Share of v3"],
                vec![vec![
                    label(&progress.labels.stage),
                    label(&progress.labels.region),
                    progress.v3.to_string(),
                    progress.v1.to_string(),
                    format!("{:.1} %", progress.percent),
                ]],
            );
            document.text("Migrations that run, or ended within the hour before the end of the period. Other hosts have other stages and regions. The report does not predict the end of the rollout.");
        }
    }
    document.heading(3, "8.2 Go, caution, no-go");
    let Some(view) = &data.live.sla else {
        document.text("Not known: no observer answered.");
        return;
    };
    let decision = &view.decision;
    document
        .text(format!("At the end of the period: {}", decision.decision.as_str().to_uppercase()));
    let reasons: Vec<String> = decision
        .reasons
        .iter()
        .map(|reason| format!("{}: {}", reason.level.as_str(), reason.text))
        .collect();
    if !reasons.is_empty() {
        document.list(reasons);
    }
}

/// A version's migrations in short.
struct Summary {
    ended: usize,
    failed_percent: Option<f64>,
    blackout_ms: Ranked,
    seconds: Ranked,
    rate: Ranked,
    gigabytes: f64,
}

impl Summary {
    fn of<'a>(migrations: impl Iterator<Item = &'a Migration> + Clone) -> Self {
        let ended = migrations.clone().count();
        let failed = migrations.clone().filter(|one| one.outcome == Some(Outcome::Failed)).count();
        let completed = migrations.clone().filter(|one| one.outcome == Some(Outcome::Completed));
        let rate = |one: &Migration| {
            let bytes = one.transferred()? as f64;
            (one.duration_seconds > 0.0).then(|| bytes / one.duration_seconds)
        };
        Self {
            ended,
            failed_percent: (ended > 0).then(|| failed as f64 * 100.0 / ended as f64),
            blackout_ms: Ranked::new(
                migrations.clone().filter_map(|one| Some(one.blackout_seconds()? * 1e3)),
            ),
            seconds: Ranked::new(completed.clone().map(|one| one.duration_seconds)),
            rate: Ranked::new(completed.filter_map(rate)),
            gigabytes: migrations.filter_map(|one| Some(one.transferred()? as f64 / 1e9)).sum(),
        }
    }
}

pub(super) fn comparison(data: &Data, document: &mut Document) {
    document.heading(2, "9 v1 against v3");
    if data.finished.iter().all(|one| one.version.is_none()) {
        document.text("Not measured: no migration of this period has a known version ([v1] of the configuration).");
        return;
    }
    let of = |version: Version| {
        Summary::of(data.finished.iter().filter(move |one| one.version == Some(version)))
    };
    let (v1, v3) = (of(Version::V1), of(Version::V3));
    let line = |what: &str, figure: fn(&Summary) -> Option<f64>, digits: usize, target: &str| {
        let (before, now) = (figure(&v1), figure(&v3));
        let change = before
            .zip(now)
            .filter(|(before, _)| *before > 0.0)
            .map_or("-".to_owned(), |(before, now)| {
                format!("{:+.1} %", (now / before - 1.0) * 1e2)
            });
        vec![what.to_owned(), bare(before, digits), bare(now, digits), change, target.to_owned()]
    };
    // How many there were of each is no merit.
    let count = |what: &str, figure: fn(&Summary) -> Option<f64>, digits: usize| {
        let (before, now) = (bare(figure(&v1), digits), bare(figure(&v3), digits));
        vec![what.to_owned(), before, now, "-".to_owned(), "-".to_owned()]
    };
    document.table(
        &["What", "v1", "v3", "Change", "Contract's target"],
        vec![
            count("migrations that ended", |it| Some(it.ended as f64), 0),
            line("failed, %", |it| it.failed_percent, 1, "more than 50 % down"),
            line("blackout P50, ms", |it| it.blackout_ms.rank(50), 2, "-"),
            line("blackout P99, ms", |it| it.blackout_ms.rank(99), 2, "more than 30 % down"),
            line("total time of completed ones, mean, s", |it| it.seconds.mean(), 2, "-"),
            line(
                "rate of completed ones, mean, MB/s",
                |it| it.rate.mean().map(|rate| rate / 1e6),
                1,
                "more than 33 % up",
            ),
            count("payload, GB", |it| Some(it.gigabytes), 3),
        ],
    );
    document.text("Guests and paths differ: compare versions only if these are similar. Compression is not measured by the kernel. Everything else in this report is of v3 alone.");
}
