//! Rules that refuse and rules that ask: deny over approve over allow, whatever the order.

mod policy {
    pub(crate) mod ask;
}

use gateway_userspace::policy::Policy;
use policy::ask::{
    Ask::{self, Connect, Dns, Http, Tcp, Tls},
    rules, verdict,
};

const A: u16 = 1;

const ALLOW: &str =
    "[[egress]]\nid = \"all\"\nhosts = [\"a.example\", \"b.example\"]\nports = [80, 443]\n";
const DENY: &str = "[[egress]]\nid = \"no-delete\"\naction = \"deny\"\nhosts = [\"a.example\"]\nports = [80]\nmethods = [\"DELETE\"]\n";
const APPROVE: &str = "[[egress]]\nid = \"ask\"\naction = \"approve\"\nhosts = [\"a.example\"]\nports = [80]\nmethods = [\"DELETE\", \"POST\"]\n";

fn made(text: &str) -> Policy {
    rules(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn holds(policy: &Policy, rows: &[(Ask, &str)]) {
    for (ask, expected) in rows {
        assert_eq!(verdict(policy, ask), *expected, "{ask:?}");
    }
}

#[test]
fn deny_over_approve_over_allow_in_every_order() {
    for order in [
        [ALLOW, DENY, APPROVE],
        [ALLOW, APPROVE, DENY],
        [DENY, ALLOW, APPROVE],
        [DENY, APPROVE, ALLOW],
        [APPROVE, ALLOW, DENY],
        [APPROVE, DENY, ALLOW],
    ] {
        let policy = made(&order.concat());
        let before = |one: &str, other: &str| {
            let at = |rule: &str| order.iter().position(|it| *it == rule);
            at(one) < at(other)
        };
        holds(
            &policy,
            &[
                (
                    Http("a.example", 80, "DELETE", "/"),
                    "deny denied_by_rule no-delete",
                ),
                (
                    Http("a.example", 80, "delete", "/"),
                    "deny denied_by_rule no-delete",
                ),
                (
                    Http("a.example", 80, "POST", "/"),
                    "approve approval_required ask",
                ),
                (Http("a.example", 80, "GET", "/"), "allow all"),
                (Http("b.example", 80, "DELETE", "/"), "allow all"),
                // What is refused or asked about inside is decided there.
                (
                    Connect("a.example", 80),
                    if before(APPROVE, ALLOW) {
                        "allow ask"
                    } else {
                        "allow all"
                    },
                ),
                (
                    Tls("a.example", 80),
                    if before(DENY, APPROVE) {
                        "deny needs_inspection no-delete"
                    } else {
                        "deny needs_inspection ask"
                    },
                ),
                (Tls("a.example", 443), "allow all"),
            ],
        );
    }
}

#[test]
fn what_no_rule_allows_is_refused_whatever_else_is_not() {
    let policy = made(DENY);
    holds(
        &policy,
        &[
            (Http("a.example", 80, "GET", "/"), "deny no_rule -"),
            (
                Http("a.example", 80, "DELETE", "/"),
                "deny denied_by_rule no-delete",
            ),
            (Http("a.example", 81, "DELETE", "/"), "deny no_rule -"),
            (Connect("a.example", 80), "deny no_rule -"),
            (Dns("a.example", A), "deny no_rule -"),
        ],
    );
    let policy = made(APPROVE);
    holds(
        &policy,
        &[
            (
                Http("a.example", 80, "GET", "/"),
                "deny method_not_allowed ask",
            ),
            (
                Http("a.example", 80, "POST", "/"),
                "approve approval_required ask",
            ),
            (Dns("a.example", A), "allow ask"),
        ],
    );
}

#[test]
fn a_refusing_rule_covers_whatever_a_server_may_read_as_its_path() {
    let policy = made(&format!(
        "{ALLOW}[[egress]]\nid = \"no-admin\"\naction = \"deny\"\nhosts = [\"a.example\"]\nports = [80]\npaths = [\"/admin/**\"]\n"
    ));
    for path in [
        "/admin/x",
        "/%61dmin/x",
        "/x/../admin/x",
        "//admin/x",
        "/admin;/x",
        "/x/%2e%2e/admin/x",
        "/adm%69n/",
        "\\admin",
    ] {
        assert_eq!(
            verdict(&policy, &Http("a.example", 80, "GET", path)),
            "deny denied_by_rule no-admin",
            "{path}"
        );
    }
    for path in ["/", "/admin", "/x/admin/"] {
        assert_eq!(
            verdict(&policy, &Http("a.example", 80, "GET", path)),
            "allow all",
            "{path}"
        );
    }
}

#[test]
fn a_host_that_is_refused_is_refused_for_everything() {
    let policy = made(
        "[[egress]]\nid = \"any\"\nhosts = [\"*.a.example\"]\n\
         [[egress]]\nid = \"raw\"\ntcp = [\"*.a.example:443\", \"*.a.example:22\"]\n\
         [[egress]]\nid = \"not-this\"\naction = \"deny\"\nhosts = [\"x.a.example\"]\n\
         [[egress]]\nid = \"not-all\"\naction = \"deny\"\nhosts = [\"y.a.example\"]\nports = [80]\npaths = [\"/x\"]\n\
         [[egress]]\nid = \"not-ssh\"\naction = \"deny\"\ntcp = [\"z.a.example:22\", \"10.0.0.1:22\"]\n",
    );
    holds(
        &policy,
        &[
            (Connect("x.a.example", 443), "deny denied_by_rule not-this"),
            (Tls("x.a.example", 443), "deny denied_by_rule not-this"),
            (
                Http("x.a.example", 80, "GET", "/"),
                "deny denied_by_rule not-this",
            ),
            (
                Tcp("1.1.1.1:443", &["x.a.example"]),
                "deny denied_by_rule not-this",
            ),
            // SSH is open, so its name is told.
            (Tcp("1.1.1.1:22", &["x.a.example"]), "allow raw"),
            (Dns("x.a.example", A), "allow any"),
            (Tls("y.a.example", 443), "allow any"),
            (Tls("w.a.example", 443), "allow any"),
            (
                Tcp("1.1.1.1:22", &["z.a.example"]),
                "deny denied_by_rule not-ssh",
            ),
            (Tls("z.a.example", 22), "deny denied_by_rule not-ssh"),
            (
                Tcp("1.1.1.1:22", &["z.a.example", "w.a.example"]),
                "deny denied_by_rule not-ssh",
            ),
            (Tls("z.a.example", 443), "allow any"),
        ],
    );
    let policy = made(
        "[[egress]]\nid = \"any\"\nhosts = [\"*.a.example\"]\n\
         [[egress]]\nid = \"not-this\"\naction = \"deny\"\nhosts = [\"x.a.example\"]\n",
    );
    holds(
        &policy,
        &[
            (Dns("x.a.example", A), "deny denied_by_rule not-this"),
            (Dns("y.a.example", A), "allow any"),
        ],
    );
}

#[test]
fn raw_bytes_do_not_go_past_a_rule_that_reads_requests() {
    let policy = made(&format!(
        "[[egress]]\nid = \"raw\"\ntcp = [\"a.example:80\"]\n{DENY}"
    ));
    holds(
        &policy,
        &[
            (
                Tcp("1.1.1.1:80", &["a.example"]),
                "deny needs_inspection no-delete",
            ),
            (Http("a.example", 80, "GET", "/"), "allow raw"),
            (
                Http("a.example", 80, "DELETE", "/"),
                "deny denied_by_rule no-delete",
            ),
        ],
    );
}

#[test]
fn rules_that_never_decide_are_named() {
    let odd = |text: &str| made(text).warnings().to_string();
    let no = "[[egress]]\nid = \"no\"\naction = \"deny\"\nhosts = [\"a.example\", \"b.example\"]\n";
    let told = odd(&format!("{ALLOW}{no}"));
    assert!(
        told.contains("rule `all` never decides: rule `no` refuses all that it covers"),
        "{told}"
    );
    let ask = no.replace("deny", "approve").replace("\"no\"", "\"ask\"");
    let told = odd(&format!("{ALLOW}{ask}"));
    assert!(
        told.contains("rule `all` never decides: rule `ask` asks about all that it allows"),
        "{told}"
    );
    // A rule that refuses part of it leaves the rest.
    assert_eq!(odd(&format!("{ALLOW}{DENY}{APPROVE}")), "");
}

#[test]
fn a_rule_that_refuses_opens_nothing() {
    let rule = |more: &str| {
        rules(&format!(
            "[[egress]]\nid = \"no\"\naction = \"deny\"\nhosts = [\"10.0.0.1\"]\n{more}"
        ))
    };
    assert!(rule("").is_ok());
    let errors = rule("private = true").expect_err("it opens nothing");
    assert!(
        errors
            .to_string()
            .contains("`private` in a rule that refuses"),
        "{errors}"
    );
}

#[test]
fn a_rule_that_only_observes_lets_pass_and_says_what_it_would_refuse() {
    let observing = |rule: &str| rule.replacen("hosts", "mode = \"observe\"\nhosts", 1);
    let policy = made(&format!("{ALLOW}{}{}", observing(DENY), observing(APPROVE)));
    holds(
        &policy,
        &[
            (
                Http("a.example", 80, "DELETE", "/"),
                "observe denied_by_rule",
            ),
            (
                Http("a.example", 80, "POST", "/"),
                "observe approval_required",
            ),
            (Http("a.example", 80, "GET", "/"), "allow all"),
            (Tls("a.example", 80), "observe needs_inspection"),
            (Tls("a.example", 443), "allow all"),
            (Dns("a.example", A), "allow all"),
            // It allows nothing either.
            (Http("c.example", 80, "DELETE", "/"), "deny no_rule -"),
        ],
    );
    // A rule that decides is not held back by one that observes.
    let policy = made(&format!("{}{APPROVE}{ALLOW}", observing(DENY)));
    holds(
        &policy,
        &[(
            Http("a.example", 80, "DELETE", "/"),
            "approve approval_required ask",
        )],
    );

    let narrow = "[[egress]]\nid = \"narrow\"\nmode = \"observe\"\nhosts = [\"a.example\"]\nports = [80]\nmethods = [\"GET\"]\npaths = [\"/x\"]\n";
    holds(
        &made(narrow),
        &[
            (Http("a.example", 80, "GET", "/x"), "allow narrow"),
            (
                Http("a.example", 80, "POST", "/x"),
                "observe method_not_allowed",
            ),
            (
                Http("a.example", 80, "GET", "/y"),
                "observe path_not_allowed",
            ),
            (Tls("a.example", 80), "observe needs_inspection"),
            // Where to is not under observation.
            (
                Http("a.example", 81, "GET", "/x"),
                "deny port_not_allowed narrow",
            ),
            (Http("b.example", 80, "GET", "/x"), "deny no_rule -"),
            (Tcp("1.1.1.1:80", &["a.example"]), "deny no_rule narrow"),
        ],
    );
    holds(
        &made(&format!("{narrow}{DENY}{ALLOW}")),
        &[
            (
                Http("a.example", 80, "DELETE", "/x"),
                "deny denied_by_rule no-delete",
            ),
            (Http("a.example", 80, "POST", "/x"), "allow all"),
        ],
    );
}
