use proptest::prelude::*;

use super::*;

const TYPE: &[u8] = b"multipart/form-data; boundary=XyZ";

fn read(body: &[u8]) -> Result<Vec<Part<'_>>, MultipartError> {
    let boundary = Boundary::from_content_type(TYPE)?;
    parse(body, &boundary, Limits::default())
}

/// A form of one part with this header.
fn with_header(header: &str) -> Vec<u8> {
    format!("--XyZ\r\n{header}\r\n\r\nabc\r\n--XyZ--\r\n").into_bytes()
}

fn part<'a>(name: &'a str, body: &'a [u8]) -> Part<'a> {
    Part {
        name,
        filename: None,
        content_type: None,
        body,
    }
}

#[test]
fn a_browsers_form_is_read() {
    let boundary = Boundary::from_content_type(
        b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
    )
    .unwrap();
    let body = b"------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n\
        Content-Disposition: form-data; name=\"a\"\r\n\r\n\
        \r\n--one\r\n\r\n\
        ------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n\
        Content-Disposition: form-data; name=\"f %22\"; filename=\"n\xc3\xa4 me; x=1.txt\"\r\n\
        Content-Type: text/plain\r\n\r\n\
        \0\xff\r\n\
        ------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n\
        content-disposition:form-data;name=empty;filename=\"\"\r\n\
        X-Other: yes\r\nX-Other: no\r\nContent-Length: 0\r\n\
        Content-Transfer-Encoding: BINARY\r\n\r\n\r\n\
        ------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n";
    assert_eq!(
        parse(body, &boundary, Limits::default()),
        Ok(vec![
            part("a", b"\r\n--one\r\n"),
            Part {
                name: "f %22",
                filename: Some("nä me; x=1.txt"),
                content_type: Some("text/plain"),
                body: b"\0\xff",
            },
            Part {
                filename: Some(""),
                ..part("empty", b"")
            },
        ])
    );
    assert_eq!(read(b"--XyZ--"), Ok(Vec::new()));
    assert_eq!(read(b"--XyZ--\r\n"), Ok(Vec::new()));
}

#[test]
fn boundaries_are_taken_strictly() {
    let long = format!("multipart/form-data; boundary={}", "x".repeat(70));
    for (value, expected) in [
        ("multipart/form-data;boundary=a", "--a"),
        (
            "Multipart/Form-Data ; charset=utf-8 ; Boundary=\"a:b\" ",
            "--a:b",
        ),
        (
            "multipart/form-data; boundary=\"--'()+_,-./:=?\"",
            "----'()+_,-./:=?",
        ),
        (&long, &format!("--{}", "x".repeat(70))),
    ] {
        let boundary = Boundary::from_content_type(value.as_bytes());
        assert_eq!(boundary, Ok(Boundary(expected.into())), "{value}");
    }
    use MultipartError::{Boundary as Bad, ContentType};
    for (value, error) in [
        ("", ContentType),
        ("multipart/mixed; boundary=a", ContentType),
        ("multipart/form-data, text/plain; boundary=a", ContentType),
        ("multipart/form-data; boundary", ContentType),
        ("multipart/form-data; boundary=", ContentType),
        ("multipart/form-data; boundary=a;", ContentType),
        ("multipart/form-data; boundary=a b", ContentType),
        ("multipart/form-data; boundary =a", ContentType),
        ("multipart/form-data; boundary= a", ContentType),
        ("multipart/form-data; boundary=a, b", ContentType),
        ("multipart/form-data; boundary='a:b'", ContentType),
        ("multipart/form-data; boundary=\"a", ContentType),
        ("multipart/form-data; boundary=\"a\\b\"", ContentType),
        ("multipart/form-data; boundary=\"a\"b", ContentType),
        ("multipart/form-data; boundary=a; boundary*=b", ContentType),
        ("multipart/form-data; boundary*0=a; boundary=b", ContentType),
        ("multipart/form-data", Bad),
        ("multipart/form-data; boundary=a; boundary=a", Bad),
        ("multipart/form-data; boundary=a; BOUNDARY=b", Bad),
        ("multipart/form-data; boundary=\"\"", Bad),
        ("multipart/form-data; boundary=\"a b\"", Bad),
        ("multipart/form-data; boundary=\"a \"", Bad),
        ("multipart/form-data; boundary=\"ä\"", Bad),
        ("multipart/form-data; boundary=a*b", Bad),
        (&format!("{long}x"), Bad),
    ] {
        let boundary = Boundary::from_content_type(value.as_bytes());
        assert_eq!(boundary, Err(error), "{value}");
    }
}

