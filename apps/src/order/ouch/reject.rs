//! Why an order is rejected (specification, appendix D): the reasons that the exchange here gives.
#![forbid(unsafe_code)]

/// The market takes no orders any more.
pub const CLOSED: u16 = 0x0002;
/// The stock is halted.
pub const HALTED: u16 = 0x0007;
/// Side is unknown.
pub const INVALID_SIDE: u16 = 0x0009;
/// Order entry is disabled.
pub const NOT_AUTHORIZED: u16 = 0x000C;
/// Something that the exchange does not offer.
pub const OTHER: u16 = 0x000F;
/// Quantity is not allowed.
pub const INVALID_QUANTITY: u16 = 0x0013;
/// There is no such cross, or not any more.
pub const INVALID_CROSS: u16 = 0x0014;
/// The order to be replaced is not there.
pub const REPLACE_NOT_ALLOWED: u16 = 0x0015;
/// Symbol is unknown.
pub const INVALID_SYMBOL: u16 = 0x0017;
/// Price is not allowed.
pub const INVALID_PRICE: u16 = 0x001D;
