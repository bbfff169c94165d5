//! Each rule of the floors, broken in a small made-up workspace.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{confined, floors, floors::Order, modules::House};

/// A workspace with a library `low` and a library `high`, and these files besides.
fn workspace(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let default = [
        ("Cargo.toml", "[workspace]\nmembers = [\"low\", \"high\"]"),
        ("low/Cargo.toml", "[package]\nname = \"low\""),
        ("low/src/lib.rs", ""),
        (
            "high/Cargo.toml",
            "[package]\nname = \"high\"\n[dependencies]\nlow.workspace = true",
        ),
        ("high/src/lib.rs", ""),
    ];
    for (name, text) in default.iter().chain(files) {
        write(directory.path(), name, text);
    }
    directory
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What the checks find when `high/src` has these files and these floors.
fn find(files: &[(&str, &str)], floors: &str) -> Vec<String> {
    let order = format!(
        "[crates]\nlow = []\nhigh = [\"low\"]\n[floors]\n{floors}\n\
         [[confined]]\nlibrary = \"aya\"\nwithin = \"high\"\nto = [\"high/src/kernel\"]\n"
    );
    let files: Vec<(String, &str)> = files
        .iter()
        .map(|(name, text)| (format!("high/src/{name}"), *text))
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .chain([(floors::FILE, order.as_str())])
        .collect();
    check(&workspace(&files))
}

fn check(workspace: &TempDir) -> Vec<String> {
    let order = Order::read(workspace.path()).unwrap();
    let house = House::read(workspace.path(), order.crates.keys().map(String::as_str)).unwrap();
    let mut found = floors::check(&order, &house).unwrap();
    found.extend(confined::check(&order, &house));
    found.iter().map(ToString::to_string).collect()
}

/// Fails unless there is one finding, and it has all of `parts`.
#[track_caller]
fn one(found: &[String], parts: &[&str]) {
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "no {part:?} in {:?}", found[0]);
    }
}

const FLOORS: &str = r#""high/src" = [["a"], ["b", "c"], ["lib"]]"#;
const LIB: (&str, &str) = ("lib.rs", "mod a; mod b; mod c;");

#[test]
fn an_import_down_is_fine() {
    let files = [
        LIB,
        ("a.rs", "pub struct A;"),
        ("b.rs", "use crate::a::A;"),
        ("c.rs", "fn c(_: super::a::A) {}"),
    ];
    assert_eq!(find(&files, FLOORS), [""; 0]);
}

#[test]
fn an_import_up_names_both() {
    let files = [
        LIB,
        ("a.rs", "\nuse crate::b::B;"),
        ("b.rs", ""),
        ("c.rs", ""),
    ];
    let expected = [
        "high/src/a.rs:2:",
        "`a` (floor 1) imports `b` (floor 2)",
        "crate::b::B",
        "floor 1",
        "floor 2",
    ];
    one(&find(&files, FLOORS), &expected);
}

#[test]
fn an_import_on_the_same_floor_fails() {
    let files = [
        LIB,
        ("a.rs", ""),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", ""),
    ];
    one(
        &find(&files, FLOORS),
        &[
            "high/src/b.rs:1:",
            "`b` (floor 2) imports `c` (floor 2)",
            "one floor",
        ],
    );
}

/// `a` reaches up to `b` in each of these ways.
#[test]
fn no_way_to_name_a_path_is_missed() {
    for up in [
        "use crate::{b::{B}};",
        "use super::b::*;",
        "use crate::b as other;",
        "pub use crate::b::B;",
        "use crate as root; use root::b::B;",
        "fn f() { use crate::b::B; }",
        "fn f() -> crate::b::B { todo!() }",
        "fn f() { super::b::call(); }",
        "fn f(x: u8) { match x { crate::b::X => {} _ => {} } }",
        "impl crate::b::T for u8 {}",
        "fn f() { println!(\"{}\", crate::b::X); }",
        "macro_rules! m { () => { $crate::b::X } }",
        "struct S { #[serde(with = \"crate::b::seconds\")] s: u8 }",
        "mod inner { use super::super::b::B; }",
        "const X: <crate::b::B as Iterator>::Item = 1;",
    ] {
        let files = [LIB, ("a.rs", up), ("b.rs", "pub struct B;"), ("c.rs", "")];
        let found = find(&files, FLOORS);
        let is_found = |found: &String| found.contains("`a` (floor 1) imports `b` (floor 2)");
        assert!(found.iter().any(is_found), "{up}: {found:#?}");
    }
}

