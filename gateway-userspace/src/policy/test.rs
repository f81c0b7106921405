//! The tests that a policy brings along: what it is meant to say to some requests.

use std::{net::IpAddr, ops::Range};

use serde::Serialize;

use super::{Action, Decision, DenyReason, Policy, Query};
use crate::names::{Host, RuleId};

/// One `[[test]]`.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// Its name, unique in the file.
    pub name: String,
    /// What is asked.
    pub input: Query,
    /// What the policy is meant to say.
    pub expect: Expectation,
    /// Where its name is in the file, bytes.
    pub span: Range<usize>,
}

/// What a test expects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Expectation {
    /// The verdict.
    pub action: Action,
    /// The rule that decides, if it matters.
    pub rule: Option<RuleId>,
    /// Why it is refused, if it matters.
    pub reason: Option<DenyReason>,
}

/// What the policy says, as enforcing would carry it out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The verdict.
    pub action: Action,
    /// The rule that decided, or came nearest.
    pub rule: Option<RuleId>,
    /// Why it is refused.
    pub reason: Option<DenyReason>,
    /// What the refusal says.
    pub hint: Option<String>,
}

/// How one test ended.
#[derive(Clone, Debug)]
pub struct TestResult<'a> {
    /// The test.
    pub test: &'a PolicyTest,
    /// What the policy says.
    pub found: Finding,
}

/// How often a rule was the one that decided, or gave the reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Coverage {
    /// The rule.
    pub rule: RuleId,
    /// Tests in which it decided.
    pub tests: usize,
}

/// How all tests ended.
#[derive(Clone, Debug)]
pub struct TestRun<'a> {
    /// In the order of the file.
    pub results: Vec<TestResult<'a>>,
    /// Every rule, in the order of the file.
    pub coverage: Vec<Coverage>,
}

impl TestResult<'_> {
    /// Whether the policy says what is expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        let (expect, found) = (&self.test.expect, &self.found);
        expect.action == found.action
            && (expect.rule.is_none() || expect.rule == found.rule)
            && (expect.reason.is_none() || expect.reason == found.reason)
    }
}

impl TestRun<'_> {
    /// Whether all passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.results.iter().all(TestResult::passed)
    }

    /// Rules that decided in no test.
    pub fn uncovered(&self) -> impl Iterator<Item = &RuleId> {
        let never = self.coverage.iter().filter(|covered| covered.tests == 0);
        never.map(|covered| &covered.rule)
    }
}

impl Policy {
    /// The tests that the file brings along, in its order.
    #[must_use]
    pub fn tests(&self) -> &[PolicyTest] {
        &self.inner.tests
    }

    /// Runs the tests of the file.
    #[must_use]
    pub fn run_tests(&self) -> TestRun<'_> {
        let results: Vec<_> = self
            .tests()
            .iter()
            .map(|test| TestResult {
                test,
                found: self.find(&test.input),
            })
            .collect();
        let mut tests = std::collections::HashMap::new();
        for rule in results
            .iter()
            .filter_map(|result| result.found.rule.as_ref())
        {
            *tests.entry(rule).or_insert(0_usize) += 1;
        }
        let coverage = self.rules().iter().map(|rule| Coverage {
            rule: rule.id.clone(),
            tests: tests.get(&rule.id).copied().unwrap_or_default(),
        });
        TestRun {
            coverage: coverage.collect(),
            results,
        }
    }

    /// What enforcing would do with a request. Addresses count where the request or the policy
    /// names them; no name is looked up.
    #[must_use]
    pub fn find(&self, query: &Query) -> Finding {
        self.find_at(query, None)
    }

    /// The same, where the host is known to have had this address.
    #[must_use]
    pub fn find_at(&self, query: &Query, address: Option<IpAddr>) -> Finding {
        let (action, denial) = match query.with(|request| self.enforce(request)) {
            Decision::Deny(denial) => (Action::Deny, denial),
            Decision::Approve(denial) => (Action::Approve, denial),
            Decision::Allow(grant) => {
                let rule = grant.rule().cloned();
                let pinned = query.place().and_then(|(host, port)| {
                    let had = address.as_ref().map(std::slice::from_ref);
                    let addresses = self.known_addresses(&host).or(had)?;
                    Some(grant.enforced().pin(&host, port, addresses))
                });
                match pinned {
                    Some(Err(denial)) => (Action::Deny, denial),
                    Some(Ok(permit)) => return Finding::allowed(permit.rule().cloned()),
                    None => return Finding::allowed(rule),
                }
            }
        };
        Finding {
            action,
            rule: denial.rule,
            reason: Some(denial.reason),
            hint: Some(denial.hint),
        }
    }

    /// The addresses of a host, where nobody has to be asked for them.
    #[must_use]
    pub fn known_addresses(&self, host: &Host) -> Option<&[IpAddr]> {
        match host {
            // It stands for itself.
            Host::Address(_) => Some(&[]),
            Host::Name(name) => self.upstream().resolve.get(name).map(Vec::as_slice),
        }
    }
}

