//! `dwcp-observer go-no-go`: prints the running observer's decision, and sets the exit code for pipelines.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use super::client::{Url, get};
use crate::sla::{
    SlaType, View,
    decide::{GoNoGo, measured, name},
};

const EXAMPLES: &str = "\
Examples:
  dwcp-observer go-no-go && deploy-next-stage
  dwcp-observer go-no-go --json | jq -r '.reasons[].text'
  dwcp-observer go-no-go --url http://node7:8080

Exit codes: 0 go; 1 caution; 2 no-go, or wrong arguments; 3 no observer answers.";

/// Differs from the codes of the three decisions.
const NO_ANSWER: u8 = 3;

/// Show whether a rollout may continue, and why
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GoNoGoArgs {
    /// Print the observer's JSON unchanged
    #[arg(long)]
    json: bool,
    /// URL of the observer
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = Url::parse)]
    url: Url,
}

pub(super) fn run(args: &GoNoGoArgs) -> ExitCode {
    match answer(args) {
        Ok(GoNoGo::Go) => ExitCode::SUCCESS,
        Ok(GoNoGo::Caution) => ExitCode::from(1),
        Ok(GoNoGo::NoGo) => ExitCode::from(2),
        Err(error) => {
            eprintln!("dwcp-observer: {}", super::one_line(&error));
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn answer(args: &GoNoGoArgs) -> anyhow::Result<GoNoGo> {
    let body = get(&args.url, "/api/v1/sla")?;
    let view: View = body.read()?;
    let text = if args.json { format!("{}\n", body.text) } else { render(&view) };
    // A closed pipe does not change the decision.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(view.decision.decision)
}

fn render(view: &View) -> String {
    let mut text = format!("{}\n", view.decision.decision.as_str().to_uppercase());
    for reason in &view.decision.reasons {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<8} {}", reason.level.as_str(), reason.text);
    }
    for levels in &view.windows {
        let _ = writeln!(text, "\nlast {}", levels.window.as_str());
        for sla in SlaType::ALL {
            let level = levels.level(sla);
            let (word, figures) = match level.compliant {
                Some(true) => ("met", measured(sla, level)),
                Some(false) => ("violated", measured(sla, level)),
                None => ("-", "no data".to_owned()),
            };
            let _ = writeln!(text, "  {:<12}  {word:<8}  {figures}", name(sla));
        }
    }
    text
}

#[cfg(test)]
#[path = "go_no_go_tests.rs"]
mod tests;
