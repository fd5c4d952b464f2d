//! One file over HTTP: resumed where it was cut, checked before it gets its name.
//!
//! Bytes go to `NAME.part` under a lock, so that two processes that want one
//! file download it once. Redirects are followed by hand, a few: never from
//! `https` to `http`, and the token goes to its own host alone. A server can
//! make a download fail; it cannot make it long, large or wrong.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::{Network, Secret};
use crate::error::DataError;
use crate::manifest::is_hex;
use crate::report::{Reporter, Unit};
use crate::source::digests;

/// What a file must be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub bytes: u64,
    pub sha256: Option<String>,
    pub md5: Option<String>,
}

/// No download is larger: STL-10's archive has 2.6 GB.
const LIMIT: u64 = 16 << 30;
const API_LIMIT: u64 = 1 << 20;
const MAX_REDIRECTS: usize = 5;
/// So often in a row a request may bring nothing.
const MAX_FRUITLESS: u32 = 4;
/// A server that sends nothing for so long has been cut off.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) struct Fetcher {
    agent: Agent,
    endpoint: Uri,
    token: Option<Secret>,
    report: Reporter,
}

/// How one request ended.
enum Outcome {
    /// The connection ended; there may be more to ask for.
    Cut,
    /// The same question can be asked again later.
    TryAgain(String),
}

impl Fetcher {
    pub(super) fn new(network: &Network, report: Reporter) -> Result<Self, DataError> {
        let wrong = |what: &str| {
            let message = format!("endpoint: expected an address `https://HOST`, {what}");
            DataError::request(message)
        };
        let endpoint: Uri = network.endpoint.parse().map_err(|_| wrong("got something else"))?;
        let authority = endpoint.authority().ok_or_else(|| wrong("got none"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("without user and password"));
        }
        if !is_safe(&endpoint) {
            return Err(wrong("or `http` of this machine alone"));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("metamask/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(64 << 10)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        // A proxy has no business with this machine's own servers.
        let config = if is_loopback(&endpoint) { config.proxy(None) } else { config };
        let token = network.token.clone();
        Ok(Self { agent: config.build().new_agent(), endpoint, token, report })
    }

    /// Waits until nobody else holds the lock.
    pub(super) fn lock(&self, path: &Path) -> Result<File, DataError> {
        let failed = |error: io::Error| DataError::io(path, "lock", &error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        self.report.note("another process is fetching this data set; waiting for it");
        file.lock().map_err(failed)?;
        Ok(file)
    }

    /// Fetches a file to `path`, or finds it there.
    pub(super) fn file(
        &self,
        url: &str,
        path: &Path,
        expected: &Expected,
    ) -> Result<(), DataError> {
        if expected.bytes > LIMIT {
            let bytes = expected.bytes;
            return Err(DataError::download(format!(
                "{}: {bytes} bytes, at most {LIMIT}",
                shown(url)
            )));
        }
        let folder = path.parent().expect("a file in a folder");
        fs::create_dir_all(folder).map_err(|error| DataError::io(folder, "write", &error))?;
        let _lock = self.lock(&with_ending(path, "lock"))?;
        if path.is_file() {
            // It got its name when it was whole.
            return Ok(());
        }
        let part = with_ending(path, "part");
        let what = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut wrong = None;
        // A wrong digest may be the fault of an old part: once more from the start.
        for _ in 0..2 {
            self.report.started(format!("fetching {what}"), Some(expected.bytes), Unit::Bytes);
            let done = self.bytes(url, &part, expected.bytes);
            self.report.finished();
            done?;
            match check(&part, expected) {
                Ok(()) => {
                    let renamed = File::open(&part)
                        .and_then(|file| file.sync_all())
                        .and_then(|()| fs::rename(&part, path))
                        .and_then(|()| File::open(folder)?.sync_all());
                    return renamed.map_err(|error| DataError::io(path, "write", &error));
                }
                Err(error) => {
                    remove(&part)?;
                    wrong = Some(error);
                }
            }
        }
        let wrong = wrong.expect("two tries");
        Err(DataError::download(format!("{}: {}", shown(url), wrong.message)))
    }

    /// Brings the part to its full length.
    fn bytes(&self, url: &str, part: &Path, total: u64) -> Result<(), DataError> {
        let mut fruitless = 0;
        let mut have = length(part)?;
        if have > total {
            remove(part)?;
            have = 0;
        }
        self.report.advanced(have);
        while have < total {
            let before = have;
            let outcome = self.request_bytes(url, part, &mut have, total)?;
            if have > before {
                fruitless = 0;
            } else {
                fruitless += 1;
            }
            if fruitless >= MAX_FRUITLESS {
                let why = match outcome {
                    Outcome::TryAgain(why) if have == 0 => why,
                    Outcome::TryAgain(why) => format!("got {have} bytes, expected {total} ({why})"),
                    Outcome::Cut => format!("got {have} bytes, expected {total}"),
                };
                let message = format!("{}: {why}", shown(url));
                let error = DataError::download(message);
                let help =
                    (have > 0).then(|| format!("{have} bytes are kept; the next fetch goes on"));
                return Err(DataError { help, ..error });
            }
            if have < total {
                // 0.1, 0.2, 0.4 … seconds.
                sleep(Duration::from_millis(100 << fruitless));
            }
        }
        Ok(())
    }

    fn request_bytes(
        &self,
        url: &str,
        part: &Path,
        have: &mut u64,
        total: u64,
    ) -> Result<Outcome, DataError> {
        let failure = |why: String| DataError::download(format!("{}: {why}", shown(url)));
        let (response, _) = match self.get(url, Some(*have))? {
            Ok(response) => response,
            Err(why) => return Ok(Outcome::TryAgain(why)),
        };
        let status = response.status().as_u16();
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if header("content-encoding").is_some_and(|encoding| encoding != "identity") {
            return Err(failure("an encoded answer, expected plain bytes".into()));
        }
        let announced = header("content-length").and_then(|length| length.parse::<u64>().ok());
        let start = match status {
            200 => 0,
            206 => {
                let range = header("content-range").unwrap_or_default();
                let expected = format!("bytes {have}-");
                let is_right = range.starts_with(&expected)
                    && range
                        .rsplit('/')
                        .next()
                        .is_some_and(|all| all == "*" || all == total.to_string());
                if !is_right {
                    return Err(failure(format!("an answer to another range than byte {have} on")));
                }
                *have
            }
            416 => {
                remove(part)?;
                *have = 0;
                return Ok(Outcome::TryAgain("the server refuses to resume".into()));
            }
            408 | 425 | 429 | 500..=599 => {
                return Ok(Outcome::TryAgain(format!("status {status}")));
            }
            401 | 403 => {
                let error = failure(format!("status {status}: not allowed"));
                let help =
                    "a private data set needs HF_TOKEN; a busy page refuses at times".to_owned();
                return Err(DataError { help: Some(help), ..error });
            }
            _ => return Err(failure(format!("status {status}, expected the file"))),
        };
        if let Some(announced) = announced.filter(|announced| *announced != total - start) {
            return Err(failure(format!(
                "{announced} bytes announced, expected {}",
                total - start
            )));
        }
        let opened = OpenOptions::new()
            .create(true)
            .append(start > 0)
            .write(true)
            .truncate(start == 0)
            .open(part);
        let write_failed = |error: io::Error| DataError::io(part, "write", &error);
        let mut file = opened.map_err(write_failed)?;
        *have = start;
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(Outcome::Cut),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Outcome::TryAgain(plain(&error.to_string()))),
            };
            if *have + n as u64 > total {
                drop(file);
                remove(part)?;
                return Err(failure(format!("more than the {total} bytes expected")));
            }
            file.write_all(&buffer[..n]).map_err(write_failed)?;
            *have += n as u64;
            self.report.advanced(n as u64);
        }
    }

