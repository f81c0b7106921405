//! Which process was what, and since when: told by events alone, never guessed.
//!
//! A key is a process id and the time of its last exec or fork, so a number that is used again is
//! another key. What an event was lost about is not there, and then nothing is said.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use gateway_common::process::{
    PROCESS_ENTER, PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK, ProcessEvent,
};

use crate::identity::{Ancestor, Executable};

/// Entries that are kept after their process ended or executed something else: connections that
/// it made before are still being named, and so are its children's parents.
pub(super) const PAST_MAX: usize = 4096;
/// Entries that are kept at all; the kernel keeps account of fewer processes at once.
pub(super) const ENTRIES_MAX: usize = 32_768;
/// How many parents a record names.
pub(super) const ANCESTORS_MAX: usize = 6;

/// A process from one exec or fork to the next.
pub(super) type Key = (u32, u64);

#[derive(Debug)]
struct Entry {
    executable: Option<Arc<Executable>>,
    parent: Option<Key>,
}

/// The processes of one agent.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Key, Entry>,
    /// The key that a process id has now.
    current: HashMap<u32, u64>,
    past: VecDeque<Key>,
    /// Entries for which there was no room.
    refused: u64,
}

impl Table {
    /// Takes an event in. `executable` is asked for what an exec or an arrival ran.
    pub(super) fn note(
        &mut self,
        event: &ProcessEvent,
        executable: impl FnOnce(&ProcessEvent) -> Option<Executable>,
    ) {
        let tgid = event.tgid;
        match event.kind {
            PROCESS_EXEC => {
                // Its parent is who forked it, whatever it executes.
                let parent = self
                    .current
                    .get(&tgid)
                    .and_then(|since| self.entries.get(&(tgid, *since)))
                    .and_then(|entry| entry.parent);
                self.begin(tgid, event.since_ns, executable(event), parent);
            }
            PROCESS_ENTER => self.begin(tgid, event.since_ns, executable(event), None),
            PROCESS_FORK => {
                let parent = (event.parent_tgid, event.parent_since_ns);
                // It runs what its parent ran when it forked.
                let inherited = self.entries.get(&parent);
                let inherited = inherited.and_then(|entry| entry.executable.clone());
                let parent = (event.parent_since_ns != 0).then_some(parent);
                self.insert(tgid, event.since_ns, inherited, parent);
            }
            PROCESS_EXIT => {
                if let Some(since) = self.current.remove(&tgid) {
                    self.retire((tgid, since));
                }
            }
            // A kind that this build does not know tells nothing.
            _ => {}
        }
    }

    fn begin(
        &mut self,
        tgid: u32,
        since: u64,
        executable: Option<Executable>,
        parent: Option<Key>,
    ) {
        self.insert(tgid, since, executable.map(Arc::new), parent);
    }

    fn insert(
        &mut self,
        tgid: u32,
        since: u64,
        executable: Option<Arc<Executable>>,
        parent: Option<Key>,
    ) {
        if let Some(before) = self.current.insert(tgid, since) {
            self.retire((tgid, before));
        }
        if self.entries.len() >= ENTRIES_MAX {
            // Only when so many ends went untold. Unknown is never wrong.
            self.refused += 1;
            self.current.remove(&tgid);
            return;
        }
        let entry = Entry { executable, parent };
        self.entries.insert((tgid, since), entry);
    }

