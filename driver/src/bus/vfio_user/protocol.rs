//! The vfio-user protocol, version 0.0: messages as bytes, both directions, no sockets.
//!
//! A message is a 16-byte header and a payload, little-endian. What the other side sent is taken apart once, with every length checked.
//! Fields are VFIO's (`linux/vfio.h`); DMA by messages, migration and dirty-page tracking are not spoken.

/// Bytes of the header.
pub const HEADER: usize = 16;
/// The most data that one message moves, either way (`max_data_xfer_size`).
pub const MAX_DATA: usize = 1 << 20;
/// The longest message: data behind its header and the fields in front of it.
pub const MAX_MESSAGE: usize = MAX_DATA + 64;
/// The most file descriptors that one message carries (`max_msg_fds`).
pub const MAX_FDS: usize = 16;
/// The version that both sides must speak.
pub const VERSION: (u16, u16) = (0, 0);

/// Region index of configuration space; the BARs come before it (VFIO).
pub const CONFIG_REGION: u32 = 7;

/// Interrupt indices (VFIO).
pub mod irq {
    /// INTA#.
    pub const INTX: u32 = 0;
    /// One message.
    pub const MSI: u32 = 1;
    /// Messages by table.
    pub const MSIX: u32 = 2;
    /// Errors of the bus.
    pub const ERROR: u32 = 3;
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Greeting.
    Version = 1,
    /// The device may reach memory.
    DmaMap = 2,
    /// The device may no longer reach memory.
    DmaUnmap = 3,
    /// How many regions and interrupt indices there are.
    DeviceInfo = 4,
    /// Size of a region and what may be done with it.
    RegionInfo = 5,
    /// How many interrupts an index has.
    IrqInfo = 7,
    /// Where interrupts go.
    SetIrqs = 8,
    /// Reads a region.
    RegionRead = 9,
    /// Writes a region.
    RegionWrite = 10,
    /// Resets the device.
    Reset = 13,
}

impl Command {
    fn from_wire(code: u16) -> Option<Self> {
        use Command::*;
        let all = [Version, DmaMap, DmaUnmap, DeviceInfo, RegionInfo, IrqInfo, SetIrqs, RegionRead, RegionWrite, Reset];
        all.into_iter().find(|&command| command as u16 == code)
    }
}

/// Error numbers that replies carry (`errno`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// The message makes no sense, or names what is not there.
    pub const INVALID: Self = Self(22);
    /// No such command.
    pub const NOT_IMPLEMENTED: Self = Self(38);
    /// The range overlaps one that exists.
    pub const EXISTS: Self = Self(17);
    /// Nothing there.
    pub const NOT_FOUND: Self = Self(2);
    /// Too many mappings.
    pub const NO_SPACE: Self = Self(28);
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of the command, repeated in the reply.
    pub id: u16,
    /// The command's code, known or not.
    pub command: u16,
    /// Bytes of the message, header included.
    pub size: u32,
    /// Type and flags.
    flags: u32,
    /// The error, in a reply that says so.
    errno: u32,
}

const REPLY: u32 = 1;
const TYPE: u32 = 0xF;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

impl Header {
    /// Takes 16 bytes apart. `None` where the size is impossible: the stream cannot be followed any further.
    pub fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let header = Self {
            id: fields.u16()?,
            command: fields.u16()?,
            size: fields.u32()?,
            flags: fields.u32()?,
            errno: fields.u32()?,
        };
        (HEADER..=MAX_MESSAGE).contains(&(header.size as usize)).then_some(header)
    }

    /// Bytes behind the header.
    pub fn payload_len(&self) -> usize {
        self.size as usize - HEADER
    }

    /// Whether this is a command, and not a reply.
    pub fn is_command(&self) -> bool {
        self.flags & TYPE == 0
    }

    /// Whether the sender wants an answer.
    pub fn wants_reply(&self) -> bool {
        self.flags & NO_REPLY == 0
    }

    /// The error of a reply.
    pub fn error(&self) -> Option<Errno> {
        (self.flags & ERROR != 0).then_some(Errno(self.errno))
    }
}

