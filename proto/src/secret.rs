//! Secrets: bytes that tasks may read and that are on nobody's disk.
//!
//! A job names its secrets ([`Mounts::secrets`](crate::job::Mounts::secrets)); their values are given beside it and live
//! in memory only: that of the client which gives them, of the scheduler, and of the workers that have tasks of the job.
//! A [`SecretValue`] shows nothing of itself when it is printed, and is wiped when it is dropped. What is not wiped are
//! the transport's buffers, in which it is encrypted, and the frame that it was put into.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// The largest secret, in bytes.
pub const MAX_SECRET: usize = 1 << 20;
/// All of a job's together, in bytes: they travel in one message.
pub const MAX_SECRETS: usize = 8 << 20;
/// The most secrets that a job may have.
pub const MOST_SECRETS: usize = 64;
/// The longest name, in bytes.
const MAX_NAME: usize = 128;

/// The content of a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

/// Values by name.
pub type Secrets = Vec<(String, SecretValue)>;

impl SecretValue {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What nobody is to print.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = SecretValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<SecretValue, E> {
                Ok(SecretValue(bytes.to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SecretValue, A::Error> {
                let mut value = SecretValue::default();
                while let Some(byte) = items.next_element()? {
                    value.0.push(byte);
                }
                Ok(value)
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// Whether a secret can be called that: like a variable of an environment, which gets its path, and as a file.
pub fn is_name(name: &str) -> bool {
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    starts && name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a farm has of a secret. Never the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretStatus {
    pub name: String,
    /// When it was given, in milliseconds since the Unix epoch; none if it is not there.
    pub given_ms: Option<u64>,
    /// When the first of the certificates in it runs out, in milliseconds since the Unix epoch; none if there is none.
    pub expires_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_travels_and_is_not_shown() {
        let secrets: Secrets = vec![("TOKEN".to_owned(), SecretValue::new(b"hunter2".to_vec()))];
        let bytes = postcard::to_stdvec(&secrets).expect("encoded");
        assert_eq!(postcard::from_bytes::<Secrets>(&bytes).expect("decoded"), secrets);
        assert_eq!(format!("{secrets:?}"), r#"[("TOKEN", SecretValue(…))]"#);
    }

    #[test]
    fn names_are_those_of_variables() {
        for good in ["X509_USER_PROXY", "a", "_1"] {
            assert!(is_name(good), "{good:?}");
        }
        for bad in ["", "1a", "a-b", "a/b", "..", "a.b", "ä", "a=b", &"x".repeat(200)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
