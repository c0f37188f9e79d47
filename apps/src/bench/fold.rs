//! Every field of every message of a stream in one sum: what two decoders are held against each other with.
#![forbid(unsafe_code)]

use itchy::{Body, MessageStream, Side};
use zerocopy::IntoBytes;

use super::flow::Stream;
use crate::feed::itch::Message;

/// A running sum. The order of fields and of messages matters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds a message: each field times an odd number of its place, so that the products wait for no other.
    #[inline]
    fn message<const N: usize>(&mut self, fields: [u64; N]) {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let places = (0..).map(|place: u64| GOLDEN.wrapping_mul(2 * place + 1));
        let message =
            fields.iter().zip(places).fold(0u64, |sum, (field, odd)| sum.wrapping_add(field.wrapping_mul(odd)));
        self.0 = self.0.rotate_left(1).wrapping_add(message);
    }
}

/// ASCII as a number.
#[inline]
fn text<const N: usize>(text: [u8; N]) -> u64 {
    text.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

macro_rules! fold {
    ($sum:ident, $message:ident: $($field:expr),*) => {
        $sum.message([
            text($message.message_type.0),
            $message.stock_locate.get().into(),
            $message.tracking_number.get().into(),
            $message.timestamp.get(),
            $(($field).into()),*
        ])
    };
}

/// Ours. `None` where a message is of a type that this comparison does not have.
pub fn ours(stream: &Stream) -> Option<Sum> {
    let (mut sum, mut whole) = (Sum::default(), true);
    stream.for_each(|bytes| match Message::parse(bytes) {
        Ok(Message::AddOrder(m)) => fold!(
            sum, m: m.order_reference_number.get(), text(m.buy_sell_indicator.0), m.shares.get(), text(m.stock.0), m.price.get()
        ),
        Ok(Message::AddOrderWithMpid(m)) => fold!(
            sum, m: m.order_reference_number.get(), text(m.buy_sell_indicator.0), m.shares.get(), text(m.stock.0), m.price.get(),
            text(m.attribution.0)
        ),
        Ok(Message::OrderExecuted(m)) => {
            fold!(sum, m: m.order_reference_number.get(), m.executed_shares.get(), m.match_number.get())
        }
        Ok(Message::OrderExecutedWithPrice(m)) => fold!(
            sum, m: m.order_reference_number.get(), m.executed_shares.get(), m.match_number.get(), text(m.printable.0),
            m.execution_price.get()
        ),
        Ok(Message::OrderCancel(m)) => fold!(sum, m: m.order_reference_number.get(), m.cancelled_shares.get()),
        Ok(Message::OrderDelete(m)) => fold!(sum, m: m.order_reference_number.get()),
        Ok(Message::OrderReplace(m)) => fold!(
            sum, m: m.original_order_reference_number.get(), m.new_order_reference_number.get(), m.shares.get(), m.price.get()
        ),
        Ok(Message::Trade(m)) => fold!(
            sum, m: m.order_reference_number.get(), text(m.buy_sell_indicator.0), m.shares.get(), text(m.stock.0), m.price.get(),
            m.match_number.get()
        ),
        _ => whole = false,
    });
    whole.then_some(sum)
}

/// Crate itchy's. `None` as above, and where it does not parse a message.
pub fn itchys(stream: &Stream) -> Option<Sum> {
    let mut sum = Sum::default();
    for message in MessageStream::from_reader(stream.bytes.as_bytes()) {
        let m = message.ok()?;
        let [kind, locate, tracking] = [m.tag.into(), m.stock_locate.into(), m.tracking_number.into()];
        let time = m.timestamp;
        match m.body {
            Body::AddOrder(o) => {
                let [side, shares, stock, price] =
                    [side(o.side), o.shares.into(), string(&o.stock), o.price.raw().into()];
                match o.mpid {
                    None => sum.message([kind, locate, tracking, time, o.reference, side, shares, stock, price]),
                    Some(mpid) => {
                        sum.message([
                            kind,
                            locate,
                            tracking,
                            time,
                            o.reference,
                            side,
                            shares,
                            stock,
                            price,
                            string(&mpid),
                        ]);
                    }
                }
            }
            Body::OrderExecuted { reference, executed, match_number } => {
                sum.message([kind, locate, tracking, time, reference, executed.into(), match_number]);
            }
            Body::OrderExecutedWithPrice { reference, executed, match_number, printable, price } => {
                let printable = u64::from(if printable { b'Y' } else { b'N' });
                let price = price.raw().into();
                sum.message([kind, locate, tracking, time, reference, executed.into(), match_number, printable, price]);
            }
            Body::OrderCancelled { reference, cancelled } => {
                sum.message([kind, locate, tracking, time, reference, cancelled.into()]);
            }
            Body::DeleteOrder { reference } => sum.message([kind, locate, tracking, time, reference]),
            Body::ReplaceOrder(o) => {
                let [shares, price] = [o.shares.into(), o.price.raw().into()];
                sum.message([kind, locate, tracking, time, o.old_reference, o.new_reference, shares, price]);
            }
            Body::NonCrossTrade(t) => {
                let [side, shares, stock, price] =
                    [side(t.side), t.shares.into(), string(&t.stock), t.price.raw().into()];
                sum.message([kind, locate, tracking, time, t.reference, side, shares, stock, price, t.match_number]);
            }
            _ => return None,
        }
    }
    Some(sum)
}

fn side(side: Side) -> u64 {
    u64::from(match side {
        Side::Buy => b'B',
        Side::Sell => b'S',
    })
}

#[inline]
fn string<const N: usize>(string: &itchy::ArrayString<N>) -> u64 {
    // Every text of the protocol has its full width, filled up with blanks.
    string.as_bytes().first_chunk::<N>().map_or(0, |bytes| text(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::flow::Flow;

    #[test]
    fn sums_are_equal_and_notice_every_byte() {
        let (mut flow, mut stream) = (Flow::new(3, 20), Stream::default());
        flow.fill(200, &mut stream);
        flow.run(2_000, &mut stream);
        let sum = ours(&stream);
        assert!(sum.is_some());
        assert_eq!(sum, itchys(&stream));
        let types: std::collections::BTreeSet<u8> = {
            let mut types = Vec::new();
            stream.for_each(|bytes| types.push(bytes[0]));
            types.into_iter().collect()
        };
        assert_eq!(types.into_iter().collect::<Vec<_>>(), b"ACDEFPUX");
        // The last message is one of those with a reference: any other bit of it is another sum.
        let last = stream.bytes.len() - 1;
        stream.bytes[last] ^= 1;
        assert_ne!(ours(&stream), sum);
        assert_eq!(ours(&stream), itchys(&stream));
    }
}
