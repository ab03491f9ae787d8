//! The listener over real sockets on free ports: what memory cannot show.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use berry_api::reload::{Cause, reload};
use berry_api::server::{accept_all, bind};
use berry_mock::{Mock, Script};
use http::Version;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::TaskTracker;

use crate::support::{ADMIN, CONFIG, TestGateway};

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Serves the configuration on a free port.
fn serve(config: &str) -> (TestGateway, SocketAddr, TaskTracker) {
    let gateway = TestGateway::new(config);
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = TaskTracker::new();
    tasks.spawn(accept_all(listener, gateway.server(), tasks.clone()));
    (gateway, address, tasks)
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    Ok(String::from_utf8_lossy(&received).into_owned())
}

async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream).await.unwrap()
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_ends() {
    let (_gateway, address, _tasks) = serve(&format!("[server]\nmax_connections = 1\n{CONFIG}"));
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(LIVEZ).await.unwrap();
    // While these are answered, the second would be too, if anybody had accepted it.
    for _ in 0..20 {
        first.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            answer.push(first.read_u8().await.unwrap());
        }
    }
    let mut byte = [0];
    assert_eq!(second.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    assert!(read_all(&mut second).await.unwrap().ends_with("ok\n"));
}

#[tokio::test]
async fn after_the_drain_nobody_gets_in_and_every_task_ends() {
    let (gateway, address, tasks) = serve(CONFIG);
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(ask(address, LIVEZ).await.ends_with("ok\n"));
    gateway.gateway.app().shutdown.drain();
    assert_eq!(read_all(&mut idle).await.unwrap(), "");
    tasks.close();
    tasks.wait().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_trusted_balancer_names_the_client_and_nobody_else_can() {
    let server = "[server]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1/32\"]\n";
    let (_gateway, address, _tasks) = serve(&format!("{server}{CONFIG}"));
    let told = [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", LIVEZ].concat();
    assert!(ask(address, &told).await.ends_with("ok\n"));
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(LIVEZ).await.unwrap();
    // Closed on unread bytes: the kernel may make a reset of it.
    let answer = read_all(&mut silent).await.unwrap_or_default();
    assert_eq!(answer, "", "a balancer must say whom it speaks for");

    let elsewhere = server.replace("127.0.0.1/32", "10.0.0.0/8");
    let (_gateway, address, _tasks) = serve(&format!("{elsewhere}{CONFIG}"));
    assert!(ask(address, LIVEZ).await.ends_with("ok\n"));
    assert!(ask(address, &told).await.starts_with("HTTP/1.1 400 "));
}

/// A root, a server certificate and a client certificate that it signed, in files.
struct Pki {
    dir: tempfile::TempDir,
    root: CertificateDer<'static>,
    server: (Certificate, KeyPair),
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            (params.signed_by(&key, &root).unwrap(), key)
        };
        let (server, (client, client_key)) = (issue(), issue());
        let pki = Self {
            root: root.der().clone(),
            server,
            client: (client.der().clone(), PrivateKeyDer::try_from(client_key.serialize_der()).unwrap()),
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(pki.dir.path().join("root.pem"), root.pem()).unwrap();
        pki.write_to(pki.dir.path());
        pki
    }

    /// Puts the server's certificate and key into `folder`, where another's may be.
    fn write_to(&self, folder: &Path) {
        let (certificate, key) = &self.server;
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }

    fn config(&self, with_client_ca: bool) -> String {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut server = format!("[server]\ntls_cert = '{}'\ntls_key = '{}'\n", path("cert.pem"), path("key.pem"));
        if with_client_ca {
            server.push_str(&format!("client_ca = '{}'\n", path("root.pem")));
        }
        server + CONFIG
    }

    /// The protocol agreed on and what `/livez` says.
    async fn ask(
        &self,
        address: SocketAddr,
        alpn: &[&str],
        with_client: bool,
    ) -> io::Result<(Option<Vec<u8>>, String)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match with_client {
            false => builder.with_no_client_auth(),
            true => builder.with_client_auth_cert(vec![self.client.0.clone()], self.client.1.clone_key()).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let agreed = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        if agreed.as_deref() == Some(b"h2") {
            return Ok((agreed, String::new()));
        }
        tls.write_all(LIVEZ).await?;
        let answer = read_all(&mut tls).await?;
        Ok((agreed, answer))
    }
}

#[tokio::test]
async fn tls_offers_http2_and_http1_and_serves_both_kinds_of_client() {
    let pki = Pki::new();
    let (_gateway, address, _tasks) = serve(&pki.config(false));
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let (found, answer) = pki.ask(address, offered, false).await.unwrap();
        assert_eq!(found.as_deref(), agreed);
        assert!(agreed == Some(b"h2") || answer.ends_with("ok\n"), "{answer}");
    }
    // Plain HTTP at a TLS port gets no HTTP answer; whether a TLS alert or a reset comes first is the kernel's affair.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(LIVEZ).await.unwrap();
    assert!(!read_all(&mut plain).await.is_ok_and(|answer| answer.starts_with("HTTP")));
}