impl Finding {
    const fn allowed(rule: Option<RuleId>) -> Self {
        Self {
            action: Action::Allow,
            rule,
            reason: None,
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        schema = 1
        agent = "a"
        mode = "observe"

        [[egress]]
        id = "reads"
        hosts = ["api.example.net"]
        ports = [80]
        methods = ["GET"]

        [[egress]]
        id = "pg"
        tcp = ["db.acme.internal:5432"]

        [[egress]]
        id = "never-asked"
        hosts = ["other.example.net"]

        [upstream]
        resolve = { "db.acme.internal" = "10.0.0.5" }

        [[test]]
        name = "reads pass"
        input = { http = "http://api.example.net/x" }
        expect = { action = "allow", rule = "reads" }

        [[test]]
        name = "writes do not"
        input = { http = { url = "http://api.example.net/x", method = "POST" } }
        expect = { action = "deny", rule = "reads", reason = "method_not_allowed" }

        [[test]]
        name = "the database is not public"
        input = { connect = "db.acme.internal:5432" }
        expect = { action = "deny", reason = "private_address" }

        [[test]]
        name = "TLS"
        input = { tls = "api.example.net:80" }
        expect = { action = "deny", reason = "needs_inspection" }

        [[test]]
        name = "raw"
        input = { tcp = { to = "1.2.3.4:5432", names = ["db.acme.internal"] } }
        expect = { action = "allow", rule = "pg" }

        [[test]]
        name = "names"
        input = { dns = { name = "other.example.org", type = "AAAA" } }
        expect = { action = "deny", reason = "no_rule" }

        [[test]]
        name = "wrong"
        input = { dns = "api.example.net" }
        expect = { action = "deny" }
    "#;

    #[test]
    fn each_test_is_run_as_enforcing_would_decide() {
        let policy = Policy::parse("a.toml", POLICY).unwrap();
        let run = policy.run_tests();
        let failed: Vec<_> = run.results.iter().filter(|it| !it.passed()).collect();
        let [wrong] = failed.as_slice() else {
            panic!("{failed:#?}");
        };
        assert_eq!(wrong.test.name, "wrong");
        assert_eq!(wrong.found.action, Action::Allow);
        assert!(!run.passed());
        let uncovered: Vec<_> = run.uncovered().map(RuleId::as_str).collect();
        assert_eq!(uncovered, ["never-asked"]);
        assert_eq!(run.coverage[0].tests, 4);
    }

    #[test]
    fn a_test_that_cannot_be_run_is_an_error() {
        let told = |test: &str| {
            let text = format!(
                "schema = 1\nagent = \"a\"\n[[egress]]\nid = \"x\"\nhosts = [\"a.example\"]\n[[test]]\n{test}"
            );
            Policy::parse("a.toml", &text)
                .map_or_else(|errors| errors.to_string(), |_| String::new())
        };
        let good = "name = \"n\"\ninput = { http = \"http://a.example/\" }\nexpect = { action = \"allow\" }";
        assert_eq!(told(good), "");
        for (from, to, expected) in [
            ("http://a.example/", "a.example", "not a URL"),
            ("http =", "tcp =", "not an address with a port"),
            ("http =", "tls =", "not a host with a port"),
            ("{ http = \"http://a.example/\" }", "{}", "none or several"),
            ("{ http", "{ dns = \"a.example\", http", "none or several"),
            ("\"allow\"", "\"maybe\"", "not a value of `action`"),
            ("\"allow\"", "\"allow\", rule = \"y\"", "no rule `y`"),
            (
                "\"allow\"",
                "\"allow\", reason = \"no_rule\"",
                "allowed for no reason",
            ),
            (
                "\"allow\"",
                "\"deny\", reason = \"no-rule\"",
                "not a value of `reason`",
            ),
            ("expect", "expects", "unknown key of [[test]]"),
            (good, &format!("{good}\n[[test]]\n{good}"), "twice"),
        ] {
            let found = told(&good.replace(from, to));
            assert!(found.contains(expected), "{to}: {found}");
        }
    }
}
