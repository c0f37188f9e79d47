//! Filters by the control queue, and answers of every kind.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the device says of a command: it was carried out only if the device said so of this one, and what follows is no panic.
    #[test]
    fn hostile_answers_to_commands_are_errors(
        answers in proptest::collection::vec((any::<u8>(), prop_oneof![Just(1u64 << 32), 0u64..4, any::<u64>()], 1u16..), 1..8),
    ) {
        let mut station = Station::new(OFFERED | 1 << 23);
        for (answer, element, step) in answers {
            let honest = { let mut state = station.device.state.lock().unwrap();
                (state.answer, state.used) = (Some(answer), (element, step));
                answer == 0 && element as u32 == 0 && step == 1
            };
            let outcome = station.port.set_mac(MacAddress(MAC));
            let told = |error: &Error| matches!(error, Error::Queue(QueueFault { queue: 2, .. }) | Error::Command { .. });
            prop_assert!(outcome.as_ref().map_or_else(told, |()| honest), "{:?}", outcome);
            if matches!(outcome, Err(Error::Queue(_))) {
                break;
            }
        }
    }
}

#[test]
fn filters_follow_joins_and_survive_close_and_open() {
    let mut station = Station::new(OFFERED);
    let take = |station: &Station| std::mem::take(&mut station.device.state.lock().unwrap().commands);
    take(&station);
    station.port.join_multicast(GROUP).unwrap();
    let table = [&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &GROUP.0].concat();
    let expected = |on| [table.clone(), vec![0, 1, 0], vec![0, 0, on]];
    assert_eq!(take(&station), expected(0));
    let queue = station.queue.take().unwrap();
    station.port.close_queue(queue).unwrap();
    station.port.set_promiscuous(true).unwrap();
    assert!(take(&station).is_empty(), "a device that does not work takes no commands");
    station.queue = Some(station.port.open_queue(0).unwrap());
    assert_eq!(take(&station), expected(1));
    for n in 0..64 {
        station.port.join_multicast(MacAddress([1, 0, 0x5E, 1, 1, n])).unwrap();
    }
    // Sixty-five: the table ends, every group is let in.
    assert_eq!(take(&station).split_off(63 * 3), [vec![0, 1, 1], vec![0, 0, 1]]);
}

#[test]
fn device_without_filters_says_what_follows() {
    let mut station = Station::new(OFFERED & !(1 << 18));
    station.port.join_multicast(GROUP).unwrap();
    station.port.set_promiscuous(true).unwrap();
    let error = station.port.set_promiscuous(false).unwrap_err().to_string();
    assert!(error.contains("CTRL_RX") && error.contains("stay open"), "{error}");
    assert!(station.device.state.lock().unwrap().commands.is_empty());
    assert!(station.port.set_mac(MacAddress(MAC)).is_err());
}

#[test]
fn commands_refused_or_unanswered_are_errors() {
    let mut station = Station::new(OFFERED);
    let outcome = |error: Error| match error {
        Error::Command { outcome, .. } => outcome,
        other => panic!("{other}"),
    };
    station.device.state.lock().unwrap().answer = Some(1);
    assert_eq!(outcome(station.port.set_promiscuous(true).unwrap_err()), "was refused");
    station.device.state.lock().unwrap().answer = None;
    assert_eq!(outcome(station.port.set_promiscuous(true).unwrap_err()), "got no answer within a second");
    let later = outcome(station.port.set_promiscuous(true).unwrap_err());
    assert_eq!(later, "cannot be sent while an earlier one is unanswered");
}
