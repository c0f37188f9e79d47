//! The clients' side: OUCH in, and what the book makes of it.
//!
//! Numbers rise: a message that would take a number that is not above the last is passed over, so that sending one again is harmless (OUCH 5.0,
//! section 1, "UserRefNum"). A number is used up whether the order is accepted or rejected.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::accounts::{ClientOrder, Owner};
use super::book::{Taker, TradingState};
use super::cross::CrossType;
use super::{Exchange, OPENING, Outlet, TICK};
use crate::digest::Side;
use crate::fields::Alpha;
use crate::order::gateway::AccountId;
use crate::order::ouch::{self, Appendage, Inbound, Outbound, TagValue, reject};

/// The largest order that is accepted, shares (OUCH 5.0, section 2.1).
const MAX_SHARES: u32 = 999_999;
/// The highest limit, 199,999.99 dollars (OUCH 5.0, section 1).
pub(super) const MAX_PRICE: u32 = 1_999_999_900;
/// The price of an order for a cross at any price.
const MARKET_PRICE: u64 = 0x7FFF_FFFF;
/// Live orders of one client.
const MAX_LIVE: usize = 1_000;

const IMMEDIATE_OR_CANCEL: Alpha<1> = Alpha(*b"3");

/// What an order asks for, checked.
struct Terms {
    price: u32,
    quantity: u32,
}

impl Exchange {
    /// Takes an OUCH message from a client.
    pub fn client(&mut self, now: Nanos, account: AccountId, message: &[u8], out: &mut impl Outlet) {
        match Inbound::parse(message) {
            Ok(Inbound::EnterOrder(order, options)) => self.enter(now, account, order, options, out),
            Ok(Inbound::ReplaceOrderRequest(order, options)) => {
                self.replace_order(now, account, order, options, out);
            }
            Ok(Inbound::CancelOrderRequest(cancel, _)) => {
                let owner = Owner { account, user_ref: cancel.user_ref_num.get() };
                self.cancel(now, owner, cancel.quantity.get(), out);
            }
            Ok(Inbound::ModifyOrderRequest(modify, _)) => self.modify(now, account, modify, out),
            Ok(Inbound::MassCancelRequest(request, options)) => self.mass_cancel(now, account, request, options, out),
            Ok(Inbound::DisableOrderEntryRequest(request, _)) => {
                if self.is_new(account, request.user_ref_num.get()) {
                    self.account_mut(account).is_enabled = false;
                    let message = ouch::DisableOrderEntryResponse {
                        message_type: Alpha::new("G"),
                        timestamp: (OPENING + now).into(),
                        user_ref_num: request.user_ref_num,
                        firm: request.firm,
                    };
                    Self::tell(account, &Outbound::DisableOrderEntryResponse(&message, Appendage::default()), out);
                }
            }
            Ok(Inbound::EnableOrderEntryRequest(request, _)) => {
                if self.is_new(account, request.user_ref_num.get()) {
                    self.account_mut(account).is_enabled = true;
                    let message = ouch::EnableOrderEntryResponse {
                        message_type: Alpha::new("K"),
                        timestamp: (OPENING + now).into(),
                        user_ref_num: request.user_ref_num,
                        firm: request.firm,
                    };
                    Self::tell(account, &Outbound::EnableOrderEntryResponse(&message, Appendage::default()), out);
                }
            }
            Ok(Inbound::AccountQueryRequest(..)) => {
                let message = ouch::AccountQueryResponse {
                    message_type: Alpha::new("Q"),
                    timestamp: (OPENING + now).into(),
                    next_user_ref_num: self.account_mut(account).last_user_ref.saturating_add(1).into(),
                };
                Self::tell(account, &Outbound::AccountQueryResponse(&message, Appendage::default()), out);
            }
            Err(error) => {
                log::warn!("client message refused: {error}");
                self.stats.malformed += 1;
            }
        }
    }

    /// Uses a number up, if it is above the last.
    fn is_new(&mut self, account: AccountId, user_ref: u32) -> bool {
        let known = self.account_mut(account);
        let is_new = user_ref > known.last_user_ref;
        if is_new {
            known.last_user_ref = user_ref;
        } else {
            self.stats.ignored += 1;
        }
        is_new
    }

