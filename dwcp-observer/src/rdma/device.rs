//! Devices and their ports: names from netlink, counters from sysfs and netlink.

use std::{fs, io, path::Path};

use super::{
    netlink::Netlink,
    reading::{Device, Port},
    verbs,
};

/// Where the kernel shows RDMA devices.
pub(super) const CLASS: &str = "/sys/class/infiniband";

/// Looks at all devices. With `counters`, their counters are read, too: on hardware that takes a command each.
///
/// # Errors
/// Netlink does not answer.
pub(super) fn list(netlink: &mut Netlink, counters: bool) -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for info in netlink.devices()? {
        let driver = netlink.driver(info.index).ok().flatten();
        let directory = Path::new(CLASS).join(&info.name).join("ports");
        let ports = (1..=info.ports)
            .map(|number| {
                let directory = directory.join(number.to_string());
                let hardware = if counters {
                    // Drivers without counters of their own refuse.
                    netlink.counters(info.index, number).unwrap_or_default()
                } else {
                    Vec::new()
                };
                port(number, &directory, hardware, counters)
            })
            .collect();
        devices.push(Device {
            index: info.index,
            name: info.name,
            driver: verbs::driver_name(driver.unwrap_or_default()),
            ports,
        });
    }
    Ok(devices)
}

/// Fills in the counters of the last reading where this one left them out.
pub(super) fn keep_counters(devices: &mut [Device], before: &[Device]) {
    for device in devices {
        let same = |other: &&Device| other.index == device.index && other.name == device.name;
        let Some(before) = before.iter().find(same) else { continue };
        for (port, old) in device.ports.iter_mut().zip(&before.ports) {
            if port.hardware.is_empty() && port.sent_bytes.is_none() {
                *port = Port {
                    number: port.number,
                    state: std::mem::take(&mut port.state),
                    ..old.clone()
                };
            }
        }
    }
}

fn port(number: u32, directory: &Path, hardware: Vec<(String, u64)>, counters: bool) -> Port {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(directory.join("counters").join(name)).ok()?;
        text.trim().parse().ok()
    };
    let read = |name: &str| counters.then(|| read(name)).flatten();
    let own =
        |name: &str| hardware.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let state = fs::read_to_string(directory.join("state")).unwrap_or_default();
    Port {
        number,
        state: state_name(&state).to_owned(),
        // In words of four bytes (InfiniBand specification, PortXmitData).
        sent_bytes: read("port_xmit_data").map(|words| words.saturating_mul(4)),
        received_bytes: read("port_rcv_data").map(|words| words.saturating_mul(4)),
        sent_packets: read("port_xmit_packets").or_else(|| own("sent_pkts")),
        received_packets: read("port_rcv_packets").or_else(|| own("rcvd_pkts")),
        hardware,
    }
}

/// `ACTIVE` of `4: ACTIVE`.
fn state_name(text: &str) -> &str {
    text.split_once(':').map_or(text, |(_, name)| name).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_what_its_driver_counts_and_nothing_else() {
        let directory = dwcp_temp("port");
        fs::create_dir_all(directory.join("counters")).unwrap();
        fs::write(directory.join("state"), "4: ACTIVE\n").unwrap();
        fs::write(directory.join("counters/port_xmit_data"), "1000\n").unwrap();
        let hardware = vec![("sent_pkts".to_owned(), 7), ("rcvd_rnr_err".to_owned(), 1)];
        let seen = port(1, &directory, hardware, true);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(seen.state, "ACTIVE");
        assert_eq!((seen.sent_bytes, seen.received_bytes), (Some(4000), None));
        assert_eq!((seen.sent_packets, seen.received_packets), (Some(7), None));
        assert_eq!(seen.counter("rcvd_rnr_err"), Some(1));
    }

    #[test]
    fn counters_stay_between_two_readings_of_them() {
        let read = Port {
            number: 1,
            state: "ACTIVE".into(),
            hardware: vec![("sent_pkts".into(), 7)],
            ..Port::default()
        };
        let unread = Port { number: 1, state: "DOWN".into(), ..Port::default() };
        let device = |port: Port| {
            vec![Device { name: "rxe0".into(), ports: vec![port], ..Device::default() }]
        };
        let mut now = device(unread.clone());
        keep_counters(&mut now, &device(read.clone()));
        assert_eq!(
            (now[0].ports[0].counter("sent_pkts"), now[0].ports[0].state.as_str()),
            (Some(7), "DOWN")
        );
        let mut other = device(unread);
        other[0].index = 5;
        keep_counters(&mut other, &device(read));
        assert_eq!(
            other[0].ports[0].counter("sent_pkts"),
            None,
            "another device under the same name"
        );
    }

    fn dwcp_temp(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("dwcp-rdma-{name}-{}", std::process::id()))
    }
}
