//! An S3 endpoint: moto's server, which honours conditional puts. It keeps objects in memory, so a restart empties it; any key
//! and secret are accepted.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process as proc;
use crate::server::{Options, Recipe, Server, Site, unique};
use crate::tools;

#[derive(Clone, Copy, Debug)]
struct Moto;

impl Recipe for Moto {
    fn name(&self) -> String {
        "s3".into()
    }

    fn prepare(&self, _site: &Site) {}

    fn command(&self, site: &Site) -> Command {
        let python = tools::installed(tools::folder().join("venv/bin/python"));
        let mut moto = proc::command(&python, site.death(self), None);
        moto.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &site.port.to_string()]).current_dir(&site.dir);
        moto
    }

    fn is_ready(&self, site: &Site) -> bool {
        send(site.port, "GET", "/moto-api/", &[], b"").is_ok()
    }

    fn stop_signal(&self) -> &'static str {
        "TERM"
    }

    fn end_signal(&self) -> &'static str {
        "KILL"
    }
}

/// A running S3 endpoint.
#[derive(Debug)]
pub struct S3 {
    server: Server<Moto>,
}

/// What an HTTP request to the endpoint gave.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Body as it came.
    pub body: Vec<u8>,
}

impl S3 {
    /// Any access key works; this one is as good as another.
    pub const ACCESS_KEY: &'static str = "test";
    /// The secret beside [`ACCESS_KEY`](Self::ACCESS_KEY).
    pub const SECRET_KEY: &'static str = "test";
    /// The region of every bucket.
    pub const REGION: &'static str = "us-east-1";

    /// The endpoint that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(|| Self { server: Server::shared(Moto) })
    }

    /// An endpoint of this test's own, to be killed or restarted (empty).
    pub fn start() -> Self {
        Self { server: Server::start(Moto, Options::new()) }
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Creates a bucket that no other test uses.
    pub fn fresh_bucket(&self, prefix: &str) -> Bucket {
        let name = unique(prefix, '-');
        let made = self.request("PUT", &format!("/{name}"), &[], b"");
        assert_eq!(made.status, 200, "cannot create bucket {name}: {}", String::from_utf8_lossy(&made.body));
        Bucket { name, endpoint: self.endpoint() }
    }

    /// One plain HTTP request, with the test key: `path` is `/bucket/key`.
    ///
    /// # Panics
    /// When the endpoint does not answer.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        send(self.port(), method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }
}

crate::server::lifecycle!(S3);

/// A bucket of one test. It goes with the endpoint.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The endpoint's URL.
    pub endpoint: String,
}

/// Anonymous requests meet access control; moto asks of a signature only that it names a key.
const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

fn send(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\
         Authorization: {SIGNATURE}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

/// Splits an HTTP/1.x answer that ends with the connection.
fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Response { status, body: answer.get(end + 4..)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_at_its_empty_line() {
        let response = parse(b"HTTP/1.1 412 Precondition Failed\r\nA: b\r\n\r\nbody\r\n\r\nmore").expect("it is HTTP");
        assert_eq!((response.status, response.body), (412, b"body\r\n\r\nmore".to_vec()));
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_none());
    }
}
