//! What `--so_flags` says.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use barewire_netstack::Lane;

/// Checked flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// Who carries the connections: the stack under test.
    pub lane: Lane,
    /// Its address, which is packetdrill's `--local_ip`.
    pub local: Ipv4Addr,
    /// Asks for timestamps (RFC 7323), and answers with them. Off unless wanted, as in the stack.
    pub timestamps: bool,
}

/// What is wrong with the flags.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// There is no such key.
    #[error("--so_flags knows no {0:?}; use stack=express,local=ADDRESS")]
    UnknownKey(String),
    /// The value is none of those allowed.
    #[error("--so_flags: {value:?} is no {key}; {allowed}")]
    BadValue {
        /// Which key.
        key: &'static str,
        /// What it was given.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A key is not there.
    #[error("--so_flags must say {0}=...; use stack=express,local=ADDRESS")]
    Missing(&'static str),
    /// smoltcp is built without them.
    #[error("--so_flags: timestamps are the express stack's; leave timestamps=yes out, or use stack=express")]
    NoTimestamps,
}

impl Flags {
    /// Reads `key=value` pairs between commas.
    pub fn parse(text: &str) -> Result<Self, FlagError> {
        let (mut lane, mut local, mut timestamps) = (None, None, false);
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "stack" => lane = Some(parse_lane(value)?),
                "local" => local = Some(parse_local(value)?),
                "timestamps" => timestamps = parse_timestamps(value)?,
                _ => return Err(FlagError::UnknownKey(key.to_owned())),
            }
        }
        let (lane, local) = (lane.ok_or(FlagError::Missing("stack"))?, local.ok_or(FlagError::Missing("local"))?);
        if timestamps && lane == Lane::Host {
            return Err(FlagError::NoTimestamps);
        }
        Ok(Self { lane, local, timestamps })
    }
}

fn parse_lane(value: &str) -> Result<Lane, FlagError> {
    match value {
        "express" => Ok(Lane::Express),
        "smoltcp" => Ok(Lane::Host),
        _ => Err(FlagError::BadValue { key: "stack", value: value.to_owned(), allowed: "it is express or smoltcp" }),
    }
}

fn parse_local(value: &str) -> Result<Ipv4Addr, FlagError> {
    let allowed = "give packetdrill's --local_ip, an IPv4 address";
    value.parse().map_err(|_| FlagError::BadValue { key: "local", value: value.to_owned(), allowed })
}

fn parse_timestamps(value: &str) -> Result<bool, FlagError> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(FlagError::BadValue { key: "timestamps", value: value.to_owned(), allowed: "it is yes or no" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_flags_are_read_in_any_order() {
        let expected = Flags { lane: Lane::Host, local: Ipv4Addr::new(192, 168, 0, 1), timestamps: false };
        assert_eq!(Flags::parse("stack=smoltcp,local=192.168.0.1").as_ref(), Ok(&expected));
        assert_eq!(Flags::parse("local=192.168.0.1,stack=smoltcp,").as_ref(), Ok(&expected));
        let with_timestamps = Flags { lane: Lane::Express, timestamps: true, ..expected };
        assert_eq!(Flags::parse("stack=express,timestamps=yes,local=192.168.0.1"), Ok(with_timestamps));
    }

    #[test]
    fn each_mistake_is_named() {
        let error = |text| Flags::parse(text).expect_err("wrong flags").to_string();
        assert!(error("stack=smoltcp,local=1.2.3.4,mtu=9000").contains("\"mtu\""));
        assert!(error("stack=linux,local=1.2.3.4").contains("\"linux\""));
        assert!(error("stack=smoltcp,local=fd00::1").contains("fd00::1"));
        assert!(error("stack=smoltcp").contains("local="));
        assert!(error("").contains("stack="));
        assert!(error("stack=express,local=1.2.3.4,timestamps").contains("yes or no"));
        assert!(error("stack=smoltcp,local=1.2.3.4,timestamps=yes").contains("timestamps=yes"));
    }
}
