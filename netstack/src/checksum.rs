//! The Internet checksum (RFC 1071), in software: for frames that the device did not look at, and for what it cannot fill in.

/// The ones' complement sum of big-endian words, folded to 16 bits, on top of `start`.
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut total = u64::from(start);
    for word in words {
        total = total.wrapping_add(u64::from(u16::from_be_bytes(*word)));
    }
    if let [last] = rest {
        total = total.wrapping_add(u64::from(*last) << 8);
    }
    fold(total)
}

fn fold(mut total: u64) -> u16 {
    // Three folds take any 64-bit sum of fewer than 2^32 words to 16 bits; the last removes a carry of the one before.
    for _ in 0..4 {
        total = (total & 0xFFFF).wrapping_add(total >> 16);
    }
    total as u16
}

/// The sum over the pseudo-header of an IPv4 packet (RFC 768, RFC 9293 3.1): what checksum offload expects in the field.
pub fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> u16 {
    let addresses = u32::from(sum(&source, 0)).wrapping_add(u32::from(sum(&destination, 0)));
    sum(&[], addresses.wrapping_add(u32::from(protocol)).wrapping_add(u32::from(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7], 0), 0xDDF2);
        assert_eq!(sum(&[0xFF; 65_535], u32::MAX), sum(&[0xFF, 0x00], 0));
    }
}
