//! What MCP servers said of their tools at first, so that one can tell when they say something
//! else: the tool that was looked at is the tool that is called.
//!
//! Keeps what it was told and compares; what follows from a difference is for policy to say.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use crate::names::AgentId;

/// Tools that are remembered for one agent, over all servers. Beyond, none is: what cannot be
/// compared counts as changed.
pub(crate) const TOOLS_MAX: usize = 20_000;

/// SHA-256 of a tool's definition.
pub(crate) type Digest = [u8; 32];

/// How a definition stands to the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// There was none: this is it from now on.
    First,
    /// It is the same.
    Same,
    /// It is another.
    Changed,
    /// It cannot be remembered: there are [`TOOLS_MAX`].
    Full,
}

/// First definitions, by agent, server and tool.
#[derive(Default, Debug)]
pub(crate) struct Definitions(Mutex<HashMap<AgentId, Agent>>);

#[derive(Default, Debug)]
struct Agent {
    tools: usize,
    /// Tools by the hash of their name, which may be as long as an answer.
    servers: HashMap<Box<str>, HashMap<Digest, Known>>,
}

#[derive(Debug)]
struct Known {
    first: Digest,
    /// Whether what was said last is something else.
    changed: bool,
}

impl Definitions {
    /// Compares what a server says of a tool with what it said at first.
    pub(crate) fn see(&self, agent: &AgentId, server: &str, tool: &str, digest: Digest) -> Seen {
        let mut all = self.lock();
        let agent = all.entry(agent.clone()).or_default();
        let known = agent
            .servers
            .get_mut(server)
            .and_then(|tools| tools.get_mut(&key(tool)));
        if let Some(known) = known {
            known.changed = known.first != digest;
            return match known.changed {
                true => Seen::Changed,
                false => Seen::Same,
            };
        }
        if agent.tools >= TOOLS_MAX {
            return Seen::Full;
        }
        agent.tools += 1;
        let known = Known {
            first: digest,
            changed: false,
        };
        let server = agent.servers.entry(server.into()).or_default();
        server.insert(key(tool), known);
        Seen::First
    }

    /// Whether what the server said of this tool last is not what it said at first.
    pub(crate) fn is_changed(&self, agent: &AgentId, server: &str, tool: &str) -> bool {
        let all = self.lock();
        let tools = all.get(agent).and_then(|agent| agent.servers.get(server));
        tools
            .and_then(|tools| tools.get(&key(tool)))
            .is_some_and(|known| known.changed)
    }

    /// Another server that offered this agent a tool of this name.
    pub(crate) fn other_server(&self, agent: &AgentId, server: &str, tool: &str) -> Option<String> {
        let (all, tool) = (self.lock(), key(tool));
        let mut servers = all.get(agent)?.servers.iter();
        servers
            .find(|(name, tools)| ***name != *server && tools.contains_key(&tool))
            .map(|(name, _)| name.to_string())
    }

    /// What is kept is whole between any two steps: a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(tool: &str) -> Digest {
    Sha256::digest(tool).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    #[test]
    fn the_first_word_counts() {
        let known = Definitions::default();
        let see =
            |who: &str, server, tool, digest| known.see(&agent(who), server, tool, [digest; 32]);
        assert_eq!(see("a", "s", "t", 1), Seen::First);
        assert_eq!(see("a", "s", "t", 1), Seen::Same);
        assert!(!known.is_changed(&agent("a"), "s", "t"));
        assert_eq!(see("a", "s", "t", 2), Seen::Changed);
        assert!(known.is_changed(&agent("a"), "s", "t"));
        assert_eq!(
            see("a", "s", "t", 2),
            Seen::Changed,
            "no second word becomes the first"
        );
        assert_eq!(see("a", "s", "t", 1), Seen::Same);
        assert!(!known.is_changed(&agent("a"), "s", "t"));
        assert_eq!(see("b", "s", "t", 3), Seen::First, "agents do not share");
        assert_eq!(see("a", "r", "t", 3), Seen::First, "servers do not either");
        assert_eq!(
            known.other_server(&agent("a"), "r", "t").as_deref(),
            Some("s")
        );
        assert_eq!(known.other_server(&agent("b"), "s", "t"), None);
    }

    #[test]
    fn there_is_a_limit_and_beyond_it_nothing_counts_as_seen() {
        let (known, who) = (Definitions::default(), agent("a"));
        for tool in 0..TOOLS_MAX {
            assert_eq!(
                known.see(&who, "s", &tool.to_string(), [0; 32]),
                Seen::First
            );
        }
        assert_eq!(known.see(&who, "s", "one more", [0; 32]), Seen::Full);
        assert_eq!(known.see(&who, "s", "0", [0; 32]), Seen::Same);
    }
}
