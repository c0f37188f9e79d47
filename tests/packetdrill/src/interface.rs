//! The C ABI: `struct packetdrill_interface` and what its pointers lead to. Everything that is a pointer stays in here.
//!
//! The C functions `fcntl` and `ioctl` take a variable argument. Their counterparts here always take it: by the calling conventions of Linux on
//! x86-64 and aarch64 it travels like any other, and it is looked at only where the command has one.

use std::ffi::{CStr, c_char, c_int, c_longlong, c_ulong, c_void};
use std::net::SocketAddrV4;
use std::process::exit;
use std::ptr;
use std::slice;

use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, sockaddr, sockaddr_in, socklen_t, ssize_t, timeval, timezone,
    useconds_t,
};
use rustix::io::Errno;

use crate::flags::Flags;
use crate::poll::Polled;
use crate::simulation::Simulation;
use crate::world::World;

/// The most bytes of one I/O vector that are looked at (IOV_MAX).
const MOST_VECTORS: usize = 1024;

// SAFETY: what is not Send in a world are the reference counts of the stack's packet pool and rings. All handles to them are in the world itself, so
// they move with it, and its mutex lets one thread in at a time.
unsafe impl Send for World {}

/// `struct packetdrill_interface`, in the order of its members.
#[repr(C)]
pub struct Interface {
    userdata: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    socket: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    bind: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    listen: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    accept: unsafe extern "C" fn(*mut c_void, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    connect: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    read: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, usize) -> ssize_t,
    readv: unsafe extern "C" fn(*mut c_void, c_int, *const iovec, c_int) -> ssize_t,
    recv: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, usize, c_int) -> ssize_t,
    recvfrom:
        unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, usize, c_int, *mut sockaddr, *mut socklen_t) -> ssize_t,
    recvmsg: unsafe extern "C" fn(*mut c_void, c_int, *mut msghdr, c_int) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> ssize_t,
    writev: unsafe extern "C" fn(*mut c_void, c_int, *const iovec, c_int) -> ssize_t,
    send: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize, c_int) -> ssize_t,
    sendto:
        unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize, c_int, *const sockaddr, socklen_t) -> ssize_t,
    sendmsg: unsafe extern "C" fn(*mut c_void, c_int, *const msghdr, c_int) -> ssize_t,
    fcntl: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    ioctl: unsafe extern "C" fn(*mut c_void, c_int, c_ulong, *mut c_int) -> c_int,
    close: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    shutdown: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    getsockopt: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    setsockopt: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    poll: unsafe extern "C" fn(*mut c_void, *mut pollfd, nfds_t, c_int) -> c_int,
    netdev_send: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int,
    netdev_receive: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut usize, *mut c_longlong) -> c_int,
    usleep: unsafe extern "C" fn(*mut c_void, useconds_t) -> c_int,
    gettimeofday: unsafe extern "C" fn(*mut c_void, *mut timeval, *mut timezone) -> c_int,
    epoll_create: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    epoll_ctl: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    epoll_wait: unsafe extern "C" fn(*mut c_void, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pipe: unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int,
    splice: unsafe extern "C" fn(*mut c_void, c_int, *mut loff_t, c_int, *mut loff_t, usize, u32) -> ssize_t,
}

/// Fills in `interface` for the stack that `flags` ask for. What is wrong with the flags is said, and ends the process with exit status 2; when the
/// stack cannot be opened, with 1.
///
/// # Safety
/// `flags` must be null or a string, and `interface` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, interface: *mut Interface) {
    let text = if flags.is_null() {
        Default::default()
    } else {
        // SAFETY: a string, by the caller's promise.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy()
    };
    let flags = Flags::parse(&text).unwrap_or_else(|error| fail(2, &error));
    let world = World::new(&flags).unwrap_or_else(|error| fail(1, &error));
    let userdata = Box::into_raw(Box::new(Simulation::new(world))).cast();
    let filled = Interface {
        userdata,
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    // SAFETY: writable, by the caller's promise.
    unsafe { interface.write(filled) };
}

