//! Netlink requests to the kernel (RFC 3549) and its answers.

use std::io;

use netlink_packet_core::{
    Emitable as _, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NetlinkHeader,
};
use netlink_sys::{Socket, SocketAddr};

/// A socket to one subsystem of the kernel.
pub struct Dialogue {
    socket: Socket,
    sequence: u32,
}

impl Dialogue {
    /// With the subsystem of this number, as `NETLINK_SOCK_DIAG`.
    ///
    /// # Errors
    /// The kernel has no such subsystem, or its module is not loaded.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers are queued before the request returns, and dumps go on within recv(): nothing to wait for.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request with these flags beside `NLM_F_REQUEST`, and hands every answer's payload on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        request: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        header.length = (header.buffer_len() + request.len()) as u32;
        let mut message = vec![0; header.buffer_len()];
        header.emit(&mut message);
        message.extend(request);
        self.socket.send(&message, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            if deliver(&answer, self.sequence, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Hands on the payloads of one datagram; true when it was the last.
fn deliver(answer: &[u8], sequence: u32, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let mut rest = answer;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        let length = (message.length() as usize).next_multiple_of(4);
        // An answer to a request that was given up is still in the queue.
        if message.sequence_number() == sequence {
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code =
                        message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    if code == 0 {
                        return Ok(true);
                    }
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => each(message.payload()),
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: u16 = 4711;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([2, 0]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn an_answer_ends_with_done_or_an_error_and_old_answers_are_passed_over() {
        let mut seen = Vec::new();
        let mut each = |payload: &[u8]| seen.push(payload.to_vec());
        let data = [message(KIND, 6, b"old!"), message(KIND, 7, b"new!")].concat();
        assert!(!deliver(&data, 7, &mut each).unwrap());
        assert!(deliver(&message(NLMSG_DONE, 7, &[0; 4]), 7, &mut each).unwrap());
        assert!(deliver(&message(NLMSG_ERROR, 7, &[0; 20]), 7, &mut each).unwrap(), "an ACK");
        let refused = message(NLMSG_ERROR, 7, &[&(-22i32).to_ne_bytes()[..], &[0; 16]].concat());
        assert_eq!(deliver(&refused, 7, &mut each).unwrap_err().raw_os_error(), Some(22));
        assert_eq!(seen, [b"new!".to_vec()]);
    }

    proptest! {
        #[test]
        fn survives_damage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut total = 0;
            let _ = deliver(&bytes, 1, &mut |payload| total += payload.len());
            prop_assert!(total <= bytes.len());
        }
    }
}
