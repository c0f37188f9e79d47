//! What the exchange offers beside its feed on each port: messages once more, and snapshots.

use barewire_driver::ixgbe::Tx;
use barewire_netstack::{Context, Lane, TcpError, TcpId, TcpOptions, TcpState, UdpId};

use super::{REREQUESTS, SNAPSHOTS};
use crate::feed::glimpse::Server;
use crate::feed::moldudp64::HEADER;
use crate::feed::retransmission::Retransmitter;

/// Requests that are answered in one turn, at most, so that orders are not kept waiting.
const REQUESTS_A_TURN: usize = 32;
/// Snapshots that may be on their way at a time, at most.
const SNAPSHOTS_AT_A_TIME: usize = 4;
/// The longest answer, in bytes: an Ethernet frame of 1,500 less the headers of IPv4 and UDP.
const LONGEST_ANSWER: usize = 1472;

/// The servers of one port.
pub(super) struct Services {
    requests: UdpId,
    snapshots: Vec<(TcpId, Server)>,
}

impl Services {
    /// Waits for requests and connections.
    pub(super) fn open(cx: &mut Context<Tx>) -> Result<Self, TcpError> {
        cx.tcp_listen(Lane::Express, SNAPSHOTS, &TcpOptions::default())?;
        Ok(Self { requests: cx.udp_bind(REREQUESTS)?, snapshots: Vec::new() })
    }

    /// Somebody wants a snapshot.
    pub(super) fn accepted(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        if self.snapshots.len() < SNAPSHOTS_AT_A_TIME {
            self.snapshots.push((id, Server::new(cx.now())));
        } else {
            cx.tcp_abort(id);
            cx.tcp_release(id);
        }
    }

    /// Something has happened on a connection; `snapshot` says the books and the number of the feed's next message. `false` when the connection
    /// is none of these.
    pub(super) fn on_stream(
        &mut self,
        cx: &mut Context<Tx>,
        id: TcpId,
        mut snapshot: impl FnMut(&mut dyn FnMut(&[u8])) -> u64,
    ) -> bool {
        let Some(at) = self.snapshots.iter().position(|(known, _)| *known == id) else { return false };
        let (now, server) = (cx.now(), &mut self.snapshots[at].1);
        let mut fault = None;
        let read = cx.tcp_receive(id, |bytes| {
            fault = server.receive(now, bytes, &mut snapshot).err();
            bytes.len()
        });
        if let Some(fault) = fault {
            log::warn!("snapshot session: {fault}");
        }
        if read.is_err() || fault.is_some() || cx.tcp_state(id) == TcpState::CloseWait {
            cx.tcp_release(id);
            self.snapshots.swap_remove(at);
        }
        true
    }

    /// Answers requests for what was missed, and sends what there is room for of snapshots.
    pub(super) fn serve(&mut self, cx: &mut Context<Tx>, retransmitter: &mut Retransmitter) {
        self.snapshots.retain_mut(|(id, server)| {
            if !server.pending().is_empty()
                && let Ok(sent) = cx.tcp_send(*id, server.pending())
            {
                server.sent(sent);
            }
            server.on_time(cx.now());
            if server.is_over() {
                cx.tcp_release(*id);
            }
            !server.is_over()
        });
        self.answer(cx, retransmitter);
    }

    fn answer(&mut self, cx: &mut Context<Tx>, retransmitter: &mut Retransmitter) {
        for _ in 0..REQUESTS_A_TURN {
            // One byte more than a request has shows one that is too long.
            let (mut request, mut len, mut from) = ([0; HEADER + 1], 0, None);
            let found = cx.udp_receive(self.requests, |bytes, source| {
                len = bytes.len().min(request.len());
                request[..len].copy_from_slice(&bytes[..len]);
                from = Some(source);
            });
            let Some(from) = from.filter(|_| found) else { return };
            let mut answer = [0; LONGEST_ANSWER];
            if let Some(len) = retransmitter.answer(&request[..len], &mut answer) {
                // Without room the answer is lost, and will be asked for again.
                let _ = cx.udp_send(self.requests, from, &answer[..len]);
            }
        }
    }
}
