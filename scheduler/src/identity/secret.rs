//! Secrets of tickets: what they allow, signed. Nothing is kept of them, so that there is nothing to lose or to leak
//! but one key, and a ticket is as good after a restart as before.
//!
//! ```text
//! version   1 byte
//! role      1 byte
//! expiry    8 bytes, little endian: seconds since the Unix epoch
//! nonce    16 bytes, so that no two tickets are alike
//! name      the rest
//! MAC      32 bytes: BLAKE3 of all of the above, keyed
//! ```
//!
//! in base64 with the alphabet for URLs. Non-goals: use once, and revocation of a single ticket. A new `secret.key`
//! revokes all.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farm_proto::ticket::Role;
use rustls::crypto::ring;

use super::caller::Caller;
use super::{MAX_TICKET, is_name};
use crate::SchedulerError;
use crate::clock::unix_ms;
use crate::error::TicketRefused;
use crate::state_dir::StateDir;

const FILE: &str = "secret.key";
const VERSION: u8 = 1;
const KEY_LEN: usize = blake3::KEY_LEN;
const MAC_LEN: usize = blake3::OUT_LEN;
/// Version, role, expiry and nonce.
const FIXED_LEN: usize = 1 + 1 + 8 + 16;

/// Makes and checks the secrets of one farm's tickets.
pub(crate) struct Secrets {
    key: [u8; KEY_LEN],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// Why a secret buys nothing. The reasons are told to whoever brings one: they give away nothing about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretRefused {
    #[error("this is not a ticket of this farm, or it was damaged on its way")]
    Wrong,
    #[error("the ticket's time is over since {0} s; ask for a new one")]
    Expired(u64),
}

impl Secrets {
    /// Loads the key, or makes one if the farm has not been [used](super::in_use).
    pub(crate) fn open(state: &StateDir, used: bool) -> Result<Self, SchedulerError> {
        if let Some(bytes) = state.read(FILE)? {
            let key = bytes
                .try_into()
                .map_err(|_| SchedulerError::Foreign { path: state.join(FILE), expected: "a key of 32 bytes" })?;
            return Ok(Self { key });
        }
        if used {
            return Err(SchedulerError::Incomplete { path: state.join(FILE) });
        }
        let key = random()?;
        state.write_private(FILE, &key)?;
        Ok(Self { key })
    }

    /// What connections of an earlier life are reset with. Tells nothing about the key.
    pub(crate) fn reset_key(&self) -> [u8; KEY_LEN] {
        blake3::derive_key("farm 2026-11-24 stateless resets", &self.key)
    }

    /// A secret that lets `caller` in until `validity` from now.
    pub(crate) fn make(&self, caller: &Caller, validity: Duration) -> Result<String, SchedulerError> {
        if !is_name(&caller.name) {
            return Err(TicketRefused::Name(caller.name.clone()).into());
        }
        if validity.is_zero() || validity > MAX_TICKET {
            return Err(TicketRefused::Validity.into());
        }
        let expiry = unix_now() + validity.as_secs().max(1);
        Ok(self.seal(caller, expiry, random()?))
    }

    fn seal(&self, caller: &Caller, expiry: u64, nonce: [u8; 16]) -> String {
        let mut bytes = vec![VERSION, role_byte(caller.role)];
        bytes.extend(expiry.to_le_bytes());
        bytes.extend(nonce);
        bytes.extend(caller.name.as_bytes());
        let mac = blake3::keyed_hash(&self.key, &bytes);
        bytes.extend(mac.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whom a secret lets in.
    pub(crate) fn check(&self, secret: &str) -> Result<Caller, SecretRefused> {
        self.check_for(secret, Duration::ZERO)
    }

    /// Whom a secret lets in now, and will in `ahead` from now.
    pub(crate) fn check_for(&self, secret: &str, ahead: Duration) -> Result<Caller, SecretRefused> {
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| SecretRefused::Wrong)?;
        let (claim, mac) = bytes.split_last_chunk::<MAC_LEN>().ok_or(SecretRefused::Wrong)?;
        // Compared in constant time: `blake3::Hash` does so.
        if blake3::keyed_hash(&self.key, claim) != blake3::Hash::from_bytes(*mac) {
            return Err(SecretRefused::Wrong);
        }
        let (caller, expiry) = parse(claim).ok_or(SecretRefused::Wrong)?;
        match (unix_now() + ahead.as_secs()).checked_sub(expiry) {
            None | Some(0) => Ok(caller),
            Some(ago) => Err(SecretRefused::Expired(ago)),
        }
    }
}

fn parse(claim: &[u8]) -> Option<(Caller, u64)> {
    let (fixed, name) = claim.split_first_chunk::<FIXED_LEN>()?;
    let [version, role, rest @ ..] = fixed;
    let (expiry, _nonce) = rest.split_first_chunk::<8>()?;
    let role = [Role::Admin, Role::User, Role::Worker].into_iter().find(|&candidate| role_byte(candidate) == *role)?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    (*version == VERSION).then(|| (Caller { role, name }, u64::from_le_bytes(*expiry)))
}

const fn role_byte(role: Role) -> u8 {
    match role {
        Role::Admin => 1,
        Role::User => 2,
        Role::Worker => 3,
    }
}

fn random<const N: usize>() -> Result<[u8; N], SchedulerError> {
    let mut bytes = [0; N];
    ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| SchedulerError::Tls("the system has no randomness to give".to_owned()))?;
    Ok(bytes)
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(byte: u8) -> Secrets {
        Secrets { key: [byte; 32] }
    }

    fn alice() -> Caller {
        Caller { role: Role::User, name: "alice".to_owned() }
    }

    #[test]
    fn a_secret_names_its_bearer() {
        let secret = secrets(1).make(&alice(), Duration::from_secs(60)).unwrap();
        assert_eq!(secrets(1).check(&secret), Ok(alice()));
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }

    #[test]
    fn nothing_but_a_secret_of_this_farm_is_taken() {
        let secret = secrets(1).make(&alice(), Duration::from_secs(60)).unwrap();
        assert_eq!(secrets(2).check(&secret), Err(SecretRefused::Wrong));
        for wrong in ["", "x", "not base64!", &secret[1..], &secret[..secret.len() - 4]] {
            assert_eq!(secrets(1).check(wrong), Err(SecretRefused::Wrong), "{wrong}");
        }
        // Any bit matters.
        let bytes = URL_SAFE_NO_PAD.decode(&secret).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            let forged = URL_SAFE_NO_PAD.encode(forged);
            assert_eq!(secrets(1).check(&forged), Err(SecretRefused::Wrong), "byte {at}");
        }
    }

    #[test]
    fn time_runs_out() {
        let secret = secrets(1).seal(&alice(), unix_now() - 100, [0; 16]);
        assert!(matches!(secrets(1).check(&secret), Err(SecretRefused::Expired(100..))));
    }

    #[test]
    fn names_and_validities_are_bounded() {
        let mallory = |name: &str| Caller { role: Role::User, name: name.to_owned() };
        for name in ["", "a/b", "a b", "ü", &"x".repeat(65)] {
            let made = secrets(1).make(&mallory(name), Duration::from_secs(1));
            assert!(matches!(made, Err(SchedulerError::Ticket(TicketRefused::Name(_)))), "{name}");
        }
        for validity in [Duration::ZERO, Duration::MAX] {
            let made = secrets(1).make(&alice(), validity);
            assert!(matches!(made, Err(SchedulerError::Ticket(TicketRefused::Validity))));
        }
    }
}
