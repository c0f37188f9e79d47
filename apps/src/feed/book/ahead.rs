//! Looking ahead: the cache misses of several messages at once.

use arrayvec::ArrayVec;

use super::slab::NONE;
use super::{Books, key_of, side_index, side_of};
use crate::digest::Side;
use crate::feed::itch::Message;

/// Messages that [`Books::prepare`] looks at: more than a core has misses under way, and few enough to stay in its nearest cache.
pub const WINDOW: usize = 16;

/// Books with no more orders than this are in the cache as they are: there, looking ahead costs more than it saves. At this many, orders and
/// chains occupy 2.5 MiB.
const CACHED: usize = 1 << 16;

/// What the messages of a window will look for.
#[derive(Default)]
struct Ahead {
    /// Orders that are in the book: their chains, then the first order of each.
    old: ArrayVec<u32, WINDOW>,
    /// Orders that will be; a replacement counts twice, because its message does not tell the side.
    new: ArrayVec<New, { 2 * WINDOW }>,
}

struct New {
    chain: u32,
    side: u32,
    key: u32,
    level: u32,
}

impl Books {
    /// Brings what the next messages will touch to the cache, and changes nothing. It pays from two messages on; those behind the first
    /// [`WINDOW`] are left out.
    #[inline]
    pub fn prepare<'a>(&self, messages: impl Iterator<Item = &'a Message<'a>>) {
        if self.is_beyond_caches() {
            self.look_ahead(messages);
        }
    }

    /// Whether [`Books::prepare`] does anything.
    #[inline]
    pub fn is_beyond_caches(&self) -> bool {
        self.orders.touched() > CACHED
    }

    /// Each pass finds what the one before it asked for.
    #[inline]
    pub(super) fn look_ahead<'a>(&self, messages: impl Iterator<Item = &'a Message<'a>>) {
        let mut ahead = Ahead::default();
        messages.take(WINDOW).for_each(|message| self.note(message, &mut ahead));
        for old in &mut ahead.old {
            *old = self.first(*old);
            self.orders.prefetch(*old);
        }
        for new in &ahead.new {
            self.orders.prefetch(self.first(new.chain));
            self.ladders.prefetch_root(new.side);
        }
        for order in ahead.old.iter().filter_map(|old| self.orders.get(*old)) {
            self.levels.prefetch(order.level);
            self.orders.prefetch(order.older);
            self.orders.prefetch(order.newer);
            self.orders.prefetch(order.chained);
        }
        for new in &mut ahead.new {
            new.level = self.ladders.find(new.side, new.key).unwrap_or(NONE);
            self.levels.prefetch(new.level);
        }
        for level in ahead.new.iter().filter_map(|new| self.levels.get(new.level)) {
            self.orders.prefetch(level.newest);
        }
    }

    #[inline]
    fn note(&self, message: &Message<'_>, ahead: &mut Ahead) {
        match message {
            Message::AddOrder(m) => {
                let side = side_of(m.buy_sell_indicator.0).unwrap_or(Side::Buy);
                self.note_new(m.order_reference_number.get(), m.stock_locate.get(), side, m.price.get(), ahead);
            }
            Message::AddOrderWithMpid(m) => {
                let side = side_of(m.buy_sell_indicator.0).unwrap_or(Side::Buy);
                self.note_new(m.order_reference_number.get(), m.stock_locate.get(), side, m.price.get(), ahead);
            }
            Message::OrderExecuted(m) => self.note_old(m.order_reference_number.get(), ahead),
            Message::OrderExecutedWithPrice(m) => self.note_old(m.order_reference_number.get(), ahead),
            Message::OrderCancel(m) => self.note_old(m.order_reference_number.get(), ahead),
            Message::OrderDelete(m) => self.note_old(m.order_reference_number.get(), ahead),
            Message::OrderReplace(m) => {
                self.note_old(m.original_order_reference_number.get(), ahead);
                for side in [Side::Buy, Side::Sell] {
                    let new = m.new_order_reference_number.get();
                    self.note_new(new, m.stock_locate.get(), side, m.price.get(), ahead);
                }
            }
            _ => {}
        }
    }

    #[inline]
    fn note_old(&self, reference: u64, ahead: &mut Ahead) {
        let chain = self.home(reference);
        self.chains.prefetch(chain);
        // There is room for every message of a window.
        let _ = ahead.old.try_push(chain as u32);
    }

    #[inline]
    fn note_new(&self, reference: u64, locate: u16, side: Side, price: u32, ahead: &mut Ahead) {
        let (chain, side) = (self.home(reference), side_index(locate, side));
        self.chains.prefetch(chain);
        self.ladders.prefetch_side(side);
        let _ = ahead.new.try_push(New { chain: chain as u32, side, key: key_of(side, price), level: NONE });
    }

    #[inline]
    fn first(&self, chain: u32) -> u32 {
        self.chains.get(chain as usize).copied().unwrap_or(NONE)
    }
}
