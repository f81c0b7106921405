//! Paths that servers read in more than one way, under a rule for some paths: none of them gets
//! to the origin, whatever it would make of it.

use http::{Request, Uri, Version};

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, body, in_time, status},
    secure::{SecureOrigin, agent, connect},
};

/// What the rule lets through.
const OPEN: &str = "paths = [\"/open/**\"]\n";

/// Each is `/shut` or the like to some server: dots, separators and parameters, plain, encoded
/// once or twice, in too long a form, or cut off by what is behind them.
const ODD: &[&str] = &[
    "/shut",
    "/OPEN/a",
    "/open",
    "/openshut",
    "//open/a",
    "/./open/a",
    "/%6fpen/a",
    "/open/../shut",
    "/open/a/../../shut",
    "/open/..",
    "/open/./a",
    "/open/.../shut",
    "/open//../shut",
    "/open//a",
    "/open/%2e%2e/shut",
    "/open/.%2E/shut",
    "/open/%2e/a",
    "/open/..%2fshut",
    "/open/..%2Fshut",
    "/open%2f..%2fshut",
    "/open/%252e%252e/shut",
    "/open/%252e%252e%252fshut",
    "/open/%25252e%25252e/shut",
    "/open/..%252fshut",
    "/open/..%c0%afshut",
    "/open/%c0%ae%c0%ae/shut",
    "/open/%e0%80%ae%e0%80%ae/shut",
    "/open/..%e0%80%afshut",
    "/open/%f0%80%80%ae%f0%80%80%ae/shut",
    "/open/..%c1%9cshut",
    "/open/%u002e%u002e/shut",
    "/open/..\\shut",
    "/open\\..\\shut",
    "/open/..%5cshut",
    "/open/..%255cshut",
    "/open/..;/shut",
    "/open/..;x=y/shut",
    "/open;/../shut",
    "/open/a;/../../shut",
    "/open/a;b",
    "/open/..%3b/shut",
    "/open/..%253b/shut",
    "/open/..%00/shut",
    "/open/a%00",
    "/open/..%20/shut",
    "/open/%20../shut",
    "/open/..%09/shut",
    "/open/a%0d%0aHost:%20other.test",
    "/open/a%",
    "/open/a%2",
    "/open/a%zz",
    "/open/%ff%fe",
    "/open/a#/../../shut",
];

/// What is not odd, though it looks like it.
const PLAIN: &[&str] = &[
    "/open/a",
    "/open/",
    "/open/..a/.b",
    "/open/a%20b",
    "/open/%C3%BC",
    "/open/a?x=/../../shut&y=%2e%2e%2f;z",
];

#[tokio::test]
async fn that_are_odd_do_not_get_through_http1() {
    let origin = Origin::plain().await;
    let rules = allow_origin(origin.address) + OPEN;
    for path in ODD {
        let rig = Rig::start(&rules);
        let port = origin.address.port();
        let answer = rig
            .say(format!(
                "GET {path} HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert!(matches!(status(&answer), 400 | 403), "{path}: {answer}");
        assert!(body(&answer)["reason"].is_string(), "{path}: {answer}");
    }
    assert_eq!(origin.connections(), 0, "{}", origin.heard());
    for path in PLAIN {
        let rig = Rig::start(&rules);
        let port = origin.address.port();
        let answer = rig
            .say(format!(
                "GET {path} HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), 200, "{path}: {answer}");
        let line = format!("GET {path} HTTP/1.1\r\n");
        assert!(origin.heard().contains(&line), "{path}");
    }
}

#[tokio::test]
async fn that_are_odd_do_not_get_through_http2() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let rig = Rig::start(&origin.rule(OPEN));
    rig.set_line(Line::Redirected(origin.address));
    let stream = connect(&rig, &agent(&["h2"]), "origin.test").await.unwrap();
    let (send, connection) = in_time(h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    let (mut asked, mut unsayable) = (0, Vec::new());
    for (paths, expected) in [(ODD, &[400_u16, 403][..]), (PLAIN, &[200])] {
        for path in paths {
            let place = format!("https://origin.test:{}{path}", origin.address.port());
            // A fragment is cut off by the client's own parser.
            let Some(uri) = place.parse::<Uri>().ok().filter(|_| !path.contains('#')) else {
                unsayable.push(*path);
                continue;
            };
            let request = Request::builder().uri(uri).version(Version::HTTP_2);
            let mut send = in_time(send.clone().ready()).await.unwrap();
            let (response, _none) = send.send_request(request.body(()).unwrap(), true).unwrap();
            let status = in_time(response).await.unwrap().status().as_u16();
            assert!(expected.contains(&status), "{path}: {status}");
            asked += usize::from(status == 200);
        }
    }
    assert_eq!(asked, PLAIN.len());
    assert!(unsayable.len() <= 3, "{unsayable:?}");
    let lines: Vec<_> = origin.seen().into_iter().map(|it| it.line).collect();
    assert_eq!(lines.len(), PLAIN.len(), "{lines:?}");
    for (line, path) in lines.iter().zip(PLAIN) {
        assert!(line.ends_with(path), "{line}");
    }
}
