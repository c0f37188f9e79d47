//! Notices transmit queues that have work and do not move.
#![forbid(unsafe_code)]

use crate::clock::Nanos;
use crate::port::Link;

/// A transmit queue that has work and whose head has not moved for this long is stuck, in nanoseconds.
const STUCK_AFTER: Nanos = 2_000_000_000;

/// What is remembered of a transmit queue.
#[derive(Debug, Default)]
pub struct Watch {
    /// Where the head was when it was last seen to move, or to have no reason to, and when that was.
    rests: Option<(u32, Nanos)>,
    reported: bool,
}

impl Watch {
    /// Looks at the queue's head and tail. Says, once, that it is stuck. While the link is down, frames wait for it and nothing is.
    pub fn is_stuck(&mut self, head: u32, tail: u32, link: Link, now: Nanos) -> bool {
        match self.rests {
            Some((seen, since)) if seen == head && head != tail && link != Link::Down => {
                let stuck = !self.reported && now.saturating_sub(since) >= STUCK_AFTER;
                self.reported |= stuck;
                stuck
            }
            _ => {
                *self = Self { rests: Some((head, now)), reported: false };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Link = Link::Up { speed_mbps: 1000 };

    #[test]
    fn watch_reports_a_head_that_rests_with_work_once() {
        let mut watch = Watch::default();
        let mut look = |head, tail, second: u64| watch.is_stuck(head, tail, UP, second * 1_000_000_000);
        assert!(!look(5, 5, 0) && !look(5, 5, 10));
        assert!(!look(5, 6, 11), "it has had work for a second");
        assert!(look(5, 6, 12) && !look(5, 6, 20));
        assert!(!look(6, 7, 21) && look(6, 7, 23));
    }

    #[test]
    fn watch_begins_with_the_first_look() {
        let mut watch = Watch::default();
        assert!(!watch.is_stuck(0, 1, UP, 9_000_000_000), "how long it has had work is not known");
        assert!(watch.is_stuck(0, 1, UP, 11_000_000_000));
    }

    #[test]
    fn watch_counts_from_the_moment_that_the_link_is_up() {
        let mut watch = Watch::default();
        let mut look = |link, second: u64| watch.is_stuck(5, 6, link, second * 1_000_000_000);
        assert!(!look(UP, 0) && !look(Link::Down, 1) && !look(Link::Down, 9));
        assert!(!look(UP, 10) && look(UP, 11));
    }
}