    /// Length and SHA-256 of a file as the hub announces them for large files.
    pub(super) fn announced(&self, url: &str) -> Result<(u64, Option<String>), DataError> {
        let failure = |why: String| DataError::download(format!("{}: {why}", shown(url)));
        let (response, first) = self.patiently(url)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(failure(format!("status {status}, expected the file")));
        }
        let own = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let header = |names: [&str; 2]| {
            let linked =
                first.iter().find(|(name, _)| name == names[0]).map(|(_, value)| &value[..]);
            linked.or_else(|| own(names[1])).map(str::to_owned)
        };
        let bytes = header(["x-linked-size", "content-length"]);
        let bytes = bytes
            .and_then(|bytes| bytes.parse::<u64>().ok())
            .filter(|bytes| (1..=LIMIT).contains(bytes));
        let bytes = bytes.ok_or_else(|| failure("no length, expected one within bounds".into()))?;
        let tag = header(["x-linked-etag", "etag"]);
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        Ok((bytes, tag.filter(|tag| is_hex(tag, 64))))
    }

    /// The commit that a branch points at.
    pub(super) fn commit(&self, repository: &str, branch: &str) -> Result<String, DataError> {
        #[derive(serde::Deserialize)]
        struct Info {
            sha: String,
        }
        let endpoint = self.endpoint.to_string();
        let endpoint = endpoint.trim_end_matches('/');
        let branch = branch.replace('/', "%2F");
        let url = format!("{endpoint}/api/datasets/{repository}/revision/{branch}");
        let failure = |why: &str| DataError::download(format!("{}: {why}", shown(&url)));
        let (response, _) = self.patiently(&url)?;
        if response.status() != 200 {
            return Err(failure(&format!("status {}", response.status().as_u16())));
        }
        let mut text = Vec::new();
        let read = response.into_body().into_reader().take(API_LIMIT).read_to_end(&mut text);
        read.map_err(|error| failure(&plain(&error.to_string())))?;
        let info: Info =
            serde_json::from_slice(&text).map_err(|_| failure("no such repository's answer"))?;
        match is_hex(&info.sha, 40) {
            true => Ok(info.sha),
            false => Err(failure("a commit that is not 40 hexadecimal digits")),
        }
    }

    /// A request that is repeated while the server is busy.
    fn patiently(&self, url: &str) -> Result<Answer, DataError> {
        let mut why = String::new();
        for fruitless in 0..MAX_FRUITLESS {
            match self.get(url, None)? {
                Ok((response, first)) => {
                    let status = response.status().as_u16();
                    if !matches!(status, 408 | 425 | 429 | 500..=599) {
                        return Ok((response, first));
                    }
                    why = format!("status {status}");
                }
                Err(failed) => why = failed,
            }
            sleep(Duration::from_millis(100 << fruitless));
        }
        Err(DataError::download(format!("{}: {why}", shown(url))))
    }

    /// Asks for an address and follows redirects; with `from`, for the bytes
    /// from there on. The inner error can be tried again.
    fn get(&self, url: &str, from: Option<u64>) -> Result<Result<Answer, String>, DataError> {
        let failure = |why: String| DataError::download(format!("{}: {why}", shown(url)));
        let mut at: Uri = url.parse().map_err(|_| failure("no address".into()))?;
        // A page's own address may be plain http: its digest is published.
        let may_be_plain = at.scheme_str() == Some("http") && !is_loopback(&at);
        let mut first = Headers::new();
        for hop in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(at.clone());
            if let Some(from) = from.filter(|&from| from > 0) {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| self.may_have_token(&at)) {
                request = request.header("authorization", format!("Bearer {}", token.0));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(error) => return Ok(Err(plain(&error.to_string()))),
            };
            if hop == 0 {
                let linked = response
                    .headers()
                    .iter()
                    .filter(|(name, _)| name.as_str().starts_with("x-linked-"));
                first = linked
                    .filter_map(|(name, value)| {
                        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
                    })
                    .collect();
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Ok((response, first)));
            }
            let location = response.headers().get("location").and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| joined(&at, to));
            let next = next.ok_or_else(|| failure("a redirect to no address".into()))?;
            let host = next.host().unwrap_or_default().to_owned();
            let is_plain = next.scheme_str() == Some("http");
            if !(is_safe(&next) || may_be_plain && is_plain) {
                return Err(failure(format!("a redirect to `{}`, expected https", plain(&host))));
            }
            // This machine's own servers are nobody's redirect but their own.
            if is_loopback(&next) && !is_loopback(&at) {
                return Err(failure("a redirect to this machine".into()));
            }
            at = next;
        }
        Err(failure(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Only the endpoint itself, and only where nobody listens.
    fn may_have_token(&self, at: &Uri) -> bool {
        at.scheme() == self.endpoint.scheme()
            && at.authority() == self.endpoint.authority()
            && is_safe(at)
    }
}

/// The last response, and what the first one said about a linked file.
type Answer = (Response<Body>, Headers);
type Headers = Vec<(String, String)>;

fn is_loopback(uri: &Uri) -> bool {
    matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"))
}

fn is_safe(uri: &Uri) -> bool {
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(uri),
        _ => false,
    }
}

