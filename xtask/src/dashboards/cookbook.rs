//! The queries of docs/operate/cookbook.md.

use anyhow::{Context, Result, ensure};

use crate::shell::workspace;

/// One question and its query.
pub(super) struct Recipe {
    /// The second-level heading above.
    pub(super) section: String,
    /// The third-level heading above.
    pub(super) question: String,
    pub(super) query: String,
    /// What is said of the answer.
    pub(super) answer: String,
}

/// All of them, in their order.
///
/// # Errors
/// When the file is not there, or a block has no question or no answer.
pub(super) fn recipes() -> Result<Vec<Recipe>> {
    let path = workspace().join("docs/operate/cookbook.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse(&text)
}

/// What stands between the fences of each block of PromQL, with the headings above it and the text below.
fn parse(text: &str) -> Result<Vec<Recipe>> {
    let (mut section, mut question) = (String::new(), String::new());
    let mut recipes: Vec<Recipe> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut section);
        } else if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut question);
        } else if line == "```promql" {
            ensure!(!question.is_empty(), "a query without a question in {section}");
            let body: Vec<&str> =
                lines.by_ref().take_while(|line| *line != "```").map(str::trim).collect();
            recipes.push(Recipe {
                section: section.clone(),
                question: std::mem::take(&mut question),
                query: body.join(" "),
                answer: String::new(),
            });
        } else if let Some(last) = recipes.last_mut()
            && question.is_empty()
        {
            last.answer.push_str(line);
        }
    }
    for recipe in &recipes {
        ensure!(!recipe.answer.trim().is_empty(), "no answer: {}", recipe.question);
    }
    Ok(recipes)
}
