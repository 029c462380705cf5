//! What a PromQL expression selects, and within which function.

#[cfg(test)]
use promql_parser::parser::LabelModifier;
use promql_parser::parser::{Expr, VectorSelector, parse};

/// One selector of an expression.
pub(super) struct Selected {
    /// The metric; empty when the selector names none.
    pub(super) metric: String,
    pub(super) selector: VectorSelector,
    /// The range in seconds; `None` for an instant selector.
    pub(super) range: Option<u64>,
    /// The function that it is the argument of.
    pub(super) function: Option<&'static str>,
}

/// Stands for Grafana's `$__rate_interval` while an expression is parsed: no expression says that itself.
pub(super) const RATE_INTERVAL_SECONDS: u64 = 8_869;

/// All selectors.
///
/// # Errors
/// When it is no PromQL: the parser's message.
pub(super) fn selectors(expr: &str) -> Result<Vec<Selected>, String> {
    let interval = format!("{RATE_INTERVAL_SECONDS}s");
    let mut found = Vec::new();
    walk(&parse(&expr.replace("$__rate_interval", &interval))?, None, &mut found);
    Ok(found)
}

/// The selector and the label of a variable's `label_values(selector, label)`.
pub(super) fn label_values(query: &str) -> Option<(&str, &str)> {
    let inside = query.strip_prefix("label_values(")?.strip_suffix(')')?;
    let (selector, label) = inside.rsplit_once(',')?;
    Some((selector, label.trim()))
}

fn walk(expr: &Expr, function: Option<&'static str>, found: &mut Vec<Selected>) {
    let mut add = |selector: &VectorSelector, range| {
        let metric = selector.name.clone().unwrap_or_default();
        found.push(Selected { metric, selector: selector.clone(), range, function });
    };
    match expr {
        Expr::VectorSelector(selector) => add(selector, None),
        Expr::MatrixSelector(matrix) => add(&matrix.vs, Some(matrix.range.as_secs())),
        Expr::Call(call) => {
            for argument in &call.args.args {
                walk(argument, Some(call.func.name), found);
            }
        }
        Expr::Aggregate(aggregate) => {
            walk(&aggregate.expr, None, found);
            if let Some(parameter) = &aggregate.param {
                walk(parameter, None, found);
            }
        }
        Expr::Unary(unary) => walk(&unary.expr, None, found),
        Expr::Paren(paren) => walk(&paren.expr, None, found),
        Expr::Subquery(subquery) => walk(&subquery.expr, None, found),
        Expr::Binary(binary) => {
            walk(&binary.lhs, None, found);
            walk(&binary.rhs, None, found);
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

/// The labels that aggregations keep: those of `by`, at any depth.
///
/// # Errors
/// As [`selectors`].
#[cfg(test)]
pub(super) fn grouping_labels(expr: &str) -> Result<Vec<String>, String> {
    fn walk(expr: &Expr, found: &mut Vec<String>) {
        match expr {
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
                    found.extend(labels.labels.iter().cloned());
                }
                walk(&aggregate.expr, found);
            }
            Expr::Call(call) => call.args.args.iter().for_each(|argument| walk(argument, found)),
            Expr::Unary(unary) => walk(&unary.expr, found),
            Expr::Paren(paren) => walk(&paren.expr, found),
            Expr::Subquery(subquery) => walk(&subquery.expr, found),
            Expr::Binary(binary) => {
                walk(&binary.lhs, found);
                walk(&binary.rhs, found);
            }
            _ => {}
        }
    }
    let interval = format!("{RATE_INTERVAL_SECONDS}s");
    let mut found = Vec::new();
    walk(&parse(&expr.replace("$__rate_interval", &interval))?, &mut found);
    Ok(found)
}