#[test]
fn framing_that_readers_differ_on_is_refused() {
    use MultipartError::{Ambiguous, Epilogue, Header, Preamble, Unterminated};
    let head = "--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n";
    for (body, error) in [
        (String::new(), Preamble),
        ("\r\n--XyZ--".into(), Preamble),
        ("text\r\n--XyZ--".into(), Preamble),
        ("--XY".into(), Preamble),
        ("--xyz--".into(), Preamble),
        ("--XyZ".into(), Unterminated),
        ("--XyZ-".into(), Unterminated),
        ("--XyZ\r".into(), Unterminated),
        ("--XyZ\r\n".into(), Unterminated),
        (format!("{head}abc"), Unterminated),
        (format!("{head}abc\r\n--XyZ"), Unterminated),
        (format!("{head}abc\r\n--XyZ-"), Unterminated),
        (format!("{head}abc\r\n--XyZ\r\n"), Unterminated),
        // Continued, padded, or behind something other than CRLF.
        (format!("{head}abc\r\n--XyZa\r\n--XyZ--"), Ambiguous),
        (format!("{head}abc\r\n--XyZ \r\n--XyZ--"), Ambiguous),
        (format!("{head}abc\r\n--XyZ\n--XyZ--"), Ambiguous),
        (format!("{head}abc\r\n--XyZ\r--XyZ--"), Ambiguous),
        (format!("{head}abc\n--XyZ--"), Ambiguous),
        (format!("{head}abc\r--XyZ--"), Ambiguous),
        (format!("{head}abc--XyZ--"), Ambiguous),
        (format!("{head}abc\r\n ---XyZ--"), Ambiguous),
        (format!("{head}a--XyZ b\r\n--XyZ--"), Ambiguous),
        (format!("{head}abc\r\n----XyZ--"), Ambiguous),
        ("--XyZ\r\nA: --XyZ\r\n\r\n\r\n--XyZ--".into(), Ambiguous),
        (format!("{head}abc\r\n--XyZ--\n"), Epilogue),
        (format!("{head}abc\r\n--XyZ-- "), Epilogue),
        (format!("{head}abc\r\n--XyZ--\r\n\r\n"), Epilogue),
        (format!("{head}abc\r\n--XyZ--\r\ntext"), Epilogue),
        (
            format!("{head}abc\r\n--XyZ--\r\n{head}abc\r\n--XyZ--"),
            Ambiguous,
        ),
        // A part that has no header, or whose header has no end.
        ("--XyZ\r\n\r\nabc\r\n--XyZ--".into(), Header),
        ("--XyZ\r\n\r\n--XyZ--".into(), Header),
        ("--XyZ\r\nA: b\r\n--XyZ--".into(), Header),
        ("--XyZ\r\nA: b\n\nabc\r\n--XyZ--".into(), Header),
    ] {
        assert_eq!(read(body.as_bytes()), Err(error), "{body:?}");
    }
}

