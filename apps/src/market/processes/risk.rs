//! The risk process: orders that somebody wants in; those that pass every limit out, under numbers; and the count of what became of them.

use std::path::Path;

use barewire_netstack::ipc::Writer;
use zerocopy::{FromBytes, IntoBytes};

use super::message::{Instruction, News, Want, instruction, news, want};
use super::{Frame, Home, Stop, send};
use crate::market::Error;
use crate::trade::kill::KillSwitch;
use crate::trade::limits::Refusal;
use crate::trade::orders::Answer;
use crate::trade::risk::{Market, Risk};
use crate::trade::strategy::{Level, Top};

/// Messages of one turn, at most.
const BURST: u32 = 64;

struct Desk {
    risk: Risk,
    out: Writer,
    /// The epoch of the session, while orders may be sent.
    epoch: Option<u32>,
    /// The strategy wants nothing any more.
    is_last: bool,
    has_logged_out: bool,
    failure: Option<Error>,
}

impl Desk {
    fn want(&mut self, now: u64, bytes: &[u8]) {
        let Ok(wanted) = Want::read_from_bytes(bytes) else { return };
        match wanted.kind {
            want::START => self.say(&Instruction { kind: instruction::START, ..Instruction::default() }),
            want::ORDER => self.order(now, &wanted),
            _ => self.is_last = true,
        }
    }

    fn order(&mut self, now: u64, wanted: &Want) {
        let intent = wanted.order.intent();
        let top = Top {
            bid: Level { price: wanted.bid, shares: wanted.bid_shares },
            ask: Level { price: wanted.ask, shares: wanted.ask_shares },
        };
        let (is_stale, is_halted) = (wanted.is_stale != 0, wanted.is_halted != 0);
        let market = Market { now, top, heard: wanted.heard, is_stale, is_halted };
        self.risk.orders.tally.decided += 1;
        let epoch = self.epoch.ok_or(Refusal::NoSession);
        match self.risk.admit(&intent, &market).and_then(|number| Ok((number, epoch?))) {
            Ok((number, epoch)) => {
                self.risk.released(now, number, &intent);
                let Want { seen, order, .. } = *wanted;
                let kind = instruction::ORDER;
                self.say(&Instruction { seen, order, number, epoch, kind, padding: [0; 7] });
            }
            Err(reason) => {
                self.risk.orders.tally.refused.count(reason);
                log::info!("order refused: {reason}: {intent:?}");
            }
        }
    }

    fn news(&mut self, bytes: &[u8]) {
        let Ok(News { number, shares, epoch, kind, reason, .. }) = News::read_from_bytes(bytes) else { return };
        let answer = match kind {
            news::READY => return self.epoch = Some(epoch),
            news::DOWN => return self.epoch = None,
            news::UNSENT => {
                let reason = Refusal::ALL.get(usize::from(reason)).copied();
                return self.risk.orders.unsent(number, reason.unwrap_or(Refusal::NoSession));
            }
            news::ACCEPTED => Answer::Accepted { number },
            news::REJECTED => Answer::Rejected { number },
            news::EXECUTED => Answer::Executed { number, shares },
            news::CANCELLED => Answer::Cancelled { number, shares },
            news::SETTLED => Answer::Settled { next: number },
            _ => return,
        };
        self.risk.orders.answer(answer);
    }

    /// What follows a press of the kill switch, and the end of the market.
    fn pump(&mut self) {
        if let Some(number) = self.risk.serve_kill() {
            self.say(&Instruction { number, kind: instruction::CANCEL_ALL, ..Instruction::default() });
        }
        if self.is_last && !self.has_logged_out && self.risk.orders.tally.unanswered() == 0 {
            self.has_logged_out = true;
            self.say(&Instruction { kind: instruction::LOG_OUT, ..Instruction::default() });
        }
    }

    fn say(&mut self, instruction: &Instruction) {
        if let Err(error) = send(&mut self.out, instruction.as_bytes()) {
            self.failure.get_or_insert(error);
        }
    }
}

/// Runs until every order has its answer. SIGUSR1 presses the kill switch, and a file at `kill_file` does.
pub(super) fn run(mut frame: Frame, kill_file: Option<&Path>) -> Result<Home, Error> {
    let kill = KillSwitch::default();
    kill.press_on_signal().map_err(Error::Processes)?;
    let _watch = kill_file.map(|path| kill.press_on_file(path)).transpose().map_err(Error::Processes)?;
    let places = &frame.plan.places;
    let (mut wants, mut news) = (Frame::reader(&places.wants)?, Frame::reader(&places.news)?);
    let mut risk = Risk::default();
    risk.set_kill_switch(kill);
    let out = Frame::writer(&places.orders)?;
    let mut desk = Desk { risk, out, epoch: None, is_last: false, has_logged_out: false, failure: None };
    let mut stopped: Option<Stop> = None;
    while !desk.has_logged_out && stopped.is_none() {
        let now = frame.clock.now();
        let mut taken = news.poll(BURST, |bytes| desk.news(bytes))?;
        taken += wants.poll(BURST, |bytes| desk.want(now, bytes))?;
        desk.pump();
        if let Some(error) = desk.failure.take() {
            return Err(error);
        }
        stopped = frame.turn(now, taken > 0).err();
    }
    let mut home = Home { stopped, ..Home::default() };
    home.figures.tally = desk.risk.orders.tally;
    Ok(home)
}