fn fail(status: i32, error: &dyn std::fmt::Display) -> ! {
    eprintln!("barewire-packetdrill: {error}");
    exit(status)
}

/// The simulation behind `userdata`.
///
/// # Safety
/// `userdata` must be the one that [`packetdrill_interface_init`] filled in, before [`free`] and for as long as the reference lives.
unsafe fn simulation<'a>(userdata: *mut c_void) -> &'a Simulation {
    // SAFETY: made from a box by `packetdrill_interface_init`; other threads share it, too.
    unsafe { &*userdata.cast::<Simulation>() }
}

fn set_errno(error: Errno) {
    // SAFETY: the C library gives every thread an errno of its own.
    unsafe { *libc::__errno_location() = error.raw_os_error() };
}

/// A system call's result: what it returned, or -1 and `errno`.
fn returns<T: TryFrom<i64> + From<i8>>(result: Result<impl TryInto<i64>, Errno>) -> T {
    let value = result.and_then(|value| value.try_into().map_err(|_| Errno::OVERFLOW));
    match value.and_then(|value| T::try_from(value).map_err(|_| Errno::OVERFLOW)) {
        Ok(value) => value,
        Err(error) => {
            set_errno(error);
            T::from(-1i8)
        }
    }
}

fn nothing(result: Result<(), Errno>) -> c_int {
    returns(result.map(|()| 0))
}

/// The bytes of a caller's buffer to read from.
///
/// # Safety
/// `buffer` must be null or readable for `len` bytes, while the slice lives.
unsafe fn bytes<'a>(buffer: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    match (buffer.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Errno::FAULT),
        // SAFETY: readable, by the caller's promise.
        (false, _) => Ok(unsafe { slice::from_raw_parts(buffer.cast(), len) }),
    }
}

/// The bytes of a caller's buffer to write to.
///
/// # Safety
/// `buffer` must be null or writable for `len` bytes and nobody else's, while the slice lives.
unsafe fn bytes_mut<'a>(buffer: *mut c_void, len: usize) -> Result<&'a mut [u8], Errno> {
    match (buffer.is_null(), len) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Errno::FAULT),
        (false, _) => {
            // The caller's bytes may never have been written, and a slice must not show such.
            // SAFETY: writable, by the caller's promise.
            unsafe { ptr::write_bytes(buffer.cast::<u8>(), 0, len) };
            // SAFETY: as above; written now.
            Ok(unsafe { slice::from_raw_parts_mut(buffer.cast(), len) })
        }
    }
}

/// The pieces of an I/O vector.
///
/// # Safety
/// `vectors` must be null or readable for `count` pieces, while the slice lives.
unsafe fn pieces<'a>(vectors: *const iovec, count: usize) -> Result<&'a [iovec], Errno> {
    match (vectors.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Errno::FAULT),
        (false, 1..=MOST_VECTORS) => {
            // SAFETY: readable, by the caller's promise.
            let pieces = unsafe { slice::from_raw_parts(vectors, count) };
            let null = pieces.iter().any(|piece| piece.iov_base.is_null() && piece.iov_len > 0);
            if null { Err(Errno::FAULT) } else { Ok(pieces) }
        }
        (false, _) => Err(Errno::INVAL),
    }
}

/// Receives into the pieces of an I/O vector.
///
/// # Safety
/// As for [`pieces`], and each piece must be null or writable for its length.
unsafe fn scatter(
    simulation: &Simulation,
    fd: c_int,
    (vectors, count): (*const iovec, usize),
    flags: c_int,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let pieces = unsafe { pieces(vectors, count) }?;
    let mut buffer = vec![0; pieces.iter().map(|piece| piece.iov_len).sum()];
    let read = simulation.receive(fd, &mut buffer, flags)?;
    let mut rest = buffer.get(..read).unwrap_or_default();
    for piece in pieces {
        let (now, later) = rest.split_at(piece.iov_len.min(rest.len()));
        if !now.is_empty() {
            // SAFETY: not null, as `pieces` has seen, so writable for its length, by the caller's promise; the source is a buffer of ours.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), piece.iov_base.cast(), now.len()) };
        }
        rest = later;
    }
    Ok(read)
}

