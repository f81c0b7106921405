//! Finds rules that never decide, because earlier ones allow all that they allow.

use std::ops::Range;

use crate::policy::{
    Fault, Rule, Target, Traffic,
    index::{Index, Slot},
    report::Problems,
};

/// Warns of each rule whose every host and port is covered by earlier rules. `places` are the
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
        let fault = Fault::Shadowed {
            rule: rule.id.to_string(),
            by: by.id.to_string(),
        };
        problems.add_with(fault, place.clone(), (first.clone(), "this one"));
    }
}

/// The last of the earlier rules that together cover this one; none if they do not.
fn shadow(rules: &[Rule], at: usize, rule: &Rule, index: &Index) -> Option<usize> {
    let mut last = None;
    for target in &rule.targets {
        let wider = index.wider(&target.hosts);
        for port in target.ports.iter() {
            let covers = |slot: &&Slot| {
                let earlier = rules.get(slot.rule);
                earlier.is_some_and(|earlier| {
                    earlier.targets.get(slot.target).is_some_and(|other| {
                        reaches(other, target, *port) && allows_no_less(earlier, rule)
                    })
                })
            };
            let mut earlier = wider.iter().take_while(|slot| slot.rule < at);
            last = last.max(Some(earlier.find(covers)?.rule));
        }
    }
    last
}

fn reaches(wide: &Target, narrow: &Target, port: u16) -> bool {
    wide.ports.contains(&port) && wide.hosts.includes(&narrow.hosts)
}

/// Whether all that `narrow` allows to a host, `wide` allows too.
fn allows_no_less(wide: &Rule, narrow: &Rule) -> bool {
    let leave = match (&wide.private, &narrow.private) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|address| wide.contains(address)),
    };
    leave
        && match (&wide.traffic, &narrow.traffic) {
            (Traffic::Tcp, Traffic::Tcp | Traffic::Web { .. }) => true,
            (Traffic::Web { .. }, Traffic::Tcp) => false,
            (
                Traffic::Web { methods, paths },
                Traffic::Web {
                    methods: fewer_methods,
                    paths: fewer_paths,
                },
            ) => holds(methods, fewer_methods) && holds(paths, fewer_paths),
        }
}

/// Whether one list holds another, where an empty one stands for everything.
fn holds<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(|entry| wide.contains(entry))
}
