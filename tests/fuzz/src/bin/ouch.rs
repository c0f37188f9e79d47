//! Any bytes as OUCH, in both directions: what reads is written again as it was, and an exchange that is sent it goes on, its feed building its book.
#![no_main]
#![forbid(unsafe_code)]

use std::cell::RefCell;

use barewire::exchange::{Exchange, Outlet};
use barewire::feed::book::{Books, Capacity};
use barewire::feed::itch::Message;
use barewire::order::gateway::AccountId;
use barewire::order::ouch::{Appendage, Inbound, Outbound};
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// Empty before and after every input.
    static BOOKS: RefCell<Books> = RefCell::new(Books::new(Capacity { orders: 4096 }));
}

/// Builds books from the feed, and reads every answer.
struct Listener<'a>(&'a mut Books);

impl Outlet for Listener<'_> {
    fn feed(&mut self, message: &[u8]) {
        self.0.apply(&Message::parse(message).expect("the exchange says what is no ITCH"));
    }

    fn client(&mut self, _: AccountId, message: &[u8]) {
        Outbound::parse(message).expect("the exchange says what is no OUCH");
    }
}

/// Takes the orders of the exchange out of the books.
fn clear(books: &mut Books, exchange: &Exchange) {
    exchange.snapshot(0, &mut |bytes| {
        if let Ok(Message::AddOrder(order)) = Message::parse(bytes) {
            let mut delete = [0; 19];
            delete[0] = b'D';
            delete[11..].copy_from_slice(&order.order_reference_number.get().to_be_bytes());
            books.apply(&Message::parse(&delete).expect("a message of ITCH"));
        }
    });
    assert_eq!(books.live_orders(), 0);
}

/// The options, written one by one, are what they were.
fn rewrite(appendage: Appendage<'_>) {
    let mut written = Vec::new();
    appendage.options().for_each(|option| option.write(&mut written));
    assert_eq!(written, appendage.as_bytes());
}

fuzz_target!(|data: &[u8]| {
    let mut written = Vec::new();
    if let Ok(message) = Inbound::parse(data) {
        message.write(&mut written);
        assert_eq!(written, data);
    }
    written.clear();
    if let Ok(message) = Outbound::parse(data) {
        message.write(&mut written);
        assert_eq!(written, data);
    }
    if let Ok(appendage) = Appendage::parse(data) {
        rewrite(appendage);
    }
    BOOKS.with_borrow_mut(|books| trade(data, books));
});

/// The same bytes as messages of two clients, each with its length before it.
fn trade(data: &[u8], books: &mut Books) {
    let (mut exchange, mut listener) = (Exchange::new(1, 2, 2), Listener(books));
    exchange.start(0, &mut listener);
    let (mut rest, mut now) = (data, 0);
    while let Some((head, after)) = rest.split_first_chunk::<2>() {
        let [len, how] = *head;
        let (message, after) = after.split_at(usize::from(len % 64).min(after.len()));
        rest = after;
        now += 1;
        let account = AccountId(u16::from(how & 1));
        exchange.client(now, account, message, &mut listener);
        match how >> 4 {
            0 => exchange.disconnected(now, account, &mut listener),
            1 => exchange.halt(now, 1, &mut listener),
            2 => exchange.resume(now, 1, &mut listener),
            3 => exchange.close(),
            _ => exchange.step(now, how & 2 == 0, &mut listener),
        }
    }
    assert_eq!(listener.0.digest(), exchange.digest());
    clear(listener.0, &exchange);
}
