//! `layers`: checks that the agent's rooms import from lower floors only, by the code's own `use` and path expressions.
//!
//! A room is a top-level module of the agent's library. Test code is ignored. In some rooms (`LINES`) the imports between files
//! must not form a circle either.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::shell::workspace;

/// The floors, the lowest first. Rooms of one floor may import from each other, but not in a circle.
const FLOORS: &[(&str, &[&str])] = &[
    ("settings and shared values", &["config", "model"]),
    ("what every program rests on", &["client", "kernel", "netlink"]),
    (
        "one measured thing each; loads, attaches, reads",
        &["freeze", "netdev", "phase", "process", "rdma", "sched", "tcp", "keeper"],
    ),
    ("pure: readings in, records and actions out", &["identify", "verdict", "migration"]),
    ("judgement and memory over records", &["anomaly", "component", "history", "journal", "sla"]),
    ("the conductor: read, step, act, publish", &["cycle"]),
    ("what readers get", &["http", "metrics", "report"]),
    ("commands", &["cli", "main"]),
];

/// Rooms whose files import from each other in one direction only.
const LINES: &[&str] = &["migration"];

/// Arguments of `layers`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the modules and their imports as a Mermaid graph
    #[arg(long)]
    mermaid: bool,
    /// Read the library in this folder instead, for a comparison with another version
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
}

/// One import of another room, or of another file of the same room (`migration::live`).
#[derive(Debug, PartialEq)]
struct Import {
    from: String,
    to: String,
    /// File and line.
    place: String,
}

