//! Small messages to and fro as fast as they go: events that find warm caches.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use serde_json::json;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// Arguments of `ping-pong`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port of its listening end
    #[arg(long)]
    port: u16,
    /// How often it first renames its main thread, to the name that it has
    #[arg(long, default_value_t = 0)]
    renames: u32,
}

/// Two threads of this process send one another a message in turns until a line or the end comes on
/// stdin. Prints `{"ready":1}`, and at the end how many round trips there were.
///
/// # Errors
/// When the port is taken.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    const NAME: &str = "/proc/thread-self/comm";
    let name = std::fs::read(NAME)?;
    for _ in 0..args.renames {
        std::fs::write(NAME, &name)?;
    }
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    for end in [&stream, &other] {
        end.set_nodelay(true)?;
    }
    let echo = std::thread::spawn(move || send_back(other));
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        // A line, the end, or an error: all say that it is over.
        let _ = std::io::stdin().read_line(&mut String::new());
        set.store(true, Ordering::Relaxed);
    });
    println!("{}", json!({ "ready": 1 }));
    let mut message = [0x5a; MESSAGE];
    let mut round_trips = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        round_trips += 1;
    }
    drop(stream);
    echo.join().map_err(|_| anyhow!("the echoing thread panicked"))?;
    println!("{}", json!({ "round_trips": round_trips }));
    Ok(ExitCode::SUCCESS)
}

/// Until the other end closes.
fn send_back(mut stream: TcpStream) {
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
}
