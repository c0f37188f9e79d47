//! The session against the real gateway and the real exchange, over pipes that may be cut anywhere.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;
use crate::exchange::{Exchange, Outlet};
use crate::order::gateway::{AccountId, Gateway, Logs, Request};
use crate::trade::orders::{Answer, Orders};
use crate::trade::strategy::{Direction, Intent};

const CREDENTIALS: Credentials = Credentials { user: Alpha(*b"TRADER"), password: Alpha(*b"SECRET    ") };
const ACCOUNT: AccountId = AccountId(0);
const PATIENCE: Nanos = 15_000_000_000;
const BACKOFF: Backoff = Backoff { first: 1_000, most: 8_000 };

/// The exchange's words, into the gateway's logs.
struct Outlets<'a>(&'a mut Logs);

impl Outlet for Outlets<'_> {
    fn feed(&mut self, _: &[u8]) {}

    fn client(&mut self, account: AccountId, message: &[u8]) {
        self.0.say(account, message);
    }
}

/// A connection, with what is on its way to the exchange.
struct Pipe {
    id: u32,
    up: Vec<u8>,
    is_gone: bool,
}

/// A client and an exchange in virtual time.
struct World {
    now: Nanos,
    session: Session,
    gateway: Gateway<u32>,
    exchange: Exchange,
    orders: Orders,
    pipes: Vec<Pipe>,
    connections: u32,
    /// What is on its way to the client, on the last connection.
    down: Vec<u8>,
    /// Order numbers that the exchange took.
    taken: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let mut exchange = Exchange::new(1, 1, 1);
        while !exchange.is_open() {
            exchange.step(0, true, &mut Outlets(&mut Logs::default()));
        }
        Self {
            now: 1_000_000,
            session: Session::new(CREDENTIALS, PATIENCE, BACKOFF),
            gateway: Gateway::new("S1", vec![CREDENTIALS], PATIENCE),
            exchange,
            orders: Orders::default(),
            pipes: Vec::new(),
            connections: 0,
            down: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn serve<'a>(
        exchange: &'a mut Exchange,
        taken: &'a mut Vec<u32>,
        now: Nanos,
    ) -> impl FnMut(AccountId, Request<'_>, &mut Logs) + 'a {
        move |account, request, logs| match request {
            Request::LoggedIn => {}
            Request::Left => exchange.disconnected(now, account, &mut Outlets(logs)),
            Request::Message(message) => {
                if message.first() == Some(&b'O') {
                    taken.push(u32::from_be_bytes(*message[1..].first_chunk().unwrap()));
                }
                exchange.client(now, account, message, &mut Outlets(logs));
            }
        }
    }

    /// The client's turn: connects when that is due, and sends what the session has to send.
    fn client(&mut self) {
        self.now += 1_000;
        // A login that was long on its way may have taken the connection's place: the exchange closes it.
        let is_over = |pipe: &Pipe| self.gateway.is_over(pipe.id) || self.session.is_dead();
        if self.pipes.last().is_some_and(|pipe| !pipe.is_gone && is_over(pipe)) {
            self.cut();
        }
        if self.session.connect_due(self.now) {
            self.connections += 1;
            self.pipes.push(Pipe { id: self.connections, up: Vec::new(), is_gone: false });
            assert!(self.gateway.connected(self.now, self.connections));
            self.session.connected(self.now);
        }
        while let Some(packet) = self.session.poll(self.now) {
            self.pipes.last_mut().unwrap().up.extend_from_slice(&packet);
        }
    }

    fn order(&mut self, rests: bool) {
        let Some(number) = self.orders.next_number().filter(|_| self.session.is_ready()) else { return };
        let side = if number.is_multiple_of(2) { Direction::Buy } else { Direction::Sell };
        let intent = Intent { side, stock: 1, price: 10_000, shares: number % 50 + 1, rests };
        let mut packet = crate::trade::packet::EnterPacket::template();
        packet.fill(number, &intent, Alpha::new("AAAB"));
        self.pipes.last_mut().unwrap().up.extend_from_slice(packet.as_bytes());
        self.orders.sent(number, &intent);
    }

    /// Delivers up to `len` bytes of a connection to the exchange.
    fn deliver_up(&mut self, pipe: usize, len: usize) {
        let Self { now, gateway, exchange, taken, pipes, .. } = self;
        let Some(pipe) = pipes.get_mut(pipe) else { return };
        let bytes: Vec<_> = pipe.up.drain(..len.min(pipe.up.len())).collect();
        gateway.receive(*now, pipe.id, &bytes, Self::serve(exchange, taken, *now));
    }

    /// Delivers up to `len` bytes to the client.
    fn deliver_down(&mut self, len: usize) {
        if let Some(pipe) = self.pipes.last().filter(|pipe| !pipe.is_gone) {
            let out = self.gateway.outbox(pipe.id).to_vec();
            self.gateway.sent(self.now, pipe.id, out.len());
            self.down.extend(out);
        }
        let bytes: Vec<_> = self.down.drain(..len.min(self.down.len())).collect();
        let Self { now, session, orders, .. } = self;
        let received = session.receive(*now, &bytes, |event| match event {
            SessionEvent::Message(message) => _ = Answer::of(&message).map(|answer| orders.answer(answer)),
            SessionEvent::Settled { next_user_ref_num } => orders.settle(next_user_ref_num),
            other => panic!("{other:?}"),
        });
        assert_eq!(received, Ok(()));
    }

    /// The client loses its connection; what it had sent may still arrive, until the exchange notices.
    fn cut(&mut self) {
        if let Some(pipe) = self.pipes.last_mut() {
            pipe.is_gone = true;
        }
        self.down.clear();
        self.session.disconnected(self.now);
    }

    /// The exchange notices that a connection is gone.
    fn notice(&mut self, pipe: usize) {
        if self.pipes.get(pipe).is_some_and(|pipe| pipe.is_gone) {
            let pipe = self.pipes.remove(pipe);
            let Self { now, gateway, exchange, taken, .. } = self;
            gateway.closed(pipe.id, Self::serve(exchange, taken, *now));
        }
    }

    /// Everything arrives, and nothing is cut any more.
    fn settle(&mut self) {
        // Wherever the clock has stepped, what waits is due by then.
        self.now += 100_000_000;
        for _ in 0..200 {
            self.client();
            (0..self.pipes.len()).for_each(|pipe| self.deliver_up(pipe, usize::MAX));
            self.deliver_down(usize::MAX);
        }
        assert!(self.session.is_ready(), "{:?}", self.session.phase());
    }
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    Order(bool),
    Up(usize, usize),
    Down(usize),
    Cut,
    Notice(usize),
    /// The clock steps back.
    Back(Nanos),
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(Step::Order),
        8 => (0usize..3, 0usize..200).prop_map(|(back, len)| Step::Up(back, len)),
        8 => (0usize..300).prop_map(Step::Down),
        1 => Just(Step::Cut),
        1 => (0usize..3).prop_map(Step::Notice),
        1 => (0u64..50_000).prop_map(Step::Back),
        4 => Just(Step::Idle),
    ]
}

