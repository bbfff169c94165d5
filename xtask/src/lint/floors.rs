//! The order of the house: what `xtask/floors.toml` says about rooms and floors, and whether the code keeps
//! to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use serde::Deserialize;
use toml::Table;

use super::{
    finding::Finding,
    modules::{House, manifest},
};

/// The file that holds the order, from the workspace's directory.
pub(crate) const FILE: &str = "xtask/floors.toml";

/// The order, as written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// Each crate's directory, and the crates of the workspace that it may depend on.
    pub(crate) crates: BTreeMap<String, Vec<String>>,
    /// The floors of a directory, lowest first; those on one floor do not import each other.
    floors: BTreeMap<String, Vec<Vec<String>>>,
    /// Libraries that only some rooms may import.
    #[serde(default)]
    pub(crate) confined: Vec<Confined>,
}

/// A library that only some rooms may import.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confined {
    /// The library's name; others whose names begin with it and `_` count as well.
    pub(crate) library: String,
    /// The directory in which this holds.
    pub(crate) within: PathBuf,
    /// The files and directories that may import it.
    pub(crate) to: Vec<PathBuf>,
    /// Whether those may also show its types to others.
    #[serde(default)]
    pub(crate) shown: bool,
}

/// An import from one file to another.
struct Edge<'a> {
    from: &'a Path,
    to: &'a Path,
    line: usize,
    path: String,
}

impl Order {
    /// Reads the order of the workspace in `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("cannot parse {FILE}"))
    }
}

/// Everything that breaks the order, besides imports of confined libraries.
pub(crate) fn check(order: &Order, house: &House) -> Result<Vec<Finding>> {
    let edges = edges(house);
    let mut found = crates(order, &house.root)?;
    for (directory, floors) in &order.floors {
        found.extend(rooms(house, directory, floors));
        found.extend(climbs(&edges, directory, floors));
    }
    found.extend(circles(&edges));
    Ok(found)
}

/// All imports between files of the workspace.
fn edges(house: &House) -> Vec<Edge<'_>> {
    let mut edges = Vec::new();
    for (number, module) in house.modules.iter().enumerate() {
        for reference in &module.references {
            let Some(target) = house.resolve(number, &reference.path) else {
                continue;
            };
            let to = &house.modules[target].file;
            if *to != module.file && !house.is_said_by_use(number, reference, target) {
                edges.push(Edge {
                    from: &module.file,
                    to,
                    line: reference.line,
                    path: reference.path.join("::"),
                });
            }
        }
    }
    edges
}

/// Crates that the order does not know, and dependencies that it does not allow.
fn crates(order: &Order, root: &Path) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let workspace = manifest(root)?;
    let members = workspace
        .get("workspace")
        .and_then(|workspace| workspace.get("members")?.as_array())
        .context("Cargo.toml has no workspace.members")?;
    for member in members.iter().filter_map(|member| member.as_str()) {
        if !order.crates.contains_key(member) {
            found.push(Finding::new(FILE, 0, format!("[crates] lacks `{member}`")));
        }
    }
    for (name, allowed) in &order.crates {
        let directory = root.join(name);
        if !directory.is_dir() {
            found.push(Finding::new(
                FILE,
                0,
                format!("[crates]: there is no crate `{name}`"),
            ));
            continue;
        }
        for dependency in dependencies(&manifest(&directory)?) {
            if order.crates.contains_key(&dependency) && !allowed.contains(&dependency) {
                found.push(Finding::new(
                    Path::new(name).join("Cargo.toml"),
                    0,
                    format!(
                        "`{name}` must not depend on `{dependency}`: {FILE} allows {allowed:?}"
                    ),
                ));
            }
        }
    }
    Ok(found)
}

/// All that a manifest names as a dependency of any kind.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .into_iter()
        .filter_map(|kind| manifest.get(kind)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// The room in `directory` where `file` lies: the name of a file or a directory.
fn room(directory: &str, file: &Path) -> Option<String> {
    let inside = file.strip_prefix(directory).ok()?;
    let first = Path::new(inside.components().next()?.as_os_str());
    Some(first.file_stem()?.to_string_lossy().into_owned())
}

/// The floor of a room; the lowest is 1.
fn floor(floors: &[Vec<String>], room: &str) -> Option<usize> {
    floors
        .iter()
        .position(|floor| floor.iter().any(|name| name == room))
        .map(|index| index + 1)
}

/// Rooms that are in the tree or in the order, but not in both, and those that the order names twice.
fn rooms(house: &House, directory: &str, floors: &[Vec<String>]) -> Vec<Finding> {
    let there: BTreeSet<String> = house
        .modules
        .iter()
        .filter_map(|module| room(directory, &module.file))
        .collect();
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    for name in floors.iter().flatten() {
        if !known.insert(name.clone()) {
            found.push(Finding::new(
                FILE,
                0,
                format!("\"{directory}\" names `{name}` twice"),
            ));
        } else if !there.contains(name) {
            found.push(Finding::new(
                FILE,
                0,
                format!("\"{directory}\" names `{name}`, but there is no such room: take it out"),
            ));
        }
    }
    for name in there.difference(&known) {
        found.push(Finding::new(
            Path::new(directory).join(name),
            0,
            format!("this room has no floor: put `{name}` in {FILE} under \"{directory}\""),
        ));
    }
    found
}

/// Imports that do not run down the floors of `directory`.
fn climbs(edges: &[Edge<'_>], directory: &str, floors: &[Vec<String>]) -> Vec<Finding> {
    let mut found = Vec::new();
    for edge in edges {
        let (Some(from), Some(to)) = (room(directory, edge.from), room(directory, edge.to)) else {
            continue;
        };
        let (Some(high), Some(low)) = (floor(floors, &from), floor(floors, &to)) else {
            continue;
        };
        if from == to || high > low {
            continue;
        }
        let rule = if high == low {
            "rooms on one floor do not import each other"
        } else {
            "imports run down"
        };
        found.push(Finding::new(
            edge.from,
            edge.line,
            format!(
                "`{from}` (floor {high}) imports `{to}` (floor {low}), but {rule}: `{}` is in {}. \
                 Move what both need to a lower floor, or pass it in as an argument or by a trait. \
                 The floors of {directory} are in {FILE}",
                edge.path,
                edge.to.display(),
            ),
        ));
    }
    found
}

/// Files that import each other, directly or by way of others.
fn circles(edges: &[Edge<'_>]) -> Vec<Finding> {
    let graph: DiGraphMap<&Path, ()> = edges.iter().map(|edge| (edge.from, edge.to)).collect();
    let mut found = Vec::new();
    for mut circle in tarjan_scc(&graph) {
        if circle.len() < 2 {
            continue;
        }
        circle.sort();
        let mut imports: BTreeMap<(&Path, &Path), Vec<String>> = BTreeMap::new();
        for edge in edges {
            if circle.contains(&edge.from) && circle.contains(&edge.to) {
                let import = format!("{} (line {})", edge.path, edge.line);
                imports
                    .entry((edge.from, edge.to))
                    .or_default()
                    .push(import);
            }
        }
        let mut text = format!("{} files import each other in a circle:", circle.len());
        for ((from, to), paths) in imports {
            let line = format!("\n    {} imports {}: ", from.display(), to.display());
            text.push_str(&line);
            text.push_str(&paths.join(", "));
        }
        found.push(Finding::new(circle[0], 0, text));
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}
