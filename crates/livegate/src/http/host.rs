//! The `Host` field and the authority of a target (RFC 3986 section 3.2.2).

/// True for `uri-host [ ":" port ]` without user information.
pub fn is_valid(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let name_is_valid = match name {
        [b'[', address @ .., b']'] => std::str::from_utf8(address)
            .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok()),
        [] => false,
        _ => is_reg_name(name),
    };
    name_is_valid && port.is_none_or(is_port)
}

/// Empty, or a number that is a port.
fn is_port(port: &[u8]) -> bool {
    let number = port.iter().try_fold(0u16, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.is_some() && port.len() <= 5
}

/// The name without its port.
pub fn without_port(host: &[u8]) -> &[u8] {
    split_port(host).0
}

fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    let name_end = match host.first() {
        Some(b'[') => memchr::memchr(b']', host).map_or(host.len(), |at| at + 1),
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    match &host[name_end..] {
        [b':', port @ ..] => (&host[..name_end], Some(port)),
        [] => (host, None),
        // "[::1]x": not a port, and not a name either.
        _ => (host, None),
    }
}

fn is_reg_name(name: &[u8]) -> bool {
    if name.iter().all(|&byte| REG_NAME[usize::from(byte)]) {
        return true;
    }
    let mut rest = name;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [byte, rest @ ..] if REG_NAME[usize::from(*byte)] => rest,
            _ => return false,
        };
    }
}

/// The characters of RFC 3986, but for the comma: a list of hosts is no host.
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "a",
            "a.b:80",
            "a:",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "a%20b",
            "x_y",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:80:80", "a:65536", "[::1", "[::1]x", "[a]",
            "a%2", "a%zz", "a\\b", "a?b", "a#b", "é", "[]", "a:-1", "a\"", "<a>", "a,b",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn ports_are_cut_off() {
        assert_eq!(without_port(b"a.b:80"), b"a.b");
        assert_eq!(without_port(b"[::1]:80"), b"[::1]");
        assert_eq!(without_port(b"a"), b"a");
    }
}
