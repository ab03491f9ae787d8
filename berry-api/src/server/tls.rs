//! TLS for clients: certificate, key and, optionally, the roots that a client's certificate must be signed by.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berry_core::config::snapshot::ServerTls;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is missing, unreadable or not PEM.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file without a certificate in it.
    #[error("{}: no certificate in it", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The roots cannot verify anybody.
    #[error("client_ca cannot be used: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// Reads the files. HTTP/2 and HTTP/1.1 are offered by ALPN.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn server_config(tls: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&tls.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::File { path: tls.key.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let at = |source| TlsError::File { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path).map_err(at)?.collect::<Result<Vec<_>, _>>().map_err(at)?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(chain)
}