/// A command, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Greeting; capabilities follow as JSON, of which nothing is needed.
    Version {
        /// Major and minor version.
        version: (u16, u16),
    },
    /// Lets the device reach `size` bytes at `iova`: those of the file descriptor that comes along, from `offset` on.
    DmaMap {
        /// The device may write there too.
        writable: bool,
        /// Bytes into the file.
        offset: u64,
        /// The device's address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// Ends mappings.
    DmaUnmap {
        /// Every mapping, whatever the range.
        all: bool,
        /// The device's address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// Asks for the numbers of regions and interrupt indices.
    DeviceInfo,
    /// Asks for a region.
    RegionInfo {
        /// Which.
        index: u32,
    },
    /// Asks for an interrupt index.
    IrqInfo {
        /// Which.
        index: u32,
    },
    /// Configures interrupts.
    SetIrqs(SetIrqs<'a>),
    /// Reads a region.
    RegionRead {
        /// Which and where.
        place: Place,
    },
    /// Writes a region.
    RegionWrite {
        /// Which and where.
        place: Place,
        /// What.
        data: &'a [u8],
    },
    /// Resets the device.
    Reset,
}

/// A piece of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Bytes into the region.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// Bytes.
    pub count: u32,
}

/// What to do with interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// Hold them back.
    Mask,
    /// Let them through.
    Unmask,
    /// Set their eventfds, or make them fire.
    Trigger,
}

/// With what interrupts are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: the action is for all of them.
    None,
    /// One byte for each: the action is for those that are not zero.
    Bool(&'a [u8]),
    /// The file descriptors that come along: one for each, or none at all.
    EventFd,
}

/// Configures `count` interrupts of `index` from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// INTx, MSI or MSI-X.
    pub index: u32,
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What is done.
    pub action: IrqAction,
    /// With what.
    pub data: IrqData<'a>,
}

const DMA_READ: u32 = 1;
const DMA_WRITE: u32 = 1 << 1;
const UNMAP_ALL: u32 = 1 << 1;
const IRQ_NONE: u32 = 1;
const IRQ_BOOL: u32 = 1 << 1;
const IRQ_EVENTFD: u32 = 1 << 2;
const IRQ_MASK: u32 = 1 << 3;
const IRQ_UNMASK: u32 = 1 << 4;
const IRQ_TRIGGER: u32 = 1 << 5;

impl<'a> Request<'a> {
    /// Takes the payload of `command` apart.
    ///
    /// # Errors
    /// The error to answer with: an unknown command, a payload that is too short or too long, flags that contradict each other.
    pub fn parse(command: u16, payload: &'a [u8]) -> Result<Self, Errno> {
        let command = Command::from_wire(command).ok_or(Errno::NOT_IMPLEMENTED)?;
        Self::fields(command, Fields(payload)).ok_or(Errno::INVALID)
    }