/// Sends the pieces of an I/O vector.
///
/// # Safety
/// As for [`pieces`], and each piece must be null or readable for its length.
unsafe fn gather(
    simulation: &Simulation,
    fd: c_int,
    (vectors, count): (*const iovec, usize),
    flags: c_int,
) -> Result<usize, Errno> {
    let mut buffer = Vec::new();
    // SAFETY: the caller's promise.
    for piece in unsafe { pieces(vectors, count) }? {
        // SAFETY: the caller's promise.
        buffer.extend_from_slice(unsafe { bytes(piece.iov_base, piece.iov_len) }?);
    }
    simulation.transmit(fd, &buffer, flags)
}

/// An IPv4 address and port; `None` for no address (AF_UNSPEC).
///
/// # Safety
/// `address` must be null or readable for `len` bytes.
unsafe fn address(address: *const sockaddr, len: socklen_t) -> Result<Option<SocketAddrV4>, Errno> {
    if address.is_null() {
        return Err(Errno::FAULT);
    }
    if (len as usize) < size_of::<sockaddr_in>() {
        return Err(Errno::INVAL);
    }
    // SAFETY: not null and long enough; reading asks for no alignment.
    let address = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
    match c_int::from(address.sin_family) {
        libc::AF_INET => {
            let ip = u32::from_be(address.sin_addr.s_addr).into();
            Ok(Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
        }
        libc::AF_UNSPEC => Ok(None),
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// Writes an address, cut to the room there is, and its whole length; nothing where the caller does not ask for it.
///
/// # Safety
/// `len` must be null or valid, and `into` null or writable for `*len` bytes.
unsafe fn put_address(from: SocketAddrV4, into: *mut sockaddr, len: *mut socklen_t) {
    if into.is_null() || len.is_null() {
        return;
    }
    let address = sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: from.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*from.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are valid, by the caller's promise; no more than `*len` bytes are written.
    unsafe {
        let room = (*len as usize).min(size_of::<sockaddr_in>());
        ptr::copy_nonoverlapping((&raw const address).cast::<u8>(), into.cast(), room);
        *len = size_of::<sockaddr_in>() as socklen_t;
    }
}

/// The messages of sendmsg and recvmsg: an I/O vector.
///
/// # Safety
/// `message` must be null or valid.
unsafe fn message_vector(message: *const msghdr) -> Result<(*const iovec, usize), Errno> {
    if message.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: valid, by the caller's promise.
    let message = unsafe { &*message };
    Ok((message.msg_iov, message.msg_iovlen))
}

// The functions of the interface. For all of them, SAFETY: packetdrill passes the userdata that it was given, and pointers as the C functions of
// the same names want them; each is checked for null before it is used.

/// # Safety
/// `userdata` must be ours, and not be used again.
unsafe extern "C" fn free(userdata: *mut c_void) {
    // SAFETY: made from a box by `packetdrill_interface_init`.
    drop(unsafe { Box::from_raw(userdata.cast::<Simulation>()) });
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn socket(userdata: *mut c_void, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: the caller's promise.
    returns(unsafe { simulation(userdata) }.socket(domain, kind, protocol))
}

/// # Safety
/// As for bind(2); `userdata` must be ours.
unsafe extern "C" fn bind(userdata: *mut c_void, fd: c_int, name: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let (simulation, name) = unsafe { (simulation(userdata), address(name, len)) };
    nothing(name.and_then(|name| simulation.bind(fd, name.ok_or(Errno::AFNOSUPPORT)?)))
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn listen(userdata: *mut c_void, fd: c_int, _backlog: c_int) -> c_int {
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.listen(fd))
}

/// # Safety
/// As for accept(2); `userdata` must be ours.
unsafe extern "C" fn accept(userdata: *mut c_void, fd: c_int, name: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let accepted = unsafe { simulation(userdata) }.accept(fd);
    returns(accepted.map(|(fd, peer)| {
        // SAFETY: the caller's promise.
        unsafe { put_address(peer, name, len) };
        fd
    }))
}

/// # Safety
/// As for connect(2); `userdata` must be ours.
unsafe extern "C" fn connect(userdata: *mut c_void, fd: c_int, name: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let (simulation, name) = unsafe { (simulation(userdata), address(name, len)) };
    nothing(name.and_then(|name| match name {
        Some(peer) => simulation.connect(fd, peer),
        None => simulation.disconnect(fd),
    }))
}

/// # Safety
/// As for read(2); `userdata` must be ours.
unsafe extern "C" fn read(userdata: *mut c_void, fd: c_int, buffer: *mut c_void, len: usize) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { recv(userdata, fd, buffer, len, 0) }
}

/// # Safety
/// As for readv(2); `userdata` must be ours.
unsafe extern "C" fn readv(userdata: *mut c_void, fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    let count = usize::try_from(count).map_err(|_| Errno::INVAL);
    // SAFETY: the caller's promise.
    returns(count.and_then(|count| unsafe { scatter(simulation(userdata), fd, (vectors, count), 0) }))
}

/// # Safety
/// As for recv(2); `userdata` must be ours.
unsafe extern "C" fn recv(userdata: *mut c_void, fd: c_int, buffer: *mut c_void, len: usize, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise.
    let (simulation, buffer) = unsafe { (simulation(userdata), bytes_mut(buffer, len)) };
    returns(buffer.and_then(|buffer| simulation.receive(fd, buffer, flags)))
}

/// # Safety
/// As for recvfrom(2), which tells no sender where there is a connection; `userdata` must be ours.
unsafe extern "C" fn recvfrom(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
    flags: c_int,
    _name: *mut sockaddr,
    name_len: *mut socklen_t,
) -> ssize_t {
    if !name_len.is_null() {
        // SAFETY: valid, by the caller's promise.
        unsafe { *name_len = 0 };
    }
    // SAFETY: the caller's promise.
    unsafe { recv(userdata, fd, buffer, len, flags) }
}

/// # Safety
/// As for recvmsg(2); `userdata` must be ours.
unsafe extern "C" fn recvmsg(userdata: *mut c_void, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise.
    let read = unsafe { message_vector(message).and_then(|vector| scatter(simulation(userdata), fd, vector, flags)) };
    if read.is_ok() {
        // SAFETY: not null, as `message_vector` has seen.
        let message = unsafe { &mut *message };
        (message.msg_namelen, message.msg_controllen, message.msg_flags) = (0, 0, 0);
    }
    returns(read)
}

/// # Safety
/// As for write(2); `userdata` must be ours.
unsafe extern "C" fn write(userdata: *mut c_void, fd: c_int, buffer: *const c_void, len: usize) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { send(userdata, fd, buffer, len, 0) }
}

/// # Safety
/// As for writev(2); `userdata` must be ours.
unsafe extern "C" fn writev(userdata: *mut c_void, fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    let count = usize::try_from(count).map_err(|_| Errno::INVAL);
    // SAFETY: the caller's promise.
    returns(count.and_then(|count| unsafe { gather(simulation(userdata), fd, (vectors, count), 0) }))
}

/// # Safety
/// As for send(2); `userdata` must be ours.
unsafe extern "C" fn send(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's promise.
    let (simulation, buffer) = unsafe { (simulation(userdata), bytes(buffer, len)) };
    returns(buffer.and_then(|buffer| simulation.transmit(fd, buffer, flags)))
}

/// # Safety
/// As for sendto(2), which looks at no address where there is a connection; `userdata` must be ours.
unsafe extern "C" fn sendto(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    len: usize,
    flags: c_int,
    _name: *const sockaddr,
    _name_len: socklen_t,
) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { send(userdata, fd, buffer, len, flags) }
}

/// # Safety
/// As for sendmsg(2); `userdata` must be ours.
unsafe extern "C" fn sendmsg(userdata: *mut c_void, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise.
    returns(unsafe { message_vector(message).and_then(|vector| gather(simulation(userdata), fd, vector, flags)) })
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn fcntl(userdata: *mut c_void, fd: c_int, command: c_int, argument: c_int) -> c_int {
    // SAFETY: the caller's promise.
    returns(unsafe { simulation(userdata) }.control(fd, command, argument))
}

/// # Safety
/// `argument` must be null or writable where the request has an answer; `userdata` must be ours.
unsafe extern "C" fn ioctl(userdata: *mut c_void, fd: c_int, request: c_ulong, argument: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.inquire(fd, request).and_then(|answer| {
        if argument.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: every request that is answered has an argument; it is not null and writable, by the caller's promise.
        unsafe { *argument = answer };
        Ok(())
    }))
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn close(userdata: *mut c_void, fd: c_int) -> c_int {
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.close(fd))
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn shutdown(userdata: *mut c_void, fd: c_int, how: c_int) -> c_int {
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.shutdown(fd, how))
}

/// # Safety
/// As for getsockopt(2); `userdata` must be ours.
unsafe extern "C" fn getsockopt(
    userdata: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.get_option(fd, level, name).and_then(|bytes| {
        if value.is_null() || len.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: neither is null, and `value` is writable for `*len` bytes, by the caller's promise; no more are written.
        unsafe {
            let room = bytes.len().min(*len as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), room);
            *len = room as socklen_t;
        }
        Ok(())
    }))
}

