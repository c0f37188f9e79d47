//! Interrupts of the model, as our driver arms them.

use std::sync::Arc;
use std::time::Duration;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::interrupt::Interrupt;
use barewire_driver::ixgbe::{Config, Ixgbe};
use barewire_driver::{Port, RxQueue, TxMeta};
use barewire_models::wire::{Delivery, WireConfig};
use barewire_tests::rig::{Station, frame, mac, models, pair};

use super::{SMALL, clock};

/// Whether the interrupt has come; does not wait.
fn fired(interrupt: &Interrupt) -> bool {
    interrupt.wait(Duration::ZERO).unwrap()
}

#[test]
fn interrupt_armed_comes_once_a_burst_and_unarmed_never() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let interrupt = far.port.interrupt(0).unwrap();
    let burst = |near: &mut Station| {
        for _ in 0..5 {
            near.send(&frame(mac(2), mac(1), &[1; 46]), TxMeta::default());
        }
    };
    burst(&mut near);
    assert!(!fired(&interrupt), "not armed");
    assert_eq!(far.received().len(), 5);
    // What came before arming may fire at once, but only once; nothing that comes later is lost.
    far.queue.rx.arm_interrupt();
    let stale = fired(&interrupt);
    far.queue.rx.arm_interrupt();
    assert!(!(stale && fired(&interrupt)), "one cause fired twice");
    for _ in 0..3 {
        burst(&mut near);
        assert!(fired(&interrupt) && !fired(&interrupt));
        burst(&mut near);
        assert!(!fired(&interrupt), "masked since it fired");
        assert_eq!(far.received().len(), 10);
        far.queue.rx.arm_interrupt();
        assert!(fired(&interrupt), "the burst since it fired is told of when armed");
        assert!(far.received().is_empty());
        far.queue.rx.arm_interrupt();
    }
    drop(interrupt);
    burst(&mut near);
    assert_eq!(far.received().len(), 5);
}

#[test]
fn interrupts_of_all_queues_have_vectors_of_their_own() {
    const EICS_EX: u32 = 0xA90;
    let (near, far, _wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(near));
    let registers = bus.bar(0).unwrap();
    let mut port = Ixgbe::open(bus, Config { queues: 64, ..SMALL }).unwrap();
    let _far = Station::open(far, SMALL);
    let queues = [0, 15, 16, 33, 63];
    let mut open: Vec<_> = queues.iter().map(|&queue| port.open_queue(queue).unwrap()).collect();
    let interrupts: Vec<_> = queues.iter().map(|&queue| port.interrupt(queue).unwrap()).collect();
    for (at, queue) in queues.into_iter().enumerate() {
        open[at].rx.arm_interrupt();
        registers.write32(EICS_EX + u32::from(queue / 32) * 4, 1 << (queue % 32));
        let seen: Vec<_> = interrupts.iter().map(fired).collect();
        assert!(seen.iter().enumerate().all(|(n, &seen)| seen == (n == at)), "queue {queue}: {seen:?}");
    }
}
