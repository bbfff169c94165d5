//! Reads from the BPF object what its maps hold: the compiler's own description of their types (DWARF), so that nobody
//! needs to write down, or to remember, that one has changed.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, DwAt, DwTag, Dwarf, EndianSlice,
    RunTimeEndian, SectionId, Unit, UnitOffset, constants as dw,
};
use object::{Object as _, ObjectSection as _};

type Bytes<'a> = EndianSlice<'a, RunTimeEndian>;
type Entry<'a, 'u> = DebuggingInformationEntry<'u, 'u, Bytes<'a>>;

/// Of each static whose type has type parameters, as maps have, its name and the layout of these parameters: the names of
/// fields and of an enumeration's values, with offsets and sizes.
///
/// # Errors
///
/// When the object has no readable debugging information.
pub(crate) fn layouts(object: &[u8]) -> Result<BTreeMap<String, String>> {
    let object = object::File::parse(object).context("this is no object")?;
    let endian = match object.is_little_endian() {
        true => RunTimeEndian::Little,
        false => RunTimeEndian::Big,
    };
    let section = |id: SectionId| -> Result<Bytes<'_>> {
        // The BPF object's relocations add nothing to what these sections say of themselves.
        let data = object.section_by_name(id.name()).map(|s| s.data());
        Ok(EndianSlice::new(
            data.transpose()?.unwrap_or_default(),
            endian,
        ))
    };
    Types::read(Dwarf::load(section)?)?.statics()
}

/// All types of an object.
struct Types<'a> {
    dwarf: Dwarf<Bytes<'a>>,
    /// In the order of their places.
    units: Vec<(DebugInfoOffset, Unit<Bytes<'a>>)>,
}

/// Where an entry is: its unit, and its place there.
type At = (usize, UnitOffset);

