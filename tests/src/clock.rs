//! The guest's own clock, read from outside: when the guest ran, and when it stood still.
//!
//! A guest with a [`crate::guest::Guest::tick`] writes a running number to its second serial line.
//! QEMU sends each of these bytes as one UDP datagram from the guest CPU's own thread, within the
//! guest's `out` instruction, and the kernel stamps the datagram in that same system call
//! (`SO_TIMESTAMPNS`; loopback delivers at once). So a stamp is a moment at which the guest ran, and
//! does not depend on when anybody reads it. Counters and timers inside a guest could not serve:
//! they stand still with it.
//!
//! The number goes on where it stopped when the guest has moved, so that a lost datagram shows.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::netns::Wire;
use crate::qemu::Role;

/// How long datagrams may wait in the sockets; reading them seldom costs the guest least.
const DRAIN_PERIOD: Duration = Duration::from_millis(50);
/// Room for some 80,000 datagrams, 8 s of the fastest guest.
const BUFFER_BYTES: libc::c_int = 64 << 20;
/// A tick that comes later than this many periods after the one before is called late.
const LATE_PERIODS: f64 = 10.0;
/// Ticks on either side of the switch-over that have to be in time.
const NEAR: usize = 5;

/// One tick of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// When it left the guest: ns since the Unix epoch by the host's clock.
    pub at: u64,
    /// Its running number, modulo 256.
    pub number: u8,
}

/// The UDP ports on 127.0.0.1 to which QEMU is to send the guest's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPorts {
    /// Ticks of the source.
    pub source: u16,
    /// Ticks of the destination.
    pub destination: u16,
}

/// Receives the ticks of a guest that migrates, those of each end apart.
#[derive(Debug)]
pub struct GuestClock {
    ports: ClockPorts,
    ticks: Arc<[Mutex<Vec<Tick>>; 2]>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<io::Result<()>>>,
}

impl GuestClock {
    /// Begins to receive.
    ///
    /// # Errors
    /// When a socket cannot be had; the large receive buffers need root.
    pub fn start() -> Result<Self> {
        Self::read([socket(0)?, socket(0)?])
    }

    /// Begins to receive on this port of each end's own loopback.
    ///
    /// # Errors
    /// As [`Self::start`], or when the port is taken there.
    pub fn start_on(wire: &Wire, port: u16) -> Result<Self> {
        let at = |role| wire.end(role).within(|| socket(port));
        Self::read([at(Role::Source)?, at(Role::Destination)?])
    }

    fn read(sockets: [UdpSocket; 2]) -> Result<Self> {
        let ports = ClockPorts {
            source: sockets[0].local_addr()?.port(),
            destination: sockets[1].local_addr()?.port(),
        };
        let ticks = Arc::new([Mutex::default(), Mutex::default()]);
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&ticks), Arc::clone(&stop));
        let reader = std::thread::Builder::new()
            .name("guest-clock".to_owned())
            .spawn(move || read_until(&sockets, &shared, &stopped))?;
        Ok(Self { ports, ticks, stop, reader: Some(reader) })
    }

    /// Where to send: [`crate::qemu::QemuSpec::clock`].
    #[must_use]
    pub fn ports(&self) -> ClockPorts {
        self.ports
    }

    /// How many ticks have come from that end so far, some 50 ms late.
    #[must_use]
    pub fn count(&self, role: Role) -> usize {
        let end = match role {
            Role::Source => &self.ticks[0],
            Role::Destination => &self.ticks[1],
        };
        end.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All ticks, the source's and the destination's, in the order of their moments.
    ///
    /// # Errors
    /// When a socket failed.
    pub fn finish(mut self) -> Result<[Vec<Tick>; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            match reader.join() {
                Ok(result) => result.context("guest clock")?,
                Err(_) => bail!("the reader of the guest's clock failed"),
            }
        }
        let take = |end: &Mutex<Vec<Tick>>| {
            std::mem::take(&mut *end.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Ok([take(&self.ticks[0]), take(&self.ticks[1])])
    }
}

impl Drop for GuestClock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // Its failure is reported by `finish`.
            let _ = reader.join();
        }
    }
}

