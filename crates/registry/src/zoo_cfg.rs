//! Reading a `zoo.cfg`, so that a server that runs can be replaced by this one without new configuration.
//!
//! The file is in the format of Java's properties: `key=value`, `key: value` or `key value`; comments begin with `#` or
//! `!`; a backslash escapes, and joins lines. As in ZooKeeper a key that is given twice has its last value.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::options::Whitelist;

/// No `zoo.cfg` is larger: a file that is was named by mistake.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// No request may be longer than this, whatever the file says: half of what may wait for a client to read it, since
/// whoever wrote a node wants to read it, too.
const REQUEST_BYTES_MOST: usize = 8 * 1024 * 1024;

const SHA1_BYTES: usize = 20;

/// What a `zoo.cfg` says of things that this server has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZooCfg {
    /// `clientPort`.
    pub client_port: Option<u16>,
    /// `clientPortAddress`: an address, or a name, which is not resolved here.
    pub client_port_address: Option<ListenHost>,
    /// `dataDir`.
    pub data_dir: Option<PathBuf>,
    /// `tickTime`, in milliseconds.
    pub tick_time: Option<Duration>,
    /// `minSessionTimeout`, in milliseconds; -1, ZooKeeper's word for its default, is `None`.
    pub session_timeout_min: Option<Duration>,
    /// `maxSessionTimeout`, likewise.
    pub session_timeout_max: Option<Duration>,
    /// `maxClientCnxns`: connections per client address. 0 means without bound, as in ZooKeeper.
    pub client_connections_max: Option<u32>,
    /// `4lw.commands.whitelist`.
    pub four_letter_words: Option<Whitelist>,
    /// `DigestAuthenticationProvider.superDigest`: who may do everything, as `user:base64(sha1(user:password))`.
    pub super_digest: Option<String>,
    /// `jute.maxbuffer`: bytes of the longest request.
    pub request_bytes_max: Option<usize>,
    /// `znode.container.checkIntervalMs`: how often containers and nodes with a time to live are looked at.
    pub reap_interval: Option<Duration>,
    /// Keys in the file that have no effect here, in the order of the file.
    pub ignored: Vec<String>,
    /// What the operator should know, in whole sentences.
    pub warnings: Vec<String>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenHost {
    /// An address.
    Address(IpAddr),
    /// A name to be resolved.
    Name(String),
}

/// What is wrong with a `zoo.cfg`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZooCfgError {
    /// It is something else.
    #[error("a zoo.cfg of {0} bytes: it has at most {FILE_BYTES_MAX}")]
    TooLong(usize),
    /// A value that makes no sense.
    #[error("line {line}: {key} is {value:?}: {expected}")]
    Value {
        /// Of the key, from 1.
        line: usize,
        /// As written.
        key: String,
        /// As understood.
        value: String,
        /// What should be there.
        expected: &'static str,
    },
    /// `\u` without four hexadecimal digits.
    #[error("line {line}: \\u must be followed by four hexadecimal digits of a character")]
    Escape {
        /// Where the entry begins, from 1.
        line: usize,
    },
}

