//! Servers that take in what a program sends: a mail server (aiosmtpd) and a web server (Python's own) with TLS. What arrives is read
//! from a file, a line of JSON each.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::{process as proc, tools};

/// A mail server: `implicit` TLS or `starttls`, and a login (`mailer`, `secret`). It refuses mail to `nobody@…` for good.
const SMTP: &str = r#"
import asyncio, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult
mode, port, tls, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(tls + '/server.pem', tls + '/server.key')
class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith('nobody@'):
            return '550 5.1.1 no such user'
        envelope.rcpt_tos.append(address)
        return '250 OK'
    async def handle_DATA(self, server, session, envelope):
        with open(out, 'a') as file:
            text = envelope.content.decode('ascii')
            file.write(json.dumps({'from': envelope.mail_from, 'to': envelope.rcpt_tos, 'text': text}) + '\n')
        return '250 OK'
def login(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (b'mailer', b'secret')
    return AuthResult(success=right, handled=right)
starttls = mode == 'starttls'
def session():
    return SMTP(Handler(), hostname='localhost', authenticator=login, auth_required=True, auth_require_tls=starttls,
                tls_context=context if starttls else None, require_starttls=starttls)
async def serve():
    server = await asyncio.get_running_loop().create_server(session, '127.0.0.1', port, ssl=None if starttls else context)
    await server.serve_forever()
asyncio.run(serve())
"#;

/// A web server with TLS that answers 204 to every POST.
const HTTPS: &str = r#"
import http.server, json, ssl, sys
port, tls, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length'])).decode()
        with open(out, 'a') as file:
            file.write(json.dumps({'path': self.path, 'authorization': self.headers['authorization'],
                                   'type': self.headers['content-type'], 'body': json.loads(body)}) + '\n')
        self.send_response(204)
        self.end_headers()
server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(tls + '/server.pem', tls + '/server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// What listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mail, TLS from the start of the connection.
    Smtps,
    /// Mail, TLS by STARTTLS.
    StartTls,
    /// The web.
    Https,
}

/// A server that takes in what is sent; it can be stopped and started again on its port.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    port: u16,
    out: PathBuf,
    process: Option<Child>,
}

impl Listener {
    /// Chooses a port; nobody listens there yet.
    pub fn new(kind: Kind) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        let out = tools::run_folder().join(format!("listener-{}-{port}", std::process::id()));
        Listener { kind, port, out, process: None }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it.
    pub fn start(&mut self) {
        let python = tools::installed(tools::folder().join("venv/bin/python"));
        let mut command = proc::command(&python, Some("KILL"), None);
        let (script, mode) = match self.kind {
            Kind::Smtps => (SMTP, "implicit"),
            Kind::StartTls => (SMTP, "starttls"),
            Kind::Https => (HTTPS, "https"),
        };
        command.args(["-c", script, mode, &self.port.to_string()]).arg(tools::tls_folder()).arg(&self.out);
        let mut child = proc::spawn(command).expect("cannot run setpriv, which belongs to util-linux");
        let up = proc::wait_until(Duration::from_secs(60), || {
            let ended = child.try_wait().expect("a child of this process");
            assert!(ended.is_none(), "the {:?} server ended", self.kind);
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        });
        assert!(up, "the {:?} server did not start", self.kind);
        self.process = Some(child);
    }

    /// What has arrived, oldest first.
    pub fn received(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // Both fail only for a child that has already been waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