    fn fields(command: Command, mut fields: Fields<'a>) -> Option<Self> {
        let request = match command {
            Command::Version => return Some(Self::Version { version: (fields.u16()?, fields.u16()?) }),
            Command::DmaMap => {
                let flags = fields.flags()?;
                let (offset, iova, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let reachable = flags & (DMA_READ | DMA_WRITE) != 0 && flags & !(DMA_READ | DMA_WRITE) == 0;
                (reachable && size > 0).then_some(Self::DmaMap {
                    writable: flags & DMA_WRITE != 0,
                    offset,
                    iova,
                    size,
                })?
            }
            Command::DmaUnmap => {
                let flags = fields.flags()?;
                let (iova, size) = (fields.u64()?, fields.u64()?);
                (flags & !UNMAP_ALL == 0).then_some(Self::DmaUnmap { all: flags & UNMAP_ALL != 0, iova, size })?
            }
            Command::DeviceInfo => return Some(Self::DeviceInfo),
            Command::RegionInfo => {
                fields.flags()?;
                return Some(Self::RegionInfo { index: fields.u32()? });
            }
            Command::IrqInfo => {
                fields.flags()?;
                return Some(Self::IrqInfo { index: fields.u32()? });
            }
            Command::SetIrqs => Self::SetIrqs(SetIrqs::fields(&mut fields)?),
            Command::RegionRead => Self::RegionRead { place: Place::fields(&mut fields)? },
            Command::RegionWrite => {
                let place = Place::fields(&mut fields)?;
                Self::RegionWrite { place, data: fields.bytes(place.count as usize)? }
            }
            Command::Reset => Self::Reset,
        };
        fields.0.is_empty().then_some(request)
    }
}

impl Place {
    fn fields(fields: &mut Fields<'_>) -> Option<Self> {
        let place = Self { offset: fields.u64()?, region: fields.u32()?, count: fields.u32()? };
        (place.count > 0 && place.count as usize <= MAX_DATA).then_some(place)
    }

    fn put(self, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.offset.to_le_bytes());
        message.extend_from_slice(&self.region.to_le_bytes());
        message.extend_from_slice(&self.count.to_le_bytes());
    }
}

impl<'a> SetIrqs<'a> {
    fn fields(fields: &mut Fields<'a>) -> Option<Self> {
        let flags = fields.flags()?;
        let (index, start, count) = (fields.u32()?, fields.u32()?, fields.u32()?);
        start.checked_add(count)?;
        let action = match flags & (IRQ_MASK | IRQ_UNMASK | IRQ_TRIGGER) {
            IRQ_MASK => IrqAction::Mask,
            IRQ_UNMASK => IrqAction::Unmask,
            IRQ_TRIGGER => IrqAction::Trigger,
            _ => return None,
        };
        let data = match flags & (IRQ_NONE | IRQ_BOOL | IRQ_EVENTFD) {
            IRQ_NONE => IrqData::None,
            IRQ_BOOL => IrqData::Bool(fields.bytes(count as usize)?),
            IRQ_EVENTFD => IrqData::EventFd,
            _ => return None,
        };
        Some(Self { index, start, count, action, data })
    }
}

/// Little-endian fields, one behind the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes(2)?.first_chunk()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes(8)?.first_chunk()?))
    }

    /// Skips `argsz`, the room that VFIO's caller has, and reads the flags behind it.
    fn flags(&mut self) -> Option<u32> {
        self.u32()?;
        self.u32()
    }
}

fn words(message: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| message.extend_from_slice(&word.to_le_bytes()));
}

/// Begins a message; [`finish`] sets its length.
fn begin(id: u16, command: u16, flags: u32, errno: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 32);
    message.extend_from_slice(&id.to_le_bytes());
    message.extend_from_slice(&command.to_le_bytes());
    words(&mut message, &[0, flags, errno]);
    message
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let size = (message.len() as u32).to_le_bytes();
    message[4..8].copy_from_slice(&size);
    message
}

fn put_version(message: &mut Vec<u8>) {
    let (major, minor) = VERSION;
    message.extend_from_slice(&major.to_le_bytes());
    message.extend_from_slice(&minor.to_le_bytes());
    let json = format!(r#"{{"capabilities":{{"max_msg_fds":{MAX_FDS},"max_data_xfer_size":{MAX_DATA}}}}}"#);
    message.extend_from_slice(json.as_bytes());
    message.push(0);
}

/// What a server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Done; nothing to say.
    Done,
    /// The server's greeting.
    Version,
    /// The numbers of regions and interrupt indices. The device can be reset.
    Device {
        /// Regions.
        regions: u32,
        /// Interrupt indices.
        irqs: u32,
    },
    /// A region that is read and written by messages, or one of no size.
    Region {
        /// Which.
        index: u32,
        /// Bytes.
        size: u64,
    },
    /// An interrupt index.
    Irq {
        /// Which.
        index: u32,
        /// How many.
        count: u32,
    },
    /// Mappings that ended.
    Unmapped {
        /// The device's address.
        iova: u64,
        /// Bytes.
        size: u64,
    },
    /// What a region holds.
    Read {
        /// Where.
        place: Place,
        /// What.
        data: &'a [u8],
    },
    /// A region was written.
    Written {
        /// Where.
        place: Place,
    },
}

