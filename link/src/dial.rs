//! From a ticket to a connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_proto::ids::Digest;
use farm_proto::message::{Enrol, Enrolled, Open, Request, Response};
use farm_proto::ticket::Ticket;
use farm_proto::{ALPN, ALPN_ENROL, close};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::identity::{self, Identity};
use crate::stream::{FrameReader, FrameWriter};
use crate::{LinkError, transport};

/// The name in every scheduler's certificate: a farm is known by its CA, not by where it runs.
pub const SERVER_NAME: &str = "farm";
/// How long a scheduler may take to answer before it counts as unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Link::close`] lets the transport send.
const GOODBYE: Duration = Duration::from_millis(5);

/// A connection, and the socket under it.
#[derive(Debug, Clone)]
pub struct Link {
    pub connection: Connection,
    endpoint: Endpoint,
}

impl Link {
    /// Opens a stream for frames both ways.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub async fn open(&self) -> Result<(FrameWriter, FrameReader), LinkError> {
        let (send, receive) = self.connection.open_bi().await?;
        Ok((FrameWriter::new(send), FrameReader::new(receive)))
    }

    /// Closes the connection and gives the word a moment to leave.
    ///
    /// Should it be lost, the peer notices by itself in seconds; to wait until it must have arrived would take three
    /// probe time-outs (RFC 9000, section 10.2), about 80 ms on loopback.
    pub async fn close(&self, code: u32) {
        self.connection.close(code.into(), b"");
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }
}

/// Connects, enrolling first unless the identity that this ticket was traded for is in `identities` already. A new one is kept
/// there; with `None` it lives as long as the process. Who may have to dial again takes a [`Dialer`].
///
/// # Errors
///
/// The scheduler cannot be reached within [`CONNECT_TIMEOUT`], is another one, speaks another version, or refuses the
/// ticket.
pub async fn connect(ticket: &Ticket, identities: Option<&Path>) -> Result<Link, LinkError> {
    Dialer::new(ticket.clone(), identities).dial().await
}

/// A ticket, and the identity that it was traded for: it may be good for one trade only, or for a short time. The identity
/// is renewed on the way, so that whoever dials now and then need not trade again.
#[derive(Debug, Clone)]
pub struct Dialer {
    ticket: Ticket,
    /// Whether the ticket can be traded for an identity.
    may_enrol: bool,
    /// Where the identity is kept.
    path: Option<PathBuf>,
    identity: Option<Identity>,
}

impl Dialer {
    /// As [`connect`] with the same arguments, any number of times.
    pub fn new(ticket: Ticket, identities: Option<&Path>) -> Self {
        let path = identities.map(|folder| identity::path_in(folder, &ticket));
        Self { ticket, may_enrol: true, path, identity: None }
    }

    /// With the identity that is kept in a file, whatever the ticket. Without a secret, the ticket says no more than where
    /// the farm is, and that identity is the only one.
    pub fn kept_at(ticket: Ticket, path: &Path) -> Self {
        let may_enrol = !ticket.secret.is_empty();
        Self { ticket, may_enrol, path: Some(path.to_owned()), identity: None }
    }

    /// The ticket that leads there.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Connects, enrolling first if there is no identity yet, or it has run out. Renews one whose time it is.
    ///
    /// # Errors
    ///
    /// As [`connect`]; or an identity is needed and there is no secret to trade for one.
    pub async fn dial(&mut self) -> Result<Link, LinkError> {
        let known = self.identity.take().or_else(|| Identity::load(self.path.as_deref()?));
        if let Some(known) = known.filter(Identity::is_current) {
            match connect_as(&self.ticket, &known).await {
                // The certificate has run out or its farm was made anew: enrol again.
                Err(LinkError::Connect { source: quinn::ConnectionError::TransportError(_), .. }) => {}
                result => {
                    self.identity = Some(known);
                    let link = result?;
                    if self.renewal_in().is_some_and(|time| time.is_zero()) {
                        // Not vital: the identity is good for a while yet. If it is refused, more is to come of that.
                        let _ = tokio::time::timeout(CONNECT_TIMEOUT, self.renew(&link)).await;
                    }
                    return Ok(link);
                }
            }
        }
        if !self.may_enrol {
            return Err(LinkError::NoIdentity);
        }
        let enrolled = enrol(&self.ticket).await?;
        if let Some(path) = &self.path {
            enrolled.save(path)?;
        }
        let enrolled = self.identity.insert(enrolled);
        connect_as(&self.ticket, enrolled).await
    }

    /// How long it is until the identity is to be renewed; none if there is none.
    pub fn renewal_in(&self) -> Option<Duration> {
        self.identity.as_ref().and_then(Identity::renewal_in)
    }

