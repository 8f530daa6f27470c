//! The farm's own certificate authority.

use std::sync::Arc;
use std::time::Duration;

use farm_link::LinkError;
use farm_link::dial::SERVER_NAME;
use farm_link::identity::{BACKDATED, Identity};
use farm_proto::ids::Digest;
use farm_proto::{ALPN, ALPN_ENROL, LAST_KNOWN_VERSION, VERSION, alpn_of};
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use super::caller::Caller;
use super::secret::unix_now;
use crate::SchedulerError;
use crate::state_dir::StateDir;

const FILE: &str = "ca.pem";
/// How long the CA's own certificate is valid.
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 86_400);

/// A key to be certified, whose sender has shown that it is its own. Nothing else of the request counts: what its bearer
/// may do is not for the bearer to say.
#[derive(Debug)]
pub(crate) struct SigningRequest(CertificateSigningRequestParams);

impl SigningRequest {
    /// Reads a PKCS#10 request.
    ///
    /// # Errors
    ///
    /// It cannot be read, is not signed with its own key, or that is of a kind that is not offered.
    pub(crate) fn read(csr: &[u8]) -> Result<Self, rcgen::Error> {
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).map(Self)
    }
}

/// Signs certificates. ECDSA on P-256 throughout.
#[derive(Debug)]
pub(crate) struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Loads the CA from the state folder, or makes it if the farm has not been [used](super::in_use).
    pub(crate) fn open(state: &StateDir, used: bool) -> Result<Self, SchedulerError> {
        let path = state.join(FILE);
        match state.read(FILE)? {
            None if used => return Err(SchedulerError::Incomplete { path }),
            None => return Self::make(state),
            Some(_) => {}
        }
        let foreign =
            || SchedulerError::Foreign { path: path.clone(), expected: "the certificate and key of a farm's CA" };
        let Identity { chain, key } = Identity::load(&path).ok_or_else(foreign)?;
        let certificate = chain.into_iter().next().ok_or_else(foreign)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(|_| foreign())?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| foreign())?;
        Ok(Self { certificate, issuer })
    }

    fn make(state: &StateDir) -> Result<Self, SchedulerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params("farm CA", CA_VALIDITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        let identity =
            Identity { chain: vec![certificate.clone()], key: PrivatePkcs8KeyDer::from(key.serialize_der()) };
        identity.save(&state.join(FILE)).map_err(|error| match error {
            LinkError::Store { path, source } => SchedulerError::State { path, source },
            other => SchedulerError::Tls(other.to_string()),
        })?;
        tracing::info!(fingerprint = %Digest::of(&certificate), "made the farm's CA");
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// What tickets know the farm by.
    pub(crate) fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// Certifies a key as `caller`'s. Leaf first, the CA last.
    ///
    /// # Errors
    ///
    /// The key is of a kind that cannot be certified.
    pub(crate) fn certify(
        &self,
        caller: &Caller,
        request: &SigningRequest,
        validity: Duration,
    ) -> Result<Vec<Vec<u8>>, rcgen::Error> {
        let mut params = params(&caller.name, validity);
        params.subject_alt_names = vec![SanType::URI(caller.uri().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = self.sign(&params, &request.0.public_key)?;
        Ok(vec![leaf.to_vec(), self.certificate.to_vec()])
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }

    /// TLS for the listener: a certificate made now, and peers that show one of this CA or none. What those may do who
    /// show none is decided by ALPN, later.
    pub(crate) fn server_config(&self) -> Result<QuicServerConfig, SchedulerError> {
        // The key lives as long as the process, so the certificate may live as long as the CA.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(SERVER_NAME, CA_VALIDITY);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Clients find the CA in the chain, by its fingerprint.
        let chain = vec![self.sign(&params, &key)?, self.certificate.clone()];

        let tls = |error: &dyn std::fmt::Display| SchedulerError::Tls(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| tls(&error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec(), ALPN_ENROL.to_vec()];
        // To be able to say which version would fit.
        config.alpn_protocols.extend((1..=LAST_KNOWN_VERSION).filter(|other| *other != VERSION).map(alpn_of));
        // Connections last: resuming a session is not worth its tickets, and a certificate is checked each time.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| tls(&error))
    }
}

fn params(name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(unix_now());
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + (now + validity);
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::TicketId;
    use farm_proto::ticket::Role;

    use super::*;

    #[test]
    fn a_ca_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let made = Ca::open(&state, false).unwrap();
        let loaded = Ca::open(&state, false).unwrap();
        assert_eq!(made.fingerprint(), loaded.fingerprint());
        loaded.server_config().unwrap();
        std::fs::write(state.join(FILE), "rubbish").unwrap();
        assert!(matches!(Ca::open(&state, false), Err(SchedulerError::Foreign { .. })));
    }

    #[test]
    fn a_certificate_says_what_the_ticket_said_and_not_what_the_request_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let ca = Ca::open(&state, false).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut greedy = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let boss = "farm:admin/mallory".try_into().unwrap();
        greedy.subject_alt_names.push(SanType::URI(boss));
        let csr = greedy.serialize_request(&key).unwrap();
        let cluster = Some("gpu".to_owned());
        let caller = Caller { role: Role::Worker, name: "w1".to_owned(), cluster, ticket: TicketId(7) };
        let validity = Duration::from_secs(60);
        let request = SigningRequest::read(csr.der()).unwrap();
        let chain = ca.certify(&caller, &request, validity).unwrap();
        assert_eq!(Caller::of_certificate(&chain[0]), Some(caller.clone()));
        assert_eq!(Caller::of_certificate(&chain[1]), None, "the CA's own certificate");
        assert!(SigningRequest::read(b"rubbish").is_err());
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let identity = Identity { chain: chain.into_iter().map(CertificateDer::from).collect(), key };
        let life = identity.life().unwrap();
        assert_eq!(life.end.duration_since(life.start).unwrap(), validity);
    }
}