/// Prints what is wrong. Exit 0 only if nothing is.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let imports = match &args.sources {
        Some(directory) => read(directory),
        None => read_agent(),
    }?;
    if args.mermaid {
        print!("{}", mermaid(&imports.rooms));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if is_clean(&imports) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Imports of the whole agent.
#[derive(Default)]
struct Imports {
    rooms: Vec<Import>,
    /// Within the rooms of [`LINES`].
    files: Vec<Import>,
}

fn read_agent() -> Result<Imports> {
    read(&workspace().join("dwcp-observer/src"))
}

fn is_clean(Imports { rooms, files }: &Imports) -> bool {
    let unknown = on_no_floor(rooms);
    for room in &unknown {
        println!("`{room}` is on no floor: give it one in xtask/src/layers.rs");
    }
    let upward = upward(rooms);
    for Import { from, to, place } in &upward {
        println!("{place}: {from} imports {to}, which is on a higher floor");
    }
    let (of_rooms, of_files) = (largest_circle(rooms), largest_circle(files));
    println!(
        "layers: {} upward imports, largest circle of modules {of_rooms}, of files of {} {of_files}",
        upward.len(),
        LINES.join(", ")
    );
    unknown.is_empty() && upward.is_empty() && of_rooms == 1 && of_files == 1
}

/// Prints all circles; how many take part in the largest, 1 where there is none.
fn largest_circle(imports: &[Import]) -> usize {
    let cycles = cycles(imports);
    for cycle in &cycles {
        println!("a circle of imports: {}", cycle.join(", "));
        let inside = |import: &&Import| cycle.contains(&import.from) && cycle.contains(&import.to);
        for Import { from, to, place } in imports.iter().filter(inside) {
            println!("  {place}: {from} imports {to}");
        }
    }
    cycles.iter().map(Vec::len).max().unwrap_or(1)
}

/// The floor of a room, counted from 0.
fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

fn rooms(imports: &[Import]) -> BTreeSet<&str> {
    imports.iter().flat_map(|import| [import.from.as_str(), import.to.as_str()]).collect()
}

fn on_no_floor(imports: &[Import]) -> Vec<&str> {
    rooms(imports).into_iter().filter(|room| floor(room).is_none()).collect()
}

/// Imports from a higher floor. One of a room that is on no floor is not among them.
fn upward(imports: &[Import]) -> Vec<&Import> {
    let is_upward = |import: &&Import| is_upward(&import.from, &import.to);
    imports.iter().filter(is_upward).collect()
}

fn is_upward(from: &str, to: &str) -> bool {
    floor(from).zip(floor(to)).is_some_and(|(from, to)| to > from)
}

/// Rooms that import each other, directly or not.
fn cycles(imports: &[Import]) -> Vec<Vec<String>> {
    let graph: DiGraphMap<&str, ()> =
        imports.iter().map(|import| (import.from.as_str(), import.to.as_str())).collect();
    let several = tarjan_scc(&graph).into_iter().filter(|rooms| rooms.len() > 1);
    several.map(|rooms| rooms.into_iter().map(str::to_owned).collect()).collect()
}

/// Floors as boxes, and an arrow from each room to those that it imports: red where it leads upward.
fn mermaid(imports: &[Import]) -> String {
    let there = rooms(imports);
    let mut text = "flowchart TB\n".to_owned();
    for (number, (what, rooms)) in FLOORS.iter().enumerate().rev() {
        let _ = writeln!(text, "  subgraph f{number}[\"{number}: {what}\"]");
        for room in rooms.iter().filter(|room| there.contains(*room)) {
            let _ = writeln!(text, "    {room}");
        }
        text.push_str("  end\n");
    }
    let arrows: BTreeSet<(&str, &str)> =
        imports.iter().map(|import| (import.from.as_str(), import.to.as_str())).collect();
    for (from, to) in &arrows {
        let _ = writeln!(text, "  {from} --> {to}");
    }
    for (number, (from, to)) in arrows.iter().enumerate() {
        if is_upward(from, to) {
            let _ = writeln!(text, "  linkStyle {number} stroke:red");
        }
    }
    text
}

/// Every import of one room by another, in the files below the library's root.
fn read(root: &Path) -> Result<Imports> {
    let mut imports = Imports::default();
    for entry in sorted(root)? {
        let name = entry.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "lib" || name.ends_with("_tests") {
            continue;
        }
        let file = if entry.is_dir() { entry.join("mod.rs") } else { entry.clone() };
        read_module(root, &file, &[name.to_owned()], &mut imports)?;
    }
    Ok(imports)
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Reads the file of a module, then those of the modules in it.
fn read_module(root: &Path, file: &Path, module: &[String], imports: &mut Imports) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    let mut reader = Reader { root, file, module: module.to_vec(), imports, children: Vec::new() };
    reader.visit_file(&parsed);
    for child in std::mem::take(&mut reader.children) {
        read_module(root, &child_file(file, &child)?, &joined(module, &child), imports)?;
    }
    Ok(())
}

fn joined(module: &[String], child: &str) -> Vec<String> {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

/// Where `mod child;` of a file is.
fn child_file(file: &Path, child: &str) -> Result<PathBuf> {
    let directory = file.parent().context("a file has a folder")?;
    let own = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let inside = if own == "mod" { directory.to_owned() } else { directory.join(own) };
    let candidates = [inside.join(format!("{child}.rs")), inside.join(child).join("mod.rs")];
    match candidates.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{}: no file for `mod {child}`", file.display()),
    }
}

struct Reader<'a> {
    root: &'a Path,
    file: &'a Path,
    module: Vec<String>,
    imports: &'a mut Imports,
    /// Modules in files of their own.
    children: Vec<String>,
}

