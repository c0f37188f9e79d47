//! Where a model meets the network.
#![forbid(unsafe_code)]

/// A station's place on a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What the frame check sequence of an arriving frame will say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fcs {
    /// It matches the frame.
    Good,
    /// It does not: the MAC counts the frame and drops it.
    Bad,
}

/// The network side of a device model.
pub trait Mac: Send + Sync {
    /// A frame arrives, without its FCS. The model performs its DMA on the caller's thread.
    fn receive(&self, frame: &[u8], fcs: Fcs);

    /// The carrier appears or goes.
    fn set_carrier(&self, up: bool);
}

/// What a device model sends into.
pub trait Medium: Send + Sync {
    /// Sends a frame, padded to the minimum and without its FCS, from the station at `from`. Runs the far end on the caller's thread.
    /// The caller holds no lock and no DMA span that the far end's answer could want.
    fn transmit(&self, from: PortId, frame: &[u8]);
}
