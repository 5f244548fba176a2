//! The way from a host's namespace to the API server, which can be cut, be slow, and hang.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::netns::Namespace;

/// From a namespace's loopback to the server's port; ends on drop.
pub struct Way {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Of what is waited for: that it no longer hangs.
    goes_on: Condvar,
}

#[derive(Default)]
struct State {
    cut: bool,
    hangs: bool,
    ends: bool,
    /// Of each piece that the server sends.
    delay: Duration,
    connections: Vec<TcpStream>,
}

impl Way {
    pub fn new(from: &Namespace, port: u16) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = from.run(|| TcpListener::bind(address)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || shared.take_connections(&listener, address)
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Cuts all connections, and takes new ones only after [`mend`](Self::mend).
    pub fn cut(&self) {
        self.shared.lock().cut = true;
        self.break_off();
    }

    /// Cuts all connections; new ones are taken.
    pub fn break_off(&self) {
        for stream in self.shared.lock().connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing comes through any more, in either direction, and nothing tells so; new connections are taken.
    pub fn hang(&self) {
        self.shared.lock().hangs = true;
    }

    /// What the server says comes so much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Neither cut nor hung nor slow; what hung goes on where it was.
    pub fn mend(&self) {
        let mut state = self.shared.lock();
        (state.cut, state.hangs, state.delay) = (false, false, Duration::ZERO);
        self.shared.goes_on.notify_all();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.mend();
        self.shared.lock().ends = true;
        self.cut();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_connections(self: &Arc<Self>, listener: &TcpListener, address: SocketAddr) {
        let mut pumps = Vec::new();
        while !self.lock().ends {
            let Ok((near, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            near.set_nonblocking(false).expect("a stream");
            let far = TcpStream::connect(address).ok();
            let mut state = self.lock();
            // Without a server the connection ends at once.
            let Some(far) = far.filter(|_| !state.cut) else {
                continue;
            };
            for stream in [&near, &far] {
                stream.set_nodelay(true).expect("a stream");
                state.connections.push(stream.try_clone().expect("a stream"));
            }
            drop(state);
            let (near_again, far_again) = (near.try_clone(), far.try_clone());
            pumps.push(self.pump(near, far, false));
            pumps.push(self.pump(far_again.expect("a stream"), near_again.expect("a stream"), true));
        }
        for pump in pumps {
            let _ = pump.join();
        }
    }

    fn pump(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, answers: bool) -> JoinHandle<()> {
        let shared = self.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read) = from.read(&mut buffer) {
                let delay = shared.lock().delay;
                if answers && !delay.is_zero() {
                    std::thread::sleep(delay);
                }
                shared.wait_while_it_hangs();
                if read == 0 || to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
    }

    fn wait_while_it_hangs(&self) {
        let waited = self.goes_on.wait_while(self.lock(), |state| state.hangs);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
