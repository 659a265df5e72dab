//! A path as the bot will read it: it undoes percent-encoding before it looks for a route, so the table must look at
//! the same text. Pure.

/// The longest path.
const LENGTH_MAX: usize = 4_096;

/// The path with its percent-encoding undone; none for one that two programs might read differently.
pub fn decoded(path: &str) -> Option<String> {
    if path.len() > LENGTH_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let code = std::str::from_utf8(tail.get(..2)?).ok()?;
        if !code.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = &tail[2..];
    }
    let text = String::from_utf8(bytes).ok()?;
    let strange = |letter: char| letter.is_control() || letter == '\\';
    let climbs = text.split('/').any(|part| matches!(part, "." | ".."));
    (text.starts_with('/') && !text.contains("//") && !climbs && !text.contains(strange)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn what_two_programs_might_read_differently_is_refused() {
        assert_eq!(decoded("/api/v1/system%2Dconfig").as_deref(), Some("/api/v1/system-config"));
        assert_eq!(decoded("/api/v1/providers/a%2Fb").as_deref(), Some("/api/v1/providers/a/b"));
        assert_eq!(decoded("/%E4%BD%A0").as_deref(), Some("/你"));
        for path in [
            "//api/v1",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/./b",
            "/a%5Cb",
            "/a%00",
            "/a%0d",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/%ff",
            "a",
            "",
            "/a//b",
            "/a%2F%2Fb",
        ] {
            assert_eq!(decoded(path), None, "{path}");
        }
    }
}
