//! What a registry is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use livegate_zk::four_letter::FourLetterWord;
use livegate_zk::frame::REQUEST_BYTES_MAX;

/// What a registry is started with. Make one with [`Options::new`] and change what should differ.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where everything is kept. Created if missing; only one server may use it.
    pub data_dir: PathBuf,
    /// The unit of time for sessions. Default 2 s, as Apache ZooKeeper's examples have it.
    pub tick_time: Duration,
    /// The shortest session timeout that clients get. Default: two ticks.
    pub session_timeout_min: Option<Duration>,
    /// The longest session timeout that clients get. Default: twenty ticks.
    pub session_timeout_max: Option<Duration>,
    /// Connections that one address may have; 0 for as many as it likes. Default 60, as Apache ZooKeeper.
    pub connections_per_address_max: usize,
    /// The four-letter words that are answered. Default: `srvr` alone.
    pub four_letter_words: Whitelist,
    /// `user:base64(sha1(user:password))` of whoever may do everything. Default: nobody.
    pub super_digest: Option<String>,
    /// The longest request that is taken; a connection that announces more is closed. Default 1 MiB - 1
    /// (`jute.maxbuffer`).
    pub request_bytes_max: usize,
    /// How often containers and nodes with a time to live are looked at. Default 60 s.
    pub reap_interval: Duration,
}

/// Which four-letter words are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whitelist {
    /// All.
    All,
    /// These, and `srvr`, which Apache ZooKeeper answers whatever the list says.
    Only(Vec<FourLetterWord>),
}

impl Whitelist {
    /// Reads a list as in `4lw.commands.whitelist`: words separated by commas, or `*`. What is no word is without
    /// effect, as it is for Apache ZooKeeper, and returned.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let mut known = Vec::new();
        let mut others = Vec::new();
        for word in text.split(',').map(str::trim) {
            let letters = <[u8; 4]>::try_from(word.as_bytes()).ok();
            match letters.and_then(FourLetterWord::detect) {
                Some(word) => known.push(word),
                None if word == "*" => return (Self::All, Vec::new()),
                None if word.is_empty() => {}
                None => others.push(word.to_owned()),
            }
        }
        (Self::Only(known), others)
    }

    pub(crate) fn allows(&self, word: FourLetterWord) -> bool {
        match self {
            Self::All => true,
            Self::Only(words) => word == FourLetterWord::Srvr || words.contains(&word),
        }
    }
}

impl Default for Whitelist {
    fn default() -> Self {
        Self::Only(vec![FourLetterWord::Srvr])
    }
}

impl Options {
    /// Defaults for an address and a directory.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            data_dir: data_dir.into(),
            tick_time: Duration::from_secs(2),
            session_timeout_min: None,
            session_timeout_max: None,
            connections_per_address_max: 60,
            four_letter_words: Whitelist::default(),
            super_digest: None,
            request_bytes_max: REQUEST_BYTES_MAX,
            reap_interval: Duration::from_secs(60),
        }
    }

    /// Shortest and longest session timeout, in milliseconds.
    pub(crate) fn session_timeouts_ms(&self) -> (i32, i32) {
        let millis = |span: Duration| i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
        let shortest = self.session_timeout_min.unwrap_or(self.tick_time * 2);
        let longest = self.session_timeout_max.unwrap_or(self.tick_time * 20);
        (millis(shortest).max(1), millis(longest).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitelists() {
        assert_eq!(Whitelist::parse("*"), (Whitelist::All, vec![]));
        let two = vec![FourLetterWord::Ruok, FourLetterWord::Mntr];
        assert_eq!(
            Whitelist::parse(" ruok,, no, mntr nope, mntr"),
            (
                Whitelist::Only(two),
                vec!["no".to_owned(), "mntr nope".to_owned()]
            )
        );
        assert_eq!(Whitelist::parse(""), (Whitelist::Only(vec![]), vec![]));
        assert!(Whitelist::Only(Vec::new()).allows(FourLetterWord::Srvr));
        assert!(!Whitelist::default().allows(FourLetterWord::Ruok));
    }
}
