//! The virtual machine that a command line describes.

use crate::model::record::Vm;

/// Name, UUID and memory size by the options of QEMU and cloud-hypervisor; what is not there or not understood is absent.
#[must_use]
pub fn vm_from_cmdline(cmdline: &[String]) -> Vm {
    let mut vm = Vm::default();
    let mut smbios_uuid = None;
    let mut backend = None;
    let mut backends = Vec::new();
    let mut arguments = cmdline.iter().skip(1).peekable();
    while let Some(argument) = arguments.next() {
        let Some((option, value)) = split_option(argument) else { continue };
        let value = match value {
            Some(value) => value.to_owned(),
            None => match arguments.peek() {
                Some(next) => (*next).clone(),
                None => break,
            },
        };
        match option {
            // As QEMU does, the last of several counts.
            "name" => vm.name = key(&value, "guest").or_else(|| bare(&value)).or(vm.name),
            "uuid" => vm.uuid = non_empty(&value).or(vm.uuid),
            "smbios" if key(&value, "type").as_deref() == Some("1") => {
                smbios_uuid = key(&value, "uuid").or(smbios_uuid);
            }
            "m" => vm.memory_bytes = memory(&value, 1 << 20).or(vm.memory_bytes),
            "memory" => vm.memory_bytes = cloud_hypervisor_memory(&value).or(vm.memory_bytes),
            "machine" | "M" => backend = key(&value, "memory-backend").or(backend),
            "object" => backends.extend(memory_backend(&value)),
            "platform" => vm.uuid = key(&value, "uuid").or(vm.uuid),
            "api-socket" => vm.name = vm.name.or_else(|| socket_name(&value)),
            _ => continue,
        }
    }
    vm.name = vm.name.as_deref().map(bounded);
    vm.uuid = vm.uuid.or(smbios_uuid).map(|uuid| bounded(&uuid.to_lowercase()));
    if vm.memory_bytes.is_none() {
        vm.memory_bytes = backends
            .iter()
            .find(|(id, _)| backend.is_some() && *id == backend)
            .and_then(|(_, size)| *size);
    }
    vm
}

/// Bytes of a name or a UUID that are kept: they are labels of metrics, and whoever starts a machine may choose them.
const MAX_NAME: usize = 128;

/// The first [`MAX_NAME`] bytes, of whole characters; an ellipsis says that there were more.
fn bounded(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let mut end = MAX_NAME - '…'.len_utf8();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &name[..end])
}

/// The name of an option without its dashes, and its value where it follows `=` (`--memory=size=4G`).
fn split_option(argument: &str) -> Option<(&str, Option<&str>)> {
    let option = argument.strip_prefix('-')?;
    match option.strip_prefix('-') {
        Some(long) => Some(long.split_once('=').map_or((long, None), |(k, v)| (k, Some(v)))),
        None => Some((option, None)),
    }
}

