//! Keeps the figures of a page of Markdown: what stands between the marks of a name is written anew.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes `text` between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
pub fn replace(page: &Path, name: &str, text: &str) -> Result<()> {
    let before = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let after = replaced(&before, name, text)
        .with_context(|| format!("{} has no marks of `{name}`", page.display()))?;
    Ok(std::fs::write(page, after)?)
}

fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{}\n{end}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let after = replaced(page, "x", "| new |\n").unwrap();
        assert_eq!(after, "a\n<!-- x: begin -->\n| new |\n<!-- x: end -->\nb\n");
        assert_eq!(replaced(&after, "x", "| new |\n").unwrap(), after);
        assert!(replaced(page, "y", "").is_none());
    }
}
