//! Writes the policy, with a remark wherever it grants more than was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use super::seen::{Open, Seen, Web};
use crate::policy::{Action, AddressClass, Dns, Policy, Query, classify};

/// Octets of a rule's name that are taken from its host.
const NAME_MAX: usize = 48;

/// A rule to be written.
#[derive(Default)]
struct Draft {
    /// What its name is made from.
    name: String,
    remarks: Vec<String>,
    /// Keys with their values as TOML has them.
    keys: Vec<(&'static str, String)>,
}

impl Seen {
    /// The policy as text.
    ///
    /// # Errors
    /// If it is not clear whose it is to be, or there is nothing to cover.
    pub(super) fn policy(&self) -> anyhow::Result<String> {
        let agent = match (&self.wanted, self.agents.iter().next(), self.agents.len()) {
            (Some(wanted), ..) => wanted.as_str(),
            (None, Some(only), 1) => only,
            (None, None, _) => anyhow::bail!("no request of an agent is recorded there"),
            (None, Some(_), _) => {
                let agents: Vec<_> = self.agents.iter().map(String::as_str).collect();
                anyhow::bail!(
                    "several agents are recorded there; name one with --agent: {}",
                    agents.join(", ")
                )
            }
        };
        let mut out = self.heading();
        write!(out, "schema = 1\nagent = {}\n", quoted(agent))?;
        out += &self.dns();
        let mut names = BTreeSet::new();
        let drafts = self.drafts();
        for draft in self.lookups(&drafts).into_iter().chain(drafts) {
            out.push('\n');
            for remark in &draft.remarks {
                writeln!(out, "# {remark}")?;
            }
            let id = draft.id(&mut names);
            write!(out, "[[egress]]\nid = {}\n", quoted(&id))?;
            for (key, value) in &draft.keys {
                writeln!(out, "{key} = {value}")?;
            }
        }
        Ok(out)
    }

    fn heading(&self) -> String {
        let mut out = format!(
            "# Suggested by `sluice policy suggest` from {} recorded requests. Read it before it is \
             used: it allows what was seen,\n# the unwanted with the wanted. Rules that grant more \
             than was seen are marked `broad`.\n",
            self.requests
        );
        for (count, what) in [
            (self.refused, "it was refused"),
            (self.unreachable, "no rule leads where it went"),
            (self.left_out, "there were too many different ones"),
        ] {
            if count > 0 {
                out += &format!("# not covered: {what} ({count})\n");
            }
        }
        for (why, count) in &self.skipped {
            out += &format!("# not covered: {why} ({count})\n");
        }
        out.push('\n');
        out
    }

    /// `[dns]`, where record types were asked for that are refused by default.
    fn dns(&self) -> String {
        let asked: BTreeSet<_> = Dns::DENY_TYPES
            .into_iter()
            .filter(|kind| self.types.contains(kind))
            .collect();
        if asked.is_empty() {
            return String::new();
        }
        let list = |kinds: Vec<u16>| {
            let kinds = kinds.iter().map(|kind| quoted(&format!("TYPE{kind}")));
            kinds.collect::<Vec<_>>().join(", ")
        };
        let left = Dns::DENY_TYPES.into_iter();
        let left = left.filter(|kind| !asked.contains(kind)).collect();
        format!(
            "\n# broad: records of types {} were asked for, which carry data well\n[dns]\n\
             deny_types = [{}]\n",
            list(asked.iter().copied().collect()).replace('"', ""),
            list(left)
        )
    }

    fn drafts(&self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for (host, web) in &self.hosts {
            drafts.extend(open(host, web));
            drafts.extend(closed(host, web));
            drafts.extend(tunnels(host, web));
        }
        drafts.extend(self.raw());
        drafts
    }

    fn raw(&self) -> Vec<Draft> {
        let mut by_address: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for destination in &self.raw {
            let entry = quoted(&destination.to_string());
            by_address.entry(destination.ip()).or_default().push(entry);
        }
        let drafts = by_address.into_iter().map(|(address, entries)| {
            let mut draft = Draft {
                name: format!("{address}-tcp"),
                remarks: vec![
                    "broad: any bytes; a name in place of the address would be better".to_owned(),
                ],
                keys: vec![("tcp", format!("[{}]", entries.join(", ")))],
            };
            draft.private(&BTreeSet::from([address]));
            draft
        });
        drafts.collect()
    }

