//! Encrypted connections, against Apache ZooKeeper's own TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use livegate_zk::client::{
    Client, ConnectOptions, DisconnectCause, SessionEvent, TlsError, TlsOptions,
};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::watch::AddWatchMode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::apache::Apache;
use crate::connect::options;
use crate::fake::within;
use crate::forwarder::{Forwarder, Mode};
use crate::sessions::until;

/// Issues certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both in PEM.
struct Issued {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Issued {
            certificate,
            key: key.serialize_pem(),
        }
    }
}

/// Configures a port with TLS that asks clients for a certificate.
fn configuration(directory: &Path, port: u16, authority: &Authority, server: &Issued) -> String {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = write(
        "server.pem",
        &format!("{}{}", server.key, server.certificate),
    );
    let trusted = write("trusted.pem", &authority.pem());
    format!(
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         secureClientPort={port}\nsecureClientPortAddress=127.0.0.1\n\
         ssl.keyStore.location={server}\nssl.trustStore.location={trusted}\n\
         ssl.clientAuth=need\nssl.hostnameVerification=false\n"
    )
}

fn with_tls(address: SocketAddr, tls: TlsOptions) -> ConnectOptions {
    ConnectOptions {
        tls: Some(tls),
        ..options(&address.to_string())
    }
}

/// Why a client does not get a session.
async fn refused(address: SocketAddr, tls: TlsOptions) -> DisconnectCause {
    let mut options = with_tls(address, tls);
    options.operation_timeout = Duration::from_secs(2);
    Client::connect(options).await.unwrap_err().cause.unwrap()
}

#[tokio::test]
async fn sessions_live_over_tls_and_only_with_whom_is_trusted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let server = authority.issue("127.0.0.1");
    let Some(apache) = Apache::new(Duration::from_millis(1500)) else {
        return;
    };
    let lines = configuration(apache.directory(), port, &authority, &server);
    let mut apache = apache.with_config(&lines);
    apache.run_async().await;
    let identity = authority.issue("client");
    let identity = Some((identity.certificate.as_bytes(), identity.key.as_bytes()));
    let tls = TlsOptions::new(authority.pem().as_bytes(), identity).unwrap();

    // The whole client works, and re-attaches.
    let forwarder = Forwarder::start(address).await;
    let client = Client::connect(with_tls(forwarder.address, tls.clone()))
        .await
        .unwrap();
    let mut events = client.session_events();
    let large = vec![b'x'; 1_000_000];
    for number in 0..10 {
        let path = format!("/n{number}");
        client
            .create(&path, &large, CreateMode::Persistent, Acl::OPEN)
            .await
            .unwrap();
        assert_eq!(client.get(&path).await.unwrap().0, large);
    }
    let schemes: Vec<_> = client
        .who_am_i()
        .await
        .unwrap()
        .into_iter()
        .map(|who| who.scheme)
        .collect();
    assert!(schemes.iter().any(|scheme| scheme == "x509"), "{schemes:?}");
    let mut watcher = client.watch("/n1", AddWatchMode::Persistent).await.unwrap();
    let session_id = client.state().session_id;
    forwarder.set(Mode::Cut);
    let Some(SessionEvent::Disconnected { .. }) = within(events.next()).await else {
        panic!()
    };
    forwarder.set(Mode::Pass);
    until(&mut events, &SessionEvent::Reattached).await;
    assert_eq!(client.state().session_id, session_id);
    assert!(within(watcher.next()).await.is_some());
    client.set("/n1", b"", None).await.unwrap();
    assert!(within(watcher.next()).await.is_some());
    client.close().await;

    // A name that the certificate does not bear, unless another one is expected.
    let io = |cause| matches!(cause, DisconnectCause::Io(text) if text.contains("certificate"));
    let named = tls.clone().with_server_name("zk.example.org").unwrap();
    assert!(io(refused(address, named).await));
    let mut by_name = with_tls(address, tls.clone().with_server_name("127.0.0.1").unwrap());
    by_name.servers[0].host = "localhost".to_owned();
    Client::connect(by_name).await.unwrap().close().await;
    // A server that was certified by somebody else.
    let distrusting = TlsOptions::new(stranger.pem().as_bytes(), identity).unwrap();
    assert!(io(refused(address, distrusting).await));
    // A client that is not certified, or by somebody else: the server says so.
    let alert = |cause| matches!(cause, DisconnectCause::Io(text) if text.contains("alert"));
    let anonymous = TlsOptions::new(authority.pem().as_bytes(), None).unwrap();
    assert!(alert(refused(address, anonymous).await));
    let other = stranger.issue("client");
    let other = Some((other.certificate.as_bytes(), other.key.as_bytes()));
    let other = TlsOptions::new(authority.pem().as_bytes(), other).unwrap();
    assert!(alert(refused(address, other).await));
    // Plain text where TLS is expected, and the other way round.
    let mut plain = options(&address.to_string());
    plain.operation_timeout = Duration::from_secs(2);
    let error = Client::connect(plain).await.unwrap_err();
    assert_eq!(error.cause, Some(DisconnectCause::Refused(address)));
    let cause = refused(apache.address(), tls).await;
    assert!(matches!(cause, DisconnectCause::Io(_)), "{cause}");
}

#[test]
fn useless_certificates_are_refused_when_configured() {
    let authority = Authority::new();
    let pem = authority.pem();
    assert!(matches!(
        TlsOptions::new(b"", None),
        Err(TlsError::NoCertificate(_))
    ));
    assert!(matches!(
        TlsOptions::new(b"nonsense", None),
        Err(TlsError::NoCertificate(_))
    ));
    let issued = authority.issue("client");
    let chain = issued.certificate.as_bytes();
    let no_key = TlsOptions::new(pem.as_bytes(), Some((chain, b"")));
    assert!(matches!(
        no_key,
        Err(TlsError::Pem {
            what: "client key",
            ..
        })
    ));
    let other = authority.issue("client");
    let wrong_key = TlsOptions::new(pem.as_bytes(), Some((chain, other.key.as_bytes())));
    assert!(matches!(wrong_key, Err(TlsError::Rustls(_))));
    let tls = TlsOptions::new(pem.as_bytes(), None).unwrap();
    assert!(matches!(
        tls.with_server_name("no name"),
        Err(TlsError::ServerName(_))
    ));
}
