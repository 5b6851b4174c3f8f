//! Four-letter words: the plain-text questions that share ZooKeeper's port.
//!
//! A connection whose first four bytes are one of these asks a question, gets a text and is closed; any
//! other four bytes are the length of its first frame. There is no confusion: as a length the smallest
//! of the words is 1.6 GiB.

use std::fmt;

macro_rules! words {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// A question in four letters (`FourLetterCommands.java`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FourLetterWord { $($(#[$meta])* $name,)* }

        impl FourLetterWord {
            /// All words.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The word that a connection begins with, or `None` when the bytes are a frame's length.
            #[must_use]
            pub fn detect(first: [u8; 4]) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.as_str().as_bytes() == first)
            }
        }
    };
}

words! {
    /// The configuration.
    Conf = "conf",
    /// The connections, each with its numbers.
    Cons = "cons",
    /// Resets the numbers of the connections.
    Crst = "crst",
    /// Sizes of snapshots and logs.
    Dirs = "dirs",
    /// Sessions and ephemeral nodes.
    Dump = "dump",
    /// The environment, the version above all.
    Envi = "envi",
    /// Reads the trace mask.
    Gtmk = "gtmk",
    /// Digests of the tree's history.
    Hash = "hash",
    /// Whether the server is read-only: `ro` or `rw`.
    Isro = "isro",
    /// Numbers for monitoring, a name and a value a line.
    Mntr = "mntr",
    /// Whether the server runs: `imok`.
    Ruok = "ruok",
    /// Resets the server's numbers.
    Srst = "srst",
    /// The server's numbers.
    Srvr = "srvr",
    /// The server's numbers and its connections.
    Stat = "stat",
    /// Sets the trace mask; eight bytes of it follow the word.
    Stmk = "stmk",
    /// Watches by session.
    Wchc = "wchc",
    /// Watches by path.
    Wchp = "wchp",
    /// Numbers of watches.
    Wchs = "wchs",
}

impl fmt::Display for FourLetterWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_lengths() {
        for &word in FourLetterWord::ALL {
            let bytes: [u8; 4] = word.as_str().as_bytes().try_into().unwrap();
            assert_eq!(FourLetterWord::detect(bytes), Some(word));
            assert!(i32::from_be_bytes(bytes) > 1 << 30);
        }
        assert_eq!(FourLetterWord::detect([0, 0, 0, 44]), None);
        assert_eq!(FourLetterWord::detect(*b"RUOK"), None);
        assert_eq!(FourLetterWord::detect([0xff, 0xf4, 0xff, 0xfd]), None);
    }
}
