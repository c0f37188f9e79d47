//! The hot functions, each compiled once for a trader on an 82599 and kept whole, so that its machine code can be found and walked.
#![forbid(unsafe_code)]

use std::hint::black_box;

use barewire::feed::arbiter::{Arbiter, Source};
use barewire::feed::book::Books;
use barewire::feed::itch::{Error, Message};
use barewire::trade::limits::{Limits, Refusal, Situation, TokenBucket};
use barewire::trade::orders::Orders;
use barewire::trade::packet::EnterPacket;
use barewire::trade::strategy::{Intent, Strategy, Top};
use barewire::trade::trader::Trader;
use barewire_driver::clock::Nanos;
use barewire_driver::ixgbe::{Rx, Tx};
use barewire_driver::pool::{Buffer, Retained};
use barewire_driver::{QueueFault, RxQueue, TxError, TxMeta, TxQueue};
use barewire_netstack::{Event, Stack};

/// Declares wrappers that are not inlined, and the list of them.
macro_rules! roots {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $ty:ty),*) -> $result:ty { $body:expr })*) => {
        $($(#[$doc])* #[inline(never)] fn $name($($argument: $ty),*) -> $result { $body })*

        /// Every wrapper: its name in the symbol table, and its address, which keeps it in the program.
        pub const ROOTS: &[(&str, *const ())] = &[$((stringify!($name), $name as *const ())),*];
    };
}

roots! {
    fn hot_receive_poll_and_refill(rx: &mut Rx) -> Result<u32, QueueFault> {
        rx.poll(32, |frame| _ = black_box(frame.bytes().len()))
    }
    fn hot_reserve(tx: &mut Tx) -> Result<Buffer, TxError> {
        tx.reserve()
    }
    fn hot_commit(tx: &mut Tx, buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)> {
        tx.commit(buffer, meta)
    }
    fn hot_commit_retained(tx: &mut Tx, buffer: Buffer, meta: TxMeta) -> Result<Retained, (TxError, Buffer)> {
        tx.commit_retained(buffer, meta)
    }
    fn hot_recommit(tx: &mut Tx, frame: &Retained, meta: TxMeta) -> Result<(), TxError> {
        tx.recommit(frame, meta)
    }
    fn hot_flush(tx: &mut Tx) -> () {
        tx.flush()
    }
    fn hot_reclaim(tx: &mut Tx) -> u32 {
        tx.reclaim()
    }
    fn hot_demux(stack: &mut Stack<Rx, Tx>, now: Nanos) -> Result<u32, QueueFault> {
        stack.poll(now, |_, event| {
            if let Event::Multicast { receiver, datagram } = event {
                black_box((receiver, datagram.payload.len()));
            }
        })
    }
    fn hot_arbiter(arbiter: &mut Arbiter, now: Nanos, packet: &[u8]) -> () {
        arbiter.receive(now, Source::B, packet, |message| _ = black_box((message.number, message.bytes.len())))
    }
    fn hot_itch(bytes: &[u8]) -> Result<Message<'_>, Error> {
        Message::parse(bytes)
    }
    fn hot_book(books: &mut Books, message: &Message<'_>) -> Option<u16> {
        books.apply(message)
    }
    fn hot_book_prepare(books: &Books, messages: &[Message<'_>]) -> () {
        books.prepare(messages.iter())
    }
    fn hot_decision(strategy: &mut Strategy, stock: u16, top: &Top) -> Option<Intent> {
        if strategy.is_awake() { strategy.decide(stock, top) } else { None }
    }
    fn hot_limits(limits: &Limits, intent: &Intent, at: &Situation<'_>) -> Result<(), Refusal> {
        limits.check(intent, at)
    }
    fn hot_rate(bucket: &mut TokenBucket, now: Nanos) -> bool {
        {
            bucket.take(now);
            bucket.has_token(now)
        }
    }
    fn hot_self_match(orders: &Orders, intent: &Intent) -> bool {
        orders.meets_own(intent)
    }
    fn hot_ouch_encode(packet: &mut EnterPacket, intent: &Intent) -> () {
        packet.fill(1, intent, barewire::fields::Alpha([0; 8]))
    }
    /// All of it in one piece, as the market runs it.
    fn hot_tick_to_order(stack: &mut Stack<Rx, Tx>, trader: &mut Trader, t0: Nanos) -> Result<u32, QueueFault> {
        stack.poll(t0, |cx, event| {
            if let Event::Multicast { datagram, .. } = event {
                trader.on_datagram(cx, t0, Source::A, &datagram);
            }
        })
    }
}

/// What is planted: an index that nobody has checked.
#[inline(never)]
fn planted_panic(table: &[u8], index: usize) -> u8 {
    table[index]
}

/// The offence, as [`ROOTS`] has its entries.
pub const PLANTED: (&str, *const ()) = ("planted_panic", planted_panic as *const ());
