//! Barewire's TCP stacks behind the interface that google/packetdrill has for shared objects, so that any of its scripts runs on them:
//!
//! ```text
//! packetdrill --so_filename=libbarewire_packetdrill.so --so_flags=stack=express,local=192.168.0.1 \
//!     --local_ip=192.168.0.1 --gateway_ip=192.168.0.1 --netmask_ip=255.255.0.0 --remote_ip=192.0.2.1 script.pkt
//! ```
//!
//! `timestamps=yes` among the flags has the express stack use timestamps. packetdrill locks all of its memory; an ordinary user needs small stacks
//! for that (`ulimit -s 512`).
//!
//! Time is virtual: it moves when packetdrill asks for it, and an hour of a script passes in a moment. From the wire up:
//!
//! | module | what it is |
//! |---|---|
//! | `wire` | raw IP packets of packetdrill to Ethernet frames of the stack and back; answers ARP |
//! | `stack` | the stack under test, as sockets need it |
//! | `world` | the stack, its sockets and the wire at one instant |
//! | `socket`, `poll` | what POSIX puts on top of TCP: buffers, errors, options, readiness |
//! | `simulation` | the clock, and calls that block |
//! | `calls` | the system calls, in Rust's types |
//! | `interface` | the C ABI |

mod calls;
mod flags;
mod interface;
mod poll;
mod simulation;
mod socket;
mod stack;
mod tcp_info;
mod wire;
mod world;
