//! `struct tcp_info` of Linux (linux/tcp.h), up to the receive window. What the stack does not tell is zero.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use barewire_netstack::{TcpReport, TcpState};

use crate::wire::MTU;

/// Bytes up to and with the receive window.
const LEN: usize = 236;
/// What Linux shows for a threshold that was never set (TCP_INFINITE_SSTHRESH).
const NO_THRESHOLD: u32 = 0x7FFF_FFFF;

/// The structure for a connection with `unsent` bytes that the stack was not given yet.
pub fn encode(state: TcpState, report: Option<&TcpReport>, unsent: usize) -> Vec<u8> {
    let mut info = Info(vec![0; LEN]);
    info.0[0] = number(state);
    info.u32(60, MTU as u32);
    info.u32(144, unsent as u32);
    if let Some(report) = report {
        info.fill(report);
    }
    info.0
}

/// The state's number in Linux (net/tcp_states.h).
fn number(state: TcpState) -> u8 {
    match state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynReceived => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Closed => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => 10,
        TcpState::Closing => 11,
    }
}

struct Info(Vec<u8>);

impl Info {
    fn u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn microseconds(&mut self, at: usize, span: Nanos) {
        self.u32(at, u32::try_from(span / 1000).unwrap_or(u32::MAX));
    }

    fn fill(&mut self, report: &TcpReport) {
        let mss = u32::from(report.mss).max(1);
        // Loss, recovery, disorder, open: linux/tcp.h, enum tcp_ca_state.
        self.0[1] = match () {
            () if report.backoff > 0 => 4,
            () if report.lost_segments > 0 => 3,
            () if report.sacked_segments > 0 => 1,
            () => 0,
        };
        self.0[2] = report.backoff;
        self.0[4] = report.backoff;
        self.microseconds(8, report.rto);
        self.u32(16, mss);
        self.u32(24, report.unacknowledged_segments);
        self.u32(28, report.sacked_segments);
        self.u32(32, report.lost_segments);
        self.microseconds(68, report.srtt);
        self.microseconds(72, report.rttvar);
        let threshold = Some(report.slow_start_threshold).filter(|threshold| *threshold < u32::MAX);
        self.u32(76, threshold.map_or(NO_THRESHOLD, |threshold| threshold / mss));
        self.u32(80, report.congestion_window.unwrap_or(report.send_window) / mss);
        self.u32(100, report.retransmits.total() as u32);
        self.u64(120, report.bytes_sent.saturating_sub(report.unacknowledged.into()));
        self.u64(128, report.bytes_received);
        self.microseconds(148, report.min_rtt);
        self.u64(200, report.bytes_sent);
        self.u32(228, report.send_window);
        self.u32(232, report.receive_window);
    }
}
