//! BTF for tests that run without a kernel's BTF.

use super::btf::Layout;

const STRUCT: u32 = 4 << 24;

/// BTF with these words of types and these strings.
pub(super) fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let bytes: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut data = 0xeb9f_u16.to_ne_bytes().to_vec();
    data.extend([1, 0]);
    for word in [24, 0, bytes.len() as u32, bytes.len() as u32, strings.len() as u32] {
        data.extend(word.to_ne_bytes());
    }
    data.extend(bytes);
    data.extend_from_slice(strings);
    data
}

/// A kernel with one struct, whose members are each of 8 bytes and lie one after the other.
pub(crate) fn kernel_with(name: &str, members: &[&str]) -> Layout {
    let mut strings = vec![0u8];
    let mut intern = |text: &str| {
        let at = strings.len() as u32;
        strings.extend(text.as_bytes());
        strings.push(0);
        at
    };
    let mut types = vec![intern("u64"), 1 << 24, 8, 64]; // 1: an integer
    types.extend([intern(name), STRUCT | members.len() as u32, 8 * members.len() as u32]);
    for (index, member) in members.iter().enumerate() {
        types.extend([intern(member), 1, 64 * index as u32]);
    }
    Layout::parse(blob(&types, &strings)).unwrap()
}
