//! What a manager does to a migration, or fails to do: it holds it, lets it go on, resumes the guest, recovers a postcopy.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Fault;
use crate::migration::{MigrationPlan, Pair};
use crate::netns::Wire;
use crate::qemu::{Qemu, QemuSpec, Role};

/// A destination as managers start it: it does not run the guest before it is told to (`-S`).
pub(super) fn start_stopped(spec: &QemuSpec) -> Result<Pair> {
    let mut stopped = spec.clone();
    stopped.extra_args.push("-S".into());
    let mut source = Qemu::start(spec, Role::Source)?;
    let destination = Qemu::start(&stopped, Role::Destination)?;
    source.wait_filled(Duration::from_secs(120))?;
    Ok(Pair { source, destination })
}

/// The capabilities and parameters that a fault needs.
pub(super) fn prepare(pair: &mut Pair, fault: Fault) -> Result<()> {
    let (capability, parameters) = match fault {
        Fault::HeldBeforeSwitchOver => ("pause-before-switchover", Value::Null),
        Fault::AutoConverge => (
            "auto-converge",
            json!({ "cpu-throttle-initial": 20, "max-cpu-throttle": 20, "throttle-trigger-threshold": 1 }),
        ),
        _ => return Ok(()),
    };
    let capabilities = json!({ "capabilities": [{ "capability": capability, "state": true }] });
    for end in [&mut pair.source, &mut pair.destination] {
        end.qmp().execute("migrate-set-capabilities", &capabilities)?;
        if !parameters.is_null() {
            end.qmp().execute("migrate-set-parameters", &parameters)?;
        }
    }
    Ok(())
}

/// Goes over to postcopy, and closes its connections a moment later.
pub(super) fn break_postcopy(pair: &mut Pair, wire: &Wire, port: u16) -> Result<()> {
    pair.start_postcopy()?;
    pair.wait_until(Duration::from_secs(10), |figures| figures.status == "postcopy-active")?;
    std::thread::sleep(Duration::from_millis(300));
    let port = format!(":{port}");
    wire.end(Role::Source).run("ss", &["-K", "dport", "=", &port])?;
    Ok(())
}

/// Whether the source holds its guest's CPUs back.
pub(super) fn is_throttled(pair: &mut Pair) -> Result<bool> {
    let answer = pair.source.qmp().execute("query-migrate", &Value::Null)?;
    Ok(answer["cpu-throttle-percentage"].as_u64().is_some_and(|percent| percent > 0))
}

/// Lets the guest run at both ends once it has arrived, as a manager does that has lost track.
pub(super) fn resume_both(pair: &mut Pair) -> Result<()> {
    pair.wait_until(Duration::from_secs(30), |figures| figures.status == "completed")?;
    for end in [&mut pair.destination, &mut pair.source] {
        end.qmp().execute("cont", &Value::Null)?;
    }
    Ok(())
}

/// Lets it go on.
pub(super) fn go_on(pair: &mut Pair, fault: Fault, plan: &MigrationPlan) -> Result<()> {
    match fault {
        Fault::HeldBeforeSwitchOver => {
            let state = json!({ "state": "pre-switchover" });
            pair.source.qmp().execute("migrate-continue", &state)?;
        }
        Fault::NotResumed => {
            pair.destination.qmp().execute("cont", &Value::Null)?;
        }
        Fault::PostcopyPaused => {
            // The old listener is gone, its port may still be in use.
            let plan = MigrationPlan { port: plan.port + 2, ..plan.clone() };
            let uri = plan.uri();
            pair.destination.qmp().execute("migrate-recover", &json!({ "uri": uri }))?;
            pair.source.qmp().execute("migrate", &json!({ "uri": uri, "resume": true }))?;
        }
        _ => {}
    }
    Ok(())
}
