//! Turns the commented default configuration into a page. The comments are the manual: this adds the names of the
//! environment's variables and nothing else.
//!
//! The file's own rules: `# text` above a section or a key is its description; `#key = value` (no blank after the hash) is
//! a key without a default, with an example.

use std::fmt::Write as _;

use anyhow::{Result, bail};

const PREAMBLE: &str = "\
<!-- Written by `make gen` from crates/cli/src/config.default.toml. Change that. -->
# Configuration
The default, then the file, then the environment, then flags: the later wins. A key that does not exist is an error.
";

/// The whole page.
///
/// # Errors
/// A key that nobody described.
pub fn markdown(toml: &str) -> Result<String> {
    let mut page = PREAMBLE.to_owned();
    let mut section = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut lines = toml.lines().enumerate();
    let mut is_first_comment = true;
    while let Some((number, line)) = lines.next() {
        let line = line.trim_end();
        if line == "#" || line.starts_with("# ") {
            comment.push(line[1..].trim());
            continue;
        }
        let (line, is_set) = line.strip_prefix('#').map_or((line, true), |line| (line, false));
        if line.is_empty() {
            if is_first_comment && !comment.is_empty() {
                let _ = writeln!(page, "\n{}", comment.join("\n"));
                comment.clear();
            }
            is_first_comment = false;
            continue;
        }
        is_first_comment = false;
        let about = comment.join("\n");
        comment.clear();
        if line.starts_with('[') {
            line.trim_matches(['[', ']', ' ']).clone_into(&mut section);
            let _ = writeln!(page, "\n## `{line}`");
            if !about.is_empty() {
                let _ = writeln!(page, "{about}");
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            bail!("line {}: neither a comment, a section nor `key = value`", number + 1);
        };
        let (key, mut value) = (key.trim(), value.trim().to_owned());
        if about.is_empty() {
            bail!("line {}: `{key}` has no comment, and the comments are the manual", number + 1);
        }
        while value.starts_with('[') && value.matches('[').count() > value.matches(']').count() {
            let Some((_, more)) = lines.next() else { bail!("line {}: the list of `{key}` does not end", number + 1) };
            let more = more.strip_prefix('#').filter(|_| !is_set).unwrap_or(more);
            let _ = write!(value, " {}", more.trim());
        }
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        let variable = format!("ASTRFLEET__{}", path.replace('.', "__").to_uppercase());
        let standing = if is_set { "Default" } else { "Not set; for example" };
        let _ = writeln!(page, "\n### `{path}`\n{about}\n\n{standing} `{value}`. Environment: `{variable}`.");
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_defaults_and_variables_come_out() {
        let page = markdown(
            "# The file.\n\n# Where we listen.\n[server]\n# The address.\nlisten = \"127.0.0.1:8000\"\n\
             # Certificates.\n#tls = [\n#  \"a\",\n#]\n",
        )
        .unwrap();
        assert!(page.contains("\nThe file.\n"));
        assert!(page.contains("## `[server]`\nWhere we listen.\n"));
        assert!(page.contains(
            "### `server.listen`\nThe address.\n\nDefault `\"127.0.0.1:8000\"`. Environment: `ASTRFLEET__SERVER__LISTEN`.\n"
        ));
        assert!(page.contains("Not set; for example `[ \"a\", ]`. Environment: `ASTRFLEET__SERVER__TLS`."));
    }

    #[test]
    fn a_key_without_a_comment_is_refused() {
        assert!(markdown("[server]\nlisten = 1\n").unwrap_err().to_string().contains("`listen` has no comment"));
    }
}
