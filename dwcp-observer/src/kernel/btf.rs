//! Reads the offsets of struct fields from the running kernel's BTF (Documentation/bpf/btf.rst).
//!
//! aya-obj keeps struct members private, so this module reads what it needs: members by path, through anonymous structs and
//! unions, bit fields, and enum values.

use std::{collections::HashMap, path::Path, sync::Arc};

use thiserror::Error;

/// Why BTF could not be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error(
        "cannot read {path}: {source}; use a kernel with CONFIG_DEBUG_INFO_BTF=y, or pass a BTF file of this kernel with --btf-path"
    )]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not BTF.
    #[error("{path} is not a BTF file of this machine's byte order: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// Which part of the format is broken.
        what: &'static str,
    },
}

/// A field of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Byte offset from the start of the outermost struct.
    pub offset: u32,
    /// Shift within the byte at `offset`, for a bit field.
    pub bit_shift: u32,
    /// Width in bits; 0 for a whole field.
    pub bit_width: u32,
}

const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_TYPE_TAG: u32 = 18;

/// Bytes that follow the 12-byte head of a type.
const fn trailer(kind: u32, vlen: u32) -> Option<u32> {
    Some(match kind {
        1 | 14 | 17 => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => vlen * 12,
        KIND_ENUM | 13 => vlen * 8,
        KIND_POINTER | 7..=12 | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

/// Parsed BTF: the raw bytes and where each type begins.
pub struct Layout {
    data: Vec<u8>,
    strings: usize,
    /// Length of the string section.
    strings_len: u32,
    /// Byte position of each type; id 0 is void.
    types: Vec<u32>,
    /// Structs, unions, enums and typedefs by name.
    named: HashMap<Vec<u8>, u32>,
    /// A module's BTF goes on where the kernel's ends: its numbers and strings begin after the base's.
    base: Option<Arc<Self>>,
}

impl Layout {
    /// Reads and indexes a BTF file.
    ///
    /// # Errors
    /// The file cannot be read or is not BTF.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        Self::from_split_file(path, None)
    }

    /// Reads and indexes the BTF of a module, which leans on the kernel's.
    ///
    /// # Errors
    /// The file cannot be read or is not BTF.
    pub fn from_split_file(path: &Path, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        let name = path.display().to_string();
        let data =
            std::fs::read(path).map_err(|source| BtfError::Read { path: name.clone(), source })?;
        Self::parse_split(data, base).map_err(|what| BtfError::Malformed { path: name, what })
    }

    /// Indexes BTF of this machine's byte order.
    ///
    /// # Errors
    /// Names the part of the format that is broken.
    pub fn parse(data: Vec<u8>) -> Result<Self, &'static str> {
        Self::parse_split(data, None)
    }

    fn parse_split(data: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, &'static str> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
        };
        let magic = data.get(0..2).ok_or("shorter than its header")?;
        if magic != 0xeb9f_u16.to_ne_bytes() {
            return Err("wrong magic");
        }
        let header = word(4).ok_or("header cut short")? as usize;
        let [type_off, type_len, str_off, str_len] =
            [8, 12, 16, 20].map(|at| word(at).map(|value| value as usize));
        let (Some(type_off), Some(type_len), Some(str_off), Some(str_len)) =
            (type_off, type_len, str_off, str_len)
        else {
            return Err("header cut short");
        };
        let begin = header.checked_add(type_off).ok_or("type section out of range")?;
        let end = begin
            .checked_add(type_len)
            .filter(|end| *end <= data.len())
            .ok_or("type section out of range")?;
        let strings = header
            .checked_add(str_off)
            .filter(|at| *at < data.len())
            .ok_or("string section out of range")?;
        // Type 0, void, is the base's.
        let (first, base_strings) =
            base.as_ref().map_or((0, 0), |base| (base.next_id(), base.end_of_strings()));
        let mut types = if base.is_some() { Vec::new() } else { vec![0u32] };
        let mut named = HashMap::new();
        let mut at = begin;
        while at < end {
            let (Some(name), Some(info)) = (word(at), word(at + 4)) else {
                return Err("type cut short");
            };
            let (kind, vlen) = (info >> 24 & 0x1f, info & 0xffff);
            let id = first + types.len() as u32;
            types.push(u32::try_from(at).map_err(|_| "larger than 4 GiB")?);
            if matches!(kind, KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_TYPEDEF) && name != 0 {
                let text = match &base {
                    Some(base) if name < base_strings => base.name(name),
                    _ => cstr(&data, strings + (name - base_strings) as usize),
                };
                named.entry(text.to_vec()).or_insert(id);
            }
            at += 12 + trailer(kind, vlen).ok_or("unknown kind of type")? as usize;
        }
        let strings_len = u32::try_from(str_len).map_err(|_| "larger than 4 GiB")?;
        Ok(Self { data, strings, strings_len, types, named, base })
    }

    /// The number that the first type of a module gets.
    fn next_id(&self) -> u32 {
        self.base.as_ref().map_or(0, |base| base.next_id()) + self.types.len() as u32
    }

    /// Where the strings of a module begin.
    fn end_of_strings(&self) -> u32 {
        self.base.as_ref().map_or(0, |base| base.end_of_strings()) + self.strings_len
    }

    /// Where the module's bytes begin when the base's come first.
    fn first_byte(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.first_byte() + base.data.len())
    }

    fn word(&self, at: usize) -> u32 {
        let first = self.first_byte();
        if let Some(base) = &self.base
            && at < first
        {
            return base.word(at);
        }
        let at = at - first;
        self.data
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }

    fn head(&self, id: u32) -> Option<(usize, u32, u32, bool, u32)> {
        if let Some(base) = &self.base
            && id < base.next_id()
        {
            return base.head(id);
        }
        let own = id - self.base.as_ref().map_or(0, |base| base.next_id());
        let at = *self.types.get(own as usize).filter(|_| id != 0)? as usize + self.first_byte();
        let info = self.word(at + 4);
        Some((at, info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0, self.word(at + 8)))
    }

    fn name(&self, offset: u32) -> &[u8] {
        match &self.base {
            Some(base) if offset < base.end_of_strings() => base.name(offset),
            Some(base) => {
                cstr(&self.data, self.strings + (offset - base.end_of_strings()) as usize)
            }
            None => cstr(&self.data, self.strings + offset as usize),
        }
    }

    /// The number of a struct, union, enum or typedef.
    fn id_of(&self, name: &str) -> Option<u32> {
        let own = self.named.get(name.as_bytes()).copied();
        own.or_else(|| self.base.as_ref()?.id_of(name))
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> u32 {
        for _ in 0..32 {
            match self.head(id) {
                Some((
                    _,
                    KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG,
                    _,
                    _,
                    target,
                )) => {
                    id = target;
                }
                _ => break,
            }
        }
        id
    }

    /// Whether a struct or typedef of this name exists: `btf_trace_NAME` tells of a tracepoint.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.id_of(name).is_some()
    }

    /// Whether the kernel has a function of this name, other than by inlining it everywhere.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        (1..self.next_id()).any(|id| {
            self.head(id).is_some_and(|(at, kind, ..)| {
                kind == KIND_FUNC && self.name(self.word(at)) == name.as_bytes()
            })
        })
    }

    /// The place of `path` (dotted, array elements as numbers) in `strukt`.
    #[must_use]
    pub fn field(&self, strukt: &str, path: &str) -> Option<Field> {
        let mut id = self.id_of(strukt)?;
        let mut bits = 0u32;
        let mut width = 0u32;
        for part in path.split('.') {
            let resolved = self.resolve(id);
            let (at, kind, _, _, _) = self.head(resolved)?;
            if kind == KIND_ARRAY {
                let element = self.word(at + 12);
                let index: u32 = part.parse().ok()?;
                let skipped = index.checked_mul(self.size(element, 0)?)?.checked_mul(8)?;
                bits = bits.checked_add(skipped)?;
                id = element;
                continue;
            }
            let (offset, member_width, member) = self.member(resolved, part.as_bytes(), 0)?;
            bits = bits.checked_add(offset)?;
            width = member_width;
            id = member;
        }
        Some(Field { offset: bits / 8, bit_shift: bits % 8, bit_width: width })
    }

    /// A member by name, looking into anonymous structs and unions: bit offset, bit-field width, type.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32, u32)> {
        let (at, kind, vlen, bit_fields, _) = self.head(id)?;
        if !matches!(kind, KIND_STRUCT | KIND_UNION) || depth > 8 {
            return None;
        }
        for index in 0..vlen as usize {
            let entry = at + 12 + index * 12;
            let (member_name, member_type, raw) =
                (self.word(entry), self.word(entry + 4), self.word(entry + 8));
            let (offset, width) = if bit_fields { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            if member_name != 0 {
                if self.name(member_name) == name {
                    return Some((offset, width, member_type));
                }
            } else if let Some((inner, width, found)) =
                self.member(self.resolve(member_type), name, depth + 1)
            {
                return Some((offset.checked_add(inner)?, width, found));
            }
        }
        None
    }

    fn size(&self, id: u32, depth: u32) -> Option<u32> {
        let (at, kind, _, _, size) = self.head(self.resolve(id)).filter(|_| depth < 8)?;
        match kind {
            KIND_POINTER => Some(8),
            KIND_ARRAY => self.word(at + 20).checked_mul(self.size(self.word(at + 12), depth + 1)?),
            _ => Some(size),
        }
    }

    /// How many bytes a struct or union has.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u32> {
        self.size(self.id_of(name)?, 0)
    }

    /// The value of an enumerator of a named enum.
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let (at, kind, vlen, _, _) = self.head(self.id_of(enumeration)?)?;
        if kind != KIND_ENUM {
            return None;
        }
        (0..vlen as usize)
            .map(|index| at + 12 + index * 8)
            .find(|entry| self.name(self.word(*entry)) == name.as_bytes())
            .map(|entry| self.word(entry + 4))
    }
}