    fn retire(&mut self, key: Key) {
        if !self.entries.contains_key(&key) {
            return;
        }
        self.past.push_back(key);
        if self.past.len() > PAST_MAX
            && let Some(oldest) = self.past.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// Whether this process is known.
    pub(super) fn knows(&self, key: Key) -> bool {
        self.entries.contains_key(&key)
    }

    /// What a process runs.
    pub(super) fn executable(&self, key: Key) -> Option<Arc<Executable>> {
        self.entries.get(&key)?.executable.clone()
    }

    /// Who forked it, who forked that one, and so on, as far as known and at most
    /// [`ANCESTORS_MAX`].
    pub(super) fn ancestors(&self, key: Key, id: impl Fn(Key) -> String) -> Vec<Ancestor> {
        let mut chain = Vec::new();
        let mut next = self.entries.get(&key).and_then(|entry| entry.parent);
        while let Some(key) = next
            && chain.len() < ANCESTORS_MAX
        {
            let entry = self.entries.get(&key);
            chain.push(Ancestor {
                pid: key.0,
                exec_id: id(key),
                exe: entry
                    .and_then(|entry| entry.executable.as_ref())
                    .map(|executable| executable.path.clone()),
            });
            next = entry.and_then(|entry| entry.parent);
        }
        chain
    }

    /// Entries for which there was no room since the last time.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::identity::ExecutableSource;

    fn event(kind: u32, tgid: u32, since_ns: u64) -> ProcessEvent {
        let mut event = ProcessEvent::new_zeroed();
        event.kind = kind;
        event.tgid = tgid;
        event.since_ns = since_ns;
        event
    }

    fn fork(parent: Key, tgid: u32, since_ns: u64) -> ProcessEvent {
        let mut event = event(PROCESS_FORK, tgid, since_ns);
        (event.parent_tgid, event.parent_since_ns) = parent;
        event
    }

    fn note(table: &mut Table, event: &ProcessEvent, path: &str) {
        table.note(event, |_| {
            Some(Executable {
                path: path.to_owned(),
                source: ExecutableSource::Execve,
            })
        });
    }

    fn path(table: &Table, key: Key) -> Option<String> {
        table
            .executable(key)
            .map(|executable| executable.path.clone())
    }

    fn chain(table: &Table, key: Key) -> Vec<u32> {
        let parents = table.ancestors(key, |_| String::new());
        parents.iter().map(|parent| parent.pid).collect()
    }

    #[test]
    fn a_fork_runs_what_its_parent_ran_then() {
        let mut table = Table::default();
        note(&mut table, &event(PROCESS_EXEC, 1, 10), "/shell");
        note(&mut table, &fork((1, 10), 2, 20), "");
        note(&mut table, &event(PROCESS_EXEC, 1, 30), "/other");
        assert_eq!(path(&table, (2, 20)).as_deref(), Some("/shell"));
        assert_eq!(path(&table, (1, 30)).as_deref(), Some("/other"));
        note(&mut table, &event(PROCESS_EXEC, 2, 40), "/curl");
        assert_eq!(path(&table, (2, 40)).as_deref(), Some("/curl"));
        // What it did before is still told as what it was then.
        assert_eq!(path(&table, (2, 20)).as_deref(), Some("/shell"));
        assert_eq!(chain(&table, (2, 40)), [1]);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut table = Table::default();
        note(&mut table, &event(PROCESS_EXEC, 7, 1), "/old");
        note(&mut table, &event(PROCESS_EXIT, 7, 1), "");
        note(&mut table, &event(PROCESS_EXEC, 7, 2), "/new");
        assert_eq!(path(&table, (7, 1)).as_deref(), Some("/old"));
        assert_eq!(path(&table, (7, 2)).as_deref(), Some("/new"));
        assert_eq!(path(&table, (7, 3)), None);
    }

    #[test]
    fn what_was_lost_is_unknown_and_its_children_too() {
        let mut table = Table::default();
        note(&mut table, &event(PROCESS_EXEC, 1, 10), "/shell");
        // The exec of 1 at 15 was lost.
        note(&mut table, &fork((1, 15), 2, 20), "");
        assert_eq!(path(&table, (2, 20)), None);
        assert!(table.knows((2, 20)));
    }

    #[test]
    fn the_past_is_bounded() {
        let mut table = Table::default();
        let count = u32::try_from(PAST_MAX).expect("it fits") + 1;
        for tgid in 1..=count {
            note(&mut table, &event(PROCESS_EXEC, tgid, 1), "/a");
            note(&mut table, &event(PROCESS_EXIT, tgid, 1), "");
        }
        assert!(!table.knows((1, 1)), "the oldest made room");
        assert!(table.knows((2, 1)) && table.knows((count, 1)));
        assert_eq!(table.entries.len(), PAST_MAX);
    }

    #[test]
    fn the_present_is_bounded_and_what_finds_no_room_is_counted() {
        let mut table = Table::default();
        let full = u32::try_from(ENTRIES_MAX).expect("it fits");
        for tgid in 1..=full {
            note(&mut table, &event(PROCESS_EXEC, tgid, 1), "/a");
        }
        assert_eq!(table.take_refused(), 0);
        note(&mut table, &event(PROCESS_EXEC, full + 1, 1), "/a");
        assert_eq!(table.take_refused(), 1);
        assert!(!table.knows((full + 1, 1)));
    }

    #[test]
    fn the_chain_of_parents_is_bounded() {
        let mut table = Table::default();
        note(&mut table, &event(PROCESS_EXEC, 1, 1), "/a");
        for tgid in 2..20 {
            note(&mut table, &fork((tgid - 1, 1), tgid, 1), "");
        }
        assert_eq!(chain(&table, (19, 1)), [18, 17, 16, 15, 14, 13]);
        assert_eq!(chain(&table, (3, 1)), [2, 1]);
    }
}
