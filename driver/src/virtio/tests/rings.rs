//! Both rings, written by a device that follows no rule.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the device writes into the used rings and the headers: no panic, no buffer lost or held twice, canary intact, and a queue that
    /// stopped stays stopped.
    #[test]
    fn hostile_device_never_corrupts_memory(
        steps in proptest::collection::vec((0..3usize, any::<bool>(), 0..70u32, prop_oneof![0..2100u32, any::<u32>()], any::<u16>()), 1..60)
    ) {
        let mut station = Station::new(OFFERED);
        let canary = station.queue().tx.reserve().map(|mut buffer| { buffer.fill(0xA5); buffer }).unwrap();
        let mut stopped = None;
        for (what, honest, id, len, buffers) in steps {
            match what {
                0 if honest => {
                    if let Some((head, parts)) = station.device.next_chain(0) {
                        station.device.host.dma().write(parts[0].0 + 10, &(buffers % 4).to_le_bytes()).unwrap();
                        station.device.complete(0, &[(head.into(), len)]);
                    }
                }
                0 => station.device.complete(0, &[(id, len)]),
                1 => {
                    let _ = station.send(&bytes(64), TxMeta::default());
                    let heads: Vec<_> = station.device.sent().iter().map(|(head, ..)| (u32::from(*head), len)).collect();
                    station.device.complete(1, if honest { &heads } else { &[(0, 0)] });
                }
                _ => {
                    match (stopped, station.received()) {
                        (None, received) => stopped = received.err(),
                        (Some(fault), received) => prop_assert_eq!(received, Err(fault)),
                    }
                    station.queue().tx.reclaim();
                }
            }
            if let Err(error) = station.port.service(0, &mut |_| {}) {
                prop_assert!(matches!(error, Error::Queue(QueueFault { queue: 1, .. })), "{}", error);
                prop_assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::Stopped));
            }
            let pool = station.queue().rx.pool();
            prop_assert!(pool.available() < pool.capacity() - 64, "a posted buffer is free");
        }
        prop_assert!(canary.iter().all(|byte| *byte == 0xA5));
    }
}
