//! Who one is to a farm: a certificate of its CA, and the key that belongs to it.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use farm_proto::ids::Digest;
use farm_proto::ticket::Ticket;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::LinkError;

/// Certificates begin so long before they are made, for peers whose clocks are behind.
pub const BACKDATED: Duration = Duration::from_secs(86_400);
/// An identity that runs out within this time, or a twelfth of its life if that is shorter, is not used for a new
/// connection.
const MARGIN: Duration = Duration::from_secs(3600);

/// A certificate chain and its key. Debug output does not show the key.
pub struct Identity {
    /// Leaf first; the farm's CA last.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digest = self.chain.first().map(|leaf| Digest::of(leaf).short());
        write!(f, "Identity({})", digest.unwrap_or_default())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// The key as rustls wants it.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    /// Reads what [`Self::save`] wrote. `None` if there is nothing, or nothing usable: enrolling again mends that.
    pub fn load(path: &Path) -> Option<Self> {
        let pem = fs::read(path).ok()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().ok()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok()?;
        (!chain.is_empty()).then_some(Self { chain, key })
    }

    /// From when the certificate was made until it runs out.
    pub fn life(&self) -> Option<Range<SystemTime>> {
        let (_, leaf) = x509_parser::parse_x509_certificate(self.chain.first()?).ok()?;
        let at = |time: x509_parser::time::ASN1Time| {
            let since = Duration::from_secs(u64::try_from(time.timestamp()).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let made = at(leaf.validity().not_before)?.checked_add(BACKDATED)?;
        Some(made..at(leaf.validity().not_after)?)
    }

    /// Whether the certificate is valid for a while. A scheduler that finds it is not says so only after the handshake,
    /// when it is too late to enrol again.
    pub fn is_current(&self) -> bool {
        self.life().is_some_and(|life| {
            let whole = life.end.duration_since(life.start).unwrap_or_default();
            life.end.duration_since(SystemTime::now()).is_ok_and(|left| left > MARGIN.min(whole / 12))
        })
    }

    /// How long it is until the certificate is to be renewed: when two thirds of its life are over.
    pub fn renewal_in(&self) -> Option<Duration> {
        let life = self.life()?;
        let whole = life.end.duration_since(life.start).ok()?;
        let due = life.start.checked_add(whole * 2 / 3)?;
        Some(due.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Writes chain and key as PEM into one file that only its owner can read, whole or not at all.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or written.
    pub fn save(&self, path: &Path) -> Result<(), LinkError> {
        let store = |source| LinkError::Store { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        private_folder(folder).map_err(store)?;
        // A temporary file is 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(store)?;
        self.write_pem(&mut file).map_err(store)?;
        file.persist(path).map_err(|error| store(error.error))?;
        Ok(())
    }

    fn write_pem(&self, file: &mut impl Write) -> io::Result<()> {
        let chain = self.chain.iter().map(|certificate| ("CERTIFICATE", certificate.as_ref()));
        let key = ("PRIVATE KEY", self.key.secret_pkcs8_der());
        for (label, der) in chain.chain([key]) {
            file.write_all(pem::encode(&pem::Pem::new(label, der)).as_bytes())?;
        }
        Ok(())
    }
}

/// Makes a folder that only its owner can enter, with its parents.
///
/// # Errors
///
/// As [`fs::create_dir_all`].
pub fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Where the identity is kept below `folder` that a ticket was traded for. Who has two tickets is two different people.
pub fn path_in(folder: &Path, ticket: &Ticket) -> PathBuf {
    let Ticket { ca, role, secret, .. } = ticket;
    folder.join(format!("{}-{role}-{}.pem", ca.short(), Digest::of(secret.as_bytes()).short()))
}
