//! A server on this machine that plays the hub and the archive hosts, well and badly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server answers a request for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As it should, ranges included.
    Good,
    /// By a redirect to another path of its own.
    Redirect,
    /// A little at a time.
    Slow,
    /// Closes the connection after so many bytes of each answer.
    Cut(usize),
    /// Closes the connection after half, and never resumes.
    CutNoRange,
    /// Half the file, with that length announced.
    Short,
    /// More bytes than there are, with that length announced.
    Long,
    /// One byte of the file is another.
    Flipped,
    /// A page that says no, with status 200.
    Page,
    /// The same with its honest status.
    Forbidden,
    /// An error so many times, then as it should.
    ErrorsFirst(u32),
    /// Bytes without an end, without a length.
    Endless,
    /// The same behind a range.
    EndlessRange,
    /// Absolute and parent paths in every header that could become a name.
    HostileNames,
    /// An encoded answer.
    Encoded,
    /// A head without an end.
    EndlessHead,
    /// A redirect to this address.
    To(String),
    /// A redirect to itself.
    Loop,
    /// An answer to another range than was asked for.
    WrongRange,
    /// Another length than the file's, as the hub announces it.
    Claims(u64),
    /// Nothing at all.
    Closes,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

pub struct Server {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    port: u16,
    mode: Mutex<Mode>,
    errors: Mutex<u32>,
    files: BTreeMap<String, Vec<u8>>,
    seen: Mutex<Vec<Seen>>,
}

impl Server {
    /// Serves these files by the last part of their path.
    pub fn new(mode: Mode, files: &[(String, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            port,
            mode: Mutex::new(mode),
            errors: Mutex::new(0),
            files: files.iter().cloned().collect(),
            seen: Mutex::default(),
        });
        thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    thread::spawn(move || drop(state.serve(stream)));
                }
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        *self.state.errors.lock().unwrap() = 0;
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.by_ref().take(8192).read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.by_ref().take(8192).read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => break,
            };
        }
        self.seen.lock().unwrap().push(Seen { path: path.clone(), headers: headers.clone() });
        self.answer(stream, &path, headers.get("range").map(String::as_str))
    }

    fn answer(&self, mut out: TcpStream, path: &str, range: Option<&str>) -> std::io::Result<()> {
        let mode = self.mode.lock().unwrap().clone();
        if path.starts_with("/api/") {
            let sha = if mode == Mode::HostileNames { "../../../../tmp/x" } else { COMMIT };
            let body = format!("{{\"id\": \"a/b\", \"sha\": \"{sha}\", \"siblings\": []}}");
            return reply(&mut out, "200 OK", &[], body.as_bytes());
        }
        let name =
            path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let Some(file) = self.files.get(name) else {
            return reply(&mut out, "404 Not Found", &[], b"");
        };
        let start =
            range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = start.unwrap_or(0).min(file.len());
        let sum: String = Sha256::digest(file).iter().map(|b| format!("{b:02x}")).collect();
        let etag = ("ETag", format!("\"{sum}\""));
        let all = file.len();
        let mut headers = vec![etag];
        let (status, body) = match start {
            0 => ("200 OK", &file[..]),
            _ => {
                headers.push(("Content-Range", format!("bytes {start}-{}/{all}", all - 1)));
                ("206 Partial Content", &file[start..])
            }
        };
        match mode {
            Mode::Good => reply(&mut out, status, &headers, body),
            Mode::Redirect if path.starts_with("/cdn/") => reply(&mut out, status, &headers, body),
            Mode::Redirect => {
                headers.push(("Location", format!("/cdn/{name}?signature=SECRET")));
                headers.push(("X-Linked-Size", all.to_string()));
                headers.push(("X-Linked-ETag", format!("\"{sum}\"")));
                reply(&mut out, "302 Found", &headers, b"")
            }
            Mode::Slow => {
                head(&mut out, status, &headers, Some(body.len()))?;
                for piece in body.chunks(body.len().div_ceil(20).max(1)) {
                    out.write_all(piece)?;
                    out.flush()?;
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            }
            Mode::Cut(n) => {
                head(&mut out, status, &headers, Some(body.len()))?;
                out.write_all(&body[..n.min(body.len())])
            }
            Mode::CutNoRange => {
                head(&mut out, "200 OK", &headers[..1], Some(all))?;
                out.write_all(&file[..all / 2])
            }
            Mode::Short => reply(&mut out, status, &headers, &body[..body.len() / 2]),
            Mode::Long => reply(&mut out, status, &headers, &[body, &[7; 5000]].concat()),
            Mode::Flipped => {
                let mut body = body.to_vec();
                let middle = body.len() / 2;
                body[middle] ^= 1;
                reply(&mut out, status, &headers, &body)
            }
            Mode::Page => reply(&mut out, "200 OK", &headers, b"<!doctype html><h1>403</h1>"),
            Mode::Forbidden => {
                reply(&mut out, "403 Forbidden", &[], b"<!doctype html><h1>403</h1>")
            }
            Mode::ErrorsFirst(n) => {
                let mut errors = self.errors.lock().unwrap();
                *errors += 1;
                match *errors <= n {
                    true => reply(&mut out, "500 Internal Server Error", &[], b"oh"),
                    false => reply(&mut out, status, &headers, body),
                }
            }
            Mode::Endless | Mode::EndlessRange => {
                let status = if mode == Mode::Endless { "200 OK" } else { status };
                head(&mut out, status, &headers, None)?;
                out.write_all(body)?;
                loop {
                    out.write_all(&[0; 1 << 16])?;
                }
            }
            Mode::HostileNames => {
                for name in ["ETag", "X-Linked-ETag", "X-Repo-Commit"] {
                    headers.push((name, format!("\"{}\"", hostile_path().display())));
                    headers.push((name, "\"../../../../../metamask-hostile\"".into()));
                }
                let file = hostile_path();
                let disposition = format!("attachment; filename=\"{}\"", file.display());
                headers.push(("Content-Disposition", disposition));
                reply(&mut out, status, &headers, body)
            }
            Mode::Encoded => {
                headers.push(("Content-Encoding", "gzip".into()));
                reply(&mut out, status, &headers, body)
            }
            Mode::EndlessHead => {
                out.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    out.write_all(b"X-More: and more and more and more\r\n")?;
                }
            }
            Mode::To(location) => reply(&mut out, "302 Found", &[("Location", location)], b""),
            Mode::Loop => {
                let location = format!("http://127.0.0.1:{}{path}", self.port);
                reply(&mut out, "302 Found", &[("Location", location)], b"")
            }
            Mode::WrongRange => {
                let range = format!("bytes {}-{}/{all}", start + 1, all - 1);
                reply(&mut out, "206 Partial Content", &[("Content-Range", range)], body)
            }
            Mode::Claims(bytes) => {
                headers.push(("X-Linked-Size", bytes.to_string()));
                reply(&mut out, status, &headers, body)
            }
            Mode::Closes => Ok(()),
        }
    }
}

fn head(
    out: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
    length: Option<usize>,
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        text += &format!("Content-Length: {length}\r\n");
    }
    out.write_all(format!("{text}\r\n").as_bytes())
}

fn reply(
    out: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    head(out, status, headers, Some(body.len()))?;
    out.write_all(body)
}

/// What a hostile server would have written: a place that anybody can write to.
pub fn hostile_path() -> std::path::PathBuf {
    std::env::temp_dir().join("metamask-hostile")
}