proptest! {
    /// Wherever connections are cut, and though the clock steps back: every order that the exchange took is known as such, every other one as lost,
    /// once each, and both sides agree on what is open and on the position.
    #[test]
    fn every_order_is_taken_once_or_known_to_be_lost(steps in prop::collection::vec(step(), 0..400)) {
        let mut world = World::new();
        for step in steps {
            world.client();
            // The last connection is the most likely to move.
            let at = |world: &World, back: usize| world.pipes.len().wrapping_sub(1 + back);
            match step {
                Step::Order(rests) => world.order(rests),
                Step::Up(back, len) => world.deliver_up(at(&world, back), len),
                Step::Down(len) => world.deliver_down(len),
                Step::Cut => world.cut(),
                Step::Notice(back) => world.notice(at(&world, back)),
                Step::Back(span) => world.now = world.now.saturating_sub(span),
                Step::Idle => {}
            }
        }
        world.settle();
        let tally = world.orders.tally;
        prop_assert_eq!(tally.unanswered(), 0);
        prop_assert_eq!(tally.strays, 0);
        prop_assert_eq!(tally.accepted + tally.rejected, world.taken.len() as u64);
        prop_assert_eq!(tally.lost, tally.sent - world.taken.len() as u64);
        prop_assert!(world.taken.is_sorted_by(|one, next| one < next), "an order was taken twice");
        prop_assert_eq!(world.orders.exposure(1).position, world.exchange.position(ACCOUNT, 1));
        prop_assert_eq!(world.orders.open_count() as usize, world.exchange.live_orders(ACCOUNT).count());
        // A client that was started anew hears it all again, and stands where the first one stood.
        let next = world.orders.next_number();
        world.cut();
        (world.session, world.orders) = (Session::new(CREDENTIALS, PATIENCE, BACKOFF), Orders::default());
        world.settle();
        world.orders.place(Alpha::new("AAAB"), 1);
        prop_assert_eq!(world.orders.exposure(1).position, world.exchange.position(ACCOUNT, 1));
        prop_assert_eq!(world.orders.open_count() as usize, world.exchange.live_orders(ACCOUNT).count());
        prop_assert_eq!((world.orders.tally.earlier, world.orders.tally.strays), (tally.accepted, 0));
        prop_assert!(world.orders.next_number() == next || tally.lost > 0);
    }
}

