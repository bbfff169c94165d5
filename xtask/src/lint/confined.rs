//! Libraries that only some rooms may import, and whose types those rooms keep to themselves.

use std::path::Path;

use syn::{
    Fields, ImplItem, Item, Signature, TraitItem, Visibility,
    visit::{self, Visit},
};

use super::{
    finding::Finding,
    floors::{Confined, FILE, Order},
    modules::{House, Module},
};

/// Imports of confined libraries elsewhere, and their types where others can see them.
pub(crate) fn check(order: &Order, house: &House) -> Vec<Finding> {
    let mut found = Vec::new();
    for confined in &order.confined {
        found.extend(imports(confined, house));
        if !confined.shown {
            found.extend(leaks(confined, house));
        }
    }
    found
}

impl Confined {
    /// Whether `file` may import the library.
    fn allows(&self, file: &Path) -> bool {
        self.to.iter().any(|room| file.starts_with(room))
    }

    /// Whether a path begins with the library's name.
    fn owns(&self, path: &[String]) -> bool {
        path.first().is_some_and(|first| {
            let rest = first.strip_prefix(&self.library);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
    }
}

/// Where else the library is imported.
fn imports(confined: &Confined, house: &House) -> Vec<Finding> {
    let mut found = Vec::new();
    for module in &house.modules {
        if !module.file.starts_with(&confined.within) || confined.allows(&module.file) {
            continue;
        }
        for reference in &module.references {
            if confined.owns(&reference.path) {
                found.push(Finding::new(
                    &module.file,
                    reference.line,
                    format!(
                        "imports `{}`: {FILE} confines `{}` to {:?}. Let one of them do what needs it",
                        reference.path.join("::"),
                        confined.library,
                        confined.to,
                    ),
                ));
            }
        }
    }
    found
}

/// Where a confined type can be seen from outside the rooms that may import the library.
fn leaks(confined: &Confined, house: &House) -> Vec<Finding> {
    let aliases = aliases(confined, house);
    let mut found = Vec::new();
    for (number, module) in house.modules.iter().enumerate() {
        if !confined.allows(&module.file) {
            continue;
        }
        let mut leaks = Leaks::of(confined, house, &aliases, number);
        for item in &module.items {
            leaks.item(item);
        }
        for reference in module
            .references
            .iter()
            .filter(|reference| reference.is_use)
        {
            if leaks.is_visible(&reference.visibility) && leaks.names(&reference.path) {
                leaks
                    .shown
                    .push((reference.path.join("::"), reference.line));
            }
        }
        found.extend(leaks.shown.into_iter().map(|(name, line)| {
            Finding::new(
                &module.file,
                line,
                format!(
                    "shows `{name}` of `{}` to other rooms: {FILE} confines it to {:?}. \
                     Narrow it to `pub(super)` or hide it in a type of the room's own",
                    confined.library, confined.to,
                ),
            )
        }));
    }
    found
}

/// The type aliases in the library's rooms that stand for its types: module and name.
fn aliases(confined: &Confined, house: &House) -> Vec<(usize, String)> {
    let mut aliases = Vec::new();
    loop {
        let before = aliases.len();
        for (number, module) in house.modules.iter().enumerate() {
            if !confined.allows(&module.file) {
                continue;
            }
            for item in &module.items {
                let Item::Type(alias) = item else { continue };
                let known = (number, alias.ident.to_string());
                let mut leaks = Leaks::of(confined, house, &aliases, number);
                leaks.visit_type(&alias.ty);
                if !leaks.shown.is_empty() && !aliases.contains(&known) {
                    aliases.push(known);
                }
            }
        }
        if aliases.len() == before {
            return aliases;
        }
    }
}

/// Collects the confined types that a module's items show.
struct Leaks<'a> {
    confined: &'a Confined,
    house: &'a House,
    aliases: &'a [(usize, String)],
    number: usize,
    module: &'a Module,
    /// Name and line of each.
    shown: Vec<(String, usize)>,
}

impl<'a> Leaks<'a> {
    /// Nothing collected yet, of the module with this number.
    fn of(
        confined: &'a Confined,
        house: &'a House,
        aliases: &'a [(usize, String)],
        number: usize,
    ) -> Self {
        Self {
            confined,
            house,
            aliases,
            number,
            module: &house.modules[number],
            shown: Vec::new(),
        }
    }
}

impl Leaks<'_> {
    /// Whether a path names a type of the library, by whatever name it has in this module.
    fn names(&self, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        let named = |reference: &&super::imports::Reference| reference.name.as_ref() == Some(first);
        let import = self.module.references.iter().find(named);
        let full: Vec<String> = match import {
            Some(import) if import.path != path => {
                import.path.iter().chain(rest).cloned().collect()
            }
            _ => path.to_vec(),
        };
        let last = full.last().cloned().unwrap_or_default();
        let home = if full.len() > 1 {
            self.house.resolve(self.number, &full)
        } else {
            Some(self.number)
        };
        self.confined.owns(&full) || home.is_some_and(|home| self.aliases.contains(&(home, last)))
    }