/// An absolute address, or one relative to the host.
fn joined(at: &Uri, location: &str) -> Option<Uri> {
    match location.starts_with('/') && !location.starts_with("//") {
        true => {
            let scheme = at.scheme_str()?;
            format!("{scheme}://{}{location}", at.authority()?).parse().ok()
        }
        false => location.parse().ok().filter(|uri: &Uri| uri.authority().is_some()),
    }
}

/// An address without its query, which may hold a signature.
fn shown(url: &str) -> String {
    plain(url.split('?').next().unwrap_or_default())
}

/// Text of others for one line: short, without control characters and queries.
fn plain(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.contains("://") {
        true => word.split('?').next().unwrap_or_default(),
        false => word,
    });
    let text: Vec<&str> = words.collect();
    text.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn length(part: &Path) -> Result<u64, DataError> {
    match fs::metadata(part) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(DataError::io(part, "read", &error)),
    }
}

fn remove(part: &Path) -> Result<(), DataError> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataError::io(part, "remove", &error))
        }
        _ => Ok(()),
    }
}

fn check(part: &Path, expected: &Expected) -> Result<(), DataError> {
    let (bytes, sha256, md5) = digests(part)?;
    if bytes != expected.bytes {
        return Err(DataError::download(format!("got {bytes} bytes, expected {}", expected.bytes)));
    }
    for (found, expected) in [(&sha256, &expected.sha256), (&md5, &expected.md5)] {
        if let Some(expected) = expected.as_ref().filter(|expected| *expected != found) {
            return Err(DataError::download(format!("found digest {found}, expected {expected}")));
        }
    }
    Ok(())
}
