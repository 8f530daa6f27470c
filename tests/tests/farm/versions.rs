//! Peers of other versions, which are told what fits.

use std::sync::Arc;

use farm_proto::ticket::Ticket;
use farm_proto::{alpn_of, close};
use farm_tests::wait_for;
use quinn::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use quinn::rustls::crypto::ring;
use quinn::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use quinn::rustls::{self, DigitallySignedStruct, SignatureScheme};

use crate::support::{Farm, module, squares};
use crate::wat;

/// Trusts everyone.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Connects as whoever speaks that version would.
async fn dial(ticket: &Ticket, version: u32) -> Result<quinn::Connection, quinn::ConnectionError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn_of(version)];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("TLS 1.3");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = ([127, 0, 0, 1], ticket.port).into();
    endpoint.connect_with(quinn::ClientConfig::new(Arc::new(tls)), address, "farm").expect("well-formed").await
}

#[test]
fn a_peer_of_another_version_is_told_which_fits() {
    let farm = Farm::new(1);
    let ticket: Ticket = farm.scheduler.admin_ticket().parse().expect("a ticket");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for version in [1, 3] {
            let connection = dial(&ticket, version).await.expect("a handshake, so that something can be said");
            let closed = match connection.closed().await {
                quinn::ConnectionError::ApplicationClosed(closed) => closed,
                other => panic!("{other}"),
            };
            assert_eq!(closed.error_code, close::VERSION.into());
            let reason = String::from_utf8_lossy(&closed.reason);
            let theirs = format!("farm/{version}");
            assert!(reason.contains("farm/2") && reason.contains(&theirs), "{reason}");
            assert!(reason.contains(env!("CARGO_PKG_VERSION")), "{reason}");
        }
        // Whoever speaks something else altogether gets no connection.
        dial(&ticket, 1_000_000).await.expect_err("an unknown protocol");
    });
    // And the scheduler says who came: what it has written may still be on its way.
    wait_for("the scheduler's word", || farm.scheduler.log().contains("a peer of another version").then_some(()));
    let m = module(&farm.world, wat::SQUARE);
    assert_eq!(farm.farm(&["submit", m, "--range", "0..10"]).succeeds().json(), squares(10));
}
