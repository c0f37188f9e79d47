//! The exchange, by what it says on its feed and to its clients.
#![forbid(unsafe_code)]

use zerocopy::IntoBytes;

use super::*;
use crate::feed::book::{Books, Capacity, Faults};
use crate::feed::itch::Message;
use crate::order::ouch::{self, Appendage, Inbound, Outbound, TagValue, reject};

const STOCKS: u16 = 5;
const FIRST: AccountId = AccountId(0);
const SECOND: AccountId = AccountId(1);

#[derive(Default)]
struct Said {
    feed: Vec<Vec<u8>>,
    client: Vec<(AccountId, Vec<u8>)>,
}

impl Said {
    /// The letters of what was said: to the first client, to the second, on the feed.
    fn kinds(&self) -> [String; 3] {
        let letters =
            |messages: &mut dyn Iterator<Item = &Vec<u8>>| messages.map(|message| char::from(message[0])).collect();
        let client = |wanted: AccountId| {
            letters(&mut self.client.iter().filter(|(to, _)| *to == wanted).map(|(_, message)| message))
        };
        [client(FIRST), client(SECOND), letters(&mut self.feed.iter())]
    }
}

impl Outlet for Said {
    fn feed(&mut self, message: &[u8]) {
        self.feed.push(message.to_vec());
    }

    fn client(&mut self, account: AccountId, message: &[u8]) {
        Outbound::parse(message).unwrap();
        self.client.push((account, message.to_vec()));
    }
}

/// An exchange of a few stocks and two clients, at the beginning of its day.
fn started(seed: u64) -> (Exchange, Said) {
    let (mut exchange, mut said) = (Exchange::new(seed, STOCKS, 2), Said::default());
    exchange.start(0, &mut said);
    (exchange, said)
}

/// The same, open, and `steps` steps later.
fn run(seed: u64, steps: u64) -> (Exchange, Said) {
    let (mut exchange, mut said) = started(seed);
    while !exchange.is_open() {
        exchange.step(0, true, &mut said);
    }
    (0..steps).for_each(|step| exchange.step(step, false, &mut said));
    (exchange, said)
}

/// What `exchange` says to a client's message.
fn tell(exchange: &mut Exchange, account: AccountId, message: &[u8]) -> Said {
    let mut said = Said::default();
    exchange.client(0, account, message, &mut said);
    said
}

/// The letters of what it says.
fn kinds(exchange: &mut Exchange, account: AccountId, message: &[u8]) -> [String; 3] {
    tell(exchange, account, message).kinds()
}

fn strings(kinds: [&str; 3]) -> [String; 3] {
    kinds.map(str::to_owned)
}

/// An order, to be changed before it is written.
fn fields(number: u32, side: &str, symbol: Alpha<8>, shares: u32, price: u64, time_in_force: &str) -> ouch::EnterOrder {
    ouch::EnterOrder {
        message_type: Alpha::new("O"),
        user_ref_num: number.into(),
        side: Alpha::new(side),
        quantity: shares.into(),
        symbol,
        price: price.into(),
        time_in_force: Alpha::new(time_in_force),
        display: Alpha::new("Y"),
        capacity: Alpha::new("P"),
        inter_market_sweep_eligibility: Alpha::new("N"),
        cross_type: Alpha::new("N"),
        cl_ord_id: Alpha::new("test"),
    }
}

fn order(number: u32, side: &str, symbol: Alpha<8>, shares: u32, price: u64, time_in_force: &str) -> Vec<u8> {
    [fields(number, side, symbol, shares, price, time_in_force).as_bytes(), &[0, 0]].concat()
}

fn cross_order(number: u32, side: &str, symbol: Alpha<8>, shares: u32, price: u64, cross: &str) -> Vec<u8> {
    let order = ouch::EnterOrder { cross_type: Alpha::new(cross), ..fields(number, side, symbol, shares, price, "0") };
    [order.as_bytes(), &[0, 0]].concat()
}

fn cancel(number: u32, total: u32) -> Vec<u8> {
    [&b"X"[..], &number.to_be_bytes(), &total.to_be_bytes()].concat()
}

fn replace(old: u32, new: u32, shares: u32, price: u64) -> Vec<u8> {
    let request = ouch::ReplaceOrderRequest {
        message_type: Alpha::new("U"),
        orig_user_ref_num: old.into(),
        user_ref_num: new.into(),
        quantity: shares.into(),
        price: price.into(),
        time_in_force: Alpha::new("0"),
        display: Alpha::new("Y"),
        inter_market_sweep_eligibility: Alpha::new("N"),
        cl_ord_id: Alpha::new("test"),
    };
    [request.as_bytes(), &[0, 0]].concat()
}