impl Reply<'_> {
    /// The bytes that answer `header`.
    pub fn write(&self, header: &Header) -> Vec<u8> {
        const RESETTABLE_PCI: u32 = 1 | 1 << 1;
        const READ_WRITE: u32 = 1 | 1 << 1;
        const EVENTFD: u32 = 1;
        const MASKABLE_AUTOMASKED: u32 = 1 << 1 | 1 << 2;
        const NORESIZE: u32 = 1 << 3;
        let mut message = begin(header.id, header.command, REPLY, 0);
        match *self {
            Self::Done => {}
            Self::Version => put_version(&mut message),
            Self::Device { regions, irqs } => words(&mut message, &[16, RESETTABLE_PCI, regions, irqs]),
            Self::Region { index, size } => {
                words(&mut message, &[32, if size > 0 { READ_WRITE } else { 0 }, index, 0]);
                message.extend_from_slice(&size.to_le_bytes());
                message.extend_from_slice(&[0; 8]);
            }
            Self::Irq { index, count } => {
                let kind = if index == irq::INTX { MASKABLE_AUTOMASKED } else { NORESIZE };
                words(&mut message, &[16, if count > 0 { EVENTFD | kind } else { 0 }, index, count]);
            }
            Self::Unmapped { iova, size } => {
                words(&mut message, &[24, 0]);
                message.extend_from_slice(&iova.to_le_bytes());
                message.extend_from_slice(&size.to_le_bytes());
            }
            Self::Read { place, data } => {
                place.put(&mut message);
                message.extend_from_slice(data);
            }
            Self::Written { place } => place.put(&mut message),
        }
        finish(message)
    }
}

/// The bytes that refuse `header`.
pub fn refuse(header: &Header, errno: Errno) -> Vec<u8> {
    finish(begin(header.id, header.command, REPLY | ERROR, errno.0))
}

impl Request<'_> {
    /// The bytes of this command, numbered `id`; with `posted`, nobody is to answer.
    pub fn write(&self, id: u16, posted: bool) -> Vec<u8> {
        let start = |command: Command| begin(id, command as u16, if posted { NO_REPLY } else { 0 }, 0);
        let mut message;
        match *self {
            Self::Version { .. } => {
                message = start(Command::Version);
                put_version(&mut message);
            }
            Self::DmaMap { writable, offset, iova, size } => {
                message = start(Command::DmaMap);
                words(&mut message, &[32, DMA_READ | if writable { DMA_WRITE } else { 0 }]);
                [offset, iova, size].iter().for_each(|field| message.extend_from_slice(&field.to_le_bytes()));
            }
            Self::DmaUnmap { all, iova, size } => {
                message = start(Command::DmaUnmap);
                words(&mut message, &[24, if all { UNMAP_ALL } else { 0 }]);
                [iova, size].iter().for_each(|field| message.extend_from_slice(&field.to_le_bytes()));
            }
            Self::DeviceInfo => {
                message = start(Command::DeviceInfo);
                words(&mut message, &[16, 0, 0, 0]);
            }
            Self::RegionInfo { index } => {
                message = start(Command::RegionInfo);
                words(&mut message, &[32, 0, index, 0, 0, 0, 0, 0]);
            }
            Self::IrqInfo { index } => {
                message = start(Command::IrqInfo);
                words(&mut message, &[16, 0, index, 0]);
            }
            Self::SetIrqs(SetIrqs { index, start: first, count, action, data }) => {
                message = start(Command::SetIrqs);
                let action = match action {
                    IrqAction::Mask => IRQ_MASK,
                    IrqAction::Unmask => IRQ_UNMASK,
                    IrqAction::Trigger => IRQ_TRIGGER,
                };
                let (kind, bytes) = match data {
                    IrqData::None => (IRQ_NONE, &[][..]),
                    IrqData::Bool(bytes) => (IRQ_BOOL, bytes),
                    IrqData::EventFd => (IRQ_EVENTFD, &[][..]),
                };
                words(&mut message, &[20 + bytes.len() as u32, action | kind, index, first, count]);
                message.extend_from_slice(bytes);
            }
            Self::RegionRead { place } => {
                message = start(Command::RegionRead);
                place.put(&mut message);
            }
            Self::RegionWrite { place, data } => {
                message = start(Command::RegionWrite);
                place.put(&mut message);
                message.extend_from_slice(data);
            }
            Self::Reset => message = start(Command::Reset),
        }
        finish(message)
    }
}

