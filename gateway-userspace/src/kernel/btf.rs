//! The kernel's type information (BTF), as far as offsets of fields go.
//!
//! aya reads all of it and tells none; the crates that do are under a licence that asks more of
//! this one than it can give.

use std::fs;

/// Where the kernel shows its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type before what belongs to its kind.
const TYPE: usize = 12;
/// Bytes of one member of a struct.
const MEMBER: usize = 12;

const KIND_STRUCT: u32 = 4;

/// The types of the running kernel.
#[derive(Debug)]
pub(super) struct Types {
    bytes: Vec<u8>,
    types: usize,
    types_end: usize,
    strings: usize,
}

impl Types {
    /// Reads the running kernel's; none if it shows none, or none that can be read.
    pub(super) fn of_kernel() -> Option<Self> {
        Self::parse(fs::read(VMLINUX).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let header = word(&bytes, 4)?;
        let types = header.checked_add(word(&bytes, 8)?)?;
        Some(Self {
            types,
            types_end: types.checked_add(word(&bytes, 12)?)?,
            strings: header.checked_add(word(&bytes, 16)?)?,
            bytes,
        })
    }

    /// Offset of a field within a struct, bytes; none if there is no such struct or field, or the
    /// field is of less than a byte.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let mut at = self.types;
        while at < self.types_end {
            let info = u32::try_from(word(&self.bytes, at + 4)?).ok()?;
            let (count, kind) = (usize::try_from(info & 0xffff).ok()?, (info >> 24) & 0x1f);
            if kind == KIND_STRUCT && self.has_name(at, structure) {
                let bit_fields = info >> 31 == 1;
                let members = (0..count).map(|index| at + TYPE + index * MEMBER);
                let found = members
                    .into_iter()
                    .find(|member| self.has_name(*member, field));
                if let Some(member) = found {
                    let bits = u32::try_from(word(&self.bytes, member + 8)?).ok()?;
                    let (size, bits) = if bit_fields {
                        (bits >> 24, bits & 0x00ff_ffff)
                    } else {
                        (0, bits)
                    };
                    return (size == 0 && bits % 8 == 0).then_some(bits / 8);
                }
            }
            at += TYPE + rest(kind, count)?;
        }
        None
    }

    /// Whether the name whose offset is stored at `at` is this one.
    fn has_name(&self, at: usize, name: &str) -> bool {
        let Some(start) = word(&self.bytes, at).and_then(|it| it.checked_add(self.strings)) else {
            return false;
        };
        let rest = self.bytes.get(start..).unwrap_or(&[]);
        rest.strip_prefix(name.as_bytes())
            .is_some_and(|behind| behind.first() == Some(&0))
    }
}

/// Bytes behind a type that belong to its kind; none for a kind of a later kernel, behind which
/// nothing can be found.
const fn rest(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7 | 8 | 9 | 10 | 11 | 12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Struct, union, section of data, 64-bit enumeration.
        4 | 5 | 15 | 19 => count * 12,
        // Enumeration, prototype.
        6 | 13 => count * 8,
        0 | 20..=u32::MAX => return None,
    })
}

/// The 32-bit number at an offset.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_ne_bytes(word.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two types: an integer, and `struct s { int a; int b; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0b\0";
        let types: [u32; 4 + 3 + 6] = [
            1,
            1 << 24,
            4,
            32, // int
            5,
            (4 << 24) | 2,
            8, // struct s
            7,
            1,
            0, // a
            9,
            1,
            32, // b
        ];
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let length = size_of_val(&types) as u32;
        for number in [24, 0, length, length, strings.len() as u32] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|number| number.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_and_nothing_else() {
        let types = Types::parse(sample()).expect("types");
        assert_eq!(types.offset("s", "a"), Some(0));
        assert_eq!(types.offset("s", "b"), Some(4));
        assert_eq!(types.offset("s", "c"), None);
        assert_eq!(types.offset("int", "a"), None);
    }

    #[test]
    fn what_is_cut_off_has_no_fields() {
        let whole = sample();
        for length in 0..whole.len() {
            let offset = Types::parse(whole[..length].to_vec()).and_then(|it| it.offset("s", "b"));
            // The last name is at the very end.
            assert_eq!(offset, None, "{length} bytes");
        }
    }

    #[test]
    fn a_later_kind_ends_the_search() {
        let mut bytes = sample();
        let info = 24 + 4;
        bytes[info..info + 4].copy_from_slice(&(20_u32 << 24).to_ne_bytes());
        let types = Types::parse(bytes).expect("types");
        assert_eq!(types.offset("s", "a"), None);
    }
}