#[test]
fn a_re_export_does_not_hide_what_it_names() {
    let lib = ("lib.rs", "mod a; mod b; mod c; pub use b::B; pub use c::*;");
    for up in ["use crate::B;", "fn f(_: crate::B) {}"] {
        let files = [lib, ("a.rs", up), ("b.rs", "pub struct B;"), ("c.rs", "")];
        one(
            &find(&files, FLOORS),
            &["`a` (floor 1) imports `b` (floor 2)", "high/src/b.rs"],
        );
    }
    let files = [
        lib,
        ("a.rs", "use crate::C;"),
        ("b.rs", ""),
        ("c.rs", "pub struct C;"),
    ];
    one(
        &find(&files, FLOORS),
        &["`a` (floor 1) imports `c` (floor 2)"],
    );
}

#[test]
fn tests_may_import_what_they_like() {
    let files = [
        LIB,
        (
            "a.rs",
            "#[cfg(test)] use crate::b::B;\n#[cfg(all(test, unix))] mod tests { use crate::c::C; }\n\
             struct A; impl A { #[cfg(test)] fn f() -> crate::b::B { todo!() } }",
        ),
        ("b.rs", ""),
        ("c.rs", "#[cfg(test)] mod tests;"),
    ];
    assert_eq!(find(&files, FLOORS), [""; 0]);
    let files = [
        LIB,
        ("a.rs", "#[cfg(not(test))] use crate::b::B;"),
        ("b.rs", ""),
        ("c.rs", ""),
    ];
    one(&find(&files, FLOORS), &["imports run down"]);
}

#[test]
fn rooms_and_floors_are_the_same() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", ""), ("b.rs", "")];
    one(
        &find(&files, FLOORS),
        &[floors::FILE, "names `c`", "no such room"],
    );
    let lib = ("lib.rs", "mod a; mod b; mod c; mod d;");
    let files = [
        lib,
        ("a.rs", ""),
        ("b.rs", ""),
        ("c.rs", ""),
        ("d/mod.rs", ""),
    ];
    one(&find(&files, FLOORS), &["high/src/d:", "no floor"]);
    let twice = r#""high/src" = [["a"], ["b", "a"], ["lib"]]"#;
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", ""), ("b.rs", "")];
    one(&find(&files, twice), &["names `a` twice"]);
}

#[test]
fn the_files_of_a_room_have_floors_of_their_own() {
    let floors = r#""high/src/a" = [["low"], ["top"], ["mod"]]"#;
    let files = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod low; mod top;"),
        ("a/low.rs", "use super::top::Top;"),
        ("a/top.rs", ""),
    ];
    one(
        &find(&files, floors),
        &[
            "high/src/a/low.rs:1:",
            "`low` (floor 1) imports `top` (floor 2)",
        ],
    );
}

#[test]
fn files_in_a_circle_are_listed() {
    let files = [
        LIB,
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "\n\nfn c() -> crate::a::A {}"),
    ];
    let expected = [
        "3 files",
        "a.rs imports high/src/b.rs",
        "crate::a::A (line 3)",
    ];
    one(&find(&files, ""), &expected);
    // A file and the entrance of its directory can be a circle, too.
    let files = [
        ("lib.rs", "mod a; pub struct L; fn f() { a::g() }"),
        ("a.rs", "use super::L;"),
    ];
    one(
        &find(&files, ""),
        &["2 files", "high/src/a.rs imports high/src/lib.rs"],
    );
}

