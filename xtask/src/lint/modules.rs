//! The module trees of the workspace, as the compiler sees them: which file holds which module, and in
//! which file a path ends.
//!
//! Code that is compiled for tests only (`#[cfg(test)]`) is left out: a module's tests may import what
//! they test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, Lit, Meta};
use toml::Table;

use super::imports::{self, Reference};

/// The modules of all crates of a workspace.
pub(crate) struct House {
    /// The workspace's directory.
    pub(crate) root: PathBuf,
    /// Every module; others refer to it by its index.
    pub(crate) modules: Vec<Module>,
    /// The root module of each library, by the name that other crates import it by.
    libraries: BTreeMap<String, usize>,
}

/// A module, in a file of its own or in braces.
pub(crate) struct Module {
    /// Its file, from the workspace's directory.
    pub(crate) file: PathBuf,
    /// Its items, without those for tests.
    pub(crate) items: Vec<Item>,
    /// All paths that it names.
    pub(crate) references: Vec<Reference>,
    /// The root module of its crate.
    crate_root: usize,
    /// The module that declares it.
    parent: Option<usize>,
    /// The modules that it declares.
    children: BTreeMap<String, usize>,
    /// The names that its items define.
    defined: BTreeSet<String>,
}

impl House {
    /// Reads the crates in these directories of the workspace.
    pub(crate) fn read<'a>(root: &Path, crates: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut house = Self {
            root: root.to_owned(),
            modules: Vec::new(),
            libraries: BTreeMap::new(),
        };
        for directory in crates {
            let library = library_name(&root.join(directory))?;
            for file in crate_roots(root, Path::new(directory)) {
                let number = house.add_file(file.clone(), None)?;
                if file.ends_with("src/lib.rs") {
                    house.libraries.insert(library.clone(), number);
                }
            }
        }
        Ok(house)
    }

    /// The module where the item or module that `path` names in module `from` is defined. Re-exports are
    /// followed to what they name. `None` when the path leads to a crate outside the workspace, or
    /// begins with a type.
    pub(crate) fn resolve(&self, from: usize, path: &[String]) -> Option<usize> {
        self.walk(from, path, &mut BTreeSet::new())
            .map(|(module, _)| module)
    }

    /// Whether a `use` of the module already says that `reference` leads to `target`: the path begins with a
    /// name that the `use` brings in.
    pub(crate) fn is_said_by_use(&self, from: usize, reference: &Reference, target: usize) -> bool {
        let first = reference.path.first();
        let mut imports = self.modules[from].references.iter();
        !reference.is_use
            && imports.any(|import| {
                import.name.as_ref() == first && self.resolve(from, &import.path) == Some(target)
            })
    }

    /// The module in which `path` ends, and whether it names that module itself. `seen` breaks off
    /// re-exports that name each other.
    fn walk<'a>(
        &'a self,
        from: usize,
        path: &'a [String],
        seen: &mut BTreeSet<(usize, &'a str)>,
    ) -> Option<(usize, bool)> {
        let (first, mut rest) = path.split_first()?;
        let mut here = match first.as_str() {
            "crate" => self.modules[from].crate_root,
            "self" => from,
            "super" => self.modules[from].parent?,
            name => match self.lookup(from, name, seen) {
                Some((module, true)) => module,
                Some(item) => return Some(item),
                None => *self.libraries.get(name)?,
            },
        };
        while let Some((name, behind)) = rest.split_first() {
            match name.as_str() {
                "super" => here = self.modules[here].parent?,
                "self" => {}
                name => match self.lookup(here, name, seen) {
                    Some((module, true)) => here = module,
                    Some(item) => return Some(item),
                    None => return Some((here, false)),
                },
            }
            rest = behind;
        }
        Some((here, true))
    }

    /// What `name` means in `module`: a module that it declares, an item of its own, or what a `use`
    /// brings in.
    fn lookup<'a>(
        &'a self,
        module: usize,
        name: &'a str,
        seen: &mut BTreeSet<(usize, &'a str)>,
    ) -> Option<(usize, bool)> {
        let this = &self.modules[module];
        if let Some(&child) = this.children.get(name) {
            return Some((child, true));
        }
        if this.defined.contains(name) {
            return Some((module, false));
        }
        if !seen.insert((module, name)) {
            return None;
        }
        let imports = || this.references.iter().filter(|reference| reference.is_use);
        if let Some(import) = imports().find(|import| import.name.as_deref() == Some(name)) {
            // `use name::…;` names a crate, not itself.
            return self.walk(module, &import.path, seen);
        }
        imports().filter(|import| import.is_glob).find_map(|glob| {
            let (behind, _) = self.walk(module, &glob.path, seen)?;
            self.lookup(behind, name, seen)
        })
    }

    /// Adds the module in `file` and all that it declares.
    fn add_file(&mut self, file: PathBuf, parent: Option<usize>) -> Result<usize> {
        let text = fs::read_to_string(self.root.join(&file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            anyhow::anyhow!("{}:{line}: {error}", file.display())
        })?;
        let owns_directory = parent.is_none() || file.ends_with("mod.rs");
        let directory = if owns_directory {
            file.parent().unwrap_or(Path::new("")).to_owned()
        } else {
            file.with_extension("")
        };
        self.add_module(file, &directory, parsed.items, parent)
    }

    /// Adds a module with these items; the files of those that it declares lie in `directory`.
    fn add_module(
        &mut self,
        file: PathBuf,
        directory: &Path,
        mut items: Vec<Item>,
        parent: Option<usize>,
    ) -> Result<usize> {
        items.retain(|item| !imports::is_test(imports::attributes(item)));
        let declared: Vec<ItemMod> = items
            .extract_if(.., |item| matches!(item, Item::Mod(_)))
            .filter_map(|item| match item {
                Item::Mod(module) => Some(module),
                _ => None,
            })
            .collect();
        let number = self.modules.len();
        self.modules.push(Module {
            file: file.clone(),
            references: imports::references(&items),
            crate_root: parent.map_or(number, |parent| self.modules[parent].crate_root),
            parent,
            children: BTreeMap::new(),
            defined: items.iter().filter_map(imports::defined).collect(),
            items,
        });
        for module in declared {
            let name = module.ident.to_string();
            let child = match module.content {
                Some((_, items)) => {
                    self.add_module(file.clone(), &directory.join(&name), items, Some(number))?
                }
                None => {
                    let path = self.find(&file, directory, &name, &module.attrs)?;
                    self.add_file(path, Some(number))?
                }
            };
            self.modules[number].children.insert(name, child);
        }
        Ok(number)
    }

    /// The file of module `name`, which a module in `file` declares.
    fn find(
        &self,
        file: &Path,
        directory: &Path,
        name: &str,
        attributes: &[Attribute],
    ) -> Result<PathBuf> {
        if let Some(path) = attributes.iter().find_map(path_attribute) {
            return Ok(file.with_file_name(path));
        }
        let candidates = [
            directory.join(format!("{name}.rs")),
            directory.join(name).join("mod.rs"),
        ];
        let found = candidates
            .into_iter()
            .find(|path| self.root.join(path).is_file());
        found.with_context(|| {
            format!(
                "{}: module `{name}` has no file in {}",
                file.display(),
                directory.display()
            )
        })
    }
}