fn ready() -> World {
    let mut world = World::new();
    world.settle();
    world
}

#[test]
fn backoff_doubles_to_its_bound_and_begins_anew_after_a_success() {
    let mut session = Session::new(CREDENTIALS, PATIENCE, BACKOFF);
    let (mut waits, mut now) = (Vec::new(), 0);
    for _ in 0..6 {
        assert!(session.connect_due(now));
        session.disconnected(now);
        let Phase::Down { until } = session.phase() else { panic!() };
        assert!(!session.connect_due(until - 1));
        waits.push(until - now);
        now = until;
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
    let mut world = ready();
    world.cut();
    assert_eq!(world.session.phase(), Phase::Down { until: world.now + 1_000 });
}

#[test]
fn answer_to_a_question_of_an_earlier_connection_settles_nothing() {
    let mut world = ready();
    // The question of the second connection is answered, but the answer is cut off.
    world.cut();
    while world.session.phase() != Phase::Settling {
        world.client();
        world.deliver_up(world.pipes.len() - 1, usize::MAX);
        world.deliver_down(33);
    }
    world.client();
    world.deliver_up(world.pipes.len() - 1, usize::MAX);
    world.cut();
    let queries = world.session.stats().queries;
    world.settle();
    assert_eq!(world.session.stats().queries - queries, 2, "the first answer that comes may be to the question before");
}

#[test]
fn refused_login_is_the_end() {
    let mut session = Session::new(CREDENTIALS, PATIENCE, BACKOFF);
    let mut gateway = Gateway::new("S1", vec![], PATIENCE);
    assert!(session.connect_due(0) && gateway.connected(0, 1));
    session.connected(0);
    gateway.receive(0, 1, &session.poll(0).unwrap(), |_, request, _| panic!("{request:?}"));
    session.receive(0, gateway.outbox(1), |event| panic!("{event:?}")).unwrap();
    assert_eq!(session.phase(), Phase::Over(Over::Rejected(b'A')));
    session.disconnected(0);
    assert!(session.is_dead() && !session.connect_due(Nanos::MAX));
}

#[test]
fn exchange_that_cannot_repeat_what_was_missed_ends_the_session() {
    let mut world = ready();
    world.cut();
    world.client();
    let mut other = Gateway::<u32>::new("S1", vec![CREDENTIALS], PATIENCE);
    let wanted = world.session.next_sequence;
    let mut server = crate::order::soupbin::Server::new(0);
    let accepted = server.accept(0, "S1", wanted + 1);
    world.session.receive(world.now, &accepted, |event| panic!("{event:?}")).unwrap();
    assert_eq!(world.session.phase(), Phase::Over(Over::Gap { wanted, offered: wanted + 1 }));
    assert!(other.connected(0, 1));
}

#[test]
fn stream_of_nonsense_is_broken_and_packets_of_nonsense_are_counted() {
    let mut world = ready();
    let mut malformed = 0;
    let mut count = |event: SessionEvent<'_>| malformed += u32::from(event == SessionEvent::Malformed);
    world.session.receive(world.now, &[0, 1, b'?', 0, 3, b'S', b'A', 1, 0, 2, b'S', b'?'], &mut count).unwrap();
    assert_eq!(world.session.receive(world.now, &[0, 0], &mut count), Err(Broken));
    assert_eq!(malformed, 3);
}

#[test]
fn end_of_session_and_silence_end_what_they_should() {
    let mut world = ready();
    world.gateway.end();
    world.deliver_down(usize::MAX);
    assert_eq!(world.session.phase(), Phase::Over(Over::Ended));
    let mut world = ready();
    assert!(!world.session.is_dead());
    assert_eq!(world.session.poll(world.now + PATIENCE), None);
    assert!(world.session.is_dead() && world.session.phase() == Phase::Ready);
    world.session.disconnected(world.now);
    assert!(matches!(world.session.phase(), Phase::Down { .. }));
}

#[test]
fn second_login_of_an_account_ends_the_first() {
    let mut world = ready();
    let mut second = World { session: Session::new(CREDENTIALS, PATIENCE, BACKOFF), ..World::new() };
    assert!(second.session.connect_due(0) && world.gateway.connected(0, 99));
    second.session.connected(0);
    let mut requests = Vec::new();
    world.gateway.receive(0, 99, &second.session.poll(0).unwrap(), |account, request, _| {
        requests.push((account, request == Request::Left))
    });
    assert_eq!(requests, [(ACCOUNT, true), (ACCOUNT, false)]);
    assert!(world.gateway.is_over(1) && !world.gateway.is_over(99));
}
