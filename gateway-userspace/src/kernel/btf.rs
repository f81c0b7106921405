//! The kernel's own type information (BTF): where a field of a struct is.
//!
//! aya reads all of it and tells none; the crates that do are under a licence that asks more of
//! this one than it can give.
//!
//! Just what is needed to tell an offset: each type's header is read once, and of the structs
//! that are asked for the members. Anonymous members are looked into.

use std::{collections::HashMap, fs, io, sync::OnceLock};

/// Where the kernel gives it out.
pub(super) const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum BtfError {
    /// There is none.
    #[error("reading {PATH}; the kernel was built without CONFIG_DEBUG_INFO_BTF")]
    Read(#[source] io::Error),
    /// It is not what the kernel documents.
    #[error("{PATH} ends or points where it should not")]
    Malformed,
    /// The kernel has no such field.
    #[error("this kernel has no {0}.{1}")]
    Missing(&'static str, &'static str),
}

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// How deep anonymous members may lie in one another.
const DEPTH_MAX: u32 = 8;

/// The kernel's types.
#[derive(Debug)]
pub(super) struct Types {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type's header is, by its number less one.
    types: Vec<usize>,
    /// Structs and unions by name.
    named: HashMap<Vec<u8>, usize>,
}

impl Types {
    /// Those of the running kernel, read once.
    ///
    /// # Errors
    /// If the kernel has none, or they cannot be understood.
    pub(super) fn of_kernel() -> Result<&'static Self, BtfError> {
        static TYPES: OnceLock<Types> = OnceLock::new();
        if let Some(types) = TYPES.get() {
            return Ok(types);
        }
        let types = Self::parse(fs::read(PATH).map_err(BtfError::Read)?)?;
        Ok(TYPES.get_or_init(|| types))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at| word(&bytes, at).ok_or(BtfError::Malformed);
        let sum = |a: usize, b: u32| a.checked_add(b as usize).ok_or(BtfError::Malformed);
        if word(0)? & 0xffff != u32::from(MAGIC) {
            return Err(BtfError::Malformed);
        }
        let header = word(4)? as usize;
        let (start, length, strings) = (sum(header, word(8)?)?, word(12)?, word(16)?);
        let (end, strings) = (sum(start, length)?, sum(header, strings)?);
        let mut types = Vec::new();
        let mut named = HashMap::new();
        let mut at = start;
        while at < end {
            let info = word(at + 4)?;
            let (kind, count) = ((info >> 24) & 31, info & 0xffff);
            if kind == KIND_STRUCT || kind == KIND_UNION {
                let name = text(&bytes, strings, word(at)?).ok_or(BtfError::Malformed)?;
                if !name.is_empty() {
                    // Names may be used twice in a kernel; the first is the one of its headers.
                    named.entry(name.to_vec()).or_insert(at);
                }
            }
            types.push(at);
            let size = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
                KIND_ENUM | KIND_FUNC_PROTO => count * 8,
                2 | 7..=12 | 16 | 18 => 0,
                // A kind of a later kernel: what lies behind it cannot be found.
                _ => break,
            };
            at = sum(at, 12 + size)?;
        }
        Ok(Self {
            bytes,
            strings,
            types,
            named,
        })
    }

    /// Offset in bytes of a field, such as `task_struct` and `cgroups`; a dot leads into a member
    /// that is a struct itself.
    ///
    /// # Errors
    /// If the kernel has no such field.
    pub(super) fn offset(&self, of: &'static str, field: &'static str) -> Result<u32, BtfError> {
        let missing = BtfError::Missing(of, field);
        let Some(&start) = self.named.get(of.as_bytes()) else {
            return Err(missing);
        };
        let mut at = start;
        let mut bits = 0_u32;
        for name in field.split('.') {
            let Some((offset, member)) = self.member(at, name.as_bytes(), DEPTH_MAX) else {
                return Err(missing);
            };
            bits = bits.saturating_add(offset);
            at = self.resolve(member).unwrap_or(at);
        }
        if bits.is_multiple_of(8) {
            Ok(bits / 8)
        } else {
            Err(missing)
        }
    }

    /// Offset in bits and type of a member of the struct at `at`.
    fn member(&self, at: usize, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let info = word(&self.bytes, at + 4)?;
        if !matches!((info >> 24) & 31, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let with_bitfields = info >> 31 == 1;
        for number in 0..(info & 0xffff) as usize {
            let member = at + 12 + number * 12;
            let own = text(&self.bytes, self.strings, word(&self.bytes, member)?)?;
            let kind = word(&self.bytes, member + 4)?;
            let mut offset = word(&self.bytes, member + 8)?;
            if with_bitfields {
                offset &= 0x00ff_ffff;
            }
            if own == name {
                return Some((offset, kind));
            }
            if own.is_empty()
                && depth > 0
                && let Some(inner) = self.resolve(kind)
                && let Some((further, kind)) = self.member(inner, name, depth - 1)
            {
                return Some((offset.checked_add(further)?, kind));
            }
        }
        None
    }

    /// Where a type's header is, past its qualifiers and other names.
    fn resolve(&self, mut number: u32) -> Option<usize> {
        /// Typedef, volatile, const, restrict, type tag.
        const TRANSPARENT: [u32; 5] = [8, 9, 10, 11, 18];
        for _ in 0..DEPTH_MAX {
            let at = *self.types.get((number as usize).checked_sub(1)?)?;
            let kind = (word(&self.bytes, at + 4)? >> 24) & 31;
            if !TRANSPARENT.contains(&kind) {
                return Some(at);
            }
            number = word(&self.bytes, at + 8)?;
        }
        None
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// A string of the table, without its NUL.
fn text(bytes: &[u8], strings: usize, offset: u32) -> Option<&[u8]> {
    let rest = bytes.get(strings.checked_add(offset as usize)?..)?;
    rest.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_s_own() {
        // Laid down by the kernel's interface to user space, so known here.
        let types = match Types::of_kernel() {
            Ok(types) => types,
            Err(BtfError::Read(_)) => return,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(types.offset("iovec", "iov_len").expect("it has it"), 8);
        // In an anonymous union behind two anonymous words.
        assert_eq!(
            types
                .offset("sockaddr_in", "sin_addr.s_addr")
                .expect("it has it"),
            4
        );
        assert!(types.offset("task_struct", "no_such_field").is_err());
        assert!(types.offset("no_such_struct", "field").is_err());
    }

    #[test]
    fn what_is_cut_off_anywhere_is_an_error_and_no_panic() {
        let Ok(bytes) = fs::read(PATH) else { return };
        for length in [0, 3, 8, 23, 24, 30, 1000, 100_001] {
            let cut = bytes
                .get(..length)
                .expect("a kernel has more types")
                .to_vec();
            assert!(Types::parse(cut).is_err(), "{length}");
        }
    }
}
