//! Where the running kernel's structures have their fields, by its BTF (Documentation/bpf/btf.rst of the kernel).

use std::fs;

use agent_common::kernel::Credentials;
use anyhow::{Context as _, Result, ensure};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// Where this kernel says which capabilities a process has; `None` where BPF programs may not read its memory (lockdown for
/// confidentiality).
///
/// # Errors
///
/// When there is no BTF, or it lacks one of the fields.
pub fn credentials() -> Result<Option<Credentials>> {
    let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Ok(None);
    }
    let bytes = fs::read(BTF).with_context(|| format!("cannot read {BTF}"))?;
    find_credentials(&bytes).map(Some)
}

fn find_credentials(bytes: &[u8]) -> Result<Credentials> {
    const FIELDS: [(&str, &str); 7] = [
        ("task_struct", "cred"),
        ("task_struct", "nsproxy"),
        ("nsproxy", "net_ns"),
        ("net", "user_ns"),
        ("cred", "user_ns"),
        ("cred", "cap_effective"),
        ("user_namespace", "parent"),
    ];
    let [
        task_cred,
        task_nsproxy,
        nsproxy_net,
        net_owner,
        cred_users,
        cred_effective,
        users_parent,
    ] = offsets(bytes, FIELDS)?;
    Ok(Credentials {
        task_cred,
        task_nsproxy,
        nsproxy_net,
        net_owner,
        cred_users,
        cred_effective,
        users_parent,
    })
}

/// The offsets in bytes of fields, each named with its structure.
fn offsets<const N: usize>(bytes: &[u8], fields: [(&str, &str); N]) -> Result<[u32; N]> {
    let btf = Btf::read(bytes).context("the kernel's BTF is cut short")?;
    ensure!(btf.is_known, "the kernel's BTF has another format");
    let mut offsets = [None; N];
    let is_wanted = |name: &str| fields.iter().any(|(structure, _)| *structure == name);
    btf.each_field(is_wanted, |structure, member, offset| {
        for (field, found) in fields.iter().zip(&mut offsets) {
            if *field == (structure, member) {
                found.get_or_insert(offset);
            }
        }
    })
    .context("the kernel's BTF is cut short")?;
    let mut found = [0; N];
    for ((structure, member), (offset, found)) in
        fields.iter().zip(offsets.into_iter().zip(&mut found))
    {
        *found = offset.with_context(|| format!("the kernel has no `{structure}.{member}`"))?;
    }
    Ok(found)
}

/// The two parts of BTF.
struct Btf<'a> {
    is_known: bool,
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads the header; `None` if something is missing.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        let header_length = word(bytes, 4)?;
        let part = |offset: usize, length: usize| {
            let start = (header_length + word(bytes, offset)?) as usize;
            bytes.get(start..start + word(bytes, length)? as usize)
        };
        Some(Self {
            is_known: magic == MAGIC,
            types: part(8, 12)?,
            strings: part(16, 20)?,
        })
    }

    /// Calls `each` with the name of each structure that is wanted, and the name and the offset of each of its fields.
    fn each_field(
        &self,
        is_wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&'a str, &'a str, u32),
    ) -> Option<()> {
        let mut at = 0;
        while at < self.types.len() {
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            let (kind, number) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            at += 12;
            if kind == KIND_STRUCT {
                let structure = self.string(name)?;
                // With the flag, the upper byte is the width of a bit field.
                let mask = if info >> 31 == 0 { u32::MAX } else { 0xff_ffff };
                let members = if is_wanted(structure) { number } else { 0 };
                for member in 0..members {
                    let member = at + 12 * member;
                    let bits = word(self.types, member + 8)? & mask;
                    each(structure, self.string(word(self.types, member)?)?, bits / 8);
                }
            }
            at += length(kind, number);
        }
        Some(())
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }
}

/// How many bytes follow the first twelve of a type of this kind that has this many parts.
fn length(kind: u32, number: usize) -> usize {
    match kind {
        // An integer, a variable, a tag of a declaration.
        1 | 14 | 17 => 4,
        // An array.
        3 => 12,
        // A structure, a union, a data section, an enumeration of 64 bits.
        4 | 5 | 15 | 19 => 12 * number,
        // An enumeration, a function's prototype.
        6 | 13 => 8 * number,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF with an integer, an enumeration and one structure, `net`, with two fields.
    fn btf() -> Vec<u8> {
        let strings = b"\0net\0count\0user_ns\0";
        let types: [u32; 19] = [
            // int
            5,
            1 << 24,
            4,
            32, // enum of one value
            0,
            6 << 24 | 1,
            4,
            5,
            1, // struct net { int count; int user_ns; }
            1,
            4 << 24 | 2,
            8,
            5,
            1,
            0,
            11,
            1,
            32,
            0,
        ];
        // The last word belongs to no type.
        let types = &types[..18];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let sizes = [
            24,
            0,
            4 * types.len() as u32,
            4 * types.len() as u32,
            strings.len() as u32,
        ];
        for word in sizes.iter().chain(types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_behind_other_types() {
        let found = offsets(&btf(), [("net", "count"), ("net", "user_ns")]).unwrap();
        assert_eq!(found, [0, 4]);
        let missing = offsets(&btf(), [("net", "cred")]).unwrap_err();
        assert_eq!(missing.to_string(), "the kernel has no `net.cred`");
    }

    #[test]
    fn what_is_cut_short_is_no_btf() {
        let whole = btf();
        for length in 0..whole.len() - 1 {
            assert!(
                offsets(&whole[..length], [("net", "user_ns")]).is_err(),
                "{length}"
            );
        }
    }
}
