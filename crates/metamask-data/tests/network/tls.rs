//! Servers on this machine that cannot prove who they are: nothing is asked of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use metamask_data::hub::{Network, Secret};
use metamask_data::{HubWeights, Places};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::TOKEN;
use crate::server::COMMIT;

/// What the clients said after the handshake, if one came to its end.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A server whose connections are answered by `answer`, and its address.
fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    url
}

fn tls(certificate: CertificateParams, heard: &Heard) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let config =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
    let (config, heard) = (Arc::new(config), Arc::clone(heard));
    serve(move |mut socket| {
        let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut bytes = [0; 1024];
        if let Ok(n) = Stream::new(&mut connection, &mut socket).read(&mut bytes) {
            heard.lock().unwrap().extend(&bytes[..n]);
        }
    })
}

/// A server that speaks TLS 1.1 and nothing newer: a ServerHello of version 3.2.
fn tls_1_1(heard: &Heard) -> String {
    let heard = Arc::clone(heard);
    serve(move |mut socket| {
        let mut hello = vec![0x03, 0x02];
        hello.extend([7; 32]); // random
        hello.extend([0, 0x00, 0x2f, 0]); // no session, RSA with AES-128, no compression
        let mut message = vec![0x02, 0, 0, hello.len() as u8];
        message.extend(hello);
        let mut record = vec![0x16, 0x03, 0x02, 0, message.len() as u8];
        record.extend(message);
        let mut bytes = [0; 4096];
        let _ = socket.read(&mut bytes); // the ClientHello
        let _ = socket.write_all(&record);
        if let Ok(n) = socket.read(&mut bytes) {
            // An alert (type 21) is no data.
            let data = if bytes.first() == Some(&0x15) { 0 } else { n };
            heard.lock().unwrap().extend(&bytes[..data]);
        }
    })
}

#[test]
fn nobody_without_a_certificate_that_is_trusted_is_asked_for_anything() {
    let names = |names: &[&str]| {
        CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
            .unwrap()
    };
    let mut expired = names(&["127.0.0.1"]);
    expired.not_before = date_time_ymd(2000, 1, 1);
    expired.not_after = date_time_ymd(2001, 1, 1);
    let heard = Heard::default();
    let servers = [
        ("self-signed", tls(names(&["127.0.0.1", "localhost"]), &heard)),
        ("expired", tls(expired, &heard)),
        ("another host's", tls(names(&["huggingface.co"]), &heard)),
        ("TLS 1.1", tls_1_1(&heard)),
    ];
    let weights: HubWeights = format!("hub:a/b@{COMMIT}").parse().unwrap();
    for (what, endpoint) in servers {
        let dir = tempfile::tempdir().unwrap();
        let network =
            Network { endpoint, token: Some(Secret::new(TOKEN).unwrap()), ..Network::default() };
        let places = Places {
            cache_dir: Some(dir.path().to_owned()),
            network: Some(network),
            ..Places::default()
        };
        let error = weights.find(&places).expect_err(what);
        assert_eq!(error.code, "DOWNLOAD", "{what}: {error}");
        assert!(!error.message.contains("CANARY"), "{what}: {error}");
        if what == "self-signed" {
            assert!(error.message.contains("certificate"), "{error}");
        }
        assert!(heard.lock().unwrap().is_empty(), "{what}: a request, or a token, was sent");
    }
}
