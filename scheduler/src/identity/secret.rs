//! Secrets of tickets: which ticket it is, signed. What the ticket allows is a [row](crate::store::TicketRow); the secret
//! itself is stored nowhere, so that a ticket cannot be had from the database, a backup or a list, and the farm has one
//! key to guard.
//!
//! ```text
//! version   1 byte
//! ticket    4 bytes, little endian: its id
//! expiry    8 bytes, little endian: seconds since the Unix epoch
//! nonce    16 bytes, so that an id is nothing to guess a secret from
//! MAC      32 bytes: BLAKE3 of all of the above, keyed
//! ```
//!
//! in base64 with the alphabet for URLs. The expiry is that of the row; it stands here as well because the rows of
//! tickets that are long over are dropped, and their bearers are to be told so.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farm_proto::ids::TicketId;
use rustls::crypto::ring;

use crate::SchedulerError;
use crate::clock::unix_ms;
use crate::state_dir::StateDir;

const FILE: &str = "secret.key";
const VERSION: u8 = 2;
const KEY_LEN: usize = blake3::KEY_LEN;
const MAC_LEN: usize = blake3::OUT_LEN;
/// Version, ticket, expiry and nonce.
const CLAIM_LEN: usize = 1 + 4 + 8 + 16;

/// Makes and checks the secrets of one farm's tickets.
pub(crate) struct Secrets {
    key: [u8; KEY_LEN],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// Why a ticket buys nothing. The reasons are told to whoever brings one: they give away nothing about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TicketVoid {
    #[error("this is not a ticket of this farm, or it was damaged on its way")]
    Wrong,
    #[error("its time is over since {}", ago(*.0))]
    Expired(u64),
    #[error("it has been used as often as it may be")]
    UsedUp,
    #[error("it was revoked")]
    Revoked,
    #[error("this farm does not know it any more: it was put back from a backup that is older than the ticket")]
    Unknown,
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
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

    /// A secret of a ticket that runs out at `expires_s`, in seconds since the Unix epoch.
    pub(crate) fn make(&self, ticket: TicketId, expires_s: u64) -> Result<String, SchedulerError> {
        Ok(self.seal(ticket, expires_s, random()?))
    }

    fn seal(&self, ticket: TicketId, expires_s: u64, nonce: [u8; 16]) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(ticket.0.to_le_bytes());
        bytes.extend(expires_s.to_le_bytes());
        bytes.extend(nonce);
        let mac = blake3::keyed_hash(&self.key, &bytes);
        bytes.extend(mac.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Which ticket a secret is of. Whether that one lets anybody in is known by its row.
    pub(crate) fn check(&self, secret: &str) -> Result<TicketId, TicketVoid> {
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| TicketVoid::Wrong)?;
        let (claim, mac) = bytes.split_last_chunk::<MAC_LEN>().ok_or(TicketVoid::Wrong)?;
        // Compared in constant time: `blake3::Hash` does so.
        if blake3::keyed_hash(&self.key, claim) != blake3::Hash::from_bytes(*mac) {
            return Err(TicketVoid::Wrong);
        }
        let (ticket, expires_s) = parse(claim).ok_or(TicketVoid::Wrong)?;
        in_time(expires_s)?;
        Ok(ticket)
    }
}

/// Whether that time has not come yet.
pub(crate) fn in_time(expires_s: u64) -> Result<(), TicketVoid> {
    match unix_now().checked_sub(expires_s) {
        None | Some(0) => Ok(()),
        Some(ago) => Err(TicketVoid::Expired(ago)),
    }
}

fn parse(claim: &[u8]) -> Option<(TicketId, u64)> {
    let claim: &[u8; CLAIM_LEN] = claim.try_into().ok()?;
    let [version, rest @ ..] = claim;
    let (ticket, rest) = rest.split_first_chunk::<4>()?;
    let (expires_s, _nonce) = rest.split_first_chunk::<8>()?;
    (*version == VERSION).then(|| (TicketId(u32::from_le_bytes(*ticket)), u64::from_le_bytes(*expires_s)))
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SchedulerError> {
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

    const TICKET: TicketId = TicketId(0x1234_5678);

    fn secrets(byte: u8) -> Secrets {
        Secrets { key: [byte; 32] }
    }

    fn secret() -> String {
        secrets(1).make(TICKET, unix_now() + 60).unwrap()
    }

    #[test]
    fn a_secret_names_its_ticket() {
        let secret = secret();
        assert_eq!(secrets(1).check(&secret), Ok(TICKET));
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }

    #[test]
    fn nothing_but_a_secret_of_this_farm_is_taken() {
        let secret = secret();
        assert_eq!(secrets(2).check(&secret), Err(TicketVoid::Wrong));
        for wrong in ["", "x", "not base64!", &secret[1..], &secret[..secret.len() - 4]] {
            assert_eq!(secrets(1).check(wrong), Err(TicketVoid::Wrong), "{wrong}");
        }
        // Any bit matters.
        let bytes = URL_SAFE_NO_PAD.decode(&secret).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            let forged = URL_SAFE_NO_PAD.encode(forged);
            assert_eq!(secrets(1).check(&forged), Err(TicketVoid::Wrong), "byte {at}");
        }
    }

    #[test]
    fn time_runs_out() {
        let secret = secrets(1).seal(TICKET, unix_now() - 100, [0; 16]);
        assert!(matches!(secrets(1).check(&secret), Err(TicketVoid::Expired(100..))));
        assert_eq!(TicketVoid::Expired(90_000).to_string(), "its time is over since 25 h");
    }
}
