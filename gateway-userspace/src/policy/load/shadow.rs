//! Finds rules that never decide, because others decide all that they could.

use std::ops::Range;

use crate::policy::{
    Action, Condition, Fault, Mode, Rule, Target, Traffic,
    index::{Index, Slot},
    report::Problems,
};

/// Warns of each rule whose every host and port is covered by rules that win over it. `places` are the
/// rules' names in the file.
pub(super) fn warn(
    rules: &[Rule],
    places: &[Range<usize>],
    index: &Index,
    problems: &mut Problems,
) {
    for (at, (rule, place)) in rules.iter().zip(places).enumerate() {
        let Some(by) = shadow(rules, at, rule, index) else {
            continue;
        };
        let (Some(by), Some(first)) = (rules.get(by), places.get(by)) else {
            continue;
        };
        let how = match (by.action, rule.action) {
            (Action::Allow, _) => "before it allows all that it allows",
            (Action::Approve, Action::Approve | Action::Deny) => {
                "before it asks about all that it asks about"
            }
            (Action::Approve, Action::Allow) => "asks about all that it allows",
            (Action::Deny, Action::Deny) => "before it refuses all that it refuses",
            (Action::Deny, Action::Allow | Action::Approve) => "refuses all that it covers",
        };
        let fault = Fault::Shadowed {
            rule: rule.id.to_string(),
            by: by.id.to_string(),
            how,
        };
        problems.add_with(fault, place.clone(), (first.clone(), "this one"));
    }
}

/// The last of the rules that together decide all that this one could; none if they do not.
fn shadow(rules: &[Rule], at: usize, rule: &Rule, index: &Index) -> Option<usize> {
    // What is only observed is recorded beside what decides.
    if rule.mode == Mode::Observe {
        return None;
    }
    let mut last = None;
    for target in &rule.targets {
        let wider = index.wider(&target.hosts);
        for port in target.ports.iter() {
            let covers = |slot: &&Slot| {
                let other = rules.get(slot.rule);
                other.is_some_and(|other| {
                    let wins =
                        other.action > rule.action || other.action == rule.action && slot.rule < at;
                    wins && other.mode == Mode::Enforce
                        && other.targets.get(slot.target).is_some_and(|wide| {
                            reaches(wide, target, *port) && covers_no_less(other, rule)
                        })
                })
            };
            last = last.max(Some(wider.iter().find(covers)?.rule));
        }
    }
    last
}

fn reaches(wide: &Target, narrow: &Target, port: u16) -> bool {
    wide.ports.contains(&port) && wide.hosts.includes(&narrow.hosts)
}

/// Whether all that `narrow` covers at a host, `wide` covers too.
fn covers_no_less(wide: &Rule, narrow: &Rule) -> bool {
    let leave = match (&wide.private, &narrow.private) {
        (_, None) => true,
        (None, Some(_)) => wide.action == Action::Deny,
        (Some(wide), Some(narrow)) => narrow.iter().all(|address| wide.contains(address)),
    };
    let condition = wide.when.as_ref().is_none_or(|wide| {
        let same = narrow.when.as_ref().map(Condition::text);
        same == Some(wide.text())
    });
    leave
        && condition
        && match (&wide.traffic, &narrow.traffic) {
            // What allows bytes does not allow calls.
            (Traffic::Tcp | Traffic::Web { .. }, Traffic::Mcp(_)) => {
                wide.action != Action::Allow && !wide.needs_inspection()
            }
            (Traffic::Mcp(wide), Traffic::Mcp(narrow)) => wide == narrow,
            (Traffic::Mcp(_), Traffic::Web { .. } | Traffic::Tcp) => false,
            (Traffic::Tcp, Traffic::Tcp | Traffic::Web { .. }) => true,
            (Traffic::Web { .. }, Traffic::Tcp) => {
                wide.action != Action::Allow && !wide.needs_inspection()
            }
            (
                Traffic::Web {
                    methods,
                    paths,
                    websocket,
                },
                Traffic::Web {
                    methods: fewer_methods,
                    paths: fewer_paths,
                    websocket: less,
                },
            ) => {
                (*websocket || !less) && holds(methods, fewer_methods) && holds(paths, fewer_paths)
            }
        }
}

/// Whether one list holds another, where an empty one stands for everything.
fn holds<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|entry| wide.contains(entry))
}