    /// Whether what has this visibility can be seen from outside the rooms.
    fn is_visible(&self, visibility: &Visibility) -> bool {
        match visibility {
            Visibility::Inherited => false,
            Visibility::Public(_) => true,
            Visibility::Restricted(restricted) => {
                let path: Vec<String> = restricted
                    .path
                    .segments
                    .iter()
                    .map(|segment| segment.ident.to_string())
                    .collect();
                let scope = self.house.resolve(self.number, &path);
                scope.is_none_or(|scope| !self.confined.allows(&self.house.modules[scope].file))
            }
        }
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Const(item) if self.is_visible(&item.vis) => self.visit_type(&item.ty),
            Item::Static(item) if self.is_visible(&item.vis) => self.visit_type(&item.ty),
            Item::Type(item) if self.is_visible(&item.vis) => self.visit_type(&item.ty),
            Item::Fn(item) if self.is_visible(&item.vis) => self.visit_signature(&item.sig),
            Item::Struct(item) if self.is_visible(&item.vis) => {
                self.visit_generics(&item.generics);
                self.fields(&item.fields, false);
            }
            Item::Enum(item) if self.is_visible(&item.vis) => {
                self.visit_generics(&item.generics);
                for variant in &item.variants {
                    self.fields(&variant.fields, true);
                }
            }
            Item::Trait(item) if self.is_visible(&item.vis) => {
                self.visit_generics(&item.generics);
                for bound in &item.supertraits {
                    self.visit_type_param_bound(bound);
                }
                for item in &item.items {
                    if let TraitItem::Fn(function) = item {
                        self.visit_signature(&function.sig);
                    }
                }
            }
            Item::Impl(item) => {
                for inner in &item.items {
                    match inner {
                        ImplItem::Fn(function) if self.is_visible(&function.vis) => {
                            self.visit_signature(&function.sig);
                        }
                        ImplItem::Const(constant) if self.is_visible(&constant.vis) => {
                            self.visit_type(&constant.ty);
                        }
                        // An associated type, such as `Deref::Target`, is as visible as its trait.
                        ImplItem::Type(alias) => self.visit_type(&alias.ty),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, fields: &Fields, all: bool) {
        for field in fields {
            if all || self.is_visible(&field.vis) {
                self.visit_type(&field.ty);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Leaks<'_> {
    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.visit_generics(&signature.generics);
        for input in &signature.inputs {
            self.visit_fn_arg(input);
        }
        self.visit_return_type(&signature.output);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if self.names(&names) {
            let line = path
                .segments
                .first()
                .map_or(0, |first| first.ident.span().start().line);
            self.shown.push((names.join("::"), line));
        }
        visit::visit_path(self, path);
    }
}