fn mass_cancel(number: u32, symbol: Alpha<8>, side: Option<&str>) -> Vec<u8> {
    let request = ouch::MassCancelRequest {
        message_type: Alpha::new("C"),
        user_ref_num: number.into(),
        firm: Alpha::new(""),
        symbol,
    };
    let (mut options, mut bytes) = (Vec::new(), Vec::new());
    if let Some(side) = side {
        TagValue::Side(Alpha::new(side)).write(&mut options);
    }
    Inbound::MassCancelRequest(&request, Appendage::parse(&options).unwrap()).write(&mut bytes);
    bytes
}

#[test]
fn same_seed_says_the_same_and_another_does_not() {
    assert_eq!(run(3, 2_000).1.feed, run(3, 2_000).1.feed);
    assert_ne!(run(3, 2_000).1.feed, run(4, 2_000).1.feed);
}

#[test]
fn feed_builds_the_exchanges_own_book_at_every_message_and_a_lost_message_shows() {
    for seed in 0..5 {
        let (mut exchange, mut said) = (Exchange::new(seed, 4, 0), Said::default());
        let (mut books, mut lossy) = (Books::new(Capacity { orders: 4096 }), Books::new(Capacity { orders: 4096 }));
        exchange.start(0, &mut said);
        let mut dropped = false;
        for step in 0..3_000 {
            if step == 2_500 {
                exchange.close();
            }
            exchange.step(step, step % 5 == 0, &mut said);
            for bytes in said.feed.drain(..) {
                let message = Message::parse(&bytes).unwrap();
                books.apply(&message);
                // One order that the lossy book never hears of.
                if step >= 1_500 && !dropped && matches!(message, Message::AddOrder(_)) {
                    dropped = true;
                    assert_ne!(lossy.digest(), books.digest());
                } else {
                    lossy.apply(&message);
                }
            }
            assert_eq!(books.digest(), exchange.digest(), "seed {seed}, step {step}");
        }
        assert!(dropped);
        assert_eq!(books.faults(), Faults::default());
        assert!(books.digest().orders() > 50);
    }
}

#[test]
fn book_is_never_crossed_and_single_steps_say_one_thing() {
    let (mut exchange, _) = started(9);
    for step in 0..5_000 {
        if step == 4_000 {
            exchange.close();
        }
        let mut said = Said::default();
        exchange.step(step, true, &mut said);
        assert_eq!(said.feed.len(), 1);
        exchange.step(step, false, &mut said);
        assert!((said.feed.len() as u64) < LONGEST_EVENT);
        for stock in &exchange.stocks {
            let bid = stock.bids.last_key_value().map_or(0, |level| *level.0);
            let offer = stock.offers.first_key_value().map_or(u32::MAX, |level| *level.0);
            assert!(bid < offer, "{bid} {offer}");
        }
    }
}

#[test]
fn day_opens_and_closes_with_a_cross_of_every_stock() {
    let (mut exchange, said) = started(2);
    assert_eq!(said.kinds()[2], "SRRRRRS");
    let steps = |exchange: &mut Exchange, count: usize| {
        let mut said = Said::default();
        (0..count).for_each(|_| exchange.step(0, true, &mut said));
        said.kinds()[2].clone()
    };
    assert_eq!(steps(&mut exchange, 6), "QQQQQS");
    steps(&mut exchange, 200);
    exchange.close();
    assert_eq!(steps(&mut exchange, 6), "QQQQQS");
    assert_eq!((exchange.stats().crosses, exchange.is_open()), (10, false));
}

#[test]
fn client_order_takes_price_then_time_and_the_rest_is_cancelled() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    for (number, price) in [(1, 10_100), (2, 10_000), (3, 10_000)] {
        assert_eq!(kinds(&mut exchange, SECOND, &order(number, "S", symbol, 100, price, "0")), strings(["", "A", "A"]));
    }
    let said = tell(&mut exchange, FIRST, &order(4, "B", symbol, 250, 10_000, "3"));
    // Accepted; two fills of 100, and both sides are told; 50 cancelled, for 101.00 is too dear.
    assert_eq!(said.kinds(), strings(["AEEC", "EE", "EE"]));
    let user = |message: &[u8]| u32::from_be_bytes([message[9], message[10], message[11], message[12]]);
    let told: Vec<_> = said.client.iter().map(|(to, message)| (*to, user(message))).collect();
    assert_eq!(told, [(FIRST, 4), (SECOND, 2), (FIRST, 4), (SECOND, 3), (FIRST, 4), (FIRST, 4)]);
    let expected = Stats {
        accepted: 4,
        fills: 4,
        cancelled: 1,
        messages: exchange.stats().messages,
        crosses: 5,
        ..Stats::default()
    };
    assert_eq!(exchange.stats(), expected);
    assert_eq!((exchange.position(FIRST, 1), exchange.position(SECOND, 1)), (200, -200));
}

