//! Calls of the express lane in any order, with segments of the peers between them: every misuse is a typed error, and nothing is left at the end.
#![no_main]
#![forbid(unsafe_code)]

use barewire_fuzz::Bytes;
use barewire_fuzz::lane::{Bench, FIRST_PEER, PEERS, PORT, Peer, Segment, options};
use barewire_netstack::wire::flag;
use barewire_netstack::{Delegated, Lane, ListenerId, Message, Parked, TcpId};
use libfuzzer_sys::fuzz_target;

const MILLISECOND: u64 = 1_000_000;
/// Calls of a run, at most.
const CALLS: usize = 96;
/// Messages in hand at a time: the pool has buffers for so many and all else.
const IN_HAND: usize = 12;
const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 2];

#[derive(Default)]
struct Hands {
    messages: Vec<Message>,
    parked: Vec<Parked>,
    delegated: Vec<Delegated>,
}

fn call(bench: &mut Bench, hands: &mut Hands, peers: &mut [Peer], bytes: &mut Bytes<'_>) {
    let (what, len) = (bytes.byte() % 20, u16::from(bytes.byte()) * 6);
    let at = usize::from(bytes.byte()) % bench.ids.len().max(1);
    let Some(id) = bench.ids.get(at).copied() else { return bench.wait(MILLISECOND) };
    let text = &[0x5A; 1536][..usize::from(len)];
    let now = bytes.byte();
    let cx = bench.context();
    match what {
        0 => drop(cx.tcp_send(id, text)),
        1 => drop(cx.tcp_send_message(id, text)),
        2 if hands.messages.len() + hands.parked.len() < IN_HAND => hands.messages.extend(cx.tcp_reserve(id, len).ok()),
        3 => {
            if let Some(message) = hands.messages.pop()
                && let Err((_, message)) = cx.tcp_commit(message, len)
            {
                hands.messages.push(message);
            }
        }
        4 => match hands.messages.pop().map(|message| cx.tcp_park(message, len)) {
            Some(Ok(parked)) => hands.parked.push(parked),
            Some(Err((_, message))) => hands.messages.push(message),
            None => {}
        },
        5 => {
            if let Some(parked) = hands.parked.pop()
                && let Err((_, parked)) = cx.tcp_release_parked(parked)
            {
                hands.parked.push(parked);
            }
        }
        6 => hands.delegated.extend(cx.tcp_delegate(id, len).ok()),
        7 => {
            if let Some(delegated) = hands.delegated.pop()
                && let Err((_, delegated)) = cx.tcp_delegate_complete(delegated, text)
            {
                hands.delegated.push(delegated);
            }
        }
        8 => hands.delegated.pop().into_iter().for_each(|delegated| cx.tcp_delegate_cancel(delegated)),
        9 => drop(cx.tcp_warm(id, text)),
        10 => cx.tcp_close(id),
        11 => cx.tcp_abort(id),
        12 => cx.tcp_release(id),
        13 => drop(cx.tcp_set_options(id, &options(now))),
        14 => drop(cx.tcp_receive(id, |part| part.len().min(len.into()))),
        15 => cx.tcp_consume(id, len.into()),
        16 => match now % 3 {
            0 => cx.tcp_unlisten(ListenerId { lane: Lane::Express, port: PORT }),
            1 => drop(cx.tcp_listen(Lane::Express, PORT, &options(now))),
            _ => drop((hands.messages.pop(), hands.parked.pop())),
        },
        17 => {
            let opened: Option<TcpId> = cx.tcp_connect(Lane::Express, Bench::remote(len), &options(now)).ok();
            bench.ids.extend(opened);
        }
        18 => {
            let (from, peer) = (FIRST_PEER + u16::from(now) % PEERS, &mut peers[usize::from(now) % usize::from(PEERS)]);
            peer.ack = peer.ack.wrapping_add(len.into());
            let payload = &text[..text.len().min(64)];
            let segment = Segment {
                from,
                to: PORT,
                seq: peer.seq,
                ack: peer.ack,
                flags: flag::ACK | if now > 240 { flag::FIN } else { 0 },
                window: 0xFFFF,
                options: &[],
                payload,
            };
            peer.seq = peer.seq.wrapping_add(payload.len() as u32);
            bench.receive(segment.frame());
        }
        _ => bench.wait(u64::from(now) * 4 * MILLISECOND),
    }
    bench.context().flush();
    bench.poll();
    let cx = bench.context();
    let _ = (cx.tcp_state(id), cx.tcp_report(id), cx.tcp_room(id), cx.tcp_unacknowledged(id), cx.tcp_end(id));
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let mut bench = Bench::new(&options(bytes.byte()));
    let mut peers: Vec<_> = (0..PEERS).map(|peer| bench.open(FIRST_PEER + peer, [SYN_OPTIONS, &[]])).collect();
    let mut hands = Hands::default();
    for _ in 0..CALLS {
        if bytes.0.is_empty() {
            break;
        }
        call(&mut bench, &mut hands, &mut peers, bytes);
    }
    drop(hands);
    bench.finish();
});
