//! What the exchange says to clients: OUCH outbound messages.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::accounts::Owner;
use super::{Exchange, OPENING, Outlet};
use crate::fields::Alpha;
use crate::order::gateway::AccountId;
use crate::order::ouch::{self, Appendage, Outbound};

/// An execution, as one side of it is told.
pub(super) struct Fill {
    pub(super) shares: u32,
    pub(super) price: u32,
    /// A added, R removed, O opening, C closing, H halt cross.
    pub(super) liquidity: &'static str,
    pub(super) number: u64,
}

impl Exchange {
    pub(super) fn tell(account: AccountId, message: &Outbound<'_>, out: &mut impl Outlet) {
        let mut bytes = Vec::with_capacity(80);
        message.write(&mut bytes);
        out.client(account, &bytes);
    }

    pub(super) fn fill(&mut self, now: Nanos, owner: Owner, fill: &Fill, out: &mut impl Outlet) {
        self.stats.fills += 1;
        self.take_open(owner, fill.shares, true);
        let message = ouch::OrderExecuted {
            message_type: Alpha::new("E"),
            timestamp: (OPENING + now).into(),
            user_ref_num: owner.user_ref.into(),
            quantity: fill.shares.into(),
            price: u64::from(fill.price).into(),
            liquidity_flag: Alpha::new(fill.liquidity),
            match_number: fill.number.into(),
        };
        Self::tell(owner.account, &Outbound::OrderExecuted(&message, Appendage::default()), out);
    }

    /// Tells of an order accepted; `state` is L live or D dead.
    pub(super) fn accepted(
        now: Nanos,
        account: AccountId,
        reference: u64,
        order: &ouch::EnterOrder,
        out: &mut impl Outlet,
    ) {
        let message = ouch::OrderAccepted {
            message_type: Alpha::new("A"),
            timestamp: (OPENING + now).into(),
            user_ref_num: order.user_ref_num,
            side: order.side,
            quantity: order.quantity,
            symbol: order.symbol,
            price: order.price,
            time_in_force: order.time_in_force,
            display: order.display,
            order_reference_number: reference.into(),
            capacity: order.capacity,
            inter_market_sweep_eligibility: order.inter_market_sweep_eligibility,
            cross_type: order.cross_type,
            order_state: Alpha::new("L"),
            cl_ord_id: order.cl_ord_id,
        };
        Self::tell(account, &Outbound::OrderAccepted(&message, Appendage::default()), out);
    }

    pub(super) fn rejected(
        &mut self,
        now: Nanos,
        owner: Owner,
        reason: u16,
        cl_ord_id: Alpha<14>,
        out: &mut impl Outlet,
    ) {
        self.stats.rejected += 1;
        let message = ouch::Rejected {
            message_type: Alpha::new("J"),
            timestamp: (OPENING + now).into(),
            user_ref_num: owner.user_ref.into(),
            reason: reason.into(),
            cl_ord_id,
        };
        Self::tell(owner.account, &Outbound::Rejected(&message, Appendage::default()), out);
    }

    /// Tells of shares that are taken away: U by the user, I immediate or cancel, H halted, T time-out, Z by the system.
    pub(super) fn canceled(&mut self, now: Nanos, owner: Owner, shares: u32, reason: &str, out: &mut impl Outlet) {
        self.stats.cancelled += 1;
        let message = ouch::OrderCanceled {
            message_type: Alpha::new("C"),
            timestamp: (OPENING + now).into(),
            user_ref_num: owner.user_ref.into(),
            quantity: shares.into(),
            reason: Alpha::new(reason),
        };
        Self::tell(owner.account, &Outbound::OrderCanceled(&message, Appendage::default()), out);
    }

    /// A match with oneself is prevented: both orders lose what would have been executed.
    pub(super) fn prevented(&mut self, now: Nanos, owner: Owner, fill: &Fill, out: &mut impl Outlet) {
        self.take_open(owner, fill.shares, false);
        let message = ouch::AiqCanceled {
            message_type: Alpha::new("D"),
            timestamp: (OPENING + now).into(),
            user_ref_num: owner.user_ref.into(),
            decrement_shares: fill.shares.into(),
            reason: Alpha::new("Q"),
            quantity_prevented_from_trading: fill.shares.into(),
            execution_price: u64::from(fill.price).into(),
            liquidity_flag: Alpha::new(fill.liquidity),
            aiq_strategy: Alpha::new("D"),
        };
        Self::tell(owner.account, &Outbound::AiqCanceled(&message, Appendage::default()), out);
    }

    pub(super) fn cancel_rejected(now: Nanos, owner: Owner, out: &mut impl Outlet) {
        let message = ouch::CancelReject {
            message_type: Alpha::new("I"),
            timestamp: (OPENING + now).into(),
            user_ref_num: owner.user_ref.into(),
        };
        Self::tell(owner.account, &Outbound::CancelReject(&message, Appendage::default()), out);
    }
}
