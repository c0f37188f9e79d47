//! Interrupt causes, masks and vectors (datasheet 7.3, 8.2.3.5).
//!
//! Queue causes go by IVAR to one of 64 vectors; vectors 0 to 15 show in the low half of EICR. All other causes have bits of their own in the
//! upper half and share one vector (IVAR_MISC). Throttling (EITR) is not modelled: a message leaves at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use barewire_driver::bus::model::Host;

use super::regs::{RegisterFile, at};

/// EICR bits that queues share.
const QUEUE_CAUSES: u32 = 0xFFFF;
/// Several MSI-X vectors (GPIE bit 4), in each a cause of its own.
const MULTIPLE_MSIX: u32 = 1 << 4;
/// Reading EICR clears bits 29:16 only (GPIE bit 5).
const OTHER_CLEAR_DISABLE: u32 = 1 << 5;
/// Vectors mask themselves when they fire (GPIE bit 30); without it, reading EICR masks what EIAM names.
const EIAME: u32 = 1 << 30;
/// The half of an IVAR entry that makes it count.
const VALID: u32 = 0x80;

/// Link status change.
pub(super) const LINK_CHANGE: u32 = 1 << 20;

/// Causes and masks.
#[derive(Default)]
pub(super) struct Interrupts(Mutex<State>);

#[derive(Default)]
struct State {
    queues: Half<u64>,
    other: Half<u32>,
}

/// Causes that are set, causes that are let through, and those whose message has left.
#[derive(Default)]
struct Half<T> {
    causes: T,
    mask: T,
    told: T,
}

/// An interrupt register of 32 bits, as software addresses it.
#[derive(Clone, Copy)]
pub(super) enum View {
    /// EICR, EICS, EIMS, EIMC.
    Plain,
    /// The _EX registers: vectors 0 to 31 or 32 to 63.
    Vectors(u32),
}

impl View {
    /// The bits as queue vectors and as other causes.
    fn split(self, bits: u32) -> (u64, u32) {
        match self {
            Self::Plain => (u64::from(bits & QUEUE_CAUSES), bits & !QUEUE_CAUSES),
            Self::Vectors(half) => (u64::from(bits) << (32 * half), 0),
        }
    }

    fn join(self, queues: u64, other: u32) -> u32 {
        match self {
            Self::Plain => queues as u32 & QUEUE_CAUSES | other,
            Self::Vectors(half) => (queues >> (32 * half)) as u32,
        }
    }
}

impl Interrupts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets causes, and tells the host of those that are not masked.
    pub fn raise(&self, regs: &RegisterFile, host: Option<&Host>, view: View, bits: u32) {
        self.change(regs, host, |state| {
            let (queues, other) = view.split(bits);
            state.queues.causes |= queues;
            state.other.causes |= other;
        });
    }

    /// Sets the cause of an IVAR entry, if the entry counts.
    pub fn raise_entry(&self, regs: &RegisterFile, host: Option<&Host>, entry: u32) {
        if entry & VALID != 0 {
            self.change(regs, host, |state| state.queues.causes |= 1 << (entry & 0x3F));
        }
    }

    /// The causes, as EICS reads: nothing changes.
    pub fn causes(&self) -> u32 {
        let state = self.lock();
        View::Plain.join(state.queues.causes, state.other.causes)
    }

    /// The causes, as EICR reads: they are cleared, and masked where EIAM says so.
    pub fn take_causes(&self, regs: &RegisterFile, host: Option<&Host>) -> u32 {
        let mut causes = 0;
        self.change(regs, host, |state| {
            causes = View::Plain.join(state.queues.causes, state.other.causes);
            let mode = regs.get(at::GPIE);
            let cleared = if mode & OTHER_CLEAR_DISABLE != 0 { 0x3FFF_0000 } else { u32::MAX };
            state.clear(View::Plain, cleared);
            if mode & EIAME == 0 {
                state.mask(View::Plain, regs.get(at::EIAM));
            }
        });
        causes
    }

    /// Clears causes.
    pub fn clear(&self, regs: &RegisterFile, host: Option<&Host>, bits: u32) {
        self.change(regs, host, |state| state.clear(View::Plain, bits));
    }

    /// The causes that are let through.
    pub fn enabled(&self, view: View) -> u32 {
        let state = self.lock();
        view.join(state.queues.mask, state.other.mask)
    }

    /// Lets causes through; those that are set already fire.
    pub fn enable(&self, regs: &RegisterFile, host: Option<&Host>, view: View, bits: u32) {
        self.change(regs, host, |state| {
            let (queues, other) = view.split(bits);
            state.queues.mask |= queues;
            state.other.mask |= other;
        });
    }

    /// Holds causes back.
    pub fn disable(&self, regs: &RegisterFile, host: Option<&Host>, view: View, bits: u32) {
        self.change(regs, host, |state| state.mask(view, bits));
    }

    /// No cause, everything masked.
    pub fn reset(&self, regs: &RegisterFile, host: Option<&Host>) {
        self.change(regs, host, |state| *state = State::default());
    }

    fn change(&self, regs: &RegisterFile, host: Option<&Host>, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let Some(host) = host else { return };
        // Two readings of one thing, PCI's and the device's own; both must say MSI-X.
        if regs.get(at::GPIE) & MULTIPLE_MSIX != 0 && host.takes_messages() {
            state.send_messages(regs, host);
        } else {
            let active = state.queues.active() | u64::from(state.other.active());
            host.drive_line(active != 0);
            if active != 0 && host.takes_messages() && state.queues.told == 0 && state.other.told == 0 {
                host.interrupt(0);
            }
            state.queues.told = state.queues.active();
            state.other.told = state.other.active();
        }
    }
}

impl Half<u64> {
    fn active(&self) -> u64 {
        self.causes & self.mask
    }
}

impl Half<u32> {
    fn active(&self) -> u32 {
        self.causes & self.mask
    }
}

impl State {
    fn clear(&mut self, view: View, bits: u32) {
        let (queues, other) = view.split(bits);
        self.queues.causes &= !queues;
        self.other.causes &= !other;
    }

    fn mask(&mut self, view: View, bits: u32) {
        let (queues, other) = view.split(bits);
        self.queues.mask &= !queues;
        self.other.mask &= !other;
    }

    /// 7.3.4.3: a message for each vector with a new cause; then auto-clear (EIAC, always for vectors 16 to 63) and auto-mask (EIAM).
    fn send_messages(&mut self, regs: &RegisterFile, host: &Host) {
        const SHOWN: u64 = QUEUE_CAUSES as u64;
        let (clear, mode) = (regs.get(at::EIAC), regs.get(at::GPIE));
        let fired = self.queues.active() & !self.queues.told;
        let mut rest = fired;
        while rest != 0 {
            host.interrupt(rest.trailing_zeros() as u16);
            rest &= rest - 1;
        }
        let other = self.other.active() & !self.other.told;
        if other != 0 {
            let vector = regs.get(at::IVAR_MISC) >> 8;
            if vector & VALID != 0 {
                host.interrupt((vector & 0x3F) as u16);
            }
        }
        self.queues.causes &= !(fired & (u64::from(clear) | !SHOWN));
        self.other.causes &= !(other & clear);
        if mode & EIAME != 0 {
            let vectors = u64::from(regs.get(at::EIAM_EX)) | u64::from(regs.get(at::EIAM_EX + 4)) << 32;
            self.queues.mask &= !(fired & vectors);
            self.other.mask &= !(other & regs.get(at::EIAM));
        }
        self.queues.told = self.queues.active();
        self.other.told = self.other.active();
    }
}