/// 0 for a port of the kernel's choice.
fn socket(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nonblocking(true)?;
    for (option, value) in
        [(libc::SO_RCVBUFFORCE, BUFFER_BYTES), (libc::SO_TIMESTAMPNS, 1 as libc::c_int)]
    {
        // SAFETY: the pointer and the length describe `value`; the descriptor is open.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("socket of the guest's clock");
        }
    }
    Ok(socket)
}

fn read_until(
    sockets: &[UdpSocket; 2],
    ticks: &[Mutex<Vec<Tick>>; 2],
    stop: &AtomicBool,
) -> io::Result<()> {
    loop {
        // Asked before, so that what has come by then is read.
        let last = stop.load(Ordering::Relaxed);
        for (socket, ticks) in sockets.iter().zip(ticks) {
            let mut ticks = ticks.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(tick) = receive(socket)? {
                ticks.push(tick);
            }
        }
        if last {
            return Ok(());
        }
        std::thread::sleep(DRAIN_PERIOD);
    }
}

/// The next datagram's first byte with the kernel's stamp; `None` if none waits.
fn receive(socket: &UdpSocket) -> io::Result<Option<Tick>> {
    /// Enough for one stamp, and aligned as control messages have to be.
    #[repr(C, align(8))]
    struct Control([u8; 64]);
    let mut number = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: 1 };
    let mut control = Control([0; 64]);
    // SAFETY: all zeroes are a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<Control>();
    // SAFETY: the header describes `number` and `control`, which outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    if length < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel filled the header in.
    let message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if message.is_null() {
        return Err(io::Error::other("a datagram without a stamp"));
    }
    // SAFETY: it is not null, so it points to a whole header in `control`.
    let kind = unsafe { (*message).cmsg_type };
    if kind != libc::SCM_TIMESTAMPNS {
        return Err(io::Error::other("a control message that is no stamp"));
    }
    // SAFETY: a message of this type holds one `timespec`.
    let data = unsafe { libc::CMSG_DATA(message) };
    // SAFETY: as above; it need not be aligned.
    let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
    let at = u64::try_from(time.tv_sec).ok().zip(u64::try_from(time.tv_nsec).ok());
    let (seconds, nanoseconds) = at.ok_or_else(|| io::Error::other("a stamp before 1970"))?;
    Ok(Some(Tick { at: seconds * 1_000_000_000 + nanoseconds, number }))
}

/// What the guest's clock says about one migration; seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standstill {
    /// The truth: from the last tick of the source to the first of the destination. The guest
    /// stood still for this long less up to two periods: up to one after the last tick, up to
    /// one before the first.
    pub seconds: f64,
    /// The source's last tick, ns since the Unix epoch.
    pub last_on_source: u64,
    /// The destination's first tick, ns since the Unix epoch.
    pub first_on_destination: u64,
    /// The ticker's period: median over the source.
    pub period: f64,
    /// Its 99th percentile over the source.
    pub period_p99: f64,
    /// The largest gap between two ticks of the same end.
    pub largest_other: f64,
    /// The largest of the source's last 5 gaps.
    pub before_stop: f64,
    /// The largest of the destination's first 5 gaps.
    pub after_start: f64,
    /// Ticks of the source's last second that came late (more than ten periods), and the time
    /// they were late. They mean that the host gave the guest no CPU, or that QEMU held its lock.
    pub late_ticks: usize,
    /// Sum of these gaps.
    pub late_seconds: f64,
}