/// # Safety
/// As for setsockopt(2); `userdata` must be ours.
unsafe extern "C" fn setsockopt(
    userdata: *mut c_void,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the caller's promise.
    let (simulation, value) = unsafe { (simulation(userdata), bytes(value, len as usize)) };
    nothing(value.and_then(|value| simulation.set_option(fd, level, name, value)))
}

/// # Safety
/// As for poll(2); `userdata` must be ours.
unsafe extern "C" fn poll(userdata: *mut c_void, set: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    let fds: &mut [pollfd] = match (set.is_null(), count) {
        (_, 0) => &mut [],
        (true, _) => return nothing(Err(Errno::FAULT)),
        // SAFETY: not null, so valid for `count` members, by the caller's promise.
        (false, _) => unsafe { slice::from_raw_parts_mut(set, count as usize) },
    };
    let mut polled: Vec<_> = fds.iter().map(|fd| Polled { fd: fd.fd, events: fd.events, ready: 0 }).collect();
    // SAFETY: the caller's promise.
    let ready = unsafe { simulation(userdata) }.poll(&mut polled, timeout);
    for (fd, polled) in fds.iter_mut().zip(polled) {
        fd.revents = polled.ready;
    }
    returns(ready.map(|ready| ready as i64))
}

/// # Safety
/// `packet` must be readable for `len` bytes; `userdata` must be ours.
unsafe extern "C" fn netdev_send(userdata: *mut c_void, packet: *const c_void, len: usize) -> c_int {
    // SAFETY: the caller's promise.
    let (simulation, packet) = unsafe { (simulation(userdata), bytes(packet, len)) };
    nothing(packet.and_then(|packet| simulation.inject(packet)))
}

