//! What a real bus and a real driver would feel: the cost ledger, and what the device refused.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$doc:meta])* $cells:ident => $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: u64,)* }

        #[derive(Default)]
        pub(super) struct $cells { $(pub $field: AtomicU64,)* }

        impl $cells {
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }

        impl $snapshot {
            /// Every counter with its name.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Costs since the model was made. A descriptor fetch is counted for each descriptor; silicon fetches several in a burst, so it is an
    /// upper bound.
    LedgerCells => Ledger {
        /// Tail registers written.
        doorbells,
        /// Registers read: a round trip over PCIe for the CPU each.
        register_reads,
        /// Other registers written.
        register_writes,
        /// Descriptors the device read.
        descriptor_fetches,
        /// Descriptors (or heads) the device wrote.
        write_backs,
        /// Bytes the device read from memory, descriptors included.
        bytes_read,
        /// Bytes the device wrote to memory, descriptors included.
        bytes_written,
        /// Frames received into memory.
        frames_received,
        /// Frames sent.
        frames_sent,
    }
}

counters! {
    /// What the device did not do, by cause.
    RefusalCells => Refusals {
        /// Frames without carrier, either way.
        no_carrier,
        /// Frames while receive was off.
        receive_disabled,
        /// Frames that no address filter took.
        filtered,
        /// Frames of a VLAN that the VLAN filter does not hold.
        vlan_filtered,
        /// Frames that found too few descriptors.
        no_descriptors,
        /// Queues enabled with a base or a length that silicon does not take.
        bad_ring,
        /// Tails beyond the ring.
        bad_tail,
        /// Doorbells of a queue, or a device, that is not enabled.
        doorbell_while_disabled,
        /// Transmit descriptors of an unknown type.
        unknown_descriptor,
        /// Frames with a length of zero, too long, or other than PAYLEN.
        bad_length,
        /// Frames to be segmented whose context is missing or does not fit.
        segmentation,
        /// Frames whose checksum or tag request has no context or does not fit the frame.
        bad_context,
        /// DMA outside every mapping.
        dma_faults,
    }
}

impl LedgerCells {
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}