    fn enter(
        &mut self,
        now: Nanos,
        account: AccountId,
        order: &ouch::EnterOrder,
        options: Appendage<'_>,
        out: &mut impl Outlet,
    ) {
        let owner = Owner { account, user_ref: order.user_ref_num.get() };
        if !self.is_new(account, owner.user_ref) {
            return;
        }
        let (locate, side, terms, cross) = match self.admit(account, order, options) {
            Ok(admitted) => admitted,
            Err(reason) => return self.rejected(now, owner, reason, order.cl_ord_id, out),
        };
        self.stats.accepted += 1;
        let reference = self.new_reference();
        Self::accepted(now, account, reference, order, out);
        let Terms { price, quantity } = terms;
        let live = ClientOrder { reference, locate, marking: order.side, price, open: quantity, executed: 0, cross };
        self.account_mut(account).orders.insert(owner.user_ref, live);
        if cross.is_none() {
            let taker = Taker { reference, side, price, shares: quantity, owner: Some(owner) };
            self.work(now, locate, taker, order.time_in_force, out);
        }
    }

    /// Matches a client's order; what is left rests, or is cancelled.
    fn work(&mut self, now: Nanos, locate: u16, taker: Taker, time_in_force: Alpha<1>, out: &mut impl Outlet) {
        let left = self.take(now, locate, &taker, out);
        let Some(owner) = taker.owner.filter(|_| left > 0) else { return };
        // A match that stopped short of its price leaves an order that would cross the book.
        if time_in_force == IMMEDIATE_OR_CANCEL || self.crosses(locate, taker.side, taker.price) {
            self.take_open(owner, left, false);
            self.canceled(now, owner, left, "I", out);
        } else {
            self.rest(now, locate, Taker { shares: left, ..taker }, out);
        }
    }

    /// What the exchange asks of an order: its stock, side, terms and cross, or why it is rejected.
    fn admit(
        &self,
        account: AccountId,
        order: &ouch::EnterOrder,
        options: Appendage<'_>,
    ) -> Result<(u16, Side, Terms, Option<CrossType>), u16> {
        if !self.serves_clients() {
            return Err(reject::CLOSED);
        }
        let known = self.account(account).ok_or(reject::NOT_AUTHORIZED)?;
        if !known.is_enabled {
            return Err(reject::NOT_AUTHORIZED);
        }
        if known.orders.len() >= MAX_LIVE || !options.options().all(|option| is_offered(&option)) {
            return Err(reject::OTHER);
        }
        let locate = *self.symbols.get(&order.symbol).ok_or(reject::INVALID_SYMBOL)?;
        let side = match &order.side.0 {
            b"B" => Side::Buy,
            b"S" | b"T" | b"E" => Side::Sell,
            _ => return Err(reject::INVALID_SIDE),
        };
        let cross = CrossType::parse(order.cross_type).ok_or(reject::INVALID_CROSS)?;
        let state = self.stock(locate).ok_or(reject::INVALID_SYMBOL)?.state;
        match (cross, state) {
            (None, TradingState::Trading)
            | (Some(CrossType::Opening), TradingState::PreOpen)
            | (Some(CrossType::Halt), TradingState::Halted)
            | (Some(CrossType::Closing), _) => {}
            (None, _) => return Err(reject::HALTED),
            (Some(_), _) => return Err(reject::INVALID_CROSS),
        }
        let terms = terms(side, order.quantity.get(), order.price.get(), cross.is_some())?;
        if !matches!(&order.time_in_force.0, b"0" | b"3" | b"5" | b"E") {
            return Err(reject::OTHER);
        }
        Ok((locate, side, terms, cross))
    }