/// Nothing was received, and nothing will be, where `*len` is zero.
///
/// # Safety
/// `packet` must be writable for `*len` bytes, and `time_usecs` be writable; `userdata` must be ours.
unsafe extern "C" fn netdev_receive(
    userdata: *mut c_void,
    packet: *mut c_void,
    len: *mut usize,
    time_usecs: *mut c_longlong,
) -> c_int {
    // SAFETY: the caller's promise.
    let sent = unsafe { simulation(userdata) }.next_sent();
    let (bytes, at) = sent.as_ref().map_or((&[][..], 0), |sent| (&sent.packet[..], sent.at));
    // SAFETY: valid, by the caller's promise; no more than `*len` bytes are written.
    unsafe {
        *len = bytes.len().min(*len);
        ptr::copy_nonoverlapping(bytes.as_ptr(), packet.cast(), *len);
        *time_usecs = (at / 1000) as c_longlong;
    }
    0
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn usleep(userdata: *mut c_void, microseconds: useconds_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { simulation(userdata) }.sleep(u64::from(microseconds) * 1000);
    0
}

/// # Safety
/// `now` must be null or writable; `userdata` must be ours.
unsafe extern "C" fn gettimeofday(userdata: *mut c_void, now: *mut timeval, _zone: *mut timezone) -> c_int {
    // SAFETY: the caller's promise.
    let time = unsafe { simulation(userdata) }.read_clock() / 1000;
    if !now.is_null() {
        // SAFETY: writable, by the caller's promise.
        unsafe { *now = timeval { tv_sec: (time / 1_000_000) as _, tv_usec: (time % 1_000_000) as _ } };
    }
    0
}

/// # Safety
/// `userdata` must be ours.
unsafe extern "C" fn epoll_create(userdata: *mut c_void, size: c_int) -> c_int {
    let size = if size > 0 { Ok(()) } else { Err(Errno::INVAL) };
    // SAFETY: the caller's promise.
    returns(size.and_then(|()| unsafe { simulation(userdata) }.epoll_create()))
}

/// # Safety
/// As for epoll_ctl(2); `userdata` must be ours.
unsafe extern "C" fn epoll_ctl(
    userdata: *mut c_void,
    set: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    if event.is_null() && operation != libc::EPOLL_CTL_DEL {
        return nothing(Err(Errno::FAULT));
    }
    // SAFETY: read only where it is not null, so valid, by the caller's promise.
    let (events, data) = if event.is_null() { (0, 0) } else { unsafe { ((*event).events, (*event).u64) } };
    // SAFETY: the caller's promise.
    nothing(unsafe { simulation(userdata) }.epoll_control(set, operation, fd, events, data))
}

/// # Safety
/// As for epoll_wait(2); `userdata` must be ours.
unsafe extern "C" fn epoll_wait(
    userdata: *mut c_void,
    set: c_int,
    events: *mut epoll_event,
    limit: c_int,
    timeout: c_int,
) -> c_int {
    let limit = match usize::try_from(limit) {
        Ok(limit) if limit > 0 && !events.is_null() => limit,
        Ok(1..) => return nothing(Err(Errno::FAULT)),
        _ => return nothing(Err(Errno::INVAL)),
    };
    // SAFETY: the caller's promise.
    let ready = unsafe { simulation(userdata) }.epoll_wait(set, limit, timeout);
    returns(ready.map(|ready| {
        for (at, ready) in ready.iter().enumerate() {
            // SAFETY: `epoll_wait` returns at most `limit` events, for which there is room, by the caller's promise.
            unsafe { events.add(at).write(epoll_event { events: ready.events, u64: ready.data }) };
        }
        ready.len() as i64
    }))
}

/// There are no pipes on a TCP stack.
///
/// # Safety
/// None is needed.
unsafe extern "C" fn pipe(_userdata: *mut c_void, _pipe: *mut c_int) -> c_int {
    nothing(Err(Errno::NOSYS))
}

/// There are no pipes on a TCP stack.
///
/// # Safety
/// None is needed.
unsafe extern "C" fn splice(
    _userdata: *mut c_void,
    _from: c_int,
    _from_offset: *mut loff_t,
    _to: c_int,
    _to_offset: *mut loff_t,
    _len: usize,
    _flags: u32,
) -> ssize_t {
    returns(Err::<i64, _>(Errno::NOSYS))
}
