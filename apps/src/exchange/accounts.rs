//! What the exchange knows of each client.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use barewire_driver::clock::Nanos;

use super::cross::CrossType;
use super::{Exchange, Outlet};
use crate::digest::Side;
use crate::fields::Alpha;
use crate::order::gateway::AccountId;

/// Whose an order is, and by which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) account: AccountId,
    pub(super) user_ref: u32,
}

/// A client's order that is live: in the book, or waiting for a cross.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientOrder {
    pub(super) reference: u64,
    pub(super) locate: u16,
    /// As marked by the client: B, S, T or E.
    pub(super) marking: Alpha<1>,
    pub(super) price: u32,
    /// Shares that can still be executed.
    pub(super) open: u32,
    /// Shares that have been, under this number and those it has replaced.
    pub(super) executed: u32,
    /// The cross it waits for.
    pub(super) cross: Option<CrossType>,
}

impl ClientOrder {
    pub(super) fn side(&self) -> Side {
        if self.marking == Alpha(*b"B") { Side::Buy } else { Side::Sell }
    }
}

/// A client.
#[derive(Debug)]
pub(super) struct Account {
    /// The highest order number that was processed (OUCH 5.0, "UserRefNum").
    pub(super) last_user_ref: u32,
    /// Whether orders may be entered.
    pub(super) is_enabled: bool,
    /// The live orders by their numbers.
    pub(super) orders: BTreeMap<u32, ClientOrder>,
    /// Shares held by stock; negative when owed.
    pub(super) positions: BTreeMap<u16, i64>,
}

impl Default for Account {
    fn default() -> Self {
        Self { last_user_ref: 0, is_enabled: true, orders: BTreeMap::new(), positions: BTreeMap::new() }
    }
}

impl Exchange {
    /// Shares of a stock that a client holds; negative when owed.
    pub fn position(&self, account: AccountId, locate: u16) -> i64 {
        self.account(account).and_then(|account| account.positions.get(&locate)).copied().unwrap_or(0)
    }

    /// A client's live orders: number, stock, side, price and shares.
    pub fn live_orders(&self, account: AccountId) -> impl Iterator<Item = (u32, u16, Side, u32, u32)> {
        let orders = self.account(account).map(|account| account.orders.iter());
        orders
            .into_iter()
            .flatten()
            .map(|(user_ref, order)| (*user_ref, order.locate, order.side(), order.price, order.open))
    }

    pub(super) fn account(&self, account: AccountId) -> Option<&Account> {
        self.accounts.get(usize::from(account.0))
    }

    /// Accounts come from the gateway, which has as many as the exchange.
    pub(super) fn account_mut(&mut self, account: AccountId) -> &mut Account {
        &mut self.accounts[usize::from(account.0)]
    }

    /// Takes `shares` out of a client's order, which leaves the table with the last of them; an execution moves the position.
    pub(super) fn take_open(&mut self, owner: Owner, shares: u32, is_execution: bool) {
        let account = self.account_mut(owner.account);
        let Some(order) = account.orders.get_mut(&owner.user_ref) else { return };
        order.open -= shares;
        let ClientOrder { locate, open, .. } = *order;
        let sign = if order.side() == Side::Buy { 1 } else { -1 };
        if is_execution {
            order.executed += shares;
            *account.positions.entry(locate).or_default() += sign * i64::from(shares);
        }
        if open == 0 {
            account.orders.remove(&owner.user_ref);
        }
    }

    /// A client's order leaves the book, or the cross it waits for. Returns the shares it had.
    pub(super) fn withdraw(&mut self, now: Nanos, owner: Owner, out: &mut impl Outlet) -> Option<u32> {
        let order = self.account_mut(owner.account).orders.remove(&owner.user_ref)?;
        if order.cross.is_none() {
            self.delete(now, order.reference, out);
        }
        Some(order.open)
    }
}