/// What `#[path = "…"]` says.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(path),
            ..
        }) if pair.path.is_ident("path") => Some(path.value()),
        _ => None,
    }
}

/// A package's `Cargo.toml`.
pub(crate) fn manifest(directory: &Path) -> Result<Table> {
    let path = directory.join("Cargo.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse()
        .with_context(|| format!("cannot parse {}", path.display()))
}

/// The name by which other crates import a package's library.
fn library_name(directory: &Path) -> Result<String> {
    let manifest = manifest(directory)?;
    let name = |table: &str| manifest.get(table)?.get("name")?.as_str();
    match name("lib").or(name("package")) {
        Some(name) => Ok(name.replace('-', "_")),
        None => bail!("{}: Cargo.toml has no package.name", directory.display()),
    }
}

/// The root files of a package's targets, where cargo finds them by itself.
fn crate_roots(root: &Path, package: &Path) -> Vec<PathBuf> {
    let mut roots = vec![package.join("src/lib.rs"), package.join("src/main.rs")];
    for directory in [package.join("src/bin"), package.join("tests")] {
        let Ok(entries) = fs::read_dir(root.join(&directory)) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            if path.extension().is_some_and(|extension| extension == "rs") {
                roots.push(path);
            } else {
                roots.push(path.join("main.rs"));
            }
        }
    }
    roots.retain(|file| root.join(file).is_file());
    roots.sort();
    roots
}
