//! Nodes of linked lists in one allocation, made at the start: what sessions keep comes from here and goes back.

/// Names a node, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    /// The end of a list.
    pub const NONE: Self = Self(u32::MAX);

    /// Whether it names no node.
    #[inline]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::NONE
    }
}

struct Node<T> {
    next: Link,
    item: Option<T>,
}

/// A fixed number of nodes. A list is known to its owner by its first node.
pub(super) struct Slab<T> {
    nodes: Box<[Node<T>]>,
    free: Link,
    available: u32,
}

impl<T> Slab<T> {
    /// Bytes of `capacity` nodes.
    pub const fn memory_bytes(capacity: u32) -> usize {
        capacity as usize * size_of::<Node<T>>()
    }

    /// Makes `capacity` nodes.
    pub fn new(capacity: u32) -> Self {
        let next = |index: u32| if index + 1 < capacity { Link(index + 1) } else { Link::NONE };
        let nodes = (0..capacity).map(|index| Node { next: next(index), item: None }).collect();
        Self { nodes, free: if capacity > 0 { Link(0) } else { Link::NONE }, available: capacity }
    }

    /// All nodes.
    pub fn capacity(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Nodes that nobody holds.
    #[inline]
    pub fn available(&self) -> u32 {
        self.available
    }

    /// Puts what `item` makes into a node that leads to none; `None`, and it is not made, when there is no node.
    #[inline(always)]
    pub fn insert_with(&mut self, item: impl FnOnce() -> T) -> Option<Link> {
        let link = self.free;
        let node = self.nodes.get_mut(link.0 as usize)?;
        self.free = std::mem::replace(&mut node.next, Link::NONE);
        // A free node holds nothing that would have to be dropped.
        std::mem::forget(node.item.replace(item()));
        self.available = self.available.wrapping_sub(1);
        Some(link)
    }

    /// Empties the first node of a list where `wanted` says so.
    #[inline(always)]
    pub fn pop_if(&mut self, first: &mut Link, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let link = *first;
        let node = self.nodes.get_mut(link.0 as usize)?;
        let item = node.item.take_if(|item| wanted(item))?;
        *first = node.next;
        node.next = self.free;
        self.free = link;
        self.available = self.available.wrapping_add(1);
        Some(item)
    }

    /// Empties a node; the caller has taken it out of its list.
    #[inline]
    pub fn remove(&mut self, link: Link) -> Option<T> {
        let node = self.nodes.get_mut(link.0 as usize)?;
        let item = node.item.take()?;
        node.next = self.free;
        self.free = link;
        self.available = self.available.wrapping_add(1);
        Some(item)
    }

    /// What all nodes hold, in no order.
    pub fn items_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.iter_mut().filter_map(|node| node.item.as_mut())
    }

    /// The node after `link`.
    #[inline]
    pub fn next(&self, link: Link) -> Link {
        self.nodes.get(link.0 as usize).map_or(Link::NONE, |node| node.next)
    }

    /// Lets `next` follow `link`.
    #[inline]
    pub fn set_next(&mut self, link: Link, next: Link) {
        if let Some(node) = self.nodes.get_mut(link.0 as usize) {
            node.next = next;
        }
    }

    /// What a node holds.
    #[inline]
    pub fn get(&self, link: Link) -> Option<&T> {
        self.nodes.get(link.0 as usize)?.item.as_ref()
    }

    /// What a node holds.
    #[inline]
    pub fn get_mut(&mut self, link: Link) -> Option<&mut T> {
        self.nodes.get_mut(link.0 as usize)?.item.as_mut()
    }

    /// The nodes of a list, from `first` on.
    pub fn list(&self, first: Link) -> impl Iterator<Item = (Link, &T)> {
        std::iter::successors(Some(first), |link| Some(self.next(*link)))
            .take_while(|link| !link.is_none())
            .filter_map(|link| Some((link, self.get(link)?)))
    }

    /// Empties all nodes of a list.
    pub fn clear(&mut self, first: &mut Link) {
        while !first.is_none() {
            let next = self.next(*first);
            self.remove(*first);
            *first = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_run_out_and_come_back() {
        let mut slab = Slab::new(2);
        let (a, b) = (slab.insert_with(|| "a").unwrap(), slab.insert_with(|| "b").unwrap());
        assert_eq!((slab.insert_with(|| "c"), slab.available()), (None, 0));
        slab.set_next(b, a);
        assert_eq!(slab.list(b).map(|(_, item)| *item).collect::<String>(), "ba");
        let mut list = b;
        slab.clear(&mut list);
        assert!(list.is_none() && slab.available() == 2 && slab.get(a).is_none() && slab.remove(a).is_none());
        assert!(Slab::<u8>::new(0).insert_with(|| 1).is_none());
    }
}