#[test]
fn resting_client_order_can_be_reduced_and_cancelled() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(2);
    tell(&mut exchange, FIRST, &order(1, "B", symbol, 100, 5_000, "0"));
    assert_eq!(kinds(&mut exchange, SECOND, &order(1, "S", symbol, 30, 5_000, "3")), strings(["E", "AE", "E"]));
    // 60 shares in all, of which 30 are gone: 40 of the 70 open ones go.
    let said = tell(&mut exchange, FIRST, &cancel(1, 60));
    assert_eq!(said.kinds(), strings(["C", "", "X"]));
    assert_eq!(exchange.live_orders(FIRST).collect::<Vec<_>>(), [(1, 2, Side::Buy, 5_000, 30)]);
    assert_eq!(kinds(&mut exchange, SECOND, &cancel(1, 0)), strings(["", "", ""]), "another client's order");
    assert_eq!(kinds(&mut exchange, FIRST, &cancel(1, 0)), strings(["C", "", "D"]));
    assert_eq!(kinds(&mut exchange, FIRST, &cancel(1, 0)), strings(["", "", ""]), "a cancel that comes twice");
    assert_eq!(exchange.stats().ignored, 2);
}

#[test]
fn replaced_order_keeps_what_was_executed_and_loses_its_place() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    tell(&mut exchange, FIRST, &order(1, "B", symbol, 100, 5_000, "0"));
    tell(&mut exchange, SECOND, &order(1, "S", symbol, 30, 5_000, "3"));
    assert_eq!(kinds(&mut exchange, FIRST, &replace(1, 2, 100, 5_100)), strings(["U", "", "U"]));
    assert_eq!(exchange.live_orders(FIRST).collect::<Vec<_>>(), [(2, 1, Side::Buy, 5_100, 70)]);
    tell(&mut exchange, SECOND, &order(2, "S", symbol, 50, 5_300, "0"));
    // At a price that meets another order it leaves the book and comes back as an incoming order does.
    assert_eq!(kinds(&mut exchange, FIRST, &replace(2, 3, 100, 5_300)), strings(["UE", "E", "DEA"]));
    assert_eq!(exchange.live_orders(FIRST).collect::<Vec<_>>(), [(3, 1, Side::Buy, 5_300, 20)]);
    // Everything executed already: the order is over.
    assert_eq!(kinds(&mut exchange, FIRST, &replace(3, 4, 80, 5_300)), strings(["U", "", "D"]));
    assert_eq!(kinds(&mut exchange, FIRST, &replace(3, 5, 80, 5_300)), strings(["J", "", ""]));
    assert_eq!((exchange.live_orders(FIRST).count(), exchange.position(FIRST, 1)), (0, 80));
}

#[test]
fn modify_marks_sales_otherwise_and_only_takes_shares_away() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    tell(&mut exchange, FIRST, &order(1, "S", symbol, 100, 5_000, "0"));
    let modify = |side: &[u8], shares: u32| [&b"M"[..], &1u32.to_be_bytes(), side, &shares.to_be_bytes()].concat();
    assert_eq!(kinds(&mut exchange, FIRST, &modify(b"T", 100)), strings(["M", "", ""]));
    assert_eq!(kinds(&mut exchange, FIRST, &modify(b"T", 40)), strings(["M", "", "X"]));
    for wrong in [modify(b"B", 40), modify(b"T", 41), modify(b"T", 0)] {
        assert_eq!(kinds(&mut exchange, FIRST, &wrong), strings(["", "", ""]));
    }
    assert_eq!(exchange.live_orders(FIRST).collect::<Vec<_>>(), [(1, 1, Side::Sell, 5_000, 40)]);
}