    fn replace_order(
        &mut self,
        now: Nanos,
        account: AccountId,
        request: &ouch::ReplaceOrderRequest,
        options: Appendage<'_>,
        out: &mut impl Outlet,
    ) {
        let owner = Owner { account, user_ref: request.user_ref_num.get() };
        let old_owner = Owner { account, user_ref: request.orig_user_ref_num.get() };
        if !self.is_new(account, owner.user_ref) {
            return;
        }
        let old = match self.admit_replacement(account, old_owner.user_ref, request, options) {
            Ok(old) => old,
            Err(reason) => return self.rejected(now, owner, reason, request.cl_ord_id, out),
        };
        let (old, Terms { price, quantity }) = old;
        self.stats.accepted += 1;
        let (locate, side) = (old.locate, old.side());
        // The quantity counts what was executed before (OUCH 5.0, section 2.2).
        let open = quantity.saturating_sub(old.executed);
        let reference = self.new_reference();
        self.account_mut(account).orders.remove(&old_owner.user_ref);
        let message = ouch::OrderReplaced {
            message_type: Alpha::new("U"),
            timestamp: (OPENING + now).into(),
            orig_user_ref_num: request.orig_user_ref_num,
            user_ref_num: request.user_ref_num,
            side: old.marking,
            quantity: open.into(),
            symbol: self.symbol(locate),
            price: request.price,
            time_in_force: request.time_in_force,
            display: request.display,
            order_reference_number: reference.into(),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: request.inter_market_sweep_eligibility,
            cross_type: Alpha::new(old.cross.map_or("N", CrossType::letter)),
            order_state: Alpha::new(if open > 0 { "L" } else { "D" }),
            cl_ord_id: request.cl_ord_id,
        };
        Self::tell(account, &Outbound::OrderReplaced(&message, Appendage::default()), out);
        if open > 0 {
            let new = ClientOrder { reference, price, open, ..old };
            self.account_mut(account).orders.insert(owner.user_ref, new);
        }
        if old.cross.is_some() {
            return;
        }
        let taker = Taker { reference, side, price, shares: open, owner: Some(owner) };
        let is_passive = request.time_in_force != IMMEDIATE_OR_CANCEL && !self.crosses(locate, side, price);
        if open > 0 && is_passive {
            return self.exchange(now, old.reference, &taker, out);
        }
        self.delete(now, old.reference, out);
        if open > 0 {
            self.work(now, locate, taker, request.time_in_force, out);
        }
    }

    fn admit_replacement(
        &self,
        account: AccountId,
        old: u32,
        request: &ouch::ReplaceOrderRequest,
        options: Appendage<'_>,
    ) -> Result<(ClientOrder, Terms), u16> {
        if !self.serves_clients() {
            return Err(reject::CLOSED);
        }
        let known = self.account(account).ok_or(reject::NOT_AUTHORIZED)?;
        if !known.is_enabled {
            return Err(reject::NOT_AUTHORIZED);
        }
        let old = *known.orders.get(&old).ok_or(reject::REPLACE_NOT_ALLOWED)?;
        let is_offered = matches!(&request.time_in_force.0, b"0" | b"3" | b"5")
            && options.options().all(|option| is_offered(&option));
        if !is_offered {
            return Err(reject::OTHER);
        }
        let terms = terms(old.side(), request.quantity.get(), request.price.get(), old.cross.is_some())?;
        Ok((old, terms))
    }

    /// Reduces an order to `total` shares, those included that were executed before (OUCH 5.0, section 2.3).
    fn cancel(&mut self, now: Nanos, owner: Owner, total: u32, out: &mut impl Outlet) {
        let known = self.account(owner.account).and_then(|account| account.orders.get(&owner.user_ref)).copied();
        let Some(order) = known else {
            // A cancel that comes too late, or twice.
            self.stats.ignored += 1;
            return;
        };
        if !self.serves_clients() {
            return Self::cancel_rejected(now, owner, out);
        }
        let goes = order.open.saturating_sub(total.saturating_sub(order.executed));
        if goes == 0 {
            self.stats.ignored += 1;
            return;
        }
        self.decrease(now, owner, &order, goes, out);
        self.canceled(now, owner, goes, "U", out);
    }