impl ZooCfg {
    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// The first value that makes no sense, by line and key. Keys that are not known are no errors.
    pub fn parse(text: &str) -> Result<ZooCfg, ZooCfgError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(ZooCfgError::TooLong(text.len()));
        }
        let mut cfg = ZooCfg::default();
        let mut servers = Vec::new();
        for entry in entries(text)? {
            cfg.set(&entry)?;
            if entry.key.starts_with("server.") {
                servers.push(entry.key);
            }
        }
        if !servers.is_empty() {
            cfg.warnings.push(format!(
                "{}: the file describes an ensemble, but this server is alone: it does not replicate to others",
                servers.join(", ")
            ));
        }
        if let (Some(min), Some(max)) = (cfg.session_timeout_min, cfg.session_timeout_max)
            && min > max
        {
            let line = entries(text)?
                .iter()
                .rfind(|entry| entry.key == "minSessionTimeout")
                .map_or(0, |entry| entry.line);
            return Err(ZooCfgError::Value {
                line,
                key: "minSessionTimeout".to_owned(),
                value: min.as_millis().to_string(),
                expected: "it must not be more than maxSessionTimeout",
            });
        }
        Ok(cfg)
    }

    fn set(&mut self, entry: &Entry) -> Result<(), ZooCfgError> {
        match entry.key.as_str() {
            "clientPort" => {
                self.client_port = Some(entry.number("a port is a number from 0 to 65535")?)
            }
            "clientPortAddress" => {
                let host = entry.text("an address or a host name should be there")?;
                let bare = host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'))
                    .unwrap_or(host);
                self.client_port_address = Some(
                    bare.parse()
                        .map_or_else(|_| ListenHost::Name(host.to_owned()), ListenHost::Address),
                );
            }
            "dataDir" => self.data_dir = Some(entry.text("a directory should be there")?.into()),
            "tickTime" => {
                let expected = "a tick is a number of milliseconds, at least 1";
                let milliseconds: u32 = entry.number(expected)?;
                if milliseconds == 0 {
                    return Err(entry.error(expected));
                }
                self.tick_time = Some(Duration::from_millis(milliseconds.into()));
            }
            "minSessionTimeout" => self.session_timeout_min = entry.timeout()?,
            "maxSessionTimeout" => self.session_timeout_max = entry.timeout()?,
            "maxClientCnxns" => {
                self.client_connections_max = Some(
                    entry.number("the connections of one address are a number, 0 for no bound")?,
                );
            }
            "4lw.commands.whitelist" => {
                let (words, others) = Whitelist::parse(&entry.value);
                if !others.is_empty() {
                    self.warnings.push(format!(
                        "line {}: 4lw.commands.whitelist has what is no four-letter word: {}",
                        entry.line,
                        others.join(", ")
                    ));
                }
                self.four_letter_words = Some(words);
            }
            // ZooKeeper makes a system property of a key that it does not know. The last two it takes from the
            // command line of its Java alone, which there is none of here.
            "DigestAuthenticationProvider.superDigest"
            | "zookeeper.DigestAuthenticationProvider.superDigest" => {
                self.super_digest = Some(entry.digest()?);
            }
            "jute.maxbuffer" => {
                let expected = "the bytes of a request are a number, from 64 to 8388608";
                let bytes: usize = entry.number(expected)?;
                if !(64..=REQUEST_BYTES_MOST).contains(&bytes) {
                    return Err(entry.error(expected));
                }
                self.request_bytes_max = Some(bytes);
            }
            "znode.container.checkIntervalMs" => {
                let expected = "an interval is a number of milliseconds, at least 1";
                let milliseconds: u32 = entry.number(expected)?;
                if milliseconds == 0 {
                    return Err(entry.error(expected));
                }
                self.reap_interval = Some(Duration::from_millis(milliseconds.into()));
            }
            key => {
                if !self.ignored.iter().any(|ignored| ignored == key) {
                    self.ignored.push(key.to_owned());
                }
            }
        }
        Ok(())
    }
}

/// A key with its value.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    key: String,
    value: String,
}

impl Entry {
    fn error(&self, expected: &'static str) -> ZooCfgError {
        ZooCfgError::Value {
            line: self.line,
            key: self.key.clone(),
            value: self.value.clone(),
            expected,
        }
    }

    fn number<T: std::str::FromStr>(&self, expected: &'static str) -> Result<T, ZooCfgError> {
        self.value.parse().map_err(|_| self.error(expected))
    }

    fn text(&self, expected: &'static str) -> Result<&str, ZooCfgError> {
        if self.value.is_empty() || self.value.contains('\0') {
            Err(self.error(expected))
        } else {
            Ok(&self.value)
        }
    }

    fn timeout(&self) -> Result<Option<Duration>, ZooCfgError> {
        let expected =
            "a session timeout is a number of milliseconds, at least 1, or -1 for the default";
        match self.number::<i32>(expected)? {
            -1 => Ok(None),
            milliseconds => match u64::try_from(milliseconds) {
                Ok(milliseconds) if milliseconds > 0 => {
                    Ok(Some(Duration::from_millis(milliseconds)))
                }
                Ok(_) | Err(_) => Err(self.error(expected)),
            },
        }
    }