impl Reader<'_> {
    /// Takes note of a path, as written.
    fn path(&mut self, segments: &[String], line: usize) {
        let Some(path) = absolute(&self.module, segments) else { return };
        let ([from, own @ ..], [to, other @ ..]) = (self.module.as_slice(), path.as_slice()) else {
            return;
        };
        let file = self.file.strip_prefix(self.root).unwrap_or(self.file);
        let place = format!("{}:{line}", file.display());
        if to != from {
            let (from, to) = (from.clone(), to.clone());
            self.imports.rooms.push(Import { from, to, place });
        } else if LINES.contains(&from.as_str())
            && let (Some(own), Some(other)) = (own.first(), other.first())
            && own != other
        {
            let (from, to) = (format!("{from}::{own}"), format!("{from}::{other}"));
            self.imports.files.push(Import { from, to, place });
        }
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(path) => {
                self.tree(&path.tree, &joined(before, &path.ident.to_string()));
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|it| self.tree(it, before)),
            syn::UseTree::Name(name) => {
                self.path(&joined(before, &name.ident.to_string()), line);
            }
            syn::UseTree::Rename(name) => {
                self.path(&joined(before, &name.ident.to_string()), line);
            }
            syn::UseTree::Glob(_) => self.path(before, line),
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if for_tests(&item.attrs) {
            return;
        }
        match &item.content {
            None => self.children.push(item.ident.to_string()),
            Some((_, items)) => {
                self.module.push(item.ident.to_string());
                items.iter().for_each(|item| self.visit_item(item));
                self.module.pop();
            }
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !for_tests(&item.attrs) {
            self.tree(&item.tree, &[]);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&segments, path.span().start().line);
        visit::visit_path(self, path);
    }
}

fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// A path from the crate's root on; `None` where it is no path within the crate.
fn absolute(module: &[String], segments: &[String]) -> Option<Vec<String>> {
    let (above, rest) = match segments.first()?.as_str() {
        "crate" | "dwcp_observer" => (0, segments.get(1..)?),
        // A crate of its own, which the agent calls so. It cannot import the agent: it does not depend on it.
        "dwcp_observer_model" => return Some(joined(&["model".to_owned()], segments.get(1)?)),
        "super" => {
            let up = segments.iter().take_while(|segment| *segment == "super").count();
            (module.len().checked_sub(up)?, segments.get(up..)?)
        }
        _ => return None,
    };
    Some(module.iter().take(above).chain(rest).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(module: &str, text: &str) -> Imports {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        let mut found = Imports::default();
        let (root, file) = (Path::new("src"), Path::new("src/x.rs"));
        let mut reader = Reader { root, file, module, imports: &mut found, children: Vec::new() };
        reader.visit_file(&syn::parse_file(text).unwrap());
        found
    }

    fn pairs(imports: Vec<Import>) -> Vec<(String, String)> {
        imports.into_iter().map(|import| (import.from, import.to)).collect()
    }

    fn pair(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn imports_are_read_from_every_kind_of_path() {
        let text = "use crate::{model::record::Role, tcp};\nuse super::super::sched::Reading;\n\
                    fn f() -> crate::verdict::Verdict { super::here(crate::netdev::X) }\n\
                    #[cfg(test)]\nmod tests { use crate::cycle::Cycle; }\n\
                    #[cfg(test)]\nuse crate::http::Server;\nuse std::fmt;\nuse aya::maps;\n\
                    use dwcp_observer_model::record;";
        let expected = ["model", "tcp", "sched", "verdict", "netdev", "model"];
        let expected: Vec<_> = expected.iter().map(|to| pair("migration", to)).collect();
        assert_eq!(pairs(imports("migration::live", text).rooms), expected);
    }

    #[test]
    fn files_of_a_line_are_told_apart() {
        let text = "use super::{super::{end::EndState, live}, Registry};\nuse crate::migration::totals::Totals;";
        let found = pairs(imports("migration::registry::place", text).files);
        let expected = ["end", "live", "totals"].map(|to| format!("migration::{to}"));
        let expected: Vec<_> = expected.iter().map(|to| pair("migration::registry", to)).collect();
        assert_eq!(found, expected);
        assert!(imports("verdict::inputs", "use super::judge;").files.is_empty());
    }

    #[test]
    fn an_upward_import_and_a_circle_are_found() {
        let import = |from: &str, to: &str| {
            let (from, to) = pair(from, to);
            Import { from, to, place: String::new() }
        };
        let all = [import("tcp", "rdma"), import("rdma", "tcp"), import("model", "cycle")];
        assert_eq!(upward(&all), [&all[2]]);
        let found = cycles(&all);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), 2);
        assert_eq!(on_no_floor(&[import("attic", "tcp")]), ["attic"]);
    }

    #[test]
    fn this_code_has_neither() {
        assert!(is_clean(&read_agent().unwrap()));
    }
}