    /// Trades the identity for one that is good for longer, on a connection that was made with it. That goes on as it is;
    /// the next one is made with the new identity.
    ///
    /// # Errors
    ///
    /// The connection is lost, the farm refuses ([`LinkError::Refused`]), or the identity cannot be kept.
    pub async fn renew(&mut self, link: &Link) -> Result<(), LinkError> {
        let (key, csr) = key_to_certify()?;
        let (mut writer, mut reader) = link.open().await?;
        writer.send(&Open::Request(Request::Renew { csr }), Bytes::new()).await?;
        writer.finish();
        match reader.expect().await?.0 {
            Response::Certificate { chain } => {
                let renewed = self.identity.insert(identity_of(chain, &key));
                self.path.as_deref().map_or(Ok(()), |path| renewed.save(path))
            }
            Response::Error(error) => Err(LinkError::Refused { reason: error.to_string() }),
            _ => Err(LinkError::Unexpected("no certificate")),
        }
    }
}

/// Connects with an identity.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_as(ticket: &Ticket, identity: &Identity) -> Result<Link, LinkError> {
    dial(ticket, Some(identity), ALPN).await
}

/// Trades the ticket's secret for an identity.
///
/// # Errors
///
/// As [`connect`].
pub async fn enrol(ticket: &Ticket) -> Result<Identity, LinkError> {
    let link = dial(ticket, None, ALPN_ENROL).await?;
    let (key, csr) = key_to_certify()?;
    let (mut writer, mut reader) = link.open().await?;
    let request = Enrol { secret: ticket.secret.clone(), csr };
    writer.send(&request, Bytes::new()).await?;
    writer.finish();
    let (answer, _) = reader.expect().await?;
    // Leaves while the next connection is made.
    link.connection.close(close::DONE.into(), b"");
    match answer {
        Enrolled::Certificate { chain } => Ok(identity_of(chain, &key)),
        Enrolled::Refused { reason } => Err(LinkError::Refused { reason }),
    }
}

/// A new key, and the request to certify it.
fn key_to_certify() -> Result<(KeyPair, Vec<u8>), LinkError> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    Ok((key, csr))
}

fn identity_of(chain: Vec<Vec<u8>>, key: &KeyPair) -> Identity {
    Identity {
        chain: chain.into_iter().map(CertificateDer::from).collect(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
    }
}

async fn dial(ticket: &Ticket, identity: Option<&Identity>, alpn: &[u8]) -> Result<Link, LinkError> {
    let address_text = format!("{}:{}", ticket.host, ticket.port);
    let resolve = |source| LinkError::Resolve { host: ticket.host.clone(), source };
    let address = tokio::net::lookup_host((ticket.host.as_str(), ticket.port))
        .await
        .map_err(resolve)?
        .next()
        .ok_or_else(|| resolve(std::io::ErrorKind::NotFound.into()))?;
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = transport::socket(local).map_err(LinkError::Socket)?;
    let endpoint = Endpoint::new(transport::endpoint_config(), None, socket, Arc::new(quinn::TokioRuntime))
        .map_err(LinkError::Socket)?;
    let config = client_config(ticket.ca, identity, alpn)?;
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|_| LinkError::Unexpected("an address that cannot be dialled"))?;
    let unreachable = || LinkError::Unreachable { address: address_text.clone(), after: CONNECT_TIMEOUT };
    let connection = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Err(_) => return Err(unreachable()),
        Ok(Err(quinn::ConnectionError::TimedOut)) => return Err(unreachable()),
        // Our own verifier found another CA than the ticket names.
        Ok(Err(quinn::ConnectionError::TransportError(error))) if error.reason.contains("UnknownIssuer") => {
            return Err(LinkError::WrongFarm { address: address_text });
        }
        Ok(Err(source)) => {
            return Err(match LinkError::from(source) {
                LinkError::Lost(source) => LinkError::Connect { address: address_text, source },
                told => told,
            });
        }
        Ok(Ok(connection)) => connection,
    };
    Ok(Link { connection, endpoint })
}

fn client_config(ca: Digest, identity: Option<&Identity>, alpn: &[u8]) -> Result<ClientConfig, LinkError> {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { ca, provider }));
    let mut tls = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.private_key())?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|_| LinkError::Unexpected("no QUIC cipher suite"))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport::config(transport::PATIENCE));
    Ok(config)
}

/// Trusts the one CA that a ticket names by its digest. The scheduler sends that CA along in its chain.
#[derive(Debug)]
struct PinnedCa {
    ca: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(|certificate| Digest::of(certificate) == self.ca).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC is TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
