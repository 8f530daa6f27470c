//! What a worker of a cluster says when it cannot work: nobody reads its output on the node.
//!
//! `FARM_REPORT` names where, one address after another: `http://HOST:PORT/failed/LEASE`, where the scheduler listens. It
//! is the way by which the program has come, and so may be open where the farm's own is not.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::report::Report;

/// How long each step may take. The worker is about to end, and nothing waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The scheduler takes no more, in bytes.
const MAX: usize = 4096;

/// Tells the first that listens.
pub(super) fn send(report: &Report) {
    let urls = std::env::var("FARM_REPORT").unwrap_or_default();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut text = format!("{}: {}", host.trim(), report.line());
    text.truncate(text.floor_char_boundary(MAX));
    for url in urls.split_whitespace() {
        match post(url, &text) {
            Ok(()) => return,
            Err(error) => tracing::debug!(url, %error, "cannot report there"),
        }
    }
}

fn post(url: &str, text: &str) -> io::Result<()> {
    let rest = url.strip_prefix("http://").ok_or(io::ErrorKind::InvalidInput)?;
    let (host, path) = rest.split_once('/').ok_or(io::ErrorKind::InvalidInput)?;
    let address = host.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = text.len();
    let request =
        format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
    stream.write_all(request.as_bytes())?;
    // Whatever is answered: that there is an answer shows that it has been read.
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 2") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn it_is_said_to_the_first_that_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/failed/abc-0", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"no UDP") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        assert!(post("http://127.0.0.1:9/failed/x", "lost").is_err());
        assert!(post("ftp://127.0.0.1/x", "lost").is_err());
        post(&url, "no UDP").unwrap();
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /failed/abc-0 HTTP/1.1\r\n") && request.contains("Content-Length: 6\r\n"));
    }
}
