//! The exchange's day: directory, opening crosses, trading with its halts, closing crosses.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use zerocopy::IntoBytes;

use super::accounts::{ClientOrder, Owner};
use super::book::TradingState;
use super::cross::CrossType;
use super::{Exchange, LONGEST_EVENT, Outlet, directory, stamp, trading_action};
use crate::feed::itch;
use crate::fields::Alpha;
use crate::order::gateway::AccountId;

/// How far the day is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// One stock after the other has its opening cross.
    Opening { next: u16 },
    /// Clients are served.
    Open,
    /// Clients are not served any more; one stock after the other has its closing cross.
    Closing { next: u16 },
    /// The participants go on among themselves.
    Closed,
}

impl Exchange {
    /// The beginning of the day: system events and the directory of stocks. The opening crosses follow, one a [step](Exchange::step).
    pub fn start(&mut self, now: Nanos, out: &mut impl Outlet) {
        self.system_event(now, "O", out);
        for locate in 1..=self.stocks.len() as u16 {
            let directory = directory(now, locate, self.symbol(locate));
            self.publish(directory.as_bytes(), out);
        }
        self.system_event(now, "S", out);
    }

    fn system_event(&mut self, now: Nanos, code: &str, out: &mut impl Outlet) {
        let event = itch::SystemEvent {
            message_type: Alpha::new("S"),
            stock_locate: 0.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            event_code: Alpha::new(code),
        };
        self.publish(event.as_bytes(), out);
    }

    /// Whether every stock has opened and clients are served.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether a stock is halted.
    pub fn is_halted(&self, locate: u16) -> bool {
        self.stock(locate).is_some_and(|stock| stock.state == TradingState::Halted)
    }

    /// Serves clients no more; the closing crosses follow, one a [step](Exchange::step).
    pub fn close(&mut self) {
        if matches!(self.phase, Phase::Opening { .. } | Phase::Open) {
            self.phase = Phase::Closing { next: 1 };
        }
    }

    /// Messages that should be left in the feed when it is told to close.
    pub fn closing_messages(&self) -> u64 {
        LONGEST_EVENT + self.stocks.len() as u64 + 1
    }

    /// Whether clients' orders and cancels are taken.
    pub(super) fn serves_clients(&self) -> bool {
        matches!(self.phase, Phase::Opening { .. } | Phase::Open)
    }

    /// The next cross of the opening or the closing, and what stands behind the last one; `false` when it is the time of neither.
    pub(super) fn cross_next(&mut self, now: Nanos, out: &mut impl Outlet) -> bool {
        let last = self.stocks.len() as u16;
        match self.phase {
            Phase::Opening { next } if next <= last => {
                self.phase = Phase::Opening { next: next + 1 };
                self.cross(now, next, CrossType::Opening, out);
                self.stock_mut(next).state = TradingState::Trading;
            }
            Phase::Opening { .. } => {
                self.phase = Phase::Open;
                self.system_event(now, "Q", out);
            }
            Phase::Closing { next } if next <= last => {
                self.phase = Phase::Closing { next: next + 1 };
                self.cross(now, next, CrossType::Closing, out);
            }
            Phase::Closing { .. } => {
                self.phase = Phase::Closed;
                self.system_event(now, "M", out);
            }
            Phase::Open | Phase::Closed => return false,
        }
        true
    }

    /// Halts a stock: clients' orders in it are cancelled, but for those that wait for a cross, and no others are taken.
    pub fn halt(&mut self, now: Nanos, locate: u16, out: &mut impl Outlet) {
        if self.stock(locate).is_none_or(|stock| stock.state != TradingState::Trading) {
            return;
        }
        self.stats.halts += 1;
        self.stock_mut(locate).state = TradingState::Halted;
        self.trading_action(now, locate, "H", "T1", out);
        if self.serves_clients() {
            self.cancel_where(now, None, "H", out, |order| order.locate == locate && order.cross.is_none());
        }
    }

    /// Resumes a halted stock with a cross.
    pub fn resume(&mut self, now: Nanos, locate: u16, out: &mut impl Outlet) {
        if self.stock(locate).is_some_and(|stock| stock.state == TradingState::Halted) {
            self.cross(now, locate, CrossType::Halt, out);
            self.resume_without_cross(now, locate, out);
        }
    }

    /// Resumes a halted stock by one message.
    pub(super) fn resume_without_cross(&mut self, now: Nanos, locate: u16, out: &mut impl Outlet) {
        self.stock_mut(locate).state = TradingState::Trading;
        self.trading_action(now, locate, "T", "", out);
    }

    fn trading_action(&mut self, now: Nanos, locate: u16, state: &str, reason: &str, out: &mut impl Outlet) {
        let action = trading_action(now, locate, self.symbol(locate), state, reason);
        self.publish(action.as_bytes(), out);
    }

    /// A client's connection is gone: its orders are cancelled, unless the market serves clients no more.
    pub fn disconnected(&mut self, now: Nanos, account: AccountId, out: &mut impl Outlet) {
        if self.serves_clients() {
            self.cancel_where(now, Some(account), "Z", out, |_| true);
        }
    }

    /// Cancels the live orders that `which` picks, of one client or of all.
    pub(super) fn cancel_where(
        &mut self,
        now: Nanos,
        account: Option<AccountId>,
        reason: &str,
        out: &mut impl Outlet,
        which: impl Fn(&ClientOrder) -> bool,
    ) {
        let all =
            (0..).map(AccountId).zip(&self.accounts).filter(|(id, _)| account.is_none_or(|account| account == *id));
        let orders = all.flat_map(|(account, known)| known.orders.iter().map(move |order| (account, order)));
        let picked: Vec<_> = orders
            .filter(|(_, (_, order))| which(order))
            .map(|(account, (user_ref, _))| Owner { account, user_ref: *user_ref })
            .collect();
        for owner in picked {
            if let Some(shares) = self.withdraw(now, owner, out) {
                self.canceled(now, owner, shares, reason, out);
            }
        }
    }
}