    /// A rule for names that were looked up, and that the others leave unanswered.
    fn lookups(&self, drafts: &[Draft]) -> Option<Draft> {
        let mut ids = BTreeSet::new();
        let mut text = "schema = 1\nagent = \"a\"\n".to_owned();
        for draft in drafts {
            text += &format!("[[egress]]\nid = {}\n", quoted(&draft.id(&mut ids)));
            for (key, value) in &draft.keys {
                text += &format!("{key} = {value}\n");
            }
        }
        let policy = Policy::parse("the suggestion", &text).ok();
        let answered = |name: &str| {
            let (Some(policy), Ok(question)) = (&policy, Query::dns(name, "A")) else {
                return false;
            };
            policy.find(&question).action == Action::Allow
        };
        let names = self.names.iter().map(|name| name.as_str());
        let names: Vec<_> = names.filter(|name| !answered(name)).map(quoted).collect();
        (!names.is_empty()).then(|| Draft {
            name: "looked-up".to_owned(),
            remarks: vec![
                "broad: these names were looked up, and nothing is known to have gone to them by \
                 name; only names in"
                    .to_owned(),
                "a rule are answered. Delete those that are not needed, or move them to the `tcp` \
                 rule they belong to"
                    .to_owned(),
            ],
            keys: vec![
                ("hosts", format!("[{}]", names.join(", "))),
                ("ports", "[443]".to_owned()),
            ],
        })
    }
}

/// Requests that were read.
fn open(host: &str, web: &Web) -> Option<Draft> {
    let Open {
        ports,
        methods,
        any_method,
        paths,
        websocket,
    } = &web.open;
    if ports.is_empty() {
        return None;
    }
    let mut draft = Draft::web(host, ports);
    if *any_method {
        let why = "broad: all methods, since one that was seen cannot be named, or there were many";
        draft.remarks.push(why.to_owned());
    } else {
        draft.keys.push(("methods", list(methods)));
        if *websocket {
            draft.keys.push(("websocket", "true".to_owned()));
        }
    }
    if let Some(broad) = paths.broad() {
        draft.remarks.push(format!("broad: {broad}"));
    }
    if let Some(patterns) = paths.patterns() {
        draft.keys.push(("paths", list(patterns)));
    }
    draft.private(&web.private);
    Some(draft)
}

/// TLS that was not opened.
fn closed(host: &str, web: &Web) -> Option<Draft> {
    let ports = web.unread(&web.closed);
    if ports.is_empty() {
        return None;
    }
    let mut draft = Draft::web(host, &ports);
    draft.name += "-tls";
    let why = "broad: all methods and paths, since TLS was not opened to see them";
    draft.remarks.push(why.to_owned());
    draft.private(&web.private);
    Some(draft)
}

/// Tunnels on ports that are not the web's.
fn tunnels(host: &str, web: &Web) -> Option<Draft> {
    let ports = web.unread(&web.tunnels);
    if ports.is_empty() {
        return None;
    }
    let entries: Vec<_> = ports
        .iter()
        .map(|port| quoted(&format!("{host}:{port}")))
        .collect();
    let mut draft = Draft {
        name: format!("{host}-tunnel"),
        remarks: vec![
            "broad: any bytes, since what went through the tunnel is not recorded".into(),
        ],
        keys: vec![("tcp", format!("[{}]", entries.join(", ")))],
    };
    draft.private(&web.private);
    Some(draft)
}

impl Draft {
    fn web(host: &str, ports: &BTreeSet<u16>) -> Self {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        Self {
            name: host.to_owned(),
            remarks: Vec::new(),
            keys: vec![
                ("hosts", format!("[{}]", quoted(host))),
                ("ports", format!("[{}]", ports.join(", "))),
            ],
        }
    }

    /// Leave for addresses that are not public, named beside it.
    fn private(&mut self, addresses: &BTreeSet<IpAddr>) {
        let unfit = addresses
            .iter()
            .filter(|address| classify(**address) != AddressClass::Public);
        let unfit: Vec<_> = unfit.collect();
        if unfit.is_empty() {
            return;
        }
        if unfit
            .iter()
            .any(|it| classify(**it) == AddressClass::Metadata)
        {
            let why = "broad: a cloud's metadata service, which gives away credentials";
            self.remarks.push(why.to_owned());
        }
        let named: Vec<_> = unfit.iter().map(ToString::to_string).collect();
        self.remarks
            .push(format!("private: it had the address {}", named.join(", ")));
        self.keys.push(("private", "true".to_owned()));
    }

    /// A name for the rule that no other has.
    fn id(&self, taken: &mut BTreeSet<String>) -> String {
        let clean = self.name.chars().map(|c| match c {
            'a'..='z' | '0'..='9' | '.' | '-' | '_' => c,
            _other => '-',
        });
        let clean: String = clean.collect();
        let clean = clean.trim_start_matches(['.', '-', '_']);
        let start = match clean.len() > NAME_MAX {
            // The end of a long name says more than its front.
            true => clean
                .split_at(clean.len() - NAME_MAX)
                .1
                .trim_start_matches(['.', '-', '_']),
            false => clean,
        };
        let start = match start.is_empty() {
            true => "rule",
            false => start,
        };
        let mut id = start.to_owned();
        let mut next = 2;
        while !taken.insert(id.clone()) {
            id = format!("{start}-{next}");
            next += 1;
        }
        id
    }
}

fn list(entries: &BTreeSet<String>) -> String {
    let entries: Vec<_> = entries.iter().map(|entry| quoted(entry)).collect();
    format!("[{}]", entries.join(", "))
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
