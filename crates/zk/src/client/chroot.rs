//! A path that is put before all others.

use std::borrow::Cow;

use crate::path::{self, PathError};

/// The node that a client sees as its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chroot {
    /// Empty for the real root, otherwise a valid path.
    prefix: String,
}

impl Chroot {
    /// The node at this path as root; `/` is the real one.
    ///
    /// # Errors
    /// When the path is not valid.
    pub fn new(path: &str) -> Result<Self, PathError> {
        path::validate(path)?;
        Ok(Self {
            prefix: if path == "/" {
                String::new()
            } else {
                path.to_owned()
            },
        })
    }

    /// The path of the node, as the server knows it.
    #[must_use]
    pub fn path(&self) -> &str {
        if self.prefix.is_empty() {
            "/"
        } else {
            &self.prefix
        }
    }

    /// The server's path for a valid path of the client.
    pub(crate) fn to_server<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if path == "/" {
            Cow::Borrowed(self.path())
        } else {
            self.to_server_sequential(path)
        }
    }

    /// The server's path for a name that is yet to get a number, so `/` stays at the end.
    pub(crate) fn to_server_sequential<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() {
            Cow::Borrowed(path)
        } else {
            Cow::Owned(format!("{}{path}", self.prefix))
        }
    }

    /// The client's path for a path of the server. One that is not below the root stays as it is.
    pub(crate) fn to_client<'a>(&self, path: &'a str) -> &'a str {
        match path.strip_prefix(&self.prefix) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_chroot_paths_stay() {
        let root = Chroot::new("/").unwrap();
        assert_eq!(root, Chroot::default());
        for path in ["/", "/a", "/a/b"] {
            assert_eq!(root.to_server(path), path);
            assert_eq!(root.to_server_sequential(path), path);
            assert_eq!(root.to_client(path), path);
        }
    }

    #[test]
    fn with_chroot_they_go_there_and_back() {
        let chroot = Chroot::new("/x/y").unwrap();
        assert_eq!(chroot.to_server("/"), "/x/y");
        assert_eq!(chroot.to_server("/a"), "/x/y/a");
        assert_eq!(chroot.to_server_sequential("/"), "/x/y/");
        assert_eq!(chroot.to_client("/x/y"), "/");
        assert_eq!(chroot.to_client("/x/y/a"), "/a");
        assert_eq!(chroot.to_client("/x/yz"), "/x/yz");
        assert_eq!(chroot.to_client("/z"), "/z");
    }

    #[test]
    fn a_chroot_is_a_path() {
        assert_eq!(Chroot::new("a"), Err(PathError::Relative));
        assert_eq!(Chroot::new(""), Err(PathError::Empty));
    }
}
