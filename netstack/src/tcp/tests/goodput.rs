//! How fast a stream gets through random loss.

use super::pair::Pair;
use super::*;

/// A round trip of the path.
const RTT: Nanos = 2 * MILLISECOND;

/// Kilobytes a second from one end to the other where each frame, both ways, is lost with a chance of `loss` in a hundred.
fn goodput(loss: u64, bytes: usize) -> u64 {
    let mut pair = Pair::new(TcpConfig::default());
    pair.delay = RTT / 2;
    let options = TcpOptions {
        receive_window: 256 << 10,
        timestamps: true,
        ack_delay: 40 * MILLISECOND,
        ..TcpOptions::default()
    };
    let ids = pair.open(&options);
    let mut random = 88_172_645_463_325_252u64;
    pair.passes = Box::new(move |_, _| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % 100 >= loss
    });
    let start = pair.now;
    pair.transfer(0, ids, bytes);
    let speed = bytes as u64 * 1_000_000 / (pair.now - start);
    pair.passes = Box::new(|_, _| true);
    pair.finish(ids);
    speed
}

/// 1.22 segments a round trip over the root of the loss is what additive increase and halving make of it (RFC 3819, 8.5), where it takes no
/// time-outs: 8,830 and 3,950 kB/s. With more loss these are what counts: some of 200 ms each for every dozen segments.
#[test]
fn loss_costs_what_halving_and_time_outs_cost() {
    for (loss, bytes, least) in [(1, 16 << 20, 7_000), (5, 4 << 20, 1_000), (20, 512 << 10, 12)] {
        let speed = goodput(loss, bytes);
        println!("{loss} %: {speed} kB/s");
        assert!(speed > least, "{loss} %: {speed} kB/s");
    }
}