#[test]
fn mass_cancel_takes_symbol_and_side_and_answers_last() {
    let (mut exchange, _) = run(1, 0);
    let [one, two] = [exchange.symbol(1), exchange.symbol(2)];
    for (number, side, symbol, price) in
        [(1, "B", one, 5_000), (2, "S", one, 6_000), (3, "B", two, 5_000), (4, "B", two, 5_000)]
    {
        tell(&mut exchange, FIRST, &order(number, side, symbol, 100, price, "0"));
    }
    tell(&mut exchange, SECOND, &order(1, "B", one, 100, 5_000, "0"));
    assert_eq!(kinds(&mut exchange, FIRST, &mass_cancel(5, one, Some("S"))), strings(["CX", "", "D"]));
    assert_eq!(
        kinds(&mut exchange, FIRST, &mass_cancel(5, two, None)),
        strings(["", "", ""]),
        "the number did not rise"
    );
    assert_eq!(kinds(&mut exchange, FIRST, &mass_cancel(6, two, None)), strings(["CCX", "", "DD"]));
    assert_eq!(kinds(&mut exchange, FIRST, &mass_cancel(7, Alpha::new(""), None)), strings(["CX", "", "D"]));
    assert_eq!(kinds(&mut exchange, FIRST, &mass_cancel(8, Alpha::new("NONE"), None)), strings(["X", "", ""]));
    assert_eq!((exchange.live_orders(FIRST).count(), exchange.live_orders(SECOND).count()), (0, 1));
}

#[test]
fn disabled_client_enters_nothing_until_it_is_enabled() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    let control = |kind: &[u8], number: u32| [kind, &number.to_be_bytes(), b"FIRM", &[0, 0]].concat();
    assert_eq!(kinds(&mut exchange, FIRST, &control(b"D", 1)), strings(["G", "", ""]));
    assert_eq!(kinds(&mut exchange, FIRST, &order(2, "B", symbol, 1, 100, "0")), strings(["J", "", ""]));
    assert_eq!(kinds(&mut exchange, SECOND, &order(2, "B", symbol, 1, 100, "0")), strings(["", "A", "A"]));
    assert_eq!(kinds(&mut exchange, FIRST, &control(b"E", 2)), strings(["", "", ""]), "the number did not rise");
    assert_eq!(kinds(&mut exchange, FIRST, &control(b"E", 3)), strings(["K", "", ""]));
    assert_eq!(kinds(&mut exchange, FIRST, &order(4, "B", symbol, 1, 100, "0")), strings(["A", "", "A"]));
}

#[test]
fn account_query_tells_the_next_number_whatever_became_of_the_last() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    let mut next = |message: &[u8]| {
        tell(&mut exchange, FIRST, message);
        let said = tell(&mut exchange, FIRST, b"Q");
        let Ok(Outbound::AccountQueryResponse(answer, _)) = Outbound::parse(&said.client[0].1) else { panic!() };
        answer.next_user_ref_num.get()
    };
    assert_eq!(next(b"Q"), 1);
    assert_eq!(next(&order(7, "B", symbol, 1, 100, "3")), 8);
    assert_eq!(next(&order(9, "B", symbol, 0, 100, "3")), 10, "rejected");
    assert_eq!(next(&order(9, "B", symbol, 1, 100, "3")), 10, "sent again");
}

#[test]
fn own_orders_do_not_match() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    tell(&mut exchange, FIRST, &order(1, "S", symbol, 100, 5_000, "0"));
    tell(&mut exchange, SECOND, &order(1, "S", symbol, 100, 5_000, "0"));
    let said = tell(&mut exchange, FIRST, &order(2, "B", symbol, 130, 5_000, "0"));
    // Both of its own lose 100; the 30 left meet the other client.
    assert_eq!(said.kinds(), strings(["ADDE", "E", "DE"]));
    assert_eq!(exchange.live_orders(FIRST).count(), 0);
    assert_eq!(
        (exchange.stats().self_matches, exchange.position(FIRST, 1), exchange.position(SECOND, 1)),
        (1, 30, -30)
    );
}

#[test]
fn disconnect_cancels_what_rests_and_nothing_of_others() {
    let (mut exchange, mut said) = run(1, 0);
    let symbol = exchange.symbol(1);
    tell(&mut exchange, FIRST, &order(1, "S", symbol, 100, 5_000, "0"));
    tell(&mut exchange, FIRST, &cross_order(2, "S", symbol, 100, 5_000, "C"));
    tell(&mut exchange, SECOND, &order(1, "S", symbol, 100, 5_000, "0"));
    said = Said { feed: Vec::new(), client: said.client };
    exchange.disconnected(0, FIRST, &mut said);
    assert_eq!(said.kinds(), strings(["CC", "", "D"]));
    assert_eq!((exchange.live_orders(FIRST).count(), exchange.live_orders(SECOND).count()), (0, 1));
}

