//! The paths that a module names: in `use`, in expressions, types and patterns, in the tokens of macros and
//! in attributes such as `#[serde(with = "crate::module")]`.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ImplItem, Item, ItemUse, Macro, Meta, Path, Token, TraitItem, UseTree, Visibility,
    punctuated::Punctuated,
    visit::{self, Visit},
};

/// A path, as a module names it.
pub(crate) struct Reference {
    /// Its segments.
    pub(crate) path: Vec<String>,
    /// The line in the module's file.
    pub(crate) line: usize,
    /// Whether a `use` names it.
    pub(crate) is_use: bool,
    /// Whether a `use` brings in all that it holds.
    pub(crate) is_glob: bool,
    /// What the module calls it, if a `use` gives it a name.
    pub(crate) name: Option<String>,
    /// How far a `use` passes it on.
    pub(crate) visibility: Visibility,
}

/// All paths of two segments and more in these items, and all that `use` names.
pub(crate) fn references(items: &[Item]) -> Vec<Reference> {
    let mut collector = Collector(Vec::new());
    for item in items {
        collector.visit_item(item);
    }
    collector.0
}

/// Whether these attributes keep code out of all builds but tests.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => needs_test(list.tokens.clone()),
        _ => false,
    })
}

/// Whether a condition is `test`, or is `all(…)` with it.
fn needs_test(condition: TokenStream) -> bool {
    let parse = Punctuated::<Meta, Token![,]>::parse_terminated;
    let Ok(conditions) = syn::parse::Parser::parse2(parse, condition) else {
        return false;
    };
    conditions.iter().any(|condition| match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => list.path.is_ident("all") && needs_test(list.tokens.clone()),
        Meta::NameValue(_) => false,
    })
}

/// An item's attributes.
pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item defines.
pub(crate) fn defined(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

struct Collector(Vec<Reference>);

impl Collector {
    /// Notes a path outside of `use`.
    fn mention(&mut self, path: Vec<String>, line: usize) {
        // A single name is the module's own, or a `use` brought it in.
        if path.len() > 1 {
            self.0.push(Reference {
                path,
                line,
                is_use: false,
                is_glob: false,
                name: None,
                visibility: Visibility::Inherited,
            });
        }
    }

    /// Notes each path of a `use`.
    fn flatten(&mut self, tree: &UseTree, prefix: &[String], visibility: &Visibility) {
        let (last, span) = match tree {
            UseTree::Path(tree) => {
                let mut prefix = prefix.to_vec();
                prefix.push(tree.ident.to_string());
                return self.flatten(&tree.tree, &prefix, visibility);
            }
            UseTree::Group(tree) => {
                for tree in &tree.items {
                    self.flatten(tree, prefix, visibility);
                }
                return;
            }
            UseTree::Name(tree) => (Some((&tree.ident, &tree.ident)), tree.ident.span()),
            UseTree::Rename(tree) => (Some((&tree.ident, &tree.rename)), tree.ident.span()),
            UseTree::Glob(tree) => (None, tree.star_token.span),
        };
        let mut path = prefix.to_vec();
        let mut name = None;
        if let Some((ident, rename)) = last {
            if ident != "self" || path.is_empty() {
                path.push(ident.to_string());
            }
            name = if rename == "self" {
                path.last().cloned()
            } else {
                Some(rename.to_string())
            };
        }
        self.0.push(Reference {
            path,
            line: span.start().line,
            is_use: true,
            is_glob: last.is_none(),
            name,
            visibility: visibility.clone(),
        });
    }

    /// Notes what looks like a path among a macro's tokens.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        // Colons since the last name; two go on with the path.
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Ident(ident) => {
                    self.mention(std::mem::take(&mut path), line);
                    path.push(ident.to_string());
                    line = ident.span().start().line;
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.mention(std::mem::take(&mut path), line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan(group.stream());
                    }
                }
            }
        }
        self.mention(path, line);
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let test = match item {
            ImplItem::Const(item) => is_test(&item.attrs),
            ImplItem::Fn(item) => is_test(&item.attrs),
            ImplItem::Type(item) => is_test(&item.attrs),
            _ => false,
        };
        if !test {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let test = match item {
            TraitItem::Fn(item) => is_test(&item.attrs),
            _ => false,
        };
        if !test {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.flatten(&item.tree, &[], &item.vis);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments = path.segments.iter();
        self.mention(
            segments.map(|segment| segment.ident.to_string()).collect(),
            path.segments
                .first()
                .map_or(0, |first| first.ident.span().start().line),
        );
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.visit_path(attribute.path());
        let Meta::List(list) = &attribute.meta else {
            return;
        };
        for token in list.tokens.clone() {
            let TokenTree::Literal(literal) = token else {
                continue;
            };
            let line = literal.span().start().line;
            let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else {
                continue;
            };
            if let Ok(path) = syn::parse_str::<Path>(&text.value()) {
                let segments = path.segments.iter();
                self.mention(
                    segments.map(|segment| segment.ident.to_string()).collect(),
                    line,
                );
            }
        }
    }
}
