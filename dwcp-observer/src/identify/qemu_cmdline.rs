//! Ports on QEMU's command line.

/// Bytes of a command line that are searched for ports: libvirt's have about 10 KiB, and this is done per flow.
const MAX_SEARCHED: usize = 64 << 10;

/// What `-incoming` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    /// The port of `tcp:HOST:PORT` or of the long forms; `None` for `defer`, `unix:`, `fd:`, `exec:`.
    pub(super) port: Option<u16>,
}

/// The last `-incoming` of a command line.
pub(crate) fn incoming(cmdline: &[String]) -> Option<Incoming> {
    let value =
        cmdline.windows(2).rev().find(|pair| is_incoming(&pair[0])).map(|pair| pair[1].as_str())?;
    let port = if let Some(address) = value.strip_prefix("tcp:") {
        // Options follow the port: `tcp:0:4444,to=4450,ipv4=on`.
        let address = address.split(',').next().unwrap_or(address);
        address.rsplit(':').next().and_then(|port| port.parse().ok())
    } else if value.starts_with('{') || value.contains("addr.") {
        ports(value).next()
    } else {
        None
    };
    Some(Incoming { port })
}

fn is_incoming(argument: &str) -> bool {
    matches!(argument, "-incoming" | "--incoming")
}

/// Whether `port` is on the command line for anything but `-incoming`: a chardev, a display, a forwarded port, a disk.
pub(super) fn service_on_cmdline(cmdline: &[String], port: u16) -> bool {
    let mut previous = "";
    let mut searched = 0;
    let mut near = cmdline.iter().take_while(|argument| {
        searched += argument.len();
        searched <= MAX_SEARCHED
    });
    near.any(|argument| {
        let option = std::mem::replace(&mut previous, argument);
        if is_incoming(option) {
            return false;
        }
        match argument.as_str() {
            // Short for `-gdb tcp::1234`.
            "-s" => port == 1234,
            _ if matches!(option, "-vnc" | "--vnc") => {
                display_port(argument) == Some(port) || ports(argument).any(|found| found == port)
            }
            _ => ports(argument).any(|found| found == port),
        }
    })
}

/// VNC display N is port 5900 + N.
fn display_port(value: &str) -> Option<u16> {
    let address = value.split(',').next()?;
    address.rsplit(':').next()?.parse::<u16>().ok()?.checked_add(5900)
}

/// Numbers that stand where a port may: after `:`, or as a value of a key that ends in `port` or is `websocket`.
fn ports(argument: &str) -> impl Iterator<Item = u16> + '_ {
    let bytes = argument.as_bytes();
    let is_digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    (0..bytes.len())
        .filter(move |&start| is_digit(start) && (start == 0 || !is_digit(start - 1)))
        .filter_map(move |start| {
            let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number =
                argument.get(start..start + length)?.parse().ok().filter(|&port| port > 0)?;
            is_port_place(argument.get(..start)?).then_some(number)
        })
}

fn is_port_place(before: &str) -> bool {
    let before = before.trim_end_matches(['"', '\'', ' ']);
    if before.ends_with(':') && !before.ends_with("\":") {
        return true;
    }
    let Some(key) = before.strip_suffix(['=', ':']) else { return false };
    let key = key.trim_end_matches(['"', '\'', ' ']);
    key.ends_with("port") || key.ends_with("websocket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn incoming_uris() {
        for (line, expected) in [
            ("qemu -m 1G", None),
            ("qemu -incoming defer", Some(None)),
            ("qemu --incoming tcp:0:4444", Some(Some(4444))),
            ("qemu -incoming tcp:[::]:49152", Some(Some(49152))),
            ("qemu -incoming tcp:0:4444,ipv4=on,to=4450", Some(Some(4444))),
            ("qemu -incoming unix:/run/x.sock", Some(None)),
            ("qemu -incoming fd:23", Some(None)),
            ("qemu -incoming", None),
            (
                "qemu -incoming channel-type=main,addr.transport=socket,addr.port=7001",
                Some(Some(7001)),
            ),
            (r#"qemu -incoming {"channel-type":"main","addr":{"port":"7000"}}"#, Some(Some(7000))),
        ] {
            let found = incoming(&split(line)).map(|incoming| incoming.port);
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn services() {
        let line = r#"qemu -vnc 0.0.0.0:7,websocket=5708 -incoming tcp:0:4444 -s
            -chardev socket,id=s0,host=127.0.0.1,port=4555,server=on -qmp tcp:localhost:4446,server
            -netdev user,id=n0,hostfwd=tcp::5555-:22 -device virtio-net,mac=52:54:00:12:34:56
            -drive file=nbd://10.0.0.1:10810/disk -spice port=6100,tls-port=6101 -m 8192
            -blockdev {"driver":"nbd","server":{"type":"inet","host":"a","port":"10811"}}"#;
        let line = split(line);
        for port in [5907, 5708, 1234, 4555, 4446, 5555, 10810, 6100, 6101, 10811] {
            assert!(service_on_cmdline(&line, port), "{port}");
        }
        for port in [4444, 49152, 9876, 8192] {
            assert!(!service_on_cmdline(&line, port), "{port}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in prop::collection::vec("\\PC{0,40}", 0..6), port in any::<u16>()) {
            let mut line = line;
            line.insert(0, "-incoming".to_owned());
            incoming(&line);
            service_on_cmdline(&line, port);
        }
    }
}
