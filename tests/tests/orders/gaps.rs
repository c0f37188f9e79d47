//! Orders and gaps in the feed: none while anything is missing, and again from the last message that fills the gap.
#![forbid(unsafe_code)]

use std::sync::Arc;

use barewire::feed::arbiter::Source;
use barewire::feed::book::Capacity;
use barewire::feed::itch::{AddOrder, Message, Timestamp};
use barewire::feed::moldudp64::Packet;
use barewire::fields::Alpha;
use barewire::market::compare::Points;
use barewire::trade::limits::Refusal;
use barewire::trade::strategy::{Direction, Intent};
use barewire::trade::trader::Trader;
use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::ixgbe::Config;
use barewire_netstack::Stack;
use barewire_tests::rig::{mac, pair};

/// A packet of one message, an order of so many shares.
fn packet(number: u64, side: &str, price: u32, shares: u32) -> Vec<u8> {
    let add = AddOrder {
        message_type: Alpha::new("A"),
        stock_locate: 1.into(),
        tracking_number: 0.into(),
        timestamp: Timestamp::new(number),
        order_reference_number: number.into(),
        buy_sell_indicator: Alpha::new(side),
        shares: shares.into(),
        stock: Alpha::new("WIRE"),
        price: price.into(),
    };
    let mut buffer = [0; 100];
    let mut packet = Packet::begin(&mut buffer, *b"BAREWIRE01", number).unwrap();
    assert!(packet.push(Message::AddOrder(&add).as_bytes()));
    let len = packet.finish();
    buffer[..len].to_vec()
}

#[test]
fn last_message_of_a_filled_gap_is_acted_on_and_those_before_are_not() {
    let clock = Clock::Simulated(SimulatedClock::default());
    let (near, _far) = pair(&clock, Config::default());
    let mut stack = Stack::new(near.queue, barewire_netstack::Config::new(mac(1), [10, 0, 0, 1].into(), 24, 1));
    let mut trader = Trader::new(clock, Capacity { orders: 64 }, Arc::new(Points::new().unwrap()));
    let cx = stack.context(1);
    // Even sides, then one that is heavy: the strategy wants to buy. Message 2 comes last.
    trader.on_packet(cx, 1, Source::A, &packet(1, "B", 99_0000, 100));
    trader.on_packet(cx, 2, Source::A, &packet(3, "B", 99_0000, 900));
    assert_eq!(trader.stale_since(), Some(2));
    let wanted = Intent { side: Direction::Buy, stock: 1, price: 99_0000, shares: 1, rests: true };
    assert_eq!(trader.submit(cx, &wanted), Err(Refusal::StaleBook));
    trader.on_packet(cx, 3, Source::B, &packet(2, "S", 99_5000, 100));
    let tally = trader.orders().tally;
    let refused: Vec<_> = tally.refused.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!((trader.stale_since(), tally.decided), (None, 2));
    // There is no session that it could leave by, and no other reason for it to stay.
    assert_eq!(refused, [(Refusal::StaleBook, 1), (Refusal::NoSession, 1)]);
}
