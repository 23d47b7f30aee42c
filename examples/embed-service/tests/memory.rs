//! What requests of every kind allocate comes back. A program of its own, so that nobody else allocates.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use common::{Running, agent};
use embed_service::memory::{Live, live};

const REQUESTS: usize = 150;
const CLIENTS: usize = 4;

/// Many requests at the same time: right ones, malformed ones, ones that are too large, ones whose client hangs up.
fn ask(service: &Running) {
    let large = format!("{{\"inputs\": \"{}\"}}", "x ".repeat(1 << 20));
    let client = |client: usize| {
        let agent = agent();
        let post = |body: &[u8], want: u16| {
            let request = agent.post(format!("http://{}/embed", service.address)).content_type("application/json");
            let mut response = request.send(body).expect("a response");
            assert_eq!(response.status().as_u16(), want);
            response.body_mut().read_to_vec().expect("a body");
        };
        for i in 0..REQUESTS {
            match (client + i) % 8 {
                0 => post(b"{\"inputs\": [\"a\", ", 400),
                1 => post(b"{\"inputs\": []}", 422),
                2 if i % 4 == 0 => post(large.as_bytes(), 413),
                3 => {
                    let mut stream = TcpStream::connect(service.address).expect("it listens");
                    let head = "POST /embed HTTP/1.1\r\nhost: test\r\ncontent-length: 30\r\n\r\n{\"inputs\"";
                    stream.write_all(head.as_bytes()).expect("it is taken");
                }
                _ => post(b"{\"inputs\": [\"hello\", \"a cat\"]}", 200),
            }
        }
    };
    thread::scope(|scope| (0..CLIENTS).for_each(|i| drop(scope.spawn(move || client(i)))));
}

/// The least that is live while nobody asks: connections close and threads end within a second or so.
fn idle() -> Live {
    let look = |_| {
        thread::sleep(Duration::from_millis(100));
        live()
    };
    (0..20).map(look).min_by_key(|live| live.blocks).expect("there are some")
}

#[test]
fn what_requests_allocate_comes_back() {
    let service = Running::start("--device cpu --max-wait-ms 0");
    ask(&service);
    let before = idle();
    (0..2).for_each(|_| ask(&service));
    let after = idle();
    // Threads, and what the metrics free later, together, come and go; a block of every tenth request would be more.
    let most = 2 * CLIENTS * REQUESTS / 10;
    assert!(after.blocks <= before.blocks + most as u64, "{before:?}, then {after:?}");
    assert!(after.bytes <= before.bytes + (512 << 10), "{before:?}, then {after:?}");
    service.tell_to_stop();
    service.join().expect("everything is finished in time");
}
