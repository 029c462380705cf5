//! Every relative link of every document, and every path below `docs/` that any file names, exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::workspace;

/// Not the project's own text.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// All text files below a folder.
fn texts(directory: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if !SKIPPED.iter().any(|name| path.ends_with(name)) {
                texts(&path, into);
            }
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(&path)
        {
            into.push((path, text));
        }
    }
}

fn all_texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    texts(workspace(), &mut found);
    found
}

/// Targets of `[text](target)` outside of code blocks.
fn targets(text: &str) -> Vec<&str> {
    let mut code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            found.extend(line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)));
        }
    }
    found.retain(|target| !target.contains("://") && !target.contains(' '));
    found
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    headings
        .map(|heading| {
            let kept = heading
                .to_lowercase()
                .replace(|c: char| !(c.is_alphanumeric() || "-_ ".contains(c)), "");
            kept.replace(' ', "-")
        })
        .collect()
}

fn is_good(from: &Path, text: &str, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { from.to_owned() } else { from.parent().unwrap().join(path) };
    if !file.exists() {
        return false;
    }
    let text = if path.is_empty() { Ok(text.to_owned()) } else { fs::read_to_string(&file) };
    anchor.is_empty() || text.is_ok_and(|text| anchors(&text).contains(anchor))
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut links = 0;
    for (path, text) in all_texts() {
        if path.extension().is_none_or(|end| end != "md") {
            continue;
        }
        for target in targets(&text) {
            links += 1;
            if !is_good(&path, &text, target) {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(links > 100, "{links} links");
}

/// Paths below a folder in a text; what holds a placeholder (`docs/NAME.md`) is left out.
fn named<'a>(text: &'a str, folder: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices(folder) {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "/._-".contains(c)) {
            continue;
        }
        let path = &text[start..];
        let end = path
            .find(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)))
            .unwrap_or(path.len());
        let (path, rest) = path.split_at(end);
        if !rest.starts_with(['{', '*', '$']) && !path.chars().any(|c| c.is_ascii_uppercase()) {
            found.push(path.trim_end_matches('.'));
        }
    }
    found
}

#[test]
fn every_document_that_is_named_exists() {
    let mut missing = Vec::new();
    for (path, text) in all_texts() {
        for document in named(&text, "docs/") {
            if !workspace().join(document).exists() {
                missing.push(format!("{}: {document}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The journal tells of its day.
#[test]
fn every_source_that_a_document_names_exists() {
    let mut missing = Vec::new();
    let mut sources = 0;
    for (path, text) in all_texts() {
        let is_document = path.extension().is_some_and(|end| end == "md");
        if !is_document
            || path.ends_with("CHANGELOG.md")
            || path.components().any(|it| it.as_os_str() == "journal")
        {
            continue;
        }
        for folder in [
            "dwcp-observer/",
            "dwcp-observer-model/",
            "dwcp-observer-ebpf/",
            "tests/",
            "xtask/",
            "dashboards/",
            "scripts/",
        ] {
            for source in named(&text, folder) {
                sources += 1;
                if !workspace().join(source).exists() {
                    missing.push(format!("{}: {source}", path.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(sources > 30, "{sources} sources");
}

#[test]
fn every_document_is_in_the_index() {
    let directory = workspace().join("docs");
    let index = fs::read_to_string(directory.join("README.md")).unwrap();
    let linked = targets(&index);
    for part in ["operate", "understand", "internals"] {
        for entry in fs::read_dir(directory.join(part)).unwrap().flatten() {
            let name = format!("{part}/{}", entry.file_name().to_string_lossy());
            let found = linked.iter().any(|target| target.starts_with(&name));
            assert!(found, "docs/README.md lacks {name}");
        }
    }
}

#[test]
fn links_and_anchors_are_read_from_markdown() {
    let text = "[a](b.md#c-d), [e](https://f)\n```\n[g](h)\n```\n[i](j/)\n";
    assert_eq!(targets(text), ["b.md#c-d", "j/"]);
    assert!(
        anchors("# One\n## The `post` function, on demand\n")
            .contains("the-post-function-on-demand")
    );
    // Put together, because the test above reads this file too.
    let text =
        "see DOCS/a/b.md. and `DOCS/c`; myDOCS/d DOCS/NAME.md DOCS/{e}".replace("DOCS", "docs");
    let docs = |path: &str| format!("{}/{path}", "docs");
    assert_eq!(named(&text, "docs/"), [docs("a/b.md"), docs("c")]);
}