/// Fields of replies that a client looks at.
pub mod answer {
    use super::Fields;

    /// The server's major and minor version.
    pub fn version(payload: &[u8]) -> Option<(u16, u16)> {
        let mut fields = Fields(payload);
        Some((fields.u16()?, fields.u16()?))
    }

    /// The size of a region in bytes.
    pub fn region_size(payload: &[u8]) -> Option<u64> {
        let mut fields = Fields(payload);
        fields.bytes(16)?;
        fields.u64()
    }

    /// How many interrupts an index has.
    pub fn irq_count(payload: &[u8]) -> Option<u32> {
        let mut fields = Fields(payload);
        fields.bytes(12)?;
        fields.u32()
    }

    /// The bytes that were read.
    pub fn data(payload: &[u8]) -> Option<&[u8]> {
        payload.get(16..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        (any::<u64>(), any::<u32>(), 1u32..64).prop_map(|(offset, region, count)| Place { offset, region, count })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(command in 0u16..20, payload in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = Request::parse(command, &payload);
            let _ = (answer::version(&payload), answer::region_size(&payload), answer::irq_count(&payload), answer::data(&payload));
        }

        #[test]
        fn written_request_parses_back(place in place(), numbers in any::<[u64; 3]>(), flag: bool, id: u16, posted: bool) {
            let data = vec![7; place.count as usize];
            let irqs = SetIrqs {
                index: place.region, start: 3, count: place.count, action: IrqAction::Trigger, data: IrqData::Bool(&data),
            };
            let [offset, iova, size] = numbers;
            let size = size.max(1);
            for request in [
                Request::Version { version: VERSION },
                Request::DmaMap { writable: flag, offset, iova, size },
                Request::DmaUnmap { all: flag, iova, size },
                Request::DeviceInfo,
                Request::RegionInfo { index: place.region },
                Request::IrqInfo { index: place.region },
                Request::SetIrqs(irqs),
                Request::RegionRead { place },
                Request::RegionWrite { place, data: &data },
                Request::Reset,
            ] {
                let bytes = request.write(id, posted);
                let header = Header::parse(bytes.first_chunk().unwrap()).unwrap();
                prop_assert_eq!((header.id, header.wants_reply(), header.is_command()), (id, !posted, true));
                prop_assert_eq!(header.size as usize, bytes.len());
                prop_assert_eq!(Request::parse(header.command, &bytes[HEADER..]), Ok(request));
            }
        }
    }

    #[test]
    fn header_refuses_sizes_that_cannot_be() {
        let mut bytes = [0u8; HEADER];
        for (size, good) in [(0, false), (15, false), (16, true), (MAX_MESSAGE as u32, true), (u32::MAX, false)] {
            bytes[4..8].copy_from_slice(&size.to_le_bytes());
            assert_eq!(Header::parse(&bytes).is_some(), good, "{size}");
        }
    }
}