    fn digest(&self) -> Result<String, ZooCfgError> {
        let expected = "a name and a hash should be there, as user:base64(sha1(user:password))";
        let text = self.text(expected)?;
        let hash = text.split_once(':').map(|(_, hash)| BASE64.decode(hash));
        match hash {
            Some(Ok(hash)) if hash.len() == SHA1_BYTES => Ok(text.to_owned()),
            Some(_) | None => Err(self.error(expected)),
        }
    }
}

/// The entries of a properties file, values trimmed as ZooKeeper does.
fn entries(text: &str) -> Result<Vec<Entry>, ZooCfgError> {
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let mut lines = text.split('\n').zip(1..);
    let mut entries = Vec::new();
    while let Some((first, line)) = lines.next() {
        let mut logical = first.trim_start_matches(BLANK).to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while is_continued(&logical) {
            logical.pop();
            let Some((more, _)) = lines.next() else { break };
            logical.push_str(more.trim_start_matches(BLANK));
        }
        let (key, value) = split(&logical);
        let unescaped = |text| unescape(text).ok_or(ZooCfgError::Escape { line });
        entries.push(Entry {
            line,
            key: unescaped(key)?.trim().to_owned(),
            value: unescaped(value)?.trim().to_owned(),
        });
    }
    Ok(entries)
}

/// What Java's properties take for blanks.
const BLANK: [char; 3] = [' ', '\t', '\u{c}'];

/// Whether the next line belongs to this one: an odd number of backslashes at its end.
fn is_continued(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Key and value, still escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|char: char| {
        let ends = !escaped && (BLANK.contains(&char) || matches!(char, '=' | ':'));
        escaped = char == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANK);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANK))
}