#[test]
fn a_confined_library_stays_where_it_belongs() {
    let lib = ("lib.rs", "mod a; mod kernel;");
    for import in [
        "use aya::Ebpf;",
        "fn f(_: aya_log::EbpfLogger) {}",
        "use aya;",
    ] {
        let files = [lib, ("a.rs", import), ("kernel/mod.rs", "use aya::Ebpf;")];
        one(&find(&files, ""), &["high/src/a.rs:1:", "confines `aya`"]);
    }
    let files = [lib, ("a.rs", "use ayatollah::X;"), ("kernel/mod.rs", "")];
    assert_eq!(find(&files, ""), [""; 0]);
}

#[test]
fn a_confined_type_is_not_shown() {
    for shown in [
        "pub use aya::Ebpf;",
        "pub(crate) use aya::Ebpf as Object;",
        "pub type Object = Ebpf;",
        "pub fn f(_: &Ebpf) {}",
        "pub(crate) fn f() -> Option<aya::Pod> {}",
        "pub fn f<T: aya::Pod>(_: T) {}",
        "pub struct S { pub object: Ebpf }",
        "pub struct S(pub Vec<Ebpf>);",
        "pub struct S<T: aya::Pod>(T);",
        "pub enum E { Loaded(Ebpf) }",
        "pub trait T { fn f(&self) -> Ebpf; }",
        "pub trait T: aya::Pod {}",
        "pub const C: Ebpf = 1;",
        "pub struct S; impl S { pub fn f(&self) -> &Ebpf { todo!() } }",
        "pub struct S; impl std::ops::Deref for S { type Target = Ebpf; }",
        "mod inner { pub type Map = aya::Map; } use inner::Map; pub fn f() -> Map {}",
        "type Map = Vec<aya::Map>; pub fn f() -> Map {}",
        "pub(super) fn f() -> Ebpf {}",
    ] {
        let text = format!("use aya::Ebpf; {shown}");
        let files = [("lib.rs", "mod kernel;"), ("kernel/mod.rs", text.as_str())];
        let found = find(&files, "");
        assert!(!found.is_empty(), "{shown}");
        for finding in found {
            assert!(
                finding.starts_with("high/src/kernel/mod.rs:1: shows "),
                "{shown}: {finding}"
            );
        }
    }
}

#[test]
fn the_rooms_of_a_confined_library_may_show_it_to_each_other() {
    let files = [
        ("lib.rs", "mod kernel;"),
        (
            "kernel/mod.rs",
            "mod maps; use aya::Ebpf; struct K(Ebpf); pub struct S { object: Ebpf }",
        ),
        (
            "kernel/maps.rs",
            "pub(super) type Map = aya::Map; pub(in crate::kernel) fn f() -> Map {}\n\
             pub struct P { pub(super) map: Map } impl P { fn f(&self) -> Map {} }",
        ),
    ];
    assert_eq!(find(&files, ""), [""; 0]);
}

#[test]
fn a_crate_depends_only_on_those_below() {
    let order = "[crates]\nlow = []\nhigh = [\"low\"]\n[floors]";
    let manifest = "[package]\nname = \"low\"\n[dev-dependencies]\nhigh.workspace = true";
    let files = [(floors::FILE, order), ("low/Cargo.toml", manifest)];
    one(
        &check(&workspace(&files)),
        &["low/Cargo.toml", "`low` must not depend on `high`"],
    );
    let order = "[crates]\nlow = []\n[floors]";
    one(
        &check(&workspace(&[(floors::FILE, order)])),
        &["lacks `high`"],
    );
}

/// A path through another crate ends in the file that defines its item.
#[test]
fn imports_between_crates_are_followed() {
    let files = [
        ("low/src/lib.rs", "pub mod a; pub use a::A;"),
        ("low/src/a.rs", "pub struct A;"),
        ("high/src/lib.rs", "use low::A;"),
        (
            floors::FILE,
            "[crates]\nlow = []\nhigh = [\"low\"]\n[floors]",
        ),
    ];
    let workspace = workspace(&files);
    let house = House::read(workspace.path(), ["low", "high"]).unwrap();
    let high = house
        .modules
        .iter()
        .position(|module| module.file.starts_with("high"))
        .unwrap();
    let target = house
        .resolve(high, &["low".to_owned(), "A".to_owned()])
        .unwrap();
    assert_eq!(house.modules[target].file, Path::new("low/src/a.rs"));
}
