//! A TCP proxy that breaks connections on purpose: it cuts, stalls and delays, at a moment that the test names or right
//! before bytes that the test names.
//!
//! ```text
//! program ──▶ Proxy ──▶ server        Up: what the program sends
//!         ◀──       ◀──               Down: what the server answers
//! ```
//!
//! "It did it, then reported failure" is real here: with a trap on the server's answer to COMMIT, the server has committed and
//! the program never hears of it. A trap springs once, on whichever connection shows its bytes first; part of them may have
//! passed when they came in several pieces, never all of them.
//!
//! Plain threads, two to a connection; each looks up every few milliseconds, so a proxy that is dropped leaves nothing behind.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the program to the server.
    Up,
    /// From the server to the program.
    Down,
}

/// How bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Pass,
    /// Not at all; they wait, and the connection stays open.
    Stall,
    /// Each piece this much later.
    Delay(Duration),
}

/// What springs a trap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bait {
    /// These bytes, after they were let pass so many times.
    Bytes(Vec<u8>, usize),
    /// So many bytes in all, wherever that is in the stream.
    Count(usize),
}

/// What a sprung trap does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spring {
    /// Ends it, both ways.
    Cut,
    /// Lets nothing pass in the trap's direction any more, until it is [released](Proxy::release) or cut.
    Stall,
}

#[derive(Debug)]
struct Trap {
    way: Way,
    bait: Bait,
    spring: Spring,
}

#[derive(Debug)]
struct State {
    up: Mode,
    down: Mode,
    /// New connections are ended at once.
    refuse: bool,
    trap: Option<Trap>,
    /// Traps that have sprung.
    sprung: usize,
    /// Connections from before this number are to end.
    cut_before: u64,
    /// Raised by a release: what a trap has stalled goes on.
    released: u64,
}

#[derive(Debug)]
struct Shared {
    /// The port that new connections go to.
    server: AtomicU16,
    /// The one that URLs name.
    named: u16,
    over: AtomicBool,
    next: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy on a loopback port of its own.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// How often a thread without work looks up.
const TICK: Duration = Duration::from_millis(5);

impl Proxy {
    /// A proxy in front of a loopback port; everything passes until told otherwise.
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot listen on a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        listener.set_nonblocking(true).expect("cannot make a listener look up");
        let state = State {
            up: Mode::Pass,
            down: Mode::Pass,
            refuse: false,
            trap: None,
            sprung: 0,
            cut_before: 0,
            released: 0,
        };
        let shared = Arc::new(Shared {
            server: AtomicU16::new(server),
            named: server,
            over: AtomicBool::new(false),
            next: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let inner = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || accept(&listener, &inner)));
        Proxy { port, shared, acceptor }
    }

    /// The port that programs connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL that names the server's port, through the proxy instead.
    pub fn through(&self, url: &str) -> String {
        let (direct, here) = (format!("127.0.0.1:{}", self.shared.named), format!("127.0.0.1:{}", self.port));
        assert!(url.contains(&direct), "{url} does not name {direct}");
        url.replace(&direct, &here)
    }

    /// Leads new connections to another server, as a name does that moves on to the next primary; ends those that are open.
    pub fn redirect(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
        self.cut();
    }

    /// Sets how bytes pass on every connection, those to come as well.
    pub fn set(&self, way: Way, mode: Mode) {
        let mut state = self.shared.lock();
        match way {
            Way::Up => state.up = mode,
            Way::Down => state.down = mode,
        }
        self.shared.changed.notify_all();
    }