#[test]
fn headers_that_readers_differ_on_are_refused() {
    use MultipartError::{Content, Disposition, Header, RepeatedField};
    let good = "Content-Disposition: form-data; name=\"a\"";
    assert_eq!(read(&with_header(good)), Ok(vec![part("a", b"abc")]));
    let length = format!("{good}\r\nContent-Length: 3");
    assert_eq!(read(&with_header(&length)), Ok(vec![part("a", b"abc")]));
    for (field, error) in [
        ("Content-Disposition: x", RepeatedField),
        ("CONTENT-disposition: x", RepeatedField),
        ("Content-Type: a/b\r\nContent-Type: a/b", RepeatedField),
        (" continued", Header),
        ("No colon", Header),
        ("Space : x", Header),
        (": x", Header),
        ("X: a\nY: b", Header),
        ("X: a\rY: b", Header),
        ("X: \0", Header),
        ("X: \x7f", Header),
        ("Content-Transfer-Encoding: base64", Content),
        ("Content-Encoding: gzip", Content),
        ("Content-Length: 4", Content),
        ("Content-Length: 03", Content),
    ] {
        let body = with_header(&format!("{good}\r\n{field}"));
        assert_eq!(read(&body), Err(error), "{field:?}");
    }
    for header in [
        "X: y",
        "Content-Disposition: attachment; name=a",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; filename=a",
    ] {
        assert_eq!(read(&with_header(header)), Err(Disposition), "{header:?}");
    }
    for parameters in [
        "; name=\"a\"",
        "; NAME=b",
        "; filename=a; filename=b",
        "; filename*=utf-8''b",
        "; filename=a; filename*=utf-8''b",
        "; name*0=b",
        "; filename=\"a\\\"; name=\"b\"",
        "; filename=\"C:\\a\"",
        "; filename=\"a\"b",
        "; filename=\"a",
        "; filename=a b",
        "; filename",
        ";",
        ";; filename=a",
        ", filename=a",
        "; filename=\"a\u{85}\"",
    ] {
        let body = with_header(&format!("{good}{parameters}"));
        assert_eq!(read(&body), Err(Disposition), "{parameters:?}");
    }
    let mut latin = with_header("Content-Disposition: form-data; name=\"a_\"");
    let at = latin.iter().position(|&b| b == b'_').unwrap();
    latin[at] = 0xe4;
    assert_eq!(read(&latin), Err(Header));
}

#[test]
fn limits_fit_exactly() {
    let boundary = Boundary::from_content_type(TYPE).unwrap();
    let header = "Content-Disposition: form-data; name=a\r\n\r\n";
    let limits = Limits {
        parts: 3,
        header: header.len(),
    };
    let form = |count: usize, header: &str| {
        let part = format!("--XyZ\r\n{header}abc\r\n");
        format!("{}--XyZ--", part.repeat(count)).into_bytes()
    };
    let count = |body: &[u8]| parse(body, &boundary, limits).map(|parts| parts.len());
    assert_eq!(count(&form(3, header)), Ok(3));
    assert_eq!(count(&form(4, header)), Err(MultipartError::TooManyParts));
    assert_eq!(
        count(&form(1, &format!("X:\r\n{header}"))),
        Err(MultipartError::HeaderTooLarge)
    );
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![Just(b'-'), Just(b'\r'), Just(b'\n'), any::<u8>()];
    prop::collection::vec(octet, 0..40)
}

proptest! {
    #[test]
    fn what_was_written_comes_back(
        parts in prop::collection::vec(
            ("[a-z ;=%ä]{0,9}", prop::option::of("[a-z ;=%ä]{0,9}"), contents()),
            0..5,
        ),
    ) {
        let mut body = Vec::new();
        for (name, filename, content) in &parts {
            body.extend_from_slice(b"--XyZ\r\n");
            body.extend_from_slice(b"Content-Disposition: form-data; name=\"");
            body.extend_from_slice(name.as_bytes());
            if let Some(filename) = filename {
                body.extend_from_slice(format!("\"; filename=\"{filename}").as_bytes());
            }
            body.extend_from_slice(b"\"\r\n\r\n");
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--XyZ--\r\n");
        let expected: Vec<Part<'_>> = parts
            .iter()
            .map(|(name, filename, content)| Part {
                filename: filename.as_deref(),
                ..part(name, content)
            })
            .collect();
        prop_assert_eq!(read(&body), Ok(expected));
    }

    #[test]
    fn pieces_never_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                &b"--XyZ"[..], b"--", b"\r\n", b"\r", b"\n", b"\\", b"\"", b"\xff", b"; filename=\"",
                b"Content-Disposition: form-data; name=a",
            ]),
            0..24,
        ),
    ) {
        let _any = read(&pieces.concat()).is_ok();
    }

    #[test]
    fn content_types_never_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
        let _any = Boundary::from_content_type(&value).is_ok();
        let _any = Boundary::from_content_type(&[TYPE, &value].concat()).is_ok();
    }
}
