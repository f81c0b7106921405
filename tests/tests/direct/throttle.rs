//! Rates: exactly so many pass, and what is more is told when to come again.

use serde_json::Value;

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, body, status},
};

fn get(origin: &Origin) -> String {
    let port = origin.address.port();
    format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n")
}

fn outcomes(records: &[Value]) -> Vec<String> {
    let of = |record: &Value| {
        format!(
            "{} {} {}",
            record["outcome"], record["reason"], record["rule"]
        )
    };
    records.iter().map(|it| of(it).replace('"', "")).collect()
}

#[tokio::test]
async fn one_beyond_the_rate_of_a_rule_is_turned_back() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&(allow_origin(origin.address) + "limit = \"3/h\"\n"));
    for nth in 0..3 {
        assert_eq!(status(&rig.say(get(&origin)).await), 200, "{nth}");
    }
    let refused = rig.say(get(&origin)).await;
    assert_eq!(status(&refused), 429);
    let wait: u64 = refused
        .lines()
        .find_map(|line| line.strip_prefix("Retry-After: "))
        .and_then(|seconds| seconds.trim().parse().ok())
        .expect("how long to wait");
    assert!((1190..=1200).contains(&wait), "{wait}");
    let told = body(&refused);
    assert_eq!(told["error"], "throttled");
    assert_eq!(told["reason"], "rate_limited");
    assert_eq!(told["rule"], "origin");
    assert_eq!(origin.connections(), 3);
    let records = rig.records().await;
    assert_eq!(
        outcomes(&records),
        [
            "allow allowed origin",
            "allow allowed origin",
            "allow allowed origin",
            "deny rate_limited origin",
        ]
    );
}

#[tokio::test]
async fn the_rate_of_the_agent_holds_over_all_rules() {
    let origin = Origin::plain().await;
    let rules = allow_origin(origin.address) + "[limit]\nrequests = \"2/h\"\n";
    let rig = Rig::start(&rules);
    assert_eq!(status(&rig.say(get(&origin)).await), 200);
    assert_eq!(status(&rig.say(get(&origin)).await), 200);
    let refused = rig.say(get(&origin)).await;
    assert_eq!(status(&refused), 429);
    let told = body(&refused);
    assert_eq!(told["rule"], Value::Null);
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn raw_connections_are_counted_too() {
    let origin = Origin::plain().await;
    let rules = format!(
        "[[egress]]\nid = \"raw\"\ntcp = [\"{}\"]\nprivate = true\nlimit = \"1/h\"\n",
        origin.address
    );
    let rig = Rig::start(&rules);
    rig.set_line(Line::Redirected(origin.address));
    let mut first = rig.connect().await;
    first.send(get(&origin)).await;
    assert_eq!(status(&first.response().await), 200);
    let mut second = rig.connect().await;
    second.try_send(get(&origin)).await;
    second.expect_reset().await;
    assert_eq!(origin.connections(), 1);
    drop(first);
    let records = outcomes(&rig.records().await);
    assert!(
        records.contains(&"deny rate_limited raw".to_owned()),
        "{records:?}"
    );
}

#[tokio::test]
async fn a_rule_that_only_observes_records_what_is_beyond() {
    let origin = Origin::plain().await;
    let rule = allow_origin(origin.address) + "limit = \"1/h\"\nmode = \"observe\"\n";
    let rig = Rig::start(&rule);
    for _ in 0..2 {
        assert_eq!(status(&rig.say(get(&origin)).await), 200);
    }
    assert_eq!(
        outcomes(&rig.records().await),
        ["allow allowed origin", "observe rate_limited origin"]
    );
}