    /// Takes shares out of an order, in the table and in the book.
    fn decrease(&mut self, now: Nanos, owner: Owner, order: &ClientOrder, goes: u32, out: &mut impl Outlet) {
        self.take_open(owner, goes, false);
        if order.cross.is_none() {
            self.reduce(now, order.reference, goes, out);
        }
    }

    /// Marks a sale otherwise, and takes shares away.
    fn modify(&mut self, now: Nanos, account: AccountId, request: &ouch::ModifyOrderRequest, out: &mut impl Outlet) {
        let owner = Owner { account, user_ref: request.user_ref_num.get() };
        let order = self.account(account).and_then(|account| account.orders.get(&owner.user_ref)).copied();
        let (side, quantity) = (request.side, request.quantity.get());
        let allowed = order.filter(|order| {
            let stays = side == order.marking || order.side() == Side::Sell && matches!(&side.0, b"S" | b"T" | b"E");
            self.serves_clients() && stays && quantity > order.executed && quantity - order.executed <= order.open
        });
        let Some(order) = allowed else {
            self.stats.ignored += 1;
            return;
        };
        let goes = order.open - (quantity - order.executed);
        if goes > 0 {
            self.decrease(now, owner, &order, goes, out);
        }
        if let Some(order) = self.account_mut(account).orders.get_mut(&owner.user_ref) {
            order.marking = side;
        }
        let message = ouch::OrderModified {
            message_type: Alpha::new("M"),
            timestamp: (OPENING + now).into(),
            user_ref_num: request.user_ref_num,
            side,
            quantity: request.quantity,
        };
        Self::tell(account, &Outbound::OrderModified(&message, Appendage::default()), out);
    }

    /// Cancels all orders of a client, or those in one symbol or of one side. No order here belongs to a group.
    fn mass_cancel(
        &mut self,
        now: Nanos,
        account: AccountId,
        request: &ouch::MassCancelRequest,
        options: Appendage<'_>,
        out: &mut impl Outlet,
    ) {
        if !self.is_new(account, request.user_ref_num.get()) {
            return;
        }
        let locate = self.symbols.get(&request.symbol).copied();
        let side =
            options.options().find_map(|option| if let TagValue::Side(side) = option { Some(side) } else { None });
        let by_group = options.options().any(|option| matches!(option, TagValue::GroupId(_)));
        if self.serves_clients() && !by_group {
            let any_symbol = request.symbol == Alpha::new("");
            self.cancel_where(now, Some(account), "U", out, |order| {
                (any_symbol || locate == Some(order.locate)) && side.is_none_or(|side| side == order.marking)
            });
        }
        let message = ouch::MassCancelResponse {
            message_type: Alpha::new("X"),
            timestamp: (OPENING + now).into(),
            user_ref_num: request.user_ref_num,
            firm: request.firm,
            symbol: request.symbol,
        };
        // As asked: the options come back.
        Self::tell(account, &Outbound::MassCancelResponse(&message, options), out);
    }
}

/// Options that change nothing about how an order is executed. An order with another is rejected: executing it without would not be
/// what was asked for.
fn is_offered(option: &TagValue<'_>) -> bool {
    match option {
        TagValue::Firm(_) | TagValue::CustomerType(_) | TagValue::SharesLocated(_) | TagValue::LocateBroker(_) => true,
        TagValue::PriceType(kind) => *kind == Alpha(*b"L"),
        TagValue::PostOnly(post_only) => *post_only == Alpha(*b"N"),
        _ => false,
    }
}

/// Checks quantity and price; an order for a cross may be at any price.
fn terms(side: Side, quantity: u32, price: u64, is_cross: bool) -> Result<Terms, u16> {
    if !(1..=MAX_SHARES).contains(&quantity) {
        return Err(reject::INVALID_QUANTITY);
    }
    if is_cross && price == MARKET_PRICE {
        return Ok(Terms { price: if side == Side::Buy { u32::MAX } else { 0 }, quantity });
    }
    let price = u32::try_from(price).map_err(|_| reject::INVALID_PRICE)?;
    if price == 0 || price > MAX_PRICE || !price.is_multiple_of(TICK) {
        return Err(reject::INVALID_PRICE);
    }
    Ok(Terms { price, quantity })
}