impl Standstill {
    /// Evaluates what [`GuestClock::finish`] returned.
    ///
    /// # Errors
    /// When an end has not ticked twice, when ticks were lost, when both ends ticked at once.
    pub fn between([source, destination]: &[Vec<Tick>; 2]) -> Result<Self> {
        ensure!(
            source.len() >= 2 && destination.len() >= 2,
            "{} ticks of the source, {} of the destination",
            source.len(),
            destination.len()
        );
        let in_order = source.iter().chain(destination);
        for (tick, next) in in_order.clone().zip(in_order.skip(1)) {
            ensure!(next.at >= tick.at, "both ends ticked at once: {tick:?}, {next:?}");
            ensure!(next.number == tick.number.wrapping_add(1), "lost ticks: {tick:?}, {next:?}");
        }
        let (last, first) = (source[source.len() - 1], destination[0]);
        let gaps: Vec<f64> = gaps(source).collect();
        let mut sorted = gaps.clone();
        sorted.sort_by(f64::total_cmp);
        let period = sorted[sorted.len() / 2];
        let last_second: Vec<f64> = source
            .windows(2)
            .filter(|pair| pair[1].at + 1_000_000_000 > last.at)
            .map(|pair| seconds(pair[0], pair[1]))
            .filter(|gap| *gap > LATE_PERIODS * period)
            .collect();
        Ok(Self {
            seconds: seconds(last, first),
            last_on_source: last.at,
            first_on_destination: first.at,
            period,
            period_p99: sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)],
            largest_other: sorted[sorted.len() - 1]
                .max(self::gaps(destination).fold(0.0, f64::max)),
            before_stop: gaps.iter().rev().take(NEAR).copied().fold(0.0, f64::max),
            after_start: self::gaps(destination).take(NEAR).fold(0.0, f64::max),
            late_ticks: last_second.len(),
            late_seconds: last_second.iter().fold(0.0, |sum, gap| sum + gap),
        })
    }

    /// Whether a tick right before or right after came late: the host gave the guest no CPU there,
    /// or QEMU held the lock that the guest's `out` needs. Then the last or the first tick may be
    /// as far off, and the figure is no truth to judge others by.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.before_stop.max(self.after_start) > LATE_PERIODS * self.period
    }
}

/// The gaps of one end, seconds.
fn gaps(ticks: &[Tick]) -> impl Iterator<Item = f64> {
    ticks.windows(2).map(|pair| seconds(pair[0], pair[1]))
}

fn seconds(from: Tick, to: Tick) -> f64 {
    (to.at.saturating_sub(from.at)) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn ticks(first: u8, at: &[u64]) -> Vec<Tick> {
        let number = |at: &u64| *at * 1_000_000;
        (0..)
            .zip(at)
            .map(|(n, at)| Tick { at: number(at), number: first.wrapping_add(n) })
            .collect()
    }

    #[test]
    fn stamps_are_of_the_moment_of_sending() {
        if !crate::temp::is_root() {
            return eprintln!("left out: the receive buffer needs root");
        }
        let clock = GuestClock::start().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The kernel begins to stamp in the background.
        std::thread::sleep(Duration::from_millis(200));
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let before = now();
        sender.send_to(&[7], ("127.0.0.1", clock.ports().destination)).unwrap();
        let after = now();
        std::thread::sleep(2 * DRAIN_PERIOD);
        let [source, destination] = clock.finish().unwrap();
        assert!(source.is_empty());
        assert_eq!((destination.len(), destination[0].number), (1, 7));
        let at = Duration::from_nanos(destination[0].at);
        assert!(before <= at && at <= after, "{before:?} {at:?} {after:?}");
    }

    #[test]
    fn the_gap_between_the_ends_is_the_standstill() {
        let ends = [ticks(254, &[1, 2, 3, 4, 24]), ticks(3, &[57, 58, 59])];
        let found = Standstill::between(&ends).unwrap();
        assert!((found.seconds - 0.033).abs() < 1e-12, "{found:?}");
        assert!((found.period - 0.001).abs() < 1e-12, "{found:?}");
        assert!((found.largest_other - 0.020).abs() < 1e-12, "{found:?}");
        assert!((found.before_stop - 0.020).abs() < 1e-12, "{found:?}");
        assert!((found.after_start - 0.001).abs() < 1e-12, "{found:?}");
        assert_eq!(found.late_ticks, 1);
        assert!(found.is_disturbed(), "{found:?}");
        let quiet = Standstill::between(&[ticks(254, &[1, 2, 3]), ticks(1, &[57, 58, 59])]);
        assert!(!quiet.unwrap().is_disturbed());
    }

    #[test]
    fn lost_ticks_and_two_running_guests_are_errors() {
        for ends in [
            [ticks(1, &[1, 2, 3]), ticks(5, &[10, 11])],
            [ticks(1, &[1, 2, 12]), ticks(4, &[10, 11])],
            [ticks(1, &[1, 2, 3]), ticks(4, &[10])],
            [Vec::new(), ticks(4, &[10])],
        ] {
            assert!(Standstill::between(&ends).is_err(), "{ends:?}");
        }
    }
}
