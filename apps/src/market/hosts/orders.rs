//! The exchange's end of the order sessions: the gateway over TCP.

use barewire_driver::clock::Nanos;
use barewire_driver::ixgbe::Tx;
use barewire_netstack::{Context, TcpId, TcpState};

use super::{ACCOUNTS, PATIENCE};
use crate::order::gateway::{AccountId, Gateway, Logs, Request};

/// Carries the gateway's bytes.
pub(super) struct OrderDesk {
    gateway: Gateway<TcpId>,
}

impl Default for OrderDesk {
    fn default() -> Self {
        Self { gateway: Gateway::new("BAREWIRE01", ACCOUNTS.to_vec(), PATIENCE) }
    }
}

impl OrderDesk {
    /// A client has connected.
    pub(super) fn accepted(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        if !self.gateway.connected(cx.now(), id) {
            log::warn!("too many connections to the exchange; one more is refused");
            cx.tcp_abort(id);
            cx.tcp_release(id);
        }
    }

    /// Where messages for clients go.
    pub(super) fn logs(&mut self) -> &mut Logs {
        self.gateway.logs()
    }

    /// Something has happened on a connection; `request` learns what clients want.
    pub(super) fn on_stream(
        &mut self,
        cx: &mut Context<Tx>,
        id: TcpId,
        mut request: impl FnMut(AccountId, Request<'_>, &mut Logs),
    ) {
        let (now, gateway) = (cx.now(), &mut self.gateway);
        let read = cx.tcp_receive(id, |bytes| {
            gateway.receive(now, id, bytes, &mut request);
            bytes.len()
        });
        if read.is_err() || matches!(cx.tcp_state(id), TcpState::CloseWait | TcpState::Closed) {
            cx.tcp_release(id);
            gateway.closed(id, request);
        }
    }

    /// Resets every connection, as a cut on the way would in the end.
    pub(super) fn cut(&mut self, cx: &mut Context<Tx>, mut request: impl FnMut(AccountId, Request<'_>, &mut Logs)) {
        let ids: Vec<_> = self.gateway.connections().collect();
        for id in ids {
            cx.tcp_abort(id);
            cx.tcp_release(id);
            self.gateway.closed(id, &mut request);
        }
    }

    /// Sends what there is for the clients, as far as there is room, and heartbeats; closes what is over.
    pub(super) fn answer(
        &mut self,
        cx: &mut Context<Tx>,
        now: Nanos,
        mut request: impl FnMut(AccountId, Request<'_>, &mut Logs),
    ) {
        self.gateway.poll(now);
        let mut over = None;
        for at in 0..self.gateway.connections().count() {
            let Some(id) = self.gateway.connections().nth(at) else { break };
            let outbox = self.gateway.outbox(id);
            if !outbox.is_empty()
                && let Ok(sent) = cx.tcp_send(id, outbox)
                && sent > 0
            {
                self.gateway.sent(now, id, sent);
            }
            if self.gateway.is_over(id) {
                over = Some(id);
            }
        }
        // One a turn is enough.
        if let Some(id) = over {
            cx.tcp_release(id);
            self.gateway.closed(id, &mut request);
        }
    }

    /// When it has to be looked at, at the latest.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.gateway.deadline()
    }
}
