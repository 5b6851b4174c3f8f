//! Node paths: which are valid, and how to take them apart.

/// Why a path is not one. Positions count bytes from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty.
    #[error("path is empty")]
    Empty,
    /// It does not begin with a slash.
    #[error("path does not begin with /")]
    Relative,
    /// It ends with a slash and is not the root.
    #[error("path ends with /")]
    TrailingSlash,
    /// Two slashes follow each other.
    #[error("empty node name at byte {0}")]
    EmptyName(usize),
    /// A name is `.` or `..`.
    #[error("node name . or .. at byte {0}")]
    DotName(usize),
    /// A character that ZooKeeper does not allow.
    #[error("character {character:?} at byte {position} is not allowed")]
    Character {
        /// The character.
        character: char,
        /// Where it begins.
        position: usize,
    },
}

/// Whether the path names a node, by the rules of `PathUtils.validatePath`: absolute, no empty name, no
/// `.` or `..`, no slash at the end, none of U+0000-001F, 007F-009F, D800-F8FF, FFF0-FFFF and nothing
/// above (which is surrogates in Java).
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(path: &str) -> Result<(), PathError> {
    let Some(names) = path.strip_prefix('/') else {
        return Err(if path.is_empty() {
            PathError::Empty
        } else {
            PathError::Relative
        });
    };
    if names.is_empty() {
        return Ok(());
    }
    if names.ends_with('/') {
        return Err(PathError::TrailingSlash);
    }
    let mut position = 1;
    for name in names.split('/') {
        match name {
            "" => return Err(PathError::EmptyName(position)),
            "." | ".." => return Err(PathError::DotName(position)),
            name => {
                if let Some((offset, character)) = name.char_indices().find(|&(_, c)| !allowed(c)) {
                    return Err(PathError::Character {
                        character,
                        position: position + offset,
                    });
                }
            }
        }
        position += name.len() + 1;
    }
    Ok(())
}

/// Whether the path can be given to a create that appends a sequence number: it need not name a node
/// before that, so `/queue/` and `/queue/.` are fine.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate_sequential(path: &str) -> Result<(), PathError> {
    let mut with_number = String::with_capacity(path.len() + 1);
    with_number.push_str(path);
    with_number.push('1');
    match validate(&with_number) {
        Err(PathError::Relative) if path.is_empty() => Err(PathError::Empty),
        verdict => verdict,
    }
}

fn allowed(character: char) -> bool {
    !matches!(
        character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{10ffff}'
    )
}

/// The path above a valid path; `None` for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        slash => Some(&path[..slash]),
    }
}

/// The last name of a valid path; empty for the root.
#[must_use]
pub fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The path of a child.
#[must_use]
pub fn join(parent: &str, name: &str) -> String {
    let parent = if parent == "/" { "" } else { parent };
    format!("{parent}/{name}")
}

/// A valid path and everything above it, upwards to the root.
pub fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_paths() {
        for path in [
            "/",
            "/a",
            "/a/b",
            "/.a",
            "/a.",
            "/...",
            "/a/..b",
            "/é/日本",
            "/\u{f900}\u{ffef}",
            "/a b",
            "/%2F",
        ] {
            assert_eq!(validate(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn invalid_paths() {
        let character = |character, position| {
            Err(PathError::Character {
                character,
                position,
            })
        };
        assert_eq!(validate(""), Err(PathError::Empty));
        assert_eq!(validate("a"), Err(PathError::Relative));
        assert_eq!(validate("/a/"), Err(PathError::TrailingSlash));
        assert_eq!(validate("//"), Err(PathError::TrailingSlash));
        assert_eq!(validate("//a"), Err(PathError::EmptyName(1)));
        assert_eq!(validate("/a//b"), Err(PathError::EmptyName(3)));
        assert_eq!(validate("/."), Err(PathError::DotName(1)));
        assert_eq!(validate("/a/../b"), Err(PathError::DotName(3)));
        assert_eq!(validate("/a\0"), character('\0', 2));
        assert_eq!(validate("/\u{1f}"), character('\u{1f}', 1));
        assert_eq!(validate("/é\u{7f}"), character('\u{7f}', 3));
        assert_eq!(validate("/\u{9f}"), character('\u{9f}', 1));
        assert_eq!(validate("/\u{e000}"), character('\u{e000}', 1));
        assert_eq!(validate("/\u{f8ff}"), character('\u{f8ff}', 1));
        assert_eq!(validate("/\u{fff0}"), character('\u{fff0}', 1));
        assert_eq!(validate("/\u{1f600}"), character('\u{1f600}', 1));
    }

    #[test]
    fn sequential_paths_are_judged_with_a_number() {
        for path in ["/", "/a/", "/a/n-", "/a/.", "/a/.."] {
            assert_eq!(validate_sequential(path), Ok(()), "{path}");
        }
        assert_eq!(validate_sequential(""), Err(PathError::Empty));
        assert_eq!(validate_sequential("//"), Err(PathError::EmptyName(1)));
    }

    #[test]
    fn parts() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(name("/a/b"), "b");
        assert_eq!(name("/"), "");
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b"), "/a/b");
        assert_eq!(
            with_ancestors("/a/b").collect::<Vec<_>>(),
            ["/a/b", "/a", "/"]
        );
        assert_eq!(with_ancestors("/").collect::<Vec<_>>(), ["/"]);
    }

    /// `PathUtils.validatePath` as it is written, over UTF-16.
    fn java_accepts(path: &str) -> bool {
        let chars: Vec<u16> = path.encode_utf16().collect();
        let (slash, dot) = (u16::from(b'/'), u16::from(b'.'));
        if chars.first() != Some(&slash) {
            return false;
        }
        if chars.len() == 1 {
            return true;
        }
        if chars.last() == Some(&slash) {
            return false;
        }
        let ends = |i: usize| i + 1 == chars.len() || chars[i + 1] == slash;
        for i in 1..chars.len() {
            let (last, c) = (chars[i - 1], chars[i]);
            if c == 0 || (c == slash && last == slash) {
                return false;
            } else if c == dot && last == dot {
                if chars[i - 2] == slash && ends(i) {
                    return false;
                }
            } else if c == dot {
                if last == slash && ends(i) {
                    return false;
                }
            } else if matches!(c, 1..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff) {
                return false;
            }
        }
        true
    }

    proptest::proptest! {
        #[test]
        fn java_would_say_the_same(path in "[/.a\u{0}\u{1f}\u{7f}\u{a0}\u{e000}\u{f900}\u{fff0}\u{10000}]{0,8}") {
            proptest::prop_assert_eq!(validate(&path).is_ok(), java_accepts(&path));
            proptest::prop_assert_eq!(
                validate_sequential(&path).is_ok(),
                java_accepts(&format!("{path}1"))
            );
        }
    }
}
