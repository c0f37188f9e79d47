//! The kernel's side of a TAP interface: the two ioctls on a file of /dev/net/tun.
#![allow(unsafe_code, reason = "a custom ioctl is unsafe in every crate that offers one")]

use std::fs::File;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::port::MacAddress;

/// Bytes of an interface name, the ending zero included (`IFNAMSIZ`).
pub const NAME_LEN: usize = 16;
/// Ethernet frames, without a header of the kernel's (`IFF_TAP | IFF_NO_PI`).
const TAP_BARE: u16 = 0x0002 | 0x1000;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const SIOCGIFHWADDR: Opcode = 0x8927;

/// `struct ifreq`: a name, and a union whose first half-word is the flags, or the family of an address that follows.
#[repr(C)]
struct Request {
    name: [u8; NAME_LEN],
    flags: u16,
    address: [u8; 6],
    rest: [u8; 16],
}

/// Makes `file`, an open /dev/net/tun, the interface `name`, which is made if the user may. Returns its name, in which the kernel has put a number
/// for `%d`.
pub fn attach(file: &File, name: &str) -> Result<String, Errno> {
    let mut request = Request { name: [0; NAME_LEN], flags: TAP_BARE, address: [0; 6], rest: [0; 16] };
    let place = request.name.get_mut(..name.len()).filter(|place| place.len() < NAME_LEN).ok_or(Errno::NAMETOOLONG)?;
    place.copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq` and writes one back; `Request` has that layout and size (40 bytes), and outlives the call.
    unsafe { ioctl(file, Updater::<TUNSETIFF, Request>::new(&mut request)) }?;
    let name = request.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The address of the kernel's end of the interface that `file` is.
pub fn address(file: &File) -> Result<MacAddress, Errno> {
    let mut request = Request { name: [0; NAME_LEN], flags: 0, address: [0; 6], rest: [0; 16] };
    // SAFETY: as above; for a TAP's file, the kernel takes the interface from the file and not from the name.
    unsafe { ioctl(file, Updater::<SIOCGIFHWADDR, Request>::new(&mut request)) }?;
    Ok(MacAddress(request.address))
}
