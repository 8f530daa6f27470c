//! Certificates that users hand over: how long they last.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A certificate that lasts no longer than this is worth a warning.
pub const SOON: Duration = Duration::from_secs(3600);

/// When the first of the certificates in a PEM file runs out; none if it is no such file. A proxy certificate of a grid is
/// one of several there, and ends before those that it was made with.
pub fn expiry(pem: &[u8]) -> Option<SystemTime> {
    let ends = |certificate: CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        UNIX_EPOCH.checked_add(Duration::from_secs(end))
    };
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(ends).min()
}

/// What there is to warn of, in words that follow the name of what holds the certificate.
pub fn warning(pem: &[u8], now: SystemTime) -> Option<String> {
    match expiry(pem)?.duration_since(now) {
        Ok(left) if left > SOON => None,
        Ok(left) => Some(format!("holds a certificate that runs out in {}", words(left))),
        Err(past) => Some(format!("holds a certificate that ran out {} ago", words(past.duration()))),
    }
}

fn words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match minutes {
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(lifetimes_s: &[u64]) -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificates = lifetimes_s.iter().map(|lifetime| {
            let mut parameters = rcgen::CertificateParams::default();
            parameters.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(*lifetime)).into();
            parameters.self_signed(&key).expect("a certificate").pem()
        });
        certificates.chain([key.serialize_pem()]).collect()
    }

    #[test]
    fn the_first_end_counts() {
        let pem = chain(&[1_000_000, 500_000]);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(expiry(pem.as_bytes()), Some(at(500_000)));
        assert_eq!(warning(pem.as_bytes(), at(496_000)), None);
        let said = warning(pem.as_bytes(), at(499_400)).expect("soon");
        assert_eq!(said, "holds a certificate that runs out in 10 min");
        let said = warning(pem.as_bytes(), at(510_800)).expect("over");
        assert_eq!(said, "holds a certificate that ran out 3 h ago");
    }

    #[test]
    fn anything_else_does_not_expire() {
        for other in
            [&b""[..], b"a token", b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n", &[0xff; 99]]
        {
            assert_eq!(expiry(other), None);
        }
    }
}
