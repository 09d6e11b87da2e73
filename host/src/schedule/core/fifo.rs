//! Many short queues in one slab, so that a key with one event costs no allocation of its own.

use slab::Slab;

use crate::event::Position;

/// One event that a lane holds in memory.
#[derive(Debug)]
pub(super) struct Queued<T> {
    pub(super) position: Position,
    pub(super) weight: usize,
    /// Gone once a taker has it.
    pub(super) item: Option<T>,
}

#[derive(Debug)]
struct Node<T> {
    queued: Queued<T>,
    next: usize,
}

/// One queue; its ends mean nothing while `len` is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fifo {
    head: usize,
    tail: usize,
    len: usize,
}

impl Fifo {
    pub(super) const EMPTY: Self = Self { head: 0, tail: 0, len: 0 };

    pub(super) const fn len(self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The events of all queues.
#[derive(Debug)]
pub(super) struct Nodes<T>(Slab<Node<T>>);

impl<T> Nodes<T> {
    pub(super) const fn new() -> Self {
        Self(Slab::new())
    }

    pub(super) fn push(&mut self, fifo: &mut Fifo, queued: Queued<T>) {
        let id = self.0.insert(Node { queued, next: 0 });
        if fifo.is_empty() {
            fifo.head = id;
        } else if let Some(tail) = self.0.get_mut(fifo.tail) {
            tail.next = id;
        }
        fifo.tail = id;
        fifo.len += 1;
    }

    pub(super) fn pop(&mut self, fifo: &mut Fifo) -> Option<Queued<T>> {
        if fifo.is_empty() {
            return None;
        }
        let node = self.0.try_remove(fifo.head)?;
        fifo.head = node.next;
        fifo.len -= 1;
        Some(node.queued)
    }

    /// Positions of the events of a queue, first to last.
    pub(super) fn positions(&self, fifo: Fifo) -> impl Iterator<Item = Position> {
        let mut next = fifo.head;
        (0..fifo.len).map_while(move |_| {
            let node = self.0.get(next)?;
            next = node.next;
            Some(node.queued.position)
        })
    }

    pub(super) fn front_mut(&mut self, fifo: Fifo) -> Option<&mut Queued<T>> {
        if fifo.is_empty() {
            return None;
        }
        self.0.get_mut(fifo.head).map(|node| &mut node.queued)
    }
}
