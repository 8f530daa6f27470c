use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Server {
    address: SocketAddr,
    sha256: String,
    reports: mpsc::Receiver<Report>,
    _run: JoinSet<()>,
    _folder: tempfile::TempDir,
}

/// More than a chunk, and not a multiple of it.
fn program() -> Vec<u8> {
    (0..CHUNK * 2 + 77).map(|number| (number / 3) as u8).collect()
}

async fn server() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    std::fs::write(&path, program()).unwrap();
    let (http, reports) = Http::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &path).await.unwrap();
    // What is served is what was there.
    std::fs::remove_file(&path).unwrap();
    let (address, (sha256, size)) = (http.local_addr(), http.program());
    assert_eq!(size, program().len() as u64);
    let sha256 = sha256.to_owned();
    let mut run = JoinSet::new();
    run.spawn(http.run());
    Server { address, sha256, reports, _run: run, _folder: folder }
}

impl Server {
    async fn ask(&self, request: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // One that has heard enough need not listen to the end.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        let body = answer.split_off(head);
        (String::from_utf8(answer).unwrap(), body)
    }

    async fn get(&self, line: &str) -> (String, Vec<u8>) {
        self.ask(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        self.ask(request.as_bytes()).await.0
    }
}

#[tokio::test]
async fn the_program_is_served_whole_by_its_digest() {
    let server = server().await;
    let (head, body) = server.get(&format!("GET /worker/{}", server.sha256)).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", program().len())), "{head}");
    assert!(body == program());
    let (head, body) = server.get(&format!("HEAD /worker/{}", server.sha256)).await;
    assert!(head.contains(&format!("content-length: {}\r\n", program().len())) && body.is_empty(), "{head}");
    let (head, body) = server.get(&format!("GET /worker/{}", "0".repeat(64))).await;
    assert!(head.starts_with("HTTP/1.1 404 ") && body == b"the scheduler is of another build\n", "{head}");
}

#[tokio::test]
async fn there_is_nothing_else() {
    let server = server().await;
    let (head, body) = server.get("GET /health").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == b"ok\n", "{head}");
    for (line, status) in [
        ("GET /", "404"),
        ("GET /worker/../../etc/passwd", "404"),
        ("GET /worker/", "404"),
        ("GET /failed/x", "405"),
        ("DELETE /health", "405"),
        ("GET /health/x", "404"),
    ] {
        let (head, _) = server.get(line).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
    }
}

#[tokio::test]
async fn reports_are_handed_on_and_bounded() {
    let mut server = server().await;
    assert!(server.post("/failed/abc-0", "n1: no \u{1b}[31mcurl\nat all").await.starts_with("HTTP/1.1 200 "));
    let expected = ("abc-0".to_owned(), "n1: no  [31mcurl\nat all".to_owned());
    assert_eq!(server.reports.recv().await, Some(expected));
    assert!(server.post("/failed/abc-0", &"x".repeat(MAX_REPORT + 1)).await.starts_with("HTTP/1.1 413 "));
    for path in ["/failed/a%20b", "/failed/", &format!("/failed/{}", "x".repeat(MAX_LEASE + 1))] {
        assert!(server.post(path, "x").await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for _ in 0..MAX_REPORTS + 5 {
        assert!(server.post("/failed/abc-0", "x").await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(server.reports.len(), MAX_REPORTS);
}

#[tokio::test]
async fn a_client_can_waste_its_own_connection_only() {
    let server = server().await;
    let long = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD * 2));
    let (head, _) = server.ask(long.as_bytes()).await;
    assert!(!head.contains(" 200 "), "{head}");
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    let (head, _) = server.ask(many.as_bytes()).await;
    assert!(!head.contains(" 200 "), "{head}");
    let (head, _) = server.ask(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await;
    assert!(!head.contains(" 200 "), "{head}");
    // Some say nothing, and some do not listen.
    let mut idle = Vec::new();
    for number in 0..CONNECTIONS - 1 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if number % 2 == 0 {
            let get = format!("GET /worker/{} HTTP/1.1\r\nHost: x\r\n\r\n", server.sha256);
            stream.write_all(get.as_bytes()).await.unwrap();
        }
        idle.push(stream);
    }
    assert!(server.get("GET /health").await.0.contains(" 200 "));
}
