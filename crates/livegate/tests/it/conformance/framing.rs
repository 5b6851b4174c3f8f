//! Where a request ends: RFC 9112 sections 6.1 to 6.3. Two readings of one message are one too many.

use super::{HIDDEN, Table, request};

const LENGTHS_THAT_ARE_NONE: [(&str, &str); 17] = [
    ("plus sign", "+5"),
    ("minus sign", "-5"),
    ("hexadecimal", "0x5"),
    ("trailing garbage", "5a"),
    ("leading garbage", "a5"),
    ("empty", ""),
    ("two numbers", "5 5"),
    ("two different in a list", "5, 6"),
    ("fraction", "5.0"),
    ("exponent", "5e0"),
    ("quoted", "\"5\""),
    ("underscore", "1_0"),
    ("vertical tab", "\x0b5"),
    ("2^63", "9223372036854775808"),
    ("2^64", "18446744073709551616"),
    ("2^64 + 5", "18446744073709551621"),
    ("forty digits", "9999999999999999999999999999999999999999"),
];

#[test]
fn content_length() {
    let mut table = Table::new();
    for (name, value) in LENGTHS_THAT_ARE_NONE {
        let bytes = request(
            "POST",
            &format!("Content-Length: {value}\r\n"),
            &format!("hello{HIDDEN}"),
        );
        table.refused(&format!("Content-Length {name}"), &[400], bytes);
    }
    for (first, second) in [("5", "6"), ("6", "5"), ("0", "5"), ("5", ""), ("5", "x")] {
        let lines =
            format!("Content-Length: {first}\r\nX-Between: 1\r\ncontent-length: {second}\r\n");
        table.refused(
            &format!("Content-Length {first} and {second}"),
            &[400],
            request("POST", &lines, "hello!"),
        );
    }
    for lines in [
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
    ] {
        // 9110 8.6: reject, or take it for one valid length.
        table.refused_or_forwarded(
            "the same length twice",
            &[400],
            request("POST", lines, "hello"),
            |request| {
                assert_eq!(request.body.bytes, b"hello");
            },
        );
    }
    for (name, value) in [
        ("spaces and tabs around", "\t 5 \t"),
        ("leading zeros", "0005"),
        ("plain", "5"),
    ] {
        let bytes = request("POST", &format!("Content-Length:{value}\r\n"), "hello");
        table.forwarded(name, bytes, |request, _| {
            assert_eq!(request.body.bytes, b"hello")
        });
    }
    table.forwarded(
        "length 0",
        request("POST", "Content-Length: 0\r\n", ""),
        |request, _| {
            assert_eq!(
                request.get("content-length"),
                Some("0"),
                "a POST says that its body is empty"
            );
        },
    );
    table.forwarded(
        "a body with GET",
        request("GET", "Content-Length: 5\r\n", "hello"),
        |request, _| {
            assert_eq!(request.body.bytes, b"hello");
        },
    );
    table.forwarded(
        "a body with DELETE",
        request("DELETE", "Content-Length: 5\r\n", "hello"),
        |request, _| {
            assert_eq!(request.body.bytes, b"hello");
        },
    );
    table.case("a body that looks like a request", |case| {
        let body = String::from_utf8(case.fill(HIDDEN.as_bytes())).unwrap();
        let (request, _) = case.forwarded(
            request(
                "POST",
                &format!("Content-Length: {}\r\n", body.len()),
                &body,
            )
            .as_bytes(),
        );
        assert_eq!(request.body.bytes, body.as_bytes());
    });
    table.forwarded(
        "GET without a body gets no length",
        request("GET", "", ""),
        |request, _| {
            assert!(
                request.head.all("content-length").is_empty()
                    && request.head.all("transfer-encoding").is_empty()
            );
        },
    );
    table.refused_or_forwarded(
        "POST without a length",
        &[411],
        request("POST", "", ""),
        |request| {
            assert!(
                request.body.bytes.is_empty(),
                "no length means no body (RFC 9112 6.3)"
            );
        },
    );
    table.finish();
}