#[test]
fn halted_stock_cancels_rejects_and_crosses_before_it_resumes() {
    let (mut exchange, mut said) = run(1, 300);
    let symbol = exchange.symbol(1);
    tell(&mut exchange, FIRST, &order(1, "S", symbol, 100, 1_999_999_900, "0"));
    said = Said { feed: Vec::new(), client: said.client };
    exchange.halt(0, 1, &mut said);
    assert_eq!(said.kinds(), strings(["C", "", "HD"]));
    let said = tell(&mut exchange, FIRST, &order(2, "S", symbol, 100, 100, "0"));
    assert_eq!(said.client[0].1[13..15], reject::HALTED.to_be_bytes());
    // At any price, and at one that nobody gives.
    assert_eq!(
        kinds(&mut exchange, FIRST, &cross_order(3, "S", symbol, 100, 0x7FFF_FFFF, "H")),
        strings(["A", "", ""])
    );
    assert_eq!(
        kinds(&mut exchange, FIRST, &cross_order(4, "S", symbol, 100, 1_999_999_900, "H")),
        strings(["A", "", ""])
    );
    let mut said = Said::default();
    exchange.resume(0, 1, &mut said);
    assert_eq!(said.kinds(), strings(["EC", "", "QH"]));
    assert_eq!((exchange.position(FIRST, 1), exchange.live_orders(FIRST).count()), (-100, 0));
    assert_eq!(kinds(&mut exchange, FIRST, &cross_order(5, "S", symbol, 1, 100, "H")), strings(["J", "", ""]));
}

#[test]
fn orders_for_the_opening_and_the_closing_are_executed_at_the_price_of_the_cross() {
    let (mut exchange, _) = started(4);
    let symbol = exchange.symbol(3);
    assert_eq!(
        kinds(&mut exchange, FIRST, &order(1, "B", symbol, 100, 100, "0")),
        strings(["J", "", ""]),
        "not open yet"
    );
    tell(&mut exchange, FIRST, &cross_order(2, "B", symbol, 500, 0x7FFF_FFFF, "O"));
    tell(&mut exchange, FIRST, &cross_order(3, "S", symbol, 200, 0x7FFF_FFFF, "C"));
    let mut said = Said::default();
    (0..3).for_each(|_| exchange.step(0, true, &mut said));
    assert_eq!(said.kinds(), strings(["E", "", "QQQ"]));
    let Message::CrossTrade(cross) = Message::parse(&said.feed[2]).unwrap() else { panic!() };
    let Ok(Outbound::OrderExecuted(fill, _)) = Outbound::parse(&said.client[0].1) else { panic!() };
    assert_eq!(fill.price.get(), u64::from(cross.cross_price.get()));
    assert_eq!((fill.match_number, cross.shares.get() >= 500), (cross.match_number, true));
    exchange.close();
    assert_eq!(kinds(&mut exchange, FIRST, &cancel(3, 0)), strings(["I", "", ""]), "too late");
    let mut said = Said::default();
    (0..3).for_each(|_| exchange.step(0, true, &mut said));
    assert_eq!((said.kinds(), exchange.position(FIRST, 3)), (strings(["E", "", "QQQ"]), 300));
}

