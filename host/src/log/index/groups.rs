//! Hash -> ascending entry numbers, in memory: the shape of both tables of an open index.

use hashbrown::HashTable;

/// Entry numbers by hash.
#[derive(Debug, Default)]
pub(super) struct Groups {
    table: HashTable<Group>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) hash: u128,
    members: Members,
}

/// Most keys of a segment have one event; those should not cost an allocation.
#[derive(Debug)]
enum Members {
    One(u32),
    Many(Vec<u32>),
}

impl Groups {
    /// Adds an entry number; they must come in ascending order.
    pub(super) fn push(&mut self, hash: u128, member: u32) {
        let entry = self.table.entry(low(hash), |g| g.hash == hash, |g| low(g.hash));
        entry
            .and_modify(|group| group.push(member))
            .or_insert_with(|| Group { hash, members: Members::One(member) });
    }

    /// The entry numbers of a hash, ascending.
    pub(super) fn get(&self, hash: u128) -> &[u32] {
        self.table.find(low(hash), |g| g.hash == hash).map_or(&[], Group::members)
    }

    /// All groups, ascending by hash.
    pub(super) fn sorted(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.table.iter().collect();
        groups.sort_unstable_by_key(|group| group.hash);
        groups
    }

    /// All groups, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.table.iter()
    }
}

impl Group {
    pub(super) fn members(&self) -> &[u32] {
        match &self.members {
            Members::One(member) => std::slice::from_ref(member),
            Members::Many(members) => members,
        }
    }

    fn push(&mut self, member: u32) {
        match &mut self.members {
            Members::One(first) => self.members = Members::Many(vec![*first, member]),
            Members::Many(members) => members.push(member),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the hash is uniform: any 64 bits will do")]
const fn low(hash: u128) -> u64 {
    hash as u64
}