    /// Ends new connections at once, or no longer.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refuse = refuse;
    }

    /// Ends every connection that is open now.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cut_before = self.shared.next.load(Ordering::SeqCst);
        self.shared.changed.notify_all();
    }

    /// Sets a trap; one that was set before and has not sprung is gone.
    pub fn trap(&self, way: Way, bait: Bait, spring: Spring) {
        self.shared.lock().trap = Some(Trap { way, bait, spring });
    }

    /// Takes the trap away, if it has not sprung.
    pub fn disarm(&self) {
        self.shared.lock().trap = None;
    }

    /// Lets what a trap has stalled go on.
    pub fn release(&self) {
        self.shared.lock().released += 1;
        self.shared.changed.notify_all();
    }

    /// How many traps have sprung.
    pub fn sprung(&self) -> usize {
        self.shared.lock().sprung
    }

    /// Waits until the trap has sprung. False when the time is over before that.
    pub fn wait_sprung(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        while state.trap.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            // It panics only where a thread cannot be started, which the test has seen as a failure of its own.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn is_cut(&self, number: u64) -> bool {
        self.over() || number < self.lock().cut_before
    }

    /// Waits while bytes of this way are stalled. False: the connection is to end.
    fn wait_for_passage(&self, way: Way, number: u64) -> bool {
        let mut state = self.lock();
        loop {
            if self.over() || number < state.cut_before {
                return false;
            }
            match if way == Way::Up { state.up } else { state.down } {
                Mode::Pass => return true,
                Mode::Delay(time) => {
                    drop(state);
                    thread::sleep(time);
                    return !self.is_cut(number);
                }
                Mode::Stall => {
                    state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Looks for the trap's bait in `carry` (what passed just before) and the new bytes. Returns how many of the new bytes
    /// may still pass, and what then happens.
    fn look(&self, way: Way, carry: &[u8], bytes: &[u8]) -> Option<(usize, Spring, u64)> {
        let mut state = self.lock();
        let trap = state.trap.as_mut().filter(|t| t.way == way)?;
        let at = match &mut trap.bait {
            Bait::Count(left) if *left < bytes.len() => *left,
            Bait::Count(left) => {
                *left -= bytes.len();
                return None;
            }
            Bait::Bytes(wanted, skip) => {
                let joined = [carry, bytes].concat();
                let mut starts = (0..joined.len()).filter(|&i| {
                    // What lies in the carry alone was seen when it passed.
                    joined[i..].starts_with(wanted) && i + wanted.len() > carry.len()
                });
                let found = starts.nth(*skip);
                if found.is_none() {
                    let all = (0..joined.len())
                        .filter(|&i| joined[i..].starts_with(wanted) && i + wanted.len() > carry.len());
                    *skip -= all.count();
                }
                found?.saturating_sub(carry.len())
            }
        };
        let spring = trap.spring;
        state.trap = None;
        state.sprung += 1;
        self.changed.notify_all();
        Some((at, spring, state.released))
    }

    /// Waits until a sprung trap is released. False: the connection is to end.
    fn wait_for_release(&self, number: u64, since: u64) -> bool {
        let mut state = self.lock();
        while state.released == since {
            if self.over() || number < state.cut_before {
                return false;
            }
            state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while !shared.over() {
        match listener.accept() {
            Ok((client, _)) => pumps.extend(connect(client, shared)),
            Err(_) => thread::sleep(TICK),
        }
        pumps.retain(|pump| !pump.is_finished());
    }
    for pump in pumps {
        // A pump does not panic; if it did, its connection is gone all the same.
        let _ = pump.join();
    }
}

/// Both directions of a new connection. Nothing when the server is not there: the client sees its connection end.
fn connect(client: TcpStream, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    if shared.lock().refuse {
        return Vec::new();
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.server.load(Ordering::SeqCst))) else {
        return Vec::new();
    };
    let number = shared.next.fetch_add(1, Ordering::SeqCst);
    let ends = [&client, &server].map(|s| {
        s.set_nodelay(true).and_then(|()| s.set_nonblocking(false)).expect("cannot set up a socket");
        s.set_read_timeout(Some(TICK)).expect("cannot set up a socket");
        s.try_clone().expect("cannot clone a socket")
    });
    let [client_too, server_too] = ends;
    [(Way::Up, client, server), (Way::Down, server_too, client_too)]
        .map(|(way, from, to)| {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                // An error ends the connection, as its end does: either is what a broken network looks like.
                let _ = pump(&shared, number, way, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            })
        })
        .into()
}

/// Moves bytes until the connection ends.
fn pump(shared: &Shared, number: u64, way: Way, mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut carry: Vec<u8> = Vec::new();
    loop {
        if !shared.wait_for_passage(way, number) {
            return Ok(());
        }
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => &buffer[..n],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e),
        };
        // Whatever was set while this waited for bytes holds for these bytes.
        if !shared.wait_for_passage(way, number) {
            return Ok(());
        }
        let mut rest = bytes;
        if let Some((passing, spring, since)) = shared.look(way, &carry, bytes) {
            to.write_all(&bytes[..passing])?;
            if spring == Spring::Cut || !shared.wait_for_release(number, since) {
                return Ok(());
            }
            rest = &bytes[passing..];
        }
        to.write_all(rest)?;
        carry.extend_from_slice(bytes);
        carry.drain(..carry.len().saturating_sub(64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every byte with the same.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut copy = stream.try_clone().expect("a clone");
                    let _ = std::io::copy(&mut copy, &mut stream);
                });
            }
        });
        port
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream
    }

    fn read(stream: &mut TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).expect("bytes");
        bytes
    }

    #[test]
    fn a_trap_cuts_before_its_bytes_on_either_way() {
        let proxy = Proxy::before(echo());
        for way in [Way::Up, Way::Down] {
            let mut stream = client(&proxy);
            proxy.trap(way, Bait::Bytes(b"COMMIT".to_vec(), 1), Spring::Cut);
            stream.write_all(b"one COMMIT; two COM").expect("written");
            assert_eq!(read(&mut stream, 15), b"one COMMIT; two");
            stream.write_all(b"MIT; three").expect("written");
            assert!(proxy.wait_sprung(Duration::from_secs(10)));
            let mut left = Vec::new();
            let _ = stream.read_to_end(&mut left);
            assert!(!left.windows(3).any(|w| w == b"MIT"), "{way:?} {left:?}");
        }
        assert_eq!(proxy.sprung(), 2);
    }

    #[test]
    fn stalls_hold_bytes_and_let_them_go() {
        let proxy = Proxy::before(echo());
        let mut stream = client(&proxy);
        proxy.trap(Way::Down, Bait::Count(2), Spring::Stall);
        stream.write_all(b"abcd").expect("written");
        assert_eq!(read(&mut stream, 2), b"ab");
        assert!(proxy.wait_sprung(Duration::from_secs(10)));
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(stream.read(&mut [0; 1]).is_err(), "it stalls");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        proxy.release();
        assert_eq!(read(&mut stream, 2), b"cd");
        proxy.set(Way::Up, Mode::Stall);
        stream.write_all(b"ef").expect("written");
        proxy.cut();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "cut");
        proxy.set(Way::Up, Mode::Delay(Duration::from_millis(1)));
        let mut next = client(&proxy);
        next.write_all(b"gh").expect("written");
        assert_eq!(read(&mut next, 2), b"gh");
        proxy.refuse(true);
        assert_eq!(client(&proxy).read(&mut [0; 1]).unwrap_or(0), 0, "refused");
    }
}