fn unescape(text: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            result.push(char);
            continue;
        }
        match chars.next() {
            Some('t') => result.push('\t'),
            Some('n') => result.push('\n'),
            Some('r') => result.push('\r'),
            Some('f') => result.push('\u{c}'),
            Some('u') => {
                let digits = chars
                    .as_str()
                    .get(..4)
                    .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
                result.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                chars = chars.as_str()[4..].chars();
            }
            Some(other) => result.push(other),
            None => {}
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use livegate_zk::four_letter::FourLetterWord;

    use proptest::prelude::*;

    use super::*;

    /// What Debian's package of ZooKeeper 3.8 installs: the sample of the distribution.
    const SAMPLE: &str = include_str!("../testdata/zoo-debian.cfg");
    /// The keys that the Docker image of ZooKeeper writes for an ensemble, and some more.
    const ENSEMBLE: &str = include_str!("../testdata/zoo-ensemble.cfg");

    #[test]
    fn the_sample_of_the_distribution() {
        let cfg = ZooCfg::parse(SAMPLE).unwrap();
        let expected = ZooCfg {
            client_port: Some(2181),
            data_dir: Some("/tmp/zookeeper".into()),
            tick_time: Some(Duration::from_secs(2)),
            ignored: vec!["initLimit".to_owned(), "syncLimit".to_owned()],
            ..ZooCfg::default()
        };
        assert_eq!(cfg, expected);
    }

    #[test]
    fn an_ensemble_is_warned_of() {
        let cfg = ZooCfg::parse(ENSEMBLE).unwrap();
        assert_eq!(cfg.client_connections_max, Some(60));
        assert_eq!(
            cfg.client_port_address,
            Some(ListenHost::Address("::1".parse().unwrap()))
        );
        assert_eq!(cfg.session_timeout_min, Some(Duration::from_secs(4)));
        assert_eq!(cfg.session_timeout_max, Some(Duration::from_secs(40)));
        let words = vec![
            FourLetterWord::Srvr,
            FourLetterWord::Ruok,
            FourLetterWord::Mntr,
        ];
        assert_eq!(cfg.four_letter_words, Some(Whitelist::Only(words)));
        assert!(
            cfg.ignored.contains(&"autopurge.purgeInterval".to_owned()),
            "{:?}",
            cfg.ignored
        );
        assert!(
            cfg.warnings[0].starts_with("server.1, server.2, server.3: "),
            "{:?}",
            cfg.warnings
        );
        assert_eq!(cfg.warnings.len(), 1);
    }

    #[test]
    fn properties_are_read_as_java_does() {
        let text = "\u{feff}! a comment\\\r\n  clientPort : 1 \r\nclientPort 2182\n\\u0064ataDir = C:\\\\zoo\\\n   \
                    keeper\\ data\ntickTime=\\\n# 3\n";
        let error = ZooCfg::parse(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 6: tickTime is \"# 3\": a tick is a number of milliseconds, at least 1"
        );
        let cfg = ZooCfg::parse(&text.replace("# 3", "3")).unwrap();
        assert_eq!(cfg.client_port, Some(2182));
        assert_eq!(cfg.data_dir, Some("C:\\zookeeper data".into()));
        assert_eq!(cfg.tick_time, Some(Duration::from_millis(3)));
        assert_eq!(
            ZooCfg::parse("4lw.commands.whitelist=*")
                .unwrap()
                .four_letter_words,
            Some(Whitelist::All)
        );
        assert_eq!(
            ZooCfg::parse("minSessionTimeout=-1").unwrap(),
            ZooCfg::default()
        );
        let mistaken = ZooCfg::parse("4lw.commands.whitelist=ruok srvr, stat").unwrap();
        let stat = Whitelist::Only(vec![FourLetterWord::Stat]);
        assert_eq!(mistaken.four_letter_words, Some(stat));
        assert_eq!(
            mistaken.warnings,
            ["line 1: 4lw.commands.whitelist has what is no four-letter word: ruok srvr"]
        );
        let listed = ZooCfg::parse("4lw.commands.whitelist = ruok, *").unwrap();
        assert_eq!(listed.four_letter_words, Some(Whitelist::All));
        let host = ZooCfg::parse("clientPortAddress=zoo.example.com")
            .unwrap()
            .client_port_address;
        assert_eq!(host, Some(ListenHost::Name("zoo.example.com".to_owned())));
    }

    #[test]
    fn what_else_is_a_system_property_of_java() {
        let text = "DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=\n\
                    jute.maxbuffer=4194304\nznode.container.checkIntervalMs=1000\n";
        let cfg = ZooCfg::parse(text).unwrap();
        let expected = ZooCfg {
            super_digest: Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned()),
            request_bytes_max: Some(4 << 20),
            reap_interval: Some(Duration::from_secs(1)),
            ..ZooCfg::default()
        };
        assert_eq!(cfg, expected);
        let prefixed = ZooCfg::parse(&format!("zookeeper.{text}")).unwrap();
        assert_eq!(prefixed, expected);
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, start) in [
            ("\n\nclientPort=65536", "line 3: clientPort is \"65536\": "),
            ("clientPort", "line 1: clientPort is \"\": "),
            ("dataDir=", "line 1: dataDir is \"\": "),
            ("tickTime=2s", "line 1: tickTime is \"2s\": "),
            ("tickTime=0", "line 1: tickTime is \"0\": "),
            (
                "#\nmaxSessionTimeout=-2",
                "line 2: maxSessionTimeout is \"-2\": ",
            ),
            (
                "maxSessionTimeout=5\nminSessionTimeout=6",
                "line 2: minSessionTimeout is \"6\": ",
            ),
            ("maxClientCnxns=-1", "line 1: maxClientCnxns is \"-1\": "),
            (
                "DigestAuthenticationProvider.superDigest=super:test",
                "line 1: DigestAuthenticationProvider.superDigest is \"super:test\": ",
            ),
            ("jute.maxbuffer=0", "line 1: jute.maxbuffer is \"0\": "),
            (
                "znode.container.checkIntervalMs=0",
                "line 1: znode.container.checkIntervalMs is ",
            ),
            ("a=\\u00g0", "line 1: \\u must be followed"),
            ("a=\\u12", "line 1: \\u must be followed"),
        ] {
            let error = ZooCfg::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(start), "{text:?}: {error}");
        }
        assert_eq!(
            ZooCfg::parse(&" ".repeat(FILE_BYTES_MAX + 1)),
            Err(ZooCfgError::TooLong(FILE_BYTES_MAX + 1))
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([a-zA-Z.]{1,4}|[=: \t\\\\\r\n#!u0-9é\u{0}]|clientPort|tickTime|\\\\u){0,40}") {
            if let Ok(cfg) = ZooCfg::parse(&text) {
                prop_assert!(cfg.ignored.iter().all(|key| !key.starts_with("clientPort=")));
            }
        }
    }
}