#[tokio::test]
async fn with_a_client_ca_only_certified_clients_are_served() {
    let pki = Pki::new();
    let (_gateway, address, _tasks) = serve(&pki.config(true));
    let (_, answer) = pki.ask(address, &[], true).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    assert!(pki.ask(address, &[], false).await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_holds_from_the_next_reload_and_a_broken_one_changes_nothing() {
    let (old, renewed) = (Pki::new(), Pki::new());
    let (gateway, address, _tasks) = serve(&old.config(false));
    let (folder, app) = (old.dir.path(), gateway.gateway.app());
    let file = folder.join("berry.toml");
    std::fs::write(&file, old.config(false)).unwrap();
    let served = async |pki: &Pki| pki.ask(address, &[], false).await.is_ok();

    renewed.write_to(folder);
    assert!(served(&old).await, "the files alone change nothing");
    std::fs::write(folder.join("key.pem"), old.server.1.serialize_pem()).unwrap();
    let error = reload(app, &file, Cause::Signal).unwrap_err().to_string();
    assert!(error.contains("certificate and key cannot be used"), "{error}");
    assert!(served(&old).await, "half a renewal is refused");

    renewed.write_to(folder);
    reload(app, &file, Cause::Signal).unwrap();
    assert!(served(&renewed).await && !served(&old).await);
}

#[tokio::test]
async fn roots_of_a_provider_that_are_renewed_in_place_hold_from_the_next_reload() {
    let (pki, other) = (Pki::new(), Pki::new());
    let port = behind_tls(&pki, &Mock::new(Script::default()), &["http/1.1"]).await.port();
    let file = other.dir.path().join("berry.toml");
    let root = other.dir.path().join("root.pem");
    let at = format!("https://localhost:{port}/v1\"\nca_file = '{}'", root.display());
    std::fs::write(&file, CONFIG.replace("http://127.0.0.1:9/v1\"", &at)).unwrap();
    let gateway = TestGateway::new(&std::fs::read_to_string(&file).unwrap());
    let status = async || {
        let body = r#"{"model":"narrow","messages":[{"role":"user","content":"hi"}]}"#;
        gateway.post("/v1/chat/completions", ADMIN, body).await.status.as_u16()
    };
    assert_eq!(status().await, 503, "a root that did not sign it");
    std::fs::copy(pki.dir.path().join("root.pem"), &root).unwrap();
    reload(gateway.gateway.app(), &file, Cause::Signal).unwrap();
    assert_eq!(status().await, 200);
}

/// A TLS front of `upstream` that offers these protocols.
async fn behind_tls(pki: &Pki, upstream: &Mock, offered: &[&str]) -> SocketAddr {
    let path = |name: &str| pki.dir.path().join(name);
    let chain = CertificateDer::pem_file_iter(path("cert.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(path("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), upstream.listen().await.unwrap());
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tasks.spawn(async move {
                let mut outer = acceptor.accept(tcp).await.unwrap();
                let mut inner = TcpStream::connect(behind).await.unwrap();
                // How it ends is seen on both sides.
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn connections_to_a_provider_are_kept_and_http2_is_shared_where_it_is_offered() {
    let pki = Pki::new();
    for (offered, version) in [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11)] {
        let mock = Mock::new(Script { first_token_latency_ms: 20, answer_tokens: Some(3), ..Script::default() });
        let port = behind_tls(&pki, &mock, offered).await.port();
        let at = format!("https://localhost:{port}/v1\"\nca_file = '{}'", pki.dir.path().join("root.pem").display());
        let gateway = TestGateway::new(&CONFIG.replace("http://127.0.0.1:9/v1\"", &at));
        let ask = async |model: &str| {
            let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
            let answer = gateway.post("/v1/chat/completions", ADMIN, &body).await;
            assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
        };
        for _ in 0..3 {
            ask("org/wide").await;
            ask("narrow").await;
        }
        assert_eq!(mock.stats().connections, 1, "one after the other, two models of one provider: {version:?}");
        futures_util::future::join_all((0..8).map(|_| ask("narrow"))).await;
        let opened = mock.stats().connections;
        match version {
            Version::HTTP_2 => assert_eq!(opened, 1, "shared"),
            _ => assert!((2..=8).contains(&opened), "one for each at the same time: {opened}"),
        }
        ask("org/wide").await;
        assert_eq!(mock.stats().connections, opened, "kept");
        assert!(mock.requests().iter().all(|seen| seen.version == version), "{version:?}");
    }
}