impl<'a> Types<'a> {
    fn read(dwarf: Dwarf<Bytes<'a>>) -> Result<Self> {
        let mut units = Vec::new();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let at = header.offset().as_debug_info_offset();
            let at = at.context("a unit is not in .debug_info")?;
            units.push((at, dwarf.unit(header)?));
        }
        Ok(Self { dwarf, units })
    }

    fn statics(&self) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for (number, (_, unit)) in self.units.iter().enumerate() {
            let mut entries = unit.entries();
            while let Some((_, entry)) = entries.next_dfs()? {
                let is_static = entry.attr(dw::DW_AT_external)?.is_some();
                if entry.tag() != dw::DW_TAG_variable || !is_static {
                    continue;
                }
                let (name, of) = (self.name(number, entry)?, self.type_of(number, entry)?);
                if let (Some(name), Some(of)) = (name, of) {
                    let mut layout = String::new();
                    self.children(of, &[dw::DW_TAG_template_type_parameter], &mut layout)?;
                    if !layout.is_empty() {
                        found.insert(name, layout);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Describes those children of an entry that have one of these tags, each with its type.
    fn children(&self, at: At, tags: &[DwTag], to: &mut String) -> Result<()> {
        let mut tree = self.units[at.0].1.entries_tree(Some(at.1))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if tags.contains(&entry.tag()) {
                self.describe(at.0, entry, to)?;
                to.push(' ');
            }
        }
        Ok(())
    }

    fn describe(&self, unit: usize, entry: &Entry<'a, '_>, to: &mut String) -> Result<()> {
        const PARTS: [DwTag; 6] = [
            dw::DW_TAG_member,
            dw::DW_TAG_enumerator,
            dw::DW_TAG_subrange_type,
            dw::DW_TAG_template_type_parameter,
            dw::DW_TAG_variant,
            dw::DW_TAG_variant_part,
        ];
        const NUMBERS: [DwAt; 5] = [
            dw::DW_AT_byte_size,
            dw::DW_AT_data_member_location,
            dw::DW_AT_const_value,
            dw::DW_AT_discr_value,
            dw::DW_AT_count,
        ];
        if let Some(name) = self.name(unit, entry)? {
            // The parameters of a generic type are described themselves.
            let end = name.find('<').or_else(|| name.find("_3C_"));
            to.push_str(&name[..end.unwrap_or(name.len())]);
        }
        for attribute in NUMBERS {
            if let Some(value) = entry.attr_value(attribute)? {
                let number = value.udata_value().map(i128::from);
                let number = number.or_else(|| value.sdata_value().map(i128::from));
                let number = number.context("an attribute is no number")?;
                write!(to, " {number}")?;
            }
        }
        // What a pointer leads to is no part of what has the pointer.
        if entry.tag() == dw::DW_TAG_pointer_type {
            return Ok(());
        }
        if let Some(of) = self.type_of(unit, entry)? {
            let described = self.units[of.0].1.entry(of.1)?;
            to.push(':');
            self.describe(of.0, &described, to)?;
        }
        if entry.has_children() {
            to.push_str(" { ");
            self.children((unit, entry.offset()), &PARTS, to)?;
            to.push('}');
        }
        Ok(())
    }

    fn name(&self, unit: usize, entry: &Entry<'a, '_>) -> Result<Option<String>> {
        let Some(name) = entry.attr_value(dw::DW_AT_name)? else {
            return Ok(None);
        };
        let name = self.dwarf.attr_string(&self.units[unit].1, name)?;
        Ok(Some(name.to_string_lossy().into_owned()))
    }

    /// Where the type of an entry is described; `None`: it has none.
    fn type_of(&self, unit: usize, entry: &Entry<'a, '_>) -> Result<Option<At>> {
        Ok(match entry.attr_value(dw::DW_AT_type)? {
            Some(AttributeValue::UnitRef(offset)) => Some((unit, offset)),
            Some(AttributeValue::DebugInfoRef(offset)) => {
                let next = self.units.partition_point(|(start, _)| start.0 <= offset.0);
                let number = next.checked_sub(1).context("a type is in no unit")?;
                let (_, unit) = &self.units[number];
                let within = offset.to_unit_offset(&unit.header);
                Some((number, within.context("a type is in no unit")?))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process::Command};

    use super::*;

    /// The layout of a map whose values are such a `struct Value`.
    fn layout(value: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (source, library) = (directory.path().join("a.rs"), directory.path().join("a.so"));
        let map = "pub struct Map<K, V>(u8, core::marker::PhantomData<(K, V)>);
            #[unsafe(no_mangle)] pub static MAP: Map<u64, Value> = Map(0, core::marker::PhantomData);";
        fs::write(&source, format!("{map}\n{value}")).unwrap();
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(rustc)
            .args(["--edition=2024", "--crate-type=cdylib", "-Cdebuginfo=2"])
            .arg(&source)
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{compiled:?}");
        layouts(&fs::read(library).unwrap())
            .unwrap()
            .remove("MAP")
            .unwrap()
    }

    #[test]
    fn whatever_changes_in_a_value_changes_its_layout() {
        let known = [
            "#[repr(C)] pub struct Value { a: Part, b: u32 } #[repr(C)] pub struct Part { c: u16, d: [u8; 2], e: Kind }",
            "#[repr(C)] pub struct Value { b: Part, a: u32 } #[repr(C)] pub struct Part { c: u16, d: [u8; 2], e: Kind }",
            "#[repr(C)] pub struct Value { b: u32, a: Part } #[repr(C)] pub struct Part { c: u16, d: [u8; 2], e: Kind }",
            "#[repr(C)] pub struct Value { a: Part, b: i32 } #[repr(C)] pub struct Part { c: u16, d: [u8; 2], e: Kind }",
            "#[repr(C)] pub struct Value { a: Part, b: u32 } #[repr(C)] pub struct Part { d: [u8; 2], c: u16, e: Kind }",
            "#[repr(C)] pub struct Value { a: Part, b: u32 } #[repr(C)] pub struct Part { c: u16, d: [u8; 3], e: Kind }",
            "#[repr(C)] pub struct Value { a: Part, b: u32, f: u8 } #[repr(C)] pub struct Part { c: u16, d: [u8; 2], e: Kind }",
        ];
        let kind = "#[repr(u8)] pub enum Kind { One = 1, Two = 2 }";
        let other = "#[repr(u8)] pub enum Kind { Two = 1, One = 2 }";
        let mut all: Vec<_> = known
            .iter()
            .map(|k| layout(&format!("{k} {kind}")))
            .collect();
        assert_eq!(all[0], layout(&format!("// Again.\n{} {kind}", known[0])));
        all.push(layout(&format!("{} {other}", known[0])));
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{one}");
        }
    }
}