fn cstr(data: &[u8], at: usize) -> &[u8] {
    let rest = data.get(at..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::btf_sample::blob;

    /// BTF with `struct inner { int a; }`, `struct outer { long pad; union { struct inner in; }; u8 low:2, high:4; u64 arr[3]; }`.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut intern = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let names: Vec<u32> =
            ["int", "inner", "a", "outer", "pad", "in", "low", "high", "arr", "state", "SOCK_DONE"]
                .map(&mut intern)
                .to_vec();
        let mut types: Vec<u32> = Vec::new();
        types.extend([names[0], 1 << 24, 4, 32]); // 1: int
        types.extend([names[1], 4 << 24 | 1, 4, names[2], 1, 0]); // 2: struct inner
        types.extend([0, 5 << 24 | 1, 4, names[5], 2, 0]); // 3: anonymous union
        types.extend([0, 3 << 24, 0, 1, 1, 3]); // 4: int[3]
        types.extend([names[3], 1 << 31 | 4 << 24 | 5, 32]); // 5: struct outer
        types.extend([
            names[4],
            1,
            0,
            0,
            3,
            64,
            names[6],
            1,
            2 << 24 | 96,
            names[7],
            1,
            4 << 24 | 98,
            names[8],
            4,
            128,
        ]);
        types.extend([names[9], 6 << 24 | 1, 4, names[10], 7]); // 6: enum
        blob(&types, &strings)
    }

    #[test]
    fn finds_members_through_anonymous_unions_bit_fields_and_arrays() {
        let layout = Layout::parse(sample()).unwrap();
        let at = |path: &str| layout.field("outer", path);
        assert_eq!(at("in.a"), Some(Field { offset: 8, bit_shift: 0, bit_width: 0 }));
        assert_eq!(at("high"), Some(Field { offset: 12, bit_shift: 2, bit_width: 4 }));
        assert_eq!(at("arr.2"), Some(Field { offset: 24, bit_shift: 0, bit_width: 0 }));
        assert_eq!(at("missing"), None);
        assert_eq!(layout.enumerator("state", "SOCK_DONE"), Some(7));
        assert!(layout.has("inner") && !layout.has("a"));
    }

    /// A module on top of [`sample`]: `struct extra { struct outer first; struct inner *second; int own; }`.
    fn module(base: &Layout) -> Vec<u8> {
        let mut strings: Vec<u8> = Vec::new();
        let first = base.end_of_strings();
        let mut intern = |text: &str| {
            let at = first + strings.len() as u32;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let [extra, own, second] = ["extra", "own", "second"].map(&mut intern);
        let (outer, inner) = (base.id_of("outer").unwrap(), base.id_of("inner").unwrap());
        // "a" of the base names the first member, as the kernel's own linker shares strings.
        let a = (0..first).find(|at| base.name(*at) == b"a").unwrap();
        let pointer = base.next_id();
        let mut types: Vec<u32> = vec![0, 2 << 24, inner]; // pointer to struct inner
        types.extend([extra, 4 << 24 | 3, 48]);
        types.extend([a, outer, 0, second, pointer, 256, own, 1, 320]);
        blob(&types, &strings)
    }

    #[test]
    fn a_modules_types_reach_into_the_kernels() {
        let base = Arc::new(Layout::parse(sample()).unwrap());
        let layout = Layout::parse_split(module(&base), Some(base)).unwrap();
        let offset =
            |strukt: &str, path: &str| layout.field(strukt, path).map(|field| field.offset);
        assert_eq!(offset("extra", "own"), Some(40));
        assert_eq!(offset("extra", "a.in.a"), Some(8), "through the base's structs");
        assert_eq!(offset("outer", "arr.2"), Some(24), "the base's own");
        assert_eq!(offset("extra", "second.a"), None, "a pointer leads elsewhere");
        assert_eq!(layout.enumerator("state", "SOCK_DONE"), Some(7));
        assert!(layout.has("extra") && layout.has("inner") && !layout.has("own"));
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert_eq!(Layout::parse(vec![1, 2, 3]).err(), Some("wrong magic"));
        let mut cut = sample();
        cut.truncate(40);
        assert!(Layout::parse(cut).is_err());
    }

    proptest! {
        #[test]
        fn survives_damage(at in 2usize..400, value in any::<u8>()) {
            let mut data = sample();
            let at = at % data.len();
            data[at] = value;
            if let Ok(layout) = Layout::parse(data) {
                let _ = layout.field("outer", "in.a");
                let _ = layout.field("outer", "arr.1");
                let _ = layout.enumerator("state", "SOCK_DONE");
            }
        }
    }
}
