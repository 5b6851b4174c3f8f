//! Encrypted connections to the ensemble.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Whom to trust, and as whom to come.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is not PEM, or has no key.
    #[error("{what}: {source}")]
    Pem {
        /// Which of the inputs.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// There is no certificate in it.
    #[error("{0}: no certificate")]
    NoCertificate(&'static str),
    /// Certificates, or certificate and key, do not do.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// It can be neither a host name nor an address.
    #[error("{0:?} is not a server name")]
    ServerName(String),
}

impl TlsOptions {
    /// Trusts servers whose certificates were issued by one of these authorities, in PEM, and bear the
    /// name or address that was connected to. The client comes with the identity, a chain of certificates
    /// and a key in PEM; ensembles ask for one unless `ssl.clientAuth` is `none`.
    ///
    /// # Errors
    /// When the input is not what it should be.
    pub fn new(authorities: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("certificate authorities", authorities)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates("client certificate", chain)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
                    what: "client key",
                    source,
                })?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        Ok(Self {
            config: Arc::new(config),
            server_name: None,
        })
    }

    /// Expects this name in the certificates of all servers, whatever they were connected to by.
    ///
    /// # Errors
    /// When it can be neither a host name nor an address.
    pub fn with_server_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.server_name = Some(
            ServerName::try_from(name.to_owned())
                .map_err(|_| TlsError::ServerName(name.to_owned()))?,
        );
        Ok(self)
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector {
            connector: Arc::clone(&self.config).into(),
            server_name: self.server_name.clone(),
        }
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if certificates.is_empty() {
        Err(TlsError::NoCertificate(what))
    } else {
        Ok(certificates)
    }
}

/// Makes connections encrypted.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    connector: tokio_rustls::TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TlsConnector")
            .finish_non_exhaustive()
    }
}

impl TlsConnector {
    /// Shakes hands with the server that was connected to by this name.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        self.connector.connect(name, stream).await
    }
}