#[test]
fn bad_orders_are_rejected_with_their_reason() {
    let (mut exchange, _) = run(1, 0);
    let symbol = exchange.symbol(1);
    let mut reason = |bytes: Vec<u8>| {
        let said = tell(&mut exchange, FIRST, &bytes);
        let (_, message) = said.client.first()?;
        (message[0] == b'J').then(|| u16::from_be_bytes([message[13], message[14]]))
    };
    assert_eq!(reason(order(1, "B", Alpha::new("NOSUCH"), 1, 100, "0")), Some(reject::INVALID_SYMBOL));
    assert_eq!(reason(order(2, "B", symbol, 0, 100, "0")), Some(reject::INVALID_QUANTITY));
    assert_eq!(reason(order(3, "B", symbol, 1_000_000, 100, "0")), Some(reject::INVALID_QUANTITY));
    assert_eq!(reason(order(4, "B", symbol, 1, 0, "0")), Some(reject::INVALID_PRICE));
    assert_eq!(reason(order(5, "B", symbol, 1, 2_000_000_000, "0")), Some(reject::INVALID_PRICE));
    assert_eq!(reason(order(6, "B", symbol, 1, u64::MAX, "0")), Some(reject::INVALID_PRICE));
    assert_eq!(reason(order(7, "Q", symbol, 1, 100, "0")), Some(reject::INVALID_SIDE));
    assert_eq!(reason(order(8, "B", symbol, 1, 100, "9")), Some(reject::OTHER));
    assert_eq!(reason(cross_order(9, "B", symbol, 1, 100, "Z")), Some(reject::INVALID_CROSS));
    assert_eq!(reason(cross_order(10, "B", symbol, 1, 100, "O")), Some(reject::INVALID_CROSS), "it is over");
    let pegged = [&order(11, "B", symbol, 1, 100, "0")[..47 - 2], &[0, 3, 2, 6, b'P']].concat();
    assert_eq!(reason(pegged), Some(reject::OTHER));
    assert_eq!(reason(order(12, "B", symbol, 1, 100, "3")), None);
    assert_eq!(reason(order(12, "B", symbol, 1, 100, "0")), None, "a number that did not rise is passed over");
    exchange.close();
    assert_eq!(kinds(&mut exchange, FIRST, &order(13, "B", symbol, 1, 100, "0")), strings(["J", "", ""]));
    assert_eq!(kinds(&mut exchange, FIRST, b"O"), strings(["", "", ""]));
    assert_eq!((exchange.stats().malformed, exchange.stats().ignored), (1, 1));
}

/// Two clients do whatever they like, well formed or not: the feed builds the book, and the accounts' orders are those of the book.
#[test]
fn clients_that_do_anything_leave_book_feed_and_accounts_in_agreement() {
    use rand::SeedableRng;
    for seed in 0..20u64 {
        let mut random = Pcg64Mcg::seed_from_u64(seed ^ 0xC11E);
        let (mut exchange, mut said) = started(seed);
        let mut books = Books::new(Capacity { orders: 4096 });
        let mut numbers = [0u32; 2];
        for step in 0..1_500u64 {
            exchange.step(step, step % 7 == 0, &mut said);
            let account = AccountId(random.random_range(0..2));
            let number = &mut numbers[usize::from(account.0)];
            let fresh = *number + 1;
            let old = random.random_range(0..=fresh);
            let locate = random.random_range(1..=STOCKS);
            let symbol = exchange.symbol(locate);
            let side = if random.random() { "B" } else { "S" };
            let near =
                i64::from(exchange.stocks[usize::from(locate) - 1].middle) + random.random_range(-20i64..20) * 100;
            let (price, shares) = (near.max(0) as u64, random.random_range(0..500u32));
            let message = match random.random_range(0..20) {
                0..8 => order(fresh, side, symbol, shares, price, "0"),
                8..10 => order(fresh, side, symbol, shares, price, "3"),
                10..13 => replace(old, fresh, shares, price),
                13..15 => cancel(old, random.random_range(0..100)),
                15 => cross_order(fresh, side, symbol, shares, price, ["O", "C", "H"][random.random_range(0..3)]),
                16 => mass_cancel(fresh, symbol, None),
                17 => (0..random.random_range(0..60u32)).map(|_| random.random()).collect(),
                18 if step % 5 == 0 => {
                    exchange.halt(step, locate, &mut said);
                    vec![]
                }
                _ if step % 40 == 0 => {
                    exchange.disconnected(step, account, &mut said);
                    vec![]
                }
                _ => b"Q".to_vec(),
            };
            *number = fresh;
            exchange.client(step, account, &message, &mut said);
            for bytes in said.feed.drain(..) {
                books.apply(&Message::parse(&bytes).unwrap());
            }
            assert_eq!(books.digest(), exchange.digest(), "seed {seed}, step {step}");
            for account in [FIRST, SECOND] {
                for (user_ref, order) in exchange.account(account).unwrap().orders.clone() {
                    assert!(order.open > 0);
                    if order.cross.is_none() {
                        let resting = exchange.order_mut(order.reference).unwrap();
                        assert_eq!((resting.shares, resting.owner.unwrap().user_ref), (order.open, user_ref));
                    }
                }
            }
        }
        assert_eq!(books.faults(), Faults::default());
        let stats = exchange.stats();
        assert!(stats.accepted > 100 && stats.rejected > 10 && stats.fills > 50 && stats.halts > 0, "{stats:?}");
    }
}