#[test]
fn transfer_encoding() {
    let mut table = Table::new();
    let smuggled = format!("0\r\n\r\n{HIDDEN}");
    for coding in [
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "chunked; a",
        "\"chunked\"",
        "'chunked'",
        "\x0bchunked",
        "chunked\x0b",
        "\x0cchunked",
        "",
        "chun ked",
        "cow",
    ] {
        let bytes = request(
            "POST",
            &format!("Transfer-Encoding: {coding}\r\n"),
            &smuggled,
        );
        table.refused(&format!("coding {coding:?}"), &[400, 501], bytes);
        let bytes = request(
            "POST",
            &format!("Content-Length: 5\r\nTransfer-Encoding: {coding}\r\n"),
            &smuggled,
        );
        table.refused(
            &format!("coding {coding:?} and a length"),
            &[400, 501],
            bytes,
        );
    }
    table.refused("non-ASCII coding", &[400, 501], {
        let mut bytes =
            b"POST /%T% HTTP/1.1\r\nHost: %H%\r\nTransfer-Encoding: chunked\xa0\r\n\r\n".to_vec();
        bytes.extend_from_slice(smuggled.as_bytes());
        bytes
    });
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n",
    ] {
        table.refused(
            &format!("two lines {lines:?}"),
            &[400, 501],
            request("POST", lines, &smuggled),
        );
    }
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nX-Between: 1\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length:\r\n",
    ] {
        table.refused(
            &format!("both fields {lines:?}"),
            &[400],
            request("POST", lines, &smuggled),
        );
    }
    let version_1_0 = "POST /%T% HTTP/1.0\r\nHost: %H%\r\nTransfer-Encoding: chunked\r\n\r\n";
    table.refused(
        "in HTTP/1.0",
        &[400, 501],
        format!("{version_1_0}{smuggled}"),
    );
    for coding in ["chunked", "ChUnKeD", "CHUNKED", " chunked\t"] {
        let bytes = request(
            "POST",
            &format!("Transfer-Encoding:{coding}\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        );
        table.forwarded(&format!("coding {coding:?}"), bytes, |request, _| {
            assert_eq!(request.body.bytes, b"hello")
        });
    }
    for coding in [",chunked", "chunked,", ", chunked ,"] {
        let bytes = request(
            "POST",
            &format!("Transfer-Encoding: {coding}\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        );
        table.refused_or_forwarded(
            &format!("empty members {coding:?}"),
            &[400, 501],
            bytes,
            |request| {
                assert_eq!(request.body.bytes, b"hello");
            },
        );
    }
    table.finish();
}

/// Fields that some other reader takes for a framing field must not pass as ordinary ones.
#[test]
fn fields_that_look_like_framing() {
    let mut table = Table::new();
    let smuggled = format!("0\r\n\r\n{HIDDEN}");
    for line in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "Transfer-\r\nEncoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "\0Transfer-Encoding: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer Encoding: chunked",
        "\"Transfer-Encoding\": chunked",
        ":Transfer-Encoding: chunked",
        "Transfer-Encoding",
        "Content-Length : 9",
        "X: y\rContent-Length: 9",
    ] {
        let bytes = request(
            "POST",
            &format!("{line}\r\nContent-Length: {}\r\n", smuggled.len()),
            &smuggled,
        );
        table.refused(&format!("{line:?}"), &[400], bytes);
    }
    for line in ["Content_Length: 3", "Transfer_Encoding: chunked"] {
        let bytes = request("POST", &format!("{line}\r\nContent-Length: 5\r\n"), "hello");
        table.refused_or_forwarded(&format!("{line:?}"), &[400], bytes, |request| {
            assert_eq!(request.body.bytes, b"hello");
            let name = line.split(':').next().unwrap();
            assert!(
                request.head.all(name).is_empty(),
                "{name} reached the origin, which may take it for the real one"
            );
        });
    }
    table.finish();
}
