//! Whether an order may leave: the kill switch, the limits, and the count of what is open.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::kill::KillSwitch;
use super::limits::{Limits, Refusal, Situation, TokenBucket};
use super::orders::Orders;
use super::strategy::{Intent, Top};
use crate::fields::Alpha;

/// What is known of the feed and of a stock when an order in it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Market {
    /// When.
    pub now: Nanos,
    /// The stock's best prices.
    pub top: Top,
    /// When something was last heard of the feed.
    pub heard: Nanos,
    /// Whether something of the feed is missing.
    pub is_stale: bool,
    /// Whether the stock is halted.
    pub is_halted: bool,
}

/// All that every order is held against.
#[derive(Default)]
pub struct Risk {
    /// The orders that left.
    pub orders: Orders,
    limits: Limits,
    bucket: TokenBucket,
    kill: KillSwitch,
    /// Whether what follows a press of the kill switch is done.
    is_kill_served: bool,
}

impl Risk {
    /// Holds orders against `limits` from here on.
    pub fn set_limits(&mut self, limits: Limits) {
        (self.limits, self.bucket) = (limits, TokenBucket::new(&limits));
    }

    /// Stops when `kill` is pressed.
    pub fn set_kill_switch(&mut self, kill: KillSwitch) {
        self.kill = kill;
    }

    /// Passes the order at the moment of its release, or says what it broke; the number under which it may leave. The stock is known to the
    /// exchange by `symbol`.
    #[inline]
    pub fn admit(&mut self, intent: &Intent, symbol: Alpha<8>, market: &Market) -> Result<u32, Refusal> {
        if self.orders.is_unplaced() {
            self.orders.place(symbol, intent.stock);
        }
        if self.kill.is_pressed() {
            return Err(Refusal::Killed);
        }
        let &Market { now, ref top, heard, is_stale, is_halted } = market;
        let (exposure, open_orders) = (self.orders.exposure(intent.stock), self.orders.open_count());
        let at = Situation { now, top, exposure: &exposure, open_orders, heard, is_stale, is_halted };
        self.limits.check(intent, &at)?;
        if !self.bucket.has_token(now) {
            return Err(Refusal::Rate);
        }
        if self.orders.meets_own(intent) {
            return Err(Refusal::SelfMatch);
        }
        self.orders.next_number().ok_or(Refusal::OpenOrders)
    }

    /// The order that was admitted at `now` has left under `number`.
    #[inline]
    pub fn released(&mut self, now: Nanos, number: u32, intent: &Intent) {
        self.bucket.take(now);
        self.orders.sent(number, intent);
    }

    /// Whether orders are stopped.
    pub fn is_killed(&self) -> bool {
        self.kill.is_pressed()
    }

    /// Whether the kill switch was pressed or reset since [`Risk::serve_kill`].
    #[inline]
    pub fn is_kill_due(&self) -> bool {
        self.is_kill_served != self.kill.is_pressed()
    }

    /// After a press: the number under which all open orders are to be cancelled, if any are. `None` as well when nothing has changed.
    pub fn serve_kill(&mut self) -> Option<u32> {
        if !self.is_kill_due() {
            return None;
        }
        self.is_kill_served = !self.is_kill_served;
        if !self.is_kill_served {
            log::warn!("kill switch reset: orders may leave again");
            return None;
        }
        let open = self.orders.open_count();
        log::warn!("kill switch pressed: no order leaves any more; {open} are open");
        (open > 0).then(|| self.orders.take_number()).flatten()
    }
}
