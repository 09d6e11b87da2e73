//! Hash -> ascending entry numbers, in memory: the shape of both tables of an open index.
//!
//! Hardly anything that is indexed is asked for before its segment is sealed, and sealing sorts. So
//! what comes in only waits in a list, which is a tenth of the work. Who asks for a hash looks through
//! that list where it is short, and has it entered into the table first where it is not.

use std::borrow::Cow;

use hashbrown::HashTable;

use super::encode::prefix_of;

/// Entries that wait before a question has them entered: looking through them takes less than
/// finding one in the table.
const WAITING_MAX: usize = 256;
/// Entries that have the same top bits of their hashes, on average at least.
const PAIRS_PER_RANGE: usize = 16;

/// Entry numbers by hash.
#[derive(Debug, Default)]
pub(super) struct Groups {
    table: HashTable<Group>,
    /// Entries that are not in the table, all after those that are. Two lists: 20 bytes an entry.
    hashes: Vec<u128>,
    members: Vec<u32>,
}

#[derive(Debug)]
struct Group {
    hash: u128,
    members: Members,
}

/// Most keys of a segment have one event; those should not cost an allocation.
#[derive(Debug)]
enum Members {
    One(u32),
    Many(Vec<u32>),
}

/// All groups, ascending by hash.
#[derive(Debug)]
pub(super) struct Sorted {
    /// Each hash, and where its members begin.
    groups: Vec<(u128, usize)>,
    members: Vec<u32>,
}

impl Groups {
    /// Adds an entry number; they must come in ascending order.
    pub(super) fn push(&mut self, hash: u128, member: u32) {
        self.hashes.push(hash);
        self.members.push(member);
    }

    /// Whether to [`Self::enter`] before the next question.
    pub(super) const fn waits_long(&self) -> bool {
        self.hashes.len() > WAITING_MAX
    }

    /// Enters what waits into the table.
    pub(super) fn enter(&mut self) {
        for (hash, member) in self.hashes.drain(..).zip(self.members.drain(..)) {
            let entry = self.table.entry(low(hash), |g| g.hash == hash, |g| low(g.hash));
            entry
                .and_modify(|group| group.push(member))
                .or_insert_with(|| Group { hash, members: Members::One(member) });
        }
    }

    /// The entry numbers of a hash, ascending.
    pub(super) fn get(&self, hash: u128) -> Cow<'_, [u32]> {
        let entered =
            self.table.find(low(hash), |g| g.hash == hash).map_or(&[][..], Group::members);
        let mut found = Cow::Borrowed(entered);
        for (_, member) in self.waiting().filter(|(waiting, _)| *waiting == hash) {
            found.to_mut().push(member);
        }
        found
    }

    fn waiting(&self) -> impl Iterator<Item = (u128, u32)> {
        self.hashes.iter().copied().zip(self.members.iter().copied())
    }

    /// All groups, ascending by hash.
    pub(super) fn sorted(&self) -> Sorted {
        let pairs = self.pairs();
        let mut sorted = Sorted { groups: Vec::new(), members: Vec::with_capacity(pairs.len()) };
        for (hash, member) in pairs {
            if sorted.groups.last().is_none_or(|(last, _)| *last != hash) {
                sorted.groups.push((hash, sorted.members.len()));
            }
            sorted.members.push(member);
        }
        sorted
    }

    /// Every entry, ascending. Each goes to those with the same top bits of the hash first: hashes are
    /// uniform, so few come together, most of them of one hash and in order already.
    fn pairs(&self) -> Vec<(u128, u32)> {
        let about = self.table.len() + self.hashes.len();
        let bits = (about / PAIRS_PER_RANGE).checked_ilog2().unwrap_or(0);
        let range = |hash| usize::try_from(prefix_of(hash, bits)).unwrap_or_default();
        // How many come before a range; then, where its next pair goes.
        let mut places = vec![0_usize; (1 << bits) + 1];
        self.for_each(|hash, of| {
            places.get_mut(range(hash) + 1).into_iter().for_each(|count| *count += of.len());
        });
        let mut before = 0;
        for place in &mut places {
            before += *place;
            *place = before;
        }
        let mut pairs = vec![(0, 0); before];
        self.for_each(|hash, of| {
            let Some(place) = places.get_mut(range(hash)) else { return };
            let free = pairs.get_mut(*place..).unwrap_or_default();
            free.iter_mut().zip(of).for_each(|(pair, member)| *pair = (hash, *member));
            *place += of.len();
        });
        let mut first = 0;
        for end in places {
            pairs.get_mut(first..end).unwrap_or_default().sort_unstable();
            first = end;
        }
        pairs
    }

    /// Visits every entry: hashes in no order, the entries of one ascending.
    pub(super) fn for_each(&self, mut visit: impl FnMut(u128, &[u32])) {
        self.table.iter().for_each(|group| visit(group.hash, group.members()));
        self.waiting().for_each(|(hash, member)| visit(hash, &[member]));
    }
}

impl Sorted {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.groups.len()
    }

    /// The members of all groups, one group after the other.
    pub(super) fn members(&self) -> &[u32] {
        &self.members
    }

    /// How many come before a place in the order of hashes.
    pub(super) fn count_before(&self, before: impl Fn(u128) -> bool) -> usize {
        self.groups.partition_point(|(hash, _)| before(*hash))
    }

    /// Each hash with its members.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &[u32])> {
        let ends = self.groups.iter().skip(1).map(|(_, first)| *first);
        let ends = ends.chain(std::iter::once(self.members.len()));
        let groups = self.groups.iter().zip(ends);
        groups
            .map(|((hash, first), end)| (*hash, self.members.get(*first..end).unwrap_or_default()))
    }
}

impl Group {
    fn members(&self) -> &[u32] {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_found_wherever_they_stand(
            hashes in proptest::collection::vec(0..20_u8, 0..900),
            entered in proptest::collection::vec(0..900_usize, 0..3),
        ) {
            let (mut groups, mut model) = (Groups::default(), BTreeMap::<u128, Vec<u32>>::new());
            // Some differ in their top bits, some at the other end alone.
            let spread = |hash: u8| u128::from(hash / 2) << 124 | u128::from(hash);
            for (member, hash) in (0..).zip(hashes.iter().map(|hash| spread(*hash))) {
                groups.push(hash, member);
                model.entry(hash).or_default().push(member);
                if entered.contains(&(member as usize)) {
                    groups.enter();
                    prop_assert!(!groups.waits_long());
                }
            }
            for hash in (0..20).map(spread) {
                let expected = model.get(&hash).map_or(&[][..], Vec::as_slice);
                prop_assert_eq!(&*groups.get(hash), expected);
            }
            let sorted = groups.sorted();
            let found: Vec<_> = sorted.iter().map(|(hash, of)| (hash, of.to_vec())).collect();
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert_eq!(sorted.members().len(), hashes.len());
            prop_assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
            let mut visited: BTreeMap<u128, Vec<u32>> = BTreeMap::new();
            groups.for_each(|hash, of| visited.entry(hash).or_default().extend(of));
            prop_assert_eq!(visited, model);
        }
    }
}