/// The `key=value` parts of a value; a comma within a part is written twice. The first part may have no key.
fn parts(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        if c != ',' {
            parts[last].push(c);
        } else if chars.next_if_eq(&',').is_some() {
            parts[last].push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

fn key(value: &str, key: &str) -> Option<String> {
    parts(value).iter().find_map(|part| {
        let (name, value) = part.split_once('=')?;
        if name == key { non_empty(value) } else { None }
    })
}

/// The first part, where it has no key.
fn bare(value: &str) -> Option<String> {
    let first = parts(value).into_iter().next()?;
    const KEYS: [&str; 3] = ["guest=", "process=", "debug-threads="];
    if KEYS.iter().any(|key| first.starts_with(key)) { None } else { non_empty(&first) }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `-m 512`, `-m 2G`, `-m size=4096M,slots=2,maxmem=8G`; without a suffix `unit` bytes.
fn memory(value: &str, unit: u64) -> Option<u64> {
    size(&key(value, "size").or_else(|| parts(value).into_iter().next())?, unit)
}

/// `id` and `size=` of a memory backend: `memory-backend-ram,id=m0,size=2G`, or JSON.
fn memory_backend(value: &str) -> Option<(Option<String>, Option<u64>)> {
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(value) {
        let text = |key: &str| object.get(key).and_then(|value| value.as_str());
        text("qom-type").filter(|kind| kind.starts_with("memory-backend-"))?;
        return Some((
            text("id").map(str::to_owned),
            object.get("size").and_then(serde_json::Value::as_u64),
        ));
    }
    parts(value)
        .first()
        .filter(|kind| kind.trim_start_matches("qom-type=").starts_with("memory-backend-"))?;
    Some((key(value, "id"), key(value, "size").and_then(|text| size(&text, 1))))
}

/// cloud-hypervisor: `size=4G,...`, or zones of a size each with `size=0` and `--memory-zone`, which are not summed up.
fn cloud_hypervisor_memory(value: &str) -> Option<u64> {
    size(&key(value, "size")?, 1).filter(|&bytes| bytes > 0)
}

/// The file name of an API socket, without its extension: what people call the VM by.
fn socket_name(value: &str) -> Option<String> {
    let path = key(value, "path").unwrap_or_else(|| value.to_owned());
    let file = path.rsplit('/').next()?;
    non_empty(file.rsplit_once('.').map_or(file, |(stem, _)| stem))
}

/// A number with an optional binary suffix; `0x` is hexadecimal, a fraction is allowed as in QEMU (`1.5G`).
fn size(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let (number, factor) = match text.as_bytes().last()?.to_ascii_lowercase() {
        _ if text.starts_with("0x") => (text, unit),
        b'b' => (&text[..text.len() - 1], 1),
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        b't' => (&text[..text.len() - 1], 1 << 40),
        b'p' => (&text[..text.len() - 1], 1 << 50),
        _ => (text, unit),
    };
    if let Some(hex) = number.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok()?.checked_mul(factor);
    }
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let fraction: f64 = number.parse().ok()?;
    let bytes = fraction * factor as f64;
    (bytes.is_finite() && bytes >= 1.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "7b1c9f04-5d0e-4b53-9a51-0c9c1f6d2a77";

    fn vm(line: &str) -> Vm {
        vm_from_cmdline(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn names() {
        for (line, expected) in [
            ("qemu", None),
            ("qemu -name foo", Some("foo")),
            ("qemu --name foo", Some("foo")),
            ("qemu -name guest=foo,debug-threads=on", Some("foo")),
            ("qemu -name debug-threads=on,guest=foo", Some("foo")),
            ("qemu -name foo,process=bar", Some("foo")),
            ("qemu -name process=bar", None),
            ("qemu -name guest=a,,b,debug-threads=on", Some("a,b")),
            ("qemu -name a,,b", Some("a,b")),
            ("qemu -name a=b", Some("a=b")),
            ("qemu -name a -name b", Some("b")),
            ("qemu -name", None),
            ("qemu -smbios type=1,product=-name -m 1G", None),
            ("cloud-hypervisor --api-socket /run/ch/vm-7.sock --kernel k", Some("vm-7")),
            ("cloud-hypervisor --api-socket path=/run/vm.7.sock", Some("vm.7")),
            ("cloud-hypervisor --api-socket=/run/vm8", Some("vm8")),
            ("criu dump -t 100 --page-server --address 10.0.0.1", None),
        ] {
            assert_eq!(vm(line).name.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn names_are_bounded() {
        for (character, kept) in [("x", 125), ("é", 62), ("\u{1F600}", 31)] {
            let long = character.repeat(64 << 10);
            let found = vm(&format!("qemu -name {long} -uuid {long}"));
            let expected = format!("{}…", character.repeat(kept));
            assert_eq!(found.name.as_deref(), Some(expected.as_str()));
            assert!(found.uuid.is_some_and(|uuid| uuid.len() <= MAX_NAME));
        }
        let fits = "x".repeat(MAX_NAME);
        assert_eq!(vm(&format!("qemu -name {fits}")).name, Some(fits));
    }

    #[test]
    fn uuids() {
        for (line, expected) in [
            (format!("qemu -uuid {UUID}"), Some(UUID)),
            (format!("qemu -uuid {}", UUID.to_uppercase()), Some(UUID)),
            (format!("qemu -smbios type=1,manufacturer=x,uuid={UUID}"), Some(UUID)),
            (format!("qemu -smbios type=2,uuid={UUID}"), None),
            (format!("qemu -smbios type=1,uuid=other -uuid {UUID}"), Some(UUID)),
            (format!("cloud-hypervisor --platform num_pci_segments=2,uuid={UUID}"), Some(UUID)),
            ("qemu -uuid".to_owned(), None),
        ] {
            assert_eq!(vm(&line).uuid.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn memory_sizes() {
        const MIB: u64 = 1 << 20;
        for (line, expected) in [
            ("qemu", None),
            ("qemu -m 512", Some(512 * MIB)),
            ("qemu -m 2G", Some(2048 * MIB)),
            ("qemu -m size=4096M,slots=4,maxmem=8G", Some(4096 * MIB)),
            ("qemu -m size=4g", Some(4096 * MIB)),
            ("qemu -m size=4194304k", Some(4096 * MIB)),
            ("qemu -m 1.5G", Some(1536 * MIB)),
            ("qemu -m 512,maxmem=1G", Some(512 * MIB)),
            ("qemu -m maxmem=1G", None),
            ("qemu -m 512 -m 256", Some(256 * MIB)),
            ("qemu -m 99999999999999999999T", None),
            ("qemu -m -1", None),
            ("qemu -m nanG", None),
            (
                "qemu -machine q35,memory-backend=m0 -object memory-backend-ram,id=m0,size=2G",
                Some(2048 * MIB),
            ),
            (
                "qemu -object memory-backend-memfd,id=m1,size=1G -object memory-backend-file,id=m0,size=2147483648 -M q35,memory-backend=m0",
                Some(2048 * MIB),
            ),
            (
                r#"qemu -machine pc,memory-backend=pc.ram -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":1073741824}"#,
                Some(1024 * MIB),
            ),
            (
                "qemu -machine q35,memory-backend=m0 -m 512 -object memory-backend-ram,id=m0,size=2G",
                Some(512 * MIB),
            ),
            ("qemu -object memory-backend-ram,id=nvdimm,size=2G", None),
            ("cloud-hypervisor --memory size=4G,shared=on", Some(4096 * MIB)),
            ("cloud-hypervisor --memory=size=512M", Some(512 * MIB)),
            ("cloud-hypervisor --memory size=0 --memory-zone id=a,size=1G", None),
        ] {
            assert_eq!(vm(line).memory_bytes, expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(words in prop::collection::vec("\\PC{0,30}", 0..6), options in prop::collection::vec(0..9usize, 0..6)) {
            const OPTIONS: [&str; 9] = ["-name", "-uuid", "-smbios", "-m", "--memory", "-machine", "-object", "--platform", "--api-socket"];
            let mut line = vec!["x".to_owned()];
            for (option, word) in options.iter().zip(&words) {
                line.extend([OPTIONS[*option].to_owned(), word.clone()]);
            }
            let _ = vm_from_cmdline(&line);
            let _ = vm_from_cmdline(&words);
        }

        #[test]
        fn a_quoted_name_comes_back(name in "[a-zA-Z0-9,. -]{1,20}") {
            let quoted = format!("guest={},debug-threads=on", name.replace(',', ",,"));
            let line = ["q".to_owned(), "-name".to_owned(), quoted];
            prop_assert_eq!(vm_from_cmdline(&line).name, Some(name));
        }
    }
}
